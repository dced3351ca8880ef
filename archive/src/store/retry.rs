//! How long and how often a request is repeated.
//!
//! Delays grow to a cap and are drawn at random below it, so that a fleet
//! slowed down by its store does not come back in step. What ends the
//! repeating is time, not a count: a store that asks everybody to slow down
//! for a minute must not fail a backup of hours. Bytes that arrive wrong are
//! repeated a few times only: an object that is damaged stays damaged. What the
//! medium has lost is asked for once or twice more and at once: the kernel and
//! the disk have tried for long already.

use std::time::Duration;

use crate::backoff::Backoff;

use super::error::{StoreError, StoreErrorKind};

const MAX_CORRUPT_ATTEMPTS: u32 = 4;
const MAX_MEDIUM_ATTEMPTS: u32 = 3;
const MEDIUM_DELAY: Duration = Duration::from_millis(50);

/// When to give up, and how long to wait before that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// From the first attempt of a request.
    pub give_up_after: Duration,
    pub backoff: Backoff,
    /// A body of which not even [`Self::STALL_BYTES`] came in this time is
    /// given up, and the request repeated.
    pub stall_after: Duration,
}

impl RetryPolicy {
    /// Progress that keeps a transfer alive for another `stall_after`.
    pub const STALL_BYTES: u64 = 16 * 1024;

    /// For work nobody waits for: outlasts a store's bad three minutes.
    pub fn patient() -> Self {
        Self {
            give_up_after: Duration::from_secs(180),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            stall_after: Duration::from_secs(20),
        }
    }

    /// For somebody at a terminal.
    pub fn interactive() -> Self {
        Self {
            give_up_after: Duration::from_secs(15),
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(2)),
            ..Self::patient()
        }
    }

    /// The pause before the next attempt; `None` when there is to be none.
    pub(super) fn pause(
        &self,
        error: &StoreError,
        attempts_made: u32,
        elapsed: Duration,
    ) -> Option<Duration> {
        if !may_help(error, attempts_made) {
            return None;
        }
        if error.is_at_rest() {
            return Some(MEDIUM_DELAY);
        }
        let pause = self.backoff.pause(attempts_made);
        // A pause that ends after the limit is not begun: nobody waits for a try that will not be
        // made.
        (elapsed + pause < self.give_up_after).then_some(pause)
    }
}

/// Whether the same request may succeed after so many attempts.
fn may_help(error: &StoreError, attempts_made: u32) -> bool {
    match error.kind() {
        // Before the kind: what the medium lost is `Corrupt` as well, and has been tried by the
        // kernel for long.
        _ if error.is_at_rest() => attempts_made < MAX_MEDIUM_ATTEMPTS,
        StoreErrorKind::Corrupt => attempts_made < MAX_CORRUPT_ATTEMPTS,
        kind => kind.is_transient(),
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::patient()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: StoreErrorKind) -> StoreError {
        StoreError::new(kind, "a test")
    }

    #[test]
    fn pauses_grow_to_the_cap_and_end_in_time() {
        let policy = RetryPolicy::patient();
        let mut elapsed = Duration::ZERO;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match policy.pause(&error(StoreErrorKind::Throttled), attempts, elapsed) {
                Some(pause) => {
                    assert!(pause <= policy.backoff.longest);
                    elapsed += pause;
                }
                None => break,
            }
        }
        assert!(elapsed > Duration::from_secs(120) && elapsed < policy.give_up_after, "{elapsed:?}");
        assert!(attempts < 60, "{attempts}");
    }

    #[test]
    fn what_cannot_help_is_not_repeated() {
        let policy = RetryPolicy::patient();
        for kind in [StoreErrorKind::Auth, StoreErrorKind::NoBucket, StoreErrorKind::NotFound] {
            assert_eq!(policy.pause(&error(kind), 1, Duration::ZERO), None);
        }
        let wrong = error(StoreErrorKind::Corrupt);
        assert!(policy.pause(&wrong, 3, Duration::ZERO).is_some());
        assert_eq!(policy.pause(&wrong, 4, Duration::ZERO), None);
    }

    #[test]
    fn h04_what_the_medium_lost_is_asked_for_few_times_and_at_once() {
        let policy = RetryPolicy::patient();
        let lost = error(StoreErrorKind::Corrupt).at_rest();
        let pauses: Vec<_> = (1..).map_while(|made| policy.pause(&lost, made, Duration::ZERO)).collect();
        assert_eq!(pauses, [MEDIUM_DELAY; MAX_MEDIUM_ATTEMPTS as usize - 1]);
    }
}
