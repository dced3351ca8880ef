//! The snapshots that are kept, by source.

use std::collections::BTreeMap;

use holdfast_archive::ids::{HostId, SourceId};

use crate::catalog::snapshots::SnapshotRecord;

/// Committed snapshots of each source, the newest first.
#[derive(Debug, Default)]
pub(crate) struct Kept<'f> {
    by_source: BTreeMap<SourceId, Vec<&'f SnapshotRecord>>,
    newest_of_host: BTreeMap<HostId, i64>,
}

impl<'f> Kept<'f> {
    pub(crate) fn of(snapshots: &'f [SnapshotRecord]) -> Self {
        let mut kept = Self::default();
        for snapshot in snapshots {
            kept.by_source.entry(snapshot.id.source).or_default().push(snapshot);
            let newest = kept.newest_of_host.entry(snapshot.id.host).or_insert(snapshot.created_ms);
            *newest = snapshot.created_ms.max(*newest);
        }
        for snapshots in kept.by_source.values_mut() {
            snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.id.number));
        }
        kept
    }

    /// Of one source, the newest first.
    pub(crate) fn snapshots(&self, source: SourceId) -> &[&'f SnapshotRecord] {
        self.by_source.get(&source).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn count(&self, source: SourceId) -> usize {
        self.snapshots(source).len()
    }

    /// When the newest was taken, partial ones included.
    pub(crate) fn newest_ms(&self, source: SourceId) -> Option<i64> {
        self.snapshots(source).iter().map(|snapshot| snapshot.created_ms).max()
    }

    /// When the newest complete one was taken that is not of the future: one
    /// that is was made under a clock that was ahead, and says nothing of the
    /// nights since that was set right.
    pub(crate) fn good_ms(&self, source: SourceId, now_ms: i64) -> Option<i64> {
        let complete = self.snapshots(source).iter().filter(|snapshot| !snapshot.partial);
        complete.map(|snapshot| snapshot.created_ms).filter(|created_ms| *created_ms <= now_ms).max()
    }

    /// When the newest of any source of a host was taken, gone ones included.
    pub(crate) fn newest_of_host(&self, host: HostId) -> Option<i64> {
        self.newest_of_host.get(&host).copied()
    }
}
