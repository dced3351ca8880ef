//! Real trees through capture and restore, judged by outside tools.

mod differences;
mod hostile;
mod increments;
mod limits;
mod memory;
mod property;
mod round_trip;
mod salvage;

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::capture::unchanged::GRACE_NS;
use super::*;
use crate::entry::Entry;
use crate::fetch::FrameFetcher;
use crate::ids::FrameId;
use crate::manifest::ManifestReader;
use memory::Memory;

fn request<'a>(
    root: &Path,
    repository: &Arc<Memory>,
    base: Option<&Captured>,
    damaged: &'a HashSet<FrameId>,
) -> CaptureRequest<'a> {
    CaptureRequest {
        root: File::open(root).unwrap().into(),
        base: base.map(|base| CaptureBase { root: base.root, started_unix_ns: base.started_unix_ns }),
        damaged,
        options: CaptureOptions::default(),
        sink: Arc::clone(repository) as _,
        source: Arc::clone(repository) as _,
        progress: Arc::default(),
        cancel: Arc::default(),
    }
}

fn take(root: &Path, repository: &Arc<Memory>, base: Option<&Captured>) -> Captured {
    capture(request(root, repository, base, &HashSet::new())).unwrap()
}

/// A base as old as that of a backup of yesterday: nothing in the tree is too new to trust.
fn aged(base: &Captured) -> Captured {
    Captured { started_unix_ns: base.started_unix_ns + 3_600_000_000_000, ..base.clone() }
}

/// A base that trusts what was older by a hundredth of a second when it was
/// begun, so that a test need not wait for long: see [`settle`].
fn aged_a_little(base: &Captured) -> Captured {
    let grace_ns = i64::try_from(GRACE_NS).unwrap() - 10_000_000;
    Captured { started_unix_ns: base.started_unix_ns + grace_ns, ..base.clone() }
}

/// What was done to a tree is old enough then for [`aged_a_little`].
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(25));
}

fn restore_request(root: FrameId, target: &Path, repository: &Arc<Memory>) -> RestoreRequest {
    RestoreRequest {
        root,
        target: File::open(target).unwrap().into(),
        options: RestoreOptions { devices: true, setuid: true, ..RestoreOptions::default() },
        source: Arc::clone(repository) as _,
        progress: Arc::default(),
        cancel: Arc::default(),
    }
}

fn put_back(root: FrameId, target: &Path, repository: &Arc<Memory>) -> RestoreReport {
    restore(restore_request(root, target, repository)).unwrap()
}

fn entries(root: FrameId, repository: &Arc<Memory>) -> Vec<Entry> {
    let fetcher = FrameFetcher::new(Arc::clone(repository) as _, 1 << 20);
    ManifestReader::open(&fetcher, root).entries().map(Result::unwrap).collect()
}

fn find<'e>(entries: &'e [Entry], path: &str) -> &'e Entry {
    entries.iter().find(|entry| entry.path == path.as_bytes()).unwrap_or_else(|| panic!("no {path}"))
}
