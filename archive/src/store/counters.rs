//! How much was asked of a store. One count, read by whoever reports.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    Put,
    Head,
    List,
    Delete,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    get: AtomicU64,
    put: AtomicU64,
    head: AtomicU64,
    list: AtomicU64,
    delete: AtomicU64,
    retries: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// Counts since the store was opened. Requests count each attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StoreCounters {
    pub get: u64,
    pub put: u64,
    pub head: u64,
    pub list: u64,
    pub delete: u64,
    /// Of all these, the ones that repeated an earlier one.
    pub retries: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

impl StoreCounters {
    pub fn requests(&self) -> u64 {
        self.get + self.put + self.head + self.list + self.delete
    }
}

impl Counters {
    pub(super) fn request(&self, verb: Verb) {
        let counter = match verb {
            Verb::Get => &self.get,
            Verb::Put => &self.put,
            Verb::Head => &self.head,
            Verb::List => &self.list,
            Verb::Delete => &self.delete,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> StoreCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounters {
            get: of(&self.get),
            put: of(&self.put),
            head: of(&self.head),
            list: of(&self.list),
            delete: of(&self.delete),
            retries: of(&self.retries),
            bytes_read: of(&self.bytes_read),
            bytes_written: of(&self.bytes_written),
        }
    }
}
