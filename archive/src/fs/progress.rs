//! How far a capture or a restore has come; read by other threads at will.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::snapshot::Stats;

/// Counts of a running capture. One capture starts them anew.
#[derive(Debug, Default)]
pub struct CaptureProgress {
    pub(crate) entries: Count,
    pub(crate) files: Count,
    pub(crate) size_bytes: Count,
    pub(crate) read_bytes: Count,
    pub(crate) new_bytes: Count,
    pub(crate) stored_bytes: Count,
    pub(crate) changed_files: Count,
    pub(crate) torn_files: Count,
    pub(crate) vanished_entries: Count,
    pub(crate) unreadable_entries: Count,
}

impl CaptureProgress {
    /// The counts now.
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.entries.get(),
            files: self.files.get(),
            size_bytes: self.size_bytes.get(),
            read_bytes: self.read_bytes.get(),
            new_bytes: self.new_bytes.get(),
            stored_bytes: self.stored_bytes.get(),
            changed_files: self.changed_files.get(),
            torn_files: self.torn_files.get(),
            vanished_entries: self.vanished_entries.get(),
            unreadable_entries: self.unreadable_entries.get(),
        }
    }

    pub(crate) fn reset(&self) {
        let all = [
            &self.entries,
            &self.files,
            &self.size_bytes,
            &self.read_bytes,
            &self.new_bytes,
            &self.stored_bytes,
            &self.changed_files,
            &self.torn_files,
            &self.vanished_entries,
            &self.unreadable_entries,
        ];
        all.into_iter().for_each(Count::reset);
    }
}

/// Counts of a running restore or comparison.
#[derive(Debug, Default)]
pub struct RestoreProgress {
    pub(crate) entries: Count,
    pub(crate) files: Count,
    pub(crate) bytes: Count,
}

impl RestoreProgress {
    /// Entries made or compared.
    pub fn entries(&self) -> u64 {
        self.entries.get()
    }

    /// Regular files among them.
    pub fn files(&self) -> u64 {
        self.files.get()
    }

    /// Bytes of content written or compared, holes left out.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

/// A counter several threads add to.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
