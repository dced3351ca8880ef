//! What the calling thread and the workers of a restore share.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::request::{RestoreError, RestoreOptions};
use crate::entry::{Entry, EntryKind, Extent};
use crate::fetch::FrameFetcher;
use crate::fs::metadata::{self, Missing, Wanted};
use crate::fs::progress::RestoreProgress;
use crate::fs::queue::Queue;
use crate::fs::text::{Findings, escape_path};

const LOOK: Duration = Duration::from_millis(100);

/// Files for a worker to make.
pub(super) enum Task {
    /// Small files, read together.
    Files { number: u64, files: Vec<NewFile> },
    /// A piece of a large file.
    Piece { file: Arc<LargeFile>, extents: std::ops::Range<usize> },
}

pub(super) struct NewFile {
    pub(super) dir: Arc<OwnedFd>,
    pub(super) entry: Entry,
}

/// A large file, open until its last piece is written.
pub(super) struct LargeFile {
    pub(super) number: u64,
    pub(super) new: NewFile,
    pub(super) file: OwnedFd,
    pub(super) pieces_left: AtomicUsize,
    /// Some of its content is lost.
    pub(super) lost: AtomicBool,
}

impl LargeFile {
    pub(super) fn extents(&self) -> &[Extent] {
        match &self.new.entry.kind {
            EntryKind::File(file) => &file.extents,
            _ => &[],
        }
    }
}

pub(super) struct Shared<'a> {
    pub(super) options: &'a RestoreOptions,
    pub(super) fetcher: &'a FrameFetcher,
    pub(super) progress: &'a RestoreProgress,
    pub(super) tasks: Queue<Task>,
    cancel: &'a AtomicBool,
    stopped: AtomicBool,
    failure: Mutex<Option<RestoreError>>,
    pub(super) left_out: Mutex<Findings>,
    pub(super) lost: Mutex<Findings>,
    pub(super) warnings: Mutex<Findings>,
    /// Tasks not done yet: number and parts left.
    open: Mutex<BTreeMap<u64, usize>>,
    done: Condvar,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        options: &'a RestoreOptions,
        fetcher: &'a FrameFetcher,
        progress: &'a RestoreProgress,
        cancel: &'a AtomicBool,
        waiting: usize,
    ) -> Self {
        Self {
            options,
            fetcher,
            progress,
            tasks: Queue::new(waiting),
            cancel,
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
            left_out: Mutex::default(),
            lost: Mutex::default(),
            warnings: Mutex::default(),
            open: Mutex::default(),
            done: Condvar::new(),
        }
    }

    /// Announces a task of so many parts.
    pub(super) fn announce(&self, number: u64, parts: usize) {
        *lock(&self.open).entry(number).or_default() += parts;
    }

    /// Hands a part of an announced task to the workers.
    pub(super) fn give(&self, task: Task) -> Result<(), RestoreError> {
        if self.tasks.put(task) { Ok(()) } else { Err(self.why_stopped()) }
    }

    pub(super) fn part_done(&self, number: u64) {
        let mut open = lock(&self.open);
        if let Some(parts) = open.get_mut(&number) {
            *parts -= 1;
            if *parts == 0 {
                open.remove(&number);
                self.done.notify_all();
            }
        }
    }

    /// Whether everything announced under this number or before is done.
    pub(super) fn is_done(&self, number: u64) -> bool {
        lock(&self.open).first_key_value().is_none_or(|(&first, _)| first > number)
    }

    /// Waits until [`Self::is_done`].
    pub(super) fn wait(&self, number: u64) -> Result<(), RestoreError> {
        let mut open = lock(&self.open);
        while !self.halted() && open.first_key_value().is_some_and(|(&first, _)| first <= number) {
            // With a time limit: the cancel flag is set by somebody who does not notify.
            open = self.done.wait_timeout(open, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(open);
        if self.halted() { Err(self.why_stopped()) } else { Ok(()) }
    }

    pub(super) fn halted(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.tasks.abandon();
        self.done.notify_all();
    }

    pub(super) fn fail(&self, error: RestoreError) {
        // The first one is the cause; those after it are of threads that were stopped by it.
        lock(&self.failure).get_or_insert(error);
        self.stop();
    }

    pub(super) fn why_stopped(&self) -> RestoreError {
        lock(&self.failure).take().unwrap_or(RestoreError::Cancelled)
    }

    /// Something of the snapshot is not on the target.
    pub(super) fn leave_out(&self, path: &[u8], what: &str) {
        lock(&self.left_out).push(|| format!("{}: {what}", escape_path(path)));
    }

    /// The repository has lost something of this.
    pub(super) fn lose(&self, what: &str) {
        lock(&self.lost).push(|| what.to_owned());
    }

    /// What of an entry's metadata is laid on the target, the rest listed.
    pub(super) fn wanted<'e>(&self, entry: &'e Entry) -> Wanted<'e> {
        if self.options.setuid {
            return Wanted { entry, mode_mask: 0o7777, capability: true };
        }
        // A setuid program out of a snapshot is a way to another user's rights: it is for those who
        // ask for it.
        let mask = mode_mask(entry, false);
        if entry.mode & !mask != 0 && !matches!(entry.kind, EntryKind::Symlink { .. }) {
            self.leave_out(&entry.path, "its setuid and setgid bits, which were not asked for");
        }
        if entry.xattrs.iter().any(|(name, _)| name == metadata::CAPABILITY) {
            self.leave_out(&entry.path, "its capabilities, which were not asked for");
        }
        Wanted { entry, mode_mask: mask, capability: false }
    }

    /// Lists what the target did not take.
    pub(super) fn note(&self, path: &[u8], missing: Vec<Missing>) -> Result<(), RestoreError> {
        for what in missing {
            if what == Missing::TimesClamped {
                lock(&self.warnings).push(|| format!("{}: {what}", escape_path(path)));
            } else if self.options.strict {
                return Err(RestoreError::Strict { path: escape_path(path), what: what.to_string() });
            } else {
                self.leave_out(path, &what.to_string());
            }
        }
        Ok(())
    }
}

/// Bits of an entry's mode that a restore sets. On a directory setuid and
/// setgid hand the owner on and grant nobody anything.
pub(in crate::fs) fn mode_mask(entry: &Entry, setuid: bool) -> u32 {
    if setuid || entry.kind == EntryKind::Directory { 0o7777 } else { 0o1777 }
}

pub(super) fn io(path: &[u8], action: &'static str, error: Errno) -> RestoreError {
    RestoreError::Io { path: escape_path(path), action, source: error.into() }
}

pub(super) fn refused(path: &[u8], reason: &'static str) -> RestoreError {
    RestoreError::Refused { path: escape_path(path), reason }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that dies must not leave the others waiting for it.
pub(super) struct StopOnPanic<'a>(pub(super) &'a Shared<'a>);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}
