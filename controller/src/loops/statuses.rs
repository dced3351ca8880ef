//! What each loop last did, and which of them keep failing.
//!
//! A loop tries again by itself, so one pass that failed is nothing to be told
//! of: a store may be out of reach for a moment. A loop that goes on failing
//! leaves its work undone while everything else looks well, and is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_archive::store::StoreErrorKind;
use tokio::time::Instant;

use super::driver::LoopError;
use crate::clock::now_ms;
use crate::repository::RepositoryError;

/// After so long, two passes that failed one after the other are told of.
const SETTLED: Duration = Duration::from_secs(60);
/// After so long a single one is: the next pass may be an hour away.
const ALONE: Duration = Duration::from_mins(5);

/// What the loops last did; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Statuses(Arc<Mutex<BTreeMap<&'static str, Kept>>>);

/// What one loop last did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopStatus {
    pub name: &'static str,
    pub last_run_ms: i64,
    /// In words.
    pub last_result: String,
}

#[derive(Debug)]
struct Kept {
    status: LoopStatus,
    failing: Option<Failing>,
}

/// A loop whose passes have failed since its last good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    pub name: &'static str,
    pub cause: Cause,
    /// The last pass's.
    pub error: String,
    pub passes: u32,
    since: Instant,
}

/// What a loop fails of, as far as the remedy differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The repository as a whole: `status` tells of that anyway.
    Suspended,
    /// The store cannot be reached.
    Unreachable,
    /// The store has no room left.
    Full,
    /// The store does not take writes, or these credentials.
    Refused,
    /// Something in the bucket is damaged.
    Damaged,
    Catalog,
    Other,
}

impl Cause {
    pub(super) fn of(error: &LoopError) -> Self {
        match error {
            LoopError::Catalog(_) | LoopError::Repository(RepositoryError::Catalog(_)) => Self::Catalog,
            LoopError::Repository(RepositoryError::Store(error)) => Self::of_store(error.kind()),
            LoopError::Repository(RepositoryError::Suspended(_)) => Self::Suspended,
            LoopError::Repository(RepositoryError::Damaged(_)) => Self::Damaged,
            LoopError::Repository(_) => Self::Other,
        }
    }

    fn of_store(kind: StoreErrorKind) -> Self {
        match kind {
            StoreErrorKind::Full => Self::Full,
            StoreErrorKind::Refused | StoreErrorKind::Auth => Self::Refused,
            StoreErrorKind::Corrupt | StoreErrorKind::NotFound => Self::Damaged,
            StoreErrorKind::NoBucket
            | StoreErrorKind::Unreachable
            | StoreErrorKind::Throttled
            | StoreErrorKind::ClockSkew => Self::Unreachable,
            StoreErrorKind::Other => Self::Other,
        }
    }
}

impl Failing {
    /// How long ago the first of these passes failed.
    pub fn lasted(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Statuses {
    pub fn all(&self) -> Vec<LoopStatus> {
        self.lock().values().map(|kept| kept.status.clone()).collect()
    }

    /// Loops that have failed for long enough to be told of.
    pub fn failing(&self) -> Vec<Failing> {
        let settled = |failing: &&Failing| {
            let lasted = failing.lasted();
            lasted >= ALONE || (failing.passes >= 2 && lasted >= SETTLED)
        };
        self.lock().values().filter_map(|kept| kept.failing.as_ref()).filter(settled).cloned().collect()
    }

    pub(super) fn succeeded(&self, name: &'static str, summary: String) {
        self.lock().insert(name, Kept { status: status(name, summary), failing: None });
    }

    pub(crate) fn failed(&self, name: &'static str, cause: Cause, error: String) {
        let mut kept = self.lock();
        let before = kept.get(name).and_then(|kept| kept.failing.as_ref());
        let failing = Failing {
            name,
            cause,
            error: error.clone(),
            passes: before.map_or(1, |before| before.passes.saturating_add(1)),
            since: before.map_or_else(Instant::now, |before| before.since),
        };
        kept.insert(name, Kept { status: status(name, format!("failed: {error}")), failing: Some(failing) });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Kept>> {
        // Replaced entry by entry: what a poisoned lock holds is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(name: &'static str, last_result: String) -> LoopStatus {
    LoopStatus { name, last_run_ms: now_ms(), last_result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(statuses: &Statuses) -> Vec<(&'static str, u32)> {
        statuses.failing().iter().map(|failing| (failing.name, failing.passes)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_keeps_failing_is_told_of_and_a_passing_failure_is_not() {
        let statuses = Statuses::default();
        let fail = || statuses.failed("gc", Cause::Full, "no space".to_owned());
        fail();
        fail();
        assert_eq!(told(&statuses), [], "twice within a moment");
        tokio::time::advance(SETTLED).await;
        assert_eq!(told(&statuses), [("gc", 2)]);
        statuses.succeeded("gc", "done".to_owned());
        assert_eq!(told(&statuses), [], "it is well again");
        fail();
        tokio::time::advance(SETTLED).await;
        assert_eq!(told(&statuses), [], "once, and the next pass may be well");
        tokio::time::advance(ALONE).await;
        assert_eq!(told(&statuses), [("gc", 1)], "once, and for long");
        assert_eq!(statuses.all()[0].last_result, "failed: no space");
    }
}
