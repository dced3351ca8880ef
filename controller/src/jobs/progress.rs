//! What running jobs are doing right now, in memory.
//!
//! Only for the eye: progress changes several times a second and is not worth
//! a write. What must survive the controller goes to the catalogue; watchers
//! read it there, woken from here, and so miss nothing however slow they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_proto::ids::JobId;
use tokio::sync::watch;

use crate::model::job::restore::RestoreProgress;
use crate::model::job::source::SourceProgress;

/// Progress of one job.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// By source id.
    pub sources: BTreeMap<String, SourceProgress>,
    pub restore: Option<RestoreProgress>,
}

#[derive(Debug)]
struct Entry {
    live: Live,
    version: watch::Sender<u64>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { live: Live::default(), version: watch::channel(0).0 }
    }
}

/// One entry a job that is running or watched.
#[derive(Debug, Default)]
pub struct ProgressTracker {
    entries: Mutex<HashMap<JobId, Entry>>,
}

impl ProgressTracker {
    pub fn live(&self, job: JobId) -> Live {
        self.lock().get(&job).map(|entry| entry.live.clone()).unwrap_or_default()
    }

    pub fn source_progress(&self, job: JobId, progress: SourceProgress) {
        self.change(job, |live| {
            live.sources.insert(progress.source_id.clone(), progress);
        });
    }

    pub fn restore_progress(&self, job: JobId, progress: RestoreProgress) {
        self.change(job, |live| live.restore = Some(progress));
    }

    /// Notifies the watchers of a job: its rows changed.
    pub fn notify(&self, job: JobId) {
        if let Some(entry) = self.lock().get(&job) {
            entry.version.send_modify(|version| *version += 1);
        }
    }

    /// Progress of an attempt that is over.
    pub fn clear(&self, job: JobId) {
        self.change(job, |live| *live = Live::default());
    }

    /// The job has ended: watchers are notified a last time.
    pub fn remove(&self, job: JobId) {
        self.lock().remove(&job);
    }

    /// A watcher of an ended job leaves nothing behind.
    pub fn remove_if_unwatched(&self, job: JobId) {
        let mut entries = self.lock();
        if entries.get(&job).is_some_and(|entry| entry.version.receiver_count() <= 1) {
            entries.remove(&job);
        }
    }

    /// Changes when the job's rows or progress do; closed when it has ended.
    pub fn subscribe(&self, job: JobId) -> watch::Receiver<u64> {
        self.lock().entry(job).or_default().version.subscribe()
    }

    fn change(&self, job: JobId, change: impl FnOnce(&mut Live)) {
        let mut entries = self.lock();
        let entry = entries.entry(job).or_default();
        change(&mut entry.live);
        entry.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        // Plain maps: a panic under the lock leaves them whole.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn watchers_wake_on_progress_and_at_the_end() {
        let (progress, job) = (ProgressTracker::default(), JobId::generate());
        let mut watcher = progress.subscribe(job);
        progress.source_progress(job, SourceProgress { source_id: "a".into(), ..Default::default() });
        watcher.changed().await.expect("woken");
        assert_eq!(progress.live(job).sources.len(), 1);
        progress.clear(job);
        assert!(progress.live(job).sources.is_empty());
        watcher.changed().await.expect("woken");
        progress.remove(job);
        assert!(watcher.changed().await.is_err());
    }
}
