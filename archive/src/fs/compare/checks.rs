//! Contents are read and hashed by workers while the walk goes on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::content::Checker;
use crate::entry::FileData;
use crate::frame::MAX_RAW;
use crate::fs::handles::handle_share;
use crate::fs::open;
use crate::fs::progress::RestoreProgress;
use crate::fs::queue::Queue;
use crate::fs::restore::RestoreOptions;
use crate::fs::text::{Findings, escape_path};

/// What is handed over at once: bytes of content, and handles held open.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FILES: usize = 64;
/// Handles held open by all together, if the process may.
const HANDLES: std::ops::RangeInclusive<usize> = 64..=4096;

/// A file that is there and has the right size.
pub(super) struct Check {
    pub(super) path: Vec<u8>,
    /// A handle of the inode whose metadata was compared.
    pub(super) handle: OwnedFd,
    pub(super) data: FileData,
}

/// What the walk and the workers share.
pub(super) struct Checks<'a> {
    queue: Queue<Vec<Check>>,
    batch_files: usize,
    found: Mutex<Findings>,
    progress: &'a RestoreProgress,
    cancel: &'a AtomicBool,
}

impl<'a> Checks<'a> {
    pub(super) fn new(progress: &'a RestoreProgress, cancel: &'a AtomicBool, workers: usize) -> Self {
        // One with each worker, as many waiting, and the one being filled.
        let batches = 2 * workers + 1;
        let batch_files = (handle_share(*HANDLES.start(), *HANDLES.end()) / batches).clamp(1, BATCH_FILES);
        Self { queue: Queue::new(workers), batch_files, found: Mutex::default(), progress, cancel }
    }

    /// Hashes what is handed over until nothing more will be.
    pub(super) fn work(&self) {
        let guard = Abandon(self);
        let mut checker = Checker::new(self.cancel);
        while let Some(batch) = self.queue.take() {
            batch.into_iter().for_each(|check| self.check(&mut checker, check));
        }
        // No panic has happened: the guard must not give up the queue.
        std::mem::forget(guard);
    }

    fn check(&self, checker: &mut Checker<'_>, check: Check) {
        let Check { path, handle, data } = check;
        let before = checker.bytes;
        // By handle: the name may be another file's by now, whose metadata was never compared.
        match open::reopen_file(handle.as_fd()).and_then(|file| checker.holds(&file, &data)) {
            Ok(true) => {}
            Ok(false) => self.differs(&path, "its content differs"),
            Err(error) => self.differs(&path, &format!("it cannot be read ({error})")),
        }
        self.progress.bytes.add(checker.bytes - before);
        self.progress.files.add(1);
    }

    pub(super) fn differs(&self, path: &[u8], what: &str) {
        self.lock().push(|| format!("{}: {what}", escape_path(path)));
    }

    /// All that was found, once walk and workers have ended.
    pub(super) fn found(self) -> Findings {
        let mut found = std::mem::take(&mut *self.lock());
        // Workers end in any order; a sorted list is the same each time.
        found.listed.sort_unstable();
        found
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many workers the options ask for and allow.
pub(super) fn workers(options: &RestoreOptions) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = if options.workers == 0 { processors } else { options.workers };
    // Each worker has a buffer of `MAX_RAW`.
    wanted.min(options.memory_bytes / MAX_RAW).max(1)
}

/// The walk's end of the queue. Dropped before it has finished, what waits in
/// it is of no use to anybody.
pub(super) struct Giver<'a> {
    checks: &'a Checks<'a>,
    batch: Vec<Check>,
    bytes: u64,
    finished: bool,
}

impl<'a> Giver<'a> {
    pub(super) fn new(checks: &'a Checks<'a>) -> Self {
        Self { checks, batch: Vec::new(), bytes: 0, finished: false }
    }

    pub(super) fn give(&mut self, check: Check) {
        self.bytes += check.data.size + check.path.len() as u64;
        self.batch.push(check);
        if self.bytes >= BATCH_BYTES || self.batch.len() >= self.checks.batch_files {
            self.hand_over();
        }
    }

    /// That was all: the workers come to the end of what they have.
    pub(super) fn finish(&mut self) {
        self.hand_over();
        self.checks.queue.close();
        self.finished = true;
    }

    /// Nobody is left to take it only when a worker has panicked, and then the
    /// comparison does too.
    fn hand_over(&mut self) {
        self.bytes = 0;
        if !self.batch.is_empty() {
            self.checks.queue.put(std::mem::take(&mut self.batch));
        }
    }
}

impl Drop for Giver<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.checks.queue.abandon();
        }
    }
}

/// A worker that dies must not leave the walk waiting for it.
struct Abandon<'a>(&'a Checks<'a>);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}
