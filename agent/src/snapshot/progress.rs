//! Progress of a job's sources, told a few times a second.
//!
//! The counts are the capture's own atomics; here they are only added up over
//! the passes of a source and turned into events.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_archive::fs::CaptureProgress;
use holdfast_archive::snapshot::Stats;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, snapshot_event::Event};
use tokio_util::task::AbortOnDropHandle;

use super::backup::wire_stats;
use super::feed::Feed;

const TICK: Duration = Duration::from_millis(300);

/// All sources of one job.
#[derive(Debug)]
pub(super) struct ProgressTracker {
    job: JobId,
    feed: Arc<Feed<v1::SnapshotEvent>>,
    rows: Mutex<Vec<Arc<SourceProgress>>>,
}

/// One source.
#[derive(Debug)]
pub(super) struct SourceProgress {
    source: String,
    expected_bytes: u64,
    phase: AtomicI32,
    state: Mutex<SourceState>,
}

#[derive(Debug, Default)]
struct SourceState {
    /// What earlier passes read and sent.
    carried: Stats,
    progress: Option<Arc<CaptureProgress>>,
    finished: bool,
}

impl ProgressTracker {
    pub(super) fn new(job: JobId, feed: Arc<Feed<v1::SnapshotEvent>>) -> Self {
        Self { job, feed, rows: Mutex::default() }
    }

    pub(super) fn add(&self, source: String, expected_bytes: u64) -> Arc<SourceProgress> {
        let row = Arc::new(SourceProgress {
            source,
            expected_bytes,
            phase: AtomicI32::new(v1::SourcePhase::Queued.into()),
            state: Mutex::default(),
        });
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push(row.clone());
        row
    }

    /// Tells until the handle is dropped.
    pub(super) fn start(self: &Arc<Self>) -> AbortOnDropHandle<()> {
        let progress = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                progress.emit();
            }
        }))
    }

    fn emit(&self) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for row in rows {
            if row.lock().finished {
                self.feed.clear_progress(&row.source);
                continue;
            }
            let progress = v1::SourceProgress {
                source_id: row.source.clone(),
                phase: row.phase.load(Ordering::Relaxed),
                stats: Some(wire_stats(&row.now())),
                expected_bytes: row.expected_bytes,
            };
            let event =
                v1::SnapshotEvent { job_id: self.job.to_string(), event: Some(Event::Progress(progress)) };
            self.feed.progress(&row.source, event);
        }
    }
}

impl SourceProgress {
    pub(super) fn set_phase(&self, phase: v1::SourcePhase) {
        self.phase.store(phase.into(), Ordering::Relaxed);
    }

    /// Counts of a new pass; those of the one before are carried.
    pub(super) fn begin(&self, phase: v1::SourcePhase) -> Arc<CaptureProgress> {
        self.set_phase(phase);
        let progress = Arc::new(CaptureProgress::default());
        let mut state = self.lock();
        if let Some(before) = state.progress.replace(progress.clone()) {
            let before = before.stats();
            carry(&mut state.carried, &before);
        }
        progress
    }

    /// Everything so far.
    pub(super) fn now(&self) -> Stats {
        let state = self.lock();
        let running = state.progress.as_ref().map(|progress| progress.stats()).unwrap_or_default();
        added(&state.carried, &running)
    }

    /// What the last pass found, with what all passes read and sent.
    pub(super) fn total(&self, last: &Stats) -> Stats {
        added(&self.lock().carried, last)
    }

    pub(super) fn finish(&self) {
        self.lock().finished = true;
    }

    fn lock(&self) -> MutexGuard<'_, SourceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only what was moved adds up; what is there is counted anew by each pass.
fn carry(carried: &mut Stats, pass: &Stats) {
    carried.read_bytes += pass.read_bytes;
    carried.new_bytes += pass.new_bytes;
    carried.stored_bytes += pass.stored_bytes;
}

fn added(carried: &Stats, pass: &Stats) -> Stats {
    let mut total = *pass;
    carry(&mut total, carried);
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_add_up_what_moved_and_not_what_is_there() {
        let progress = ProgressTracker::new(JobId::generate(), Arc::new(Feed::new()));
        let row = progress.add("s".to_owned(), 0);
        row.lock().carried = Stats { read_bytes: 10, new_bytes: 4, stored_bytes: 2, ..Stats::default() };
        let last = Stats { entries: 3, read_bytes: 1, changed_files: 1, ..Stats::default() };
        let expected = Stats { read_bytes: 11, new_bytes: 4, stored_bytes: 2, ..last };
        assert_eq!(row.total(&last), expected);
        row.begin(v1::SourcePhase::SecondPass);
        assert_eq!(row.now().read_bytes, 10);
    }
}
