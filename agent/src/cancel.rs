//! One order to stop, seen by async code, by plain threads and by archive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

/// Why a job is to end before its work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// A person or the controller asked.
    Asked,
    /// Containers were quiesced for as long as they may be.
    MaxDowntime,
    /// The agent stops.
    Shutdown,
}

/// Cheap to clone; the first reason stays.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    token: CancellationToken,
    flag: Arc<AtomicBool>,
    reason: OnceLock<CancelReason>,
    followers: Mutex<Vec<Weak<Shared>>>,
}

impl Cancel {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn cancel(&self, reason: CancelReason) {
        self.shared.cancel(reason);
    }

    /// One for a part of the work: it is cancelled with the whole, and alone.
    pub fn part(&self) -> Self {
        let part = Self::new();
        self.pass_on(&part);
        part
    }

    /// From now on what cancels this one cancels `to`, also if it already has.
    pub fn pass_on(&self, to: &Self) {
        self.shared.followers().push(Arc::downgrade(&to.shared));
        // Looked at after it is in the list: whoever cancels sets the reason
        // before going through the list, so one of the two sees the other.
        if let Some(reason) = self.reason() {
            to.cancel(reason);
        }
    }

    pub fn reason(&self) -> Option<CancelReason> {
        self.shared.reason.get().copied()
    }

    pub fn is_cancelled(&self) -> bool {
        self.shared.flag.load(Ordering::SeqCst)
    }

    pub async fn cancelled(&self) {
        self.shared.token.cancelled().await;
    }

    /// For code that looks at a flag now and then.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.shared.flag.clone()
    }
}

impl Shared {
    fn cancel(&self, reason: CancelReason) {
        let reason = *self.reason.get_or_init(|| reason);
        self.flag.store(true, Ordering::SeqCst);
        self.token.cancel();
        let followers = self.followers().clone();
        for follower in followers.iter().filter_map(Weak::upgrade) {
            follower.cancel(reason);
        }
    }

    fn followers(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_the_whole_and_alone() {
        let whole = Cancel::new();
        let (first, second) = (whole.part(), whole.part());
        first.cancel(CancelReason::MaxDowntime);
        assert!(!whole.is_cancelled() && !second.is_cancelled());
        whole.cancel(CancelReason::Asked);
        assert_eq!(first.reason(), Some(CancelReason::MaxDowntime), "the first reason stays");
        assert_eq!(second.reason(), Some(CancelReason::Asked));
        assert!(second.flag().load(Ordering::SeqCst));
    }

    #[test]
    fn who_comes_late_is_cancelled_at_once() {
        let whole = Cancel::new();
        whole.cancel(CancelReason::Shutdown);
        assert_eq!(whole.part().reason(), Some(CancelReason::Shutdown));
    }
}
