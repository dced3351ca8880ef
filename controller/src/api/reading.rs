//! Answers that blocking code makes, on threads of its own.
//!
//! There are so many of them at once, and of them so many for one caller: a
//! thread is pinned while its reader takes nothing. One that takes nothing for
//! a while loses its answer, and is told so where the answer broke off: a list
//! with its end missing must not look whole.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{self, StreamExt as _};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::limits::{ANSWER_STALL, ANSWER_WAIT, ANSWERS, ANSWERS_OF_OPERATOR};
use holdfast_proto::ErrorCode;

pub(super) type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Places for such answers; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Readings {
    all: Arc<Semaphore>,
    of_caller: usize,
    callers: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    stall: Duration,
    wait: Duration,
}

/// A place for one answer.
#[derive(Debug)]
pub(super) struct Place {
    _of_caller: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// Where blocking code puts what it found.
#[derive(Debug)]
pub(super) struct Sender<T> {
    items: mpsc::Sender<Result<T, Status>>,
    broken: Arc<OnceLock<Status>>,
    stall: Duration,
    runtime: Handle,
}

/// Nobody reads the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReaderGone;

impl Default for Readings {
    fn default() -> Self {
        Self::new(ANSWERS, ANSWERS_OF_OPERATOR, ANSWER_STALL, ANSWER_WAIT)
    }
}

impl Readings {
    fn new(all: usize, of_caller: usize, stall: Duration, wait: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), of_caller, callers: Arc::default(), stall, wait }
    }

    fn of(&self, caller: &str) -> Arc<Semaphore> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        // Of whoever reads nothing now, nothing is kept.
        callers
            .retain(|_, places| Arc::strong_count(places) > 1 || places.available_permits() < self.of_caller);
        callers.entry(caller.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.of_caller))).clone()
    }

    /// A place for one more answer to this caller, once there is one.
    ///
    /// # Errors
    /// When there was none for a while.
    pub(super) async fn place(&self, caller: &str) -> Result<Place, Status> {
        let taken = async {
            // His own first: whoever uses up his own stands in nobody's way.
            let of_caller = self.of(caller).acquire_owned().await.ok()?;
            let of_all = self.all.clone().acquire_owned().await.ok()?;
            Some(Place { _of_caller: of_caller, _of_all: of_all })
        };
        match tokio::time::timeout(self.wait, taken).await {
            Ok(Some(place)) => Ok(place),
            Ok(None) | Err(_) => Err(ErrorCode::TooMany.status(format!(
                "`{caller}` reads from too many snapshots at once, or all do: end one of these calls first"
            ))),
        }
    }

    /// Runs `read` on a thread of its own; what it sends is the answer.
    pub(super) fn answer<T: Send + 'static>(
        &self,
        place: Place,
        ahead: usize,
        read: impl FnOnce(&Sender<T>) -> Result<(), Status> + Send + 'static,
    ) -> Answer<T> {
        let (items, receiver) = mpsc::channel(ahead);
        let broken = Arc::new(OnceLock::new());
        let sender = Sender { items, broken: broken.clone(), stall: self.stall, runtime: Handle::current() };
        tokio::task::spawn_blocking(move || {
            let _place = place;
            if let Err(status) = read(&sender) {
                // Where it was broken off already, that is what is told.
                let _ = sender.send(Err(status));
            }
        });
        let end = stream::once(async move { broken.get().cloned() });
        let end = end.filter_map(|broken| std::future::ready(broken.map(Err)));
        Box::pin(ReceiverStream::new(receiver).chain(end))
    }
}

impl<T> Sender<T> {
    /// Puts one item, as soon as there is room for it.
    ///
    /// # Errors
    /// When the reader went away, or takes nothing any more.
    pub(super) fn send(&self, item: Result<T, Status>) -> Result<(), ReaderGone> {
        if self.broken.get().is_some() {
            return Err(ReaderGone);
        }
        let sent = async { tokio::time::timeout(self.stall, self.items.send(item)).await };
        match self.runtime.block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ReaderGone),
            Err(_) => {
                let message =
                    format!("broken off: nothing was taken of this answer for {} s", self.stall.as_secs());
                let _ = self.broken.set(Status::deadline_exceeded(message));
                Err(ReaderGone)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(all: usize, of_caller: usize) -> Readings {
        Readings::new(all, of_caller, Duration::from_millis(100), Duration::from_millis(100))
    }

    fn endless(readings: &Readings, place: Place) -> Answer<u64> {
        readings
            .answer(place, 4, |sender: &Sender<u64>| (0..).try_for_each(|n| sender.send(Ok(n))).or(Ok(())))
    }

    #[tokio::test]
    async fn v12_a_reader_that_takes_nothing_gives_its_thread_back_and_is_told() {
        let readings = readings(1, 1);
        let stalled = endless(&readings, readings.place("vera").await.expect("a place"));
        // The thread ends although the answer is still held open.
        let again = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Ok(place) = readings.place("anna").await {
                    break place;
                }
            }
        });
        drop(again.await.expect("given back"));
        let items: Vec<_> = tokio::time::timeout(Duration::from_secs(60), stalled.collect::<Vec<_>>())
            .await
            .expect("it ends");
        let end =
            items.last().expect("an end").as_ref().expect_err("no list with its end missing looks whole");
        assert!(end.message().contains("nothing was taken"), "{end}");
        assert!(items.len() < 100);
    }

    #[tokio::test]
    async fn v12_a_caller_has_so_many_and_leaves_others_theirs() {
        let readings = readings(3, 2);
        let _held =
            [readings.place("vera").await.expect("a place"), readings.place("vera").await.expect("one")];
        let refused = readings.place("vera").await.expect_err("too many");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let _other = readings.place("anna").await.expect("another caller has his own");
        assert!(readings.place("carl").await.is_err(), "all places are taken");
    }

    #[tokio::test]
    async fn a_reader_that_goes_on_gets_everything() {
        let readings = readings(1, 1);
        let place = readings.place("vera").await.expect("a place");
        let answer = readings.answer(place, 2, |sender: &Sender<u64>| {
            (0..1000).try_for_each(|n| sender.send(Ok(n))).map_err(|_| Status::cancelled("gone"))
        });
        assert_eq!(answer.filter_map(|item| async { item.ok() }).count().await, 1000);
    }
}
