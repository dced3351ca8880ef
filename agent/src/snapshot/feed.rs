//! Events of one job, for any number of listeners, any time.
//!
//! What happened is kept and told to everyone from the beginning, so that a
//! caller that lost its stream attaches again and misses nothing. Progress is
//! only ever the latest: a slow listener skips, it never slows the job.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, Stream};
use tokio::sync::watch;

/// Events of type `E`.
#[derive(Debug)]
pub(crate) struct Feed<E> {
    state: Mutex<State<E>>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State<E> {
    version: u64,
    log: Vec<E>,
    /// By what it is the progress of, with the version it came with.
    progress: BTreeMap<String, (u64, E)>,
    ended: bool,
}

struct Listener<E> {
    feed: Arc<Feed<E>>,
    version: watch::Receiver<u64>,
    told: usize,
    seen: u64,
    waiting: VecDeque<E>,
    ended: bool,
}

impl<E: Clone> Feed<E> {
    pub(crate) fn new() -> Self {
        let state = State { version: 0, log: Vec::new(), progress: BTreeMap::new(), ended: false };
        Self { state: Mutex::new(state), version: watch::channel(0).0 }
    }

    /// Something that happened once.
    pub(crate) fn push(&self, event: E) {
        self.change(|state| state.log.push(event));
    }

    /// The latest progress of `of`.
    pub(crate) fn progress(&self, of: &str, event: E) {
        self.change(|state| {
            let version = state.version + 1;
            state.progress.insert(of.to_owned(), (version, event));
        });
    }

    /// Progress of `of` that nobody needs any more.
    pub(crate) fn clear_progress(&self, of: &str) {
        self.lock().progress.remove(of);
    }

    /// The last event. Later ones are dropped.
    pub(crate) fn end(&self, event: E) {
        self.change(|state| {
            state.log.push(event);
            state.progress.clear();
            state.ended = true;
        });
    }

    /// Ends without a last event: the work goes on elsewhere, and whoever
    /// listens has to ask there.
    pub(crate) fn abandon(&self) {
        self.change(|state| {
            state.progress.clear();
            state.ended = true;
        });
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Everything from the beginning, then what comes, to the end.
    pub(crate) fn listen(self: &Arc<Self>) -> impl Stream<Item = E> + Send + use<E>
    where
        E: Send + 'static,
    {
        let listener = Listener {
            feed: self.clone(),
            version: self.version.subscribe(),
            told: 0,
            seen: 0,
            waiting: VecDeque::new(),
            ended: false,
        };
        stream::unfold(listener, |mut listener| async {
            let event = listener.next().await?;
            Some((event, listener))
        })
    }

    /// Waits for the end.
    pub(crate) async fn ended(&self) {
        let mut version = self.version.subscribe();
        // Subscribed before the look, so an end in between is not slept through.
        while !self.has_ended() {
            if version.changed().await.is_err() {
                return;
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State<E>)) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        change(&mut state);
        state.version += 1;
        let version = state.version;
        // Two may come here in the other order than they changed the state: the greater
        // version stays, and each listener looks at the state itself.
        drop(state);
        self.version.send_if_modified(|sent| {
            let newer = version > *sent;
            *sent = version.max(*sent);
            newer
        });
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Clone> Default for Feed<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E: Clone> Listener<E> {
    async fn next(&mut self) -> Option<E> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            // Marked as seen before the look: an event that comes in between notifies it again.
            self.version.borrow_and_update();
            self.take();
            if self.waiting.is_empty() && !self.ended {
                self.version.changed().await.ok()?;
            }
        }
    }

    fn take(&mut self) {
        let state = self.feed.lock();
        self.waiting.extend(state.log[self.told..].iter().cloned());
        self.told = state.log.len();
        let seen = self.seen;
        self.waiting
            .extend(state.progress.values().filter(|(version, _)| *version > seen).map(|(_, e)| e.clone()));
        self.seen = state.version;
        self.ended = state.ended;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_late_listener_hears_everything_but_stale_progress() {
        let feed = Arc::new(Feed::new());
        feed.progress("a", "a 1 %");
        feed.push("a done");
        feed.progress("b", "b 1 %");
        feed.progress("b", "b 2 %");
        let mut early = Box::pin(feed.listen());
        assert_eq!(early.next().await, Some("a done"));
        assert_eq!(early.next().await, Some("a 1 %"));
        assert_eq!(early.next().await, Some("b 2 %"));
        feed.end("ended");
        feed.push("too late");
        assert_eq!(early.collect::<Vec<_>>().await, ["ended"]);
        assert_eq!(feed.listen().collect::<Vec<_>>().await, ["a done", "ended"]);
    }

    #[tokio::test]
    async fn a_listener_that_waits_is_woken() {
        let feed = Arc::new(Feed::new());
        let listener = tokio::spawn(feed.listen().collect::<Vec<_>>());
        tokio::task::yield_now().await;
        feed.push(1);
        tokio::task::yield_now().await;
        feed.end(2);
        feed.ended().await;
        assert_eq!(listener.await.unwrap(), [1, 2]);
    }
}
