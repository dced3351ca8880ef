//! Progress of a job's sources, told a few times a second.
//!
//! The counts are the capture's own atomics; here they are only added up over
//! the passes of a source and turned into events.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_archive::fs::CaptureProgress;
use holdfast_archive::ids::SourceId;
use holdfast_archive::snapshot::Stats;
use tokio_util::task::AbortOnDropHandle;

use super::event::{self, BackupEvent, SourcePhase};
use super::feed::Feed;

const TICK: Duration = Duration::from_millis(300);

/// All sources of one job.
#[derive(Debug)]
pub(super) struct ProgressTracker {
    feed: Arc<Feed<BackupEvent>>,
    rows: Mutex<Vec<Arc<SourceProgress>>>,
}

/// One source.
#[derive(Debug)]
pub(super) struct SourceProgress {
    source: SourceId,
    expected_bytes: Option<u64>,
    state: Mutex<SourceState>,
}

#[derive(Debug)]
struct SourceState {
    phase: SourcePhase,
    /// What earlier passes read and sent.
    carried: Stats,
    progress: Option<Arc<CaptureProgress>>,
    finished: bool,
}

impl ProgressTracker {
    pub(super) fn new(feed: Arc<Feed<BackupEvent>>) -> Self {
        Self { feed, rows: Mutex::default() }
    }

    pub(super) fn add(&self, source: SourceId, expected_bytes: Option<u64>) -> Arc<SourceProgress> {
        let state = SourceState {
            phase: SourcePhase::Queued,
            carried: Stats::default(),
            progress: None,
            finished: false,
        };
        let row = Arc::new(SourceProgress { source, expected_bytes, state: Mutex::new(state) });
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
            let key = row.source.to_string();
            match row.told() {
                Some(progress) => self.feed.progress(&key, BackupEvent::Progress(progress)),
                None => self.feed.clear_progress(&key),
            }
        }
    }
}

impl SourceProgress {
    pub(super) fn set_phase(&self, phase: SourcePhase) {
        self.lock().phase = phase;
    }

    /// Counts of a new pass; those of the one before are carried.
    pub(super) fn begin(&self, phase: SourcePhase) -> Arc<CaptureProgress> {
        let progress = Arc::new(CaptureProgress::default());
        let mut state = self.lock();
        state.phase = phase;
        // Under one lock, so that no reader sees a pass twice or not at all.
        if let Some(before) = state.progress.replace(progress.clone()) {
            let before = before.stats();
            carry(&mut state.carried, &before);
        }
        progress
    }

    /// Everything so far.
    pub(super) fn now(&self) -> Stats {
        self.lock().now()
    }

    /// As it is told; none once it has finished.
    fn told(&self) -> Option<event::SourceProgress> {
        let state = self.lock();
        (!state.finished).then(|| event::SourceProgress {
            source: self.source,
            phase: state.phase,
            stats: state.now(),
            expected_bytes: self.expected_bytes,
        })
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

impl SourceState {
    fn now(&self) -> Stats {
        let running = self.progress.as_ref().map(|progress| progress.stats()).unwrap_or_default();
        added(&self.carried, &running)
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
        let progress = ProgressTracker::new(Arc::new(Feed::new()));
        let row = progress.add(SourceId::generate(), None);
        row.lock().carried = Stats { read_bytes: 10, new_bytes: 4, stored_bytes: 2, ..Stats::default() };
        let last = Stats { entries: 3, read_bytes: 1, changed_files: 1, ..Stats::default() };
        let expected = Stats { read_bytes: 11, new_bytes: 4, stored_bytes: 2, ..last };
        assert_eq!(row.total(&last), expected);
        row.begin(SourcePhase::SecondPass);
        assert_eq!(row.now().read_bytes, 10);
    }
}
