//! Whether a snapshot fits where it is to go, asked before anything is written.

use std::sync::Arc;

use holdfast_archive::entry::EntryKind;
use holdfast_archive::fetch::FrameFetcher;
use holdfast_archive::fs::RestoreOptions;
use holdfast_archive::ids::FrameId;
use holdfast_archive::manifest::{ManifestError, ManifestReader};
use holdfast_archive::snapshot::SnapshotBody;

use crate::session::Session;

use super::restore::RestoreError;
use super::target::Target;
use super::thread::on_thread;

/// Memory for manifest pages while they are counted.
const CACHE_BYTES: usize = 8 << 20;

/// What a tree takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    bytes: u64,
    entries: u64,
}

/// What a filesystem has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    bytes: u64,
    /// None where the filesystem makes inodes as it needs them.
    entries: Option<u64>,
}

/// Refuses a restore that cannot end well.
///
/// The snapshot's own sum counts holes and everything in it, so it is an upper
/// bound and costs nothing; only where it does not fit are the pages read.
pub(super) async fn check(
    target: &Target,
    body: &SnapshotBody,
    options: &RestoreOptions,
    session: &Session,
) -> Result<(), RestoreError> {
    let root = target.root()?;
    let found = rustix::fs::fstatvfs(&root).map_err(RestoreError::RoomUnknown)?;
    let room = Room {
        bytes: found.f_bavail.saturating_mul(found.f_frsize),
        // Filesystems without a fixed number of inodes, such as btrfs, give 0.
        entries: (found.f_files > 0).then_some(found.f_favail),
    };
    // The snapshot's own sums come first: they are the most it can need, and no page is read.
    let most = Need { bytes: body.stats.size_bytes, entries: body.stats.entries };
    if room.holds(most) {
        return Ok(());
    }
    // The pages say what is really written.
    let (pack_io, root, options) = (Arc::new(session.clone()), body.root, options.clone());
    let need =
        on_thread("count", move || count(&FrameFetcher::new(pack_io, CACHE_BYTES), root, &options)).await?;
    let need = need.map_err(RestoreError::NeedUnknown)?;
    if room.holds(need) {
        return Ok(());
    }
    Err(RestoreError::NoRoom(room.lacks(need)))
}

impl Room {
    fn holds(self, need: Need) -> bool {
        self.bytes >= need.bytes && self.entries.is_none_or(|entries| entries >= need.entries)
    }

    fn lacks(self, need: Need) -> String {
        if self.bytes < need.bytes {
            return format!(
                "the target's filesystem has {} bytes free and {} are needed; nothing was written",
                self.bytes, need.bytes
            );
        }
        format!(
            "the target's filesystem has {} inodes free and {} are needed; nothing was written",
            self.entries.unwrap_or_default(),
            need.entries
        )
    }
}

fn count(fetcher: &FrameFetcher, root: FrameId, options: &RestoreOptions) -> Result<Need, ManifestError> {
    let reader = ManifestReader::open(fetcher, root);
    let mut need = Need::default();
    let mut add = |entries: holdfast_archive::manifest::Entries<'_>| {
        for entry in entries {
            // What is lost takes no room.
            let entry = match entry {
                Err(error) if options.salvage && error.is_loss() => continue,
                entry => entry?,
            };
            need.entries += 1;
            if let EntryKind::File(data) = entry.kind {
                need.bytes += data.extents.iter().map(|extent| u64::from(extent.len)).sum::<u64>();
            }
        }
        Ok::<(), ManifestError>(())
    };
    if options.paths.is_empty() {
        add(reader.entries())?;
    }
    for path in &options.paths {
        add(reader.subtree(path))?;
    }
    Ok(need)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o06_bytes_and_inodes_are_both_looked_at() {
        let room = Room { bytes: 100, entries: Some(10) };
        assert!(room.holds(Need { bytes: 100, entries: 10 }));
        let long = Need { bytes: 101, entries: 1 };
        assert!(!room.holds(long) && room.lacks(long).contains("100 bytes"));
        let many = Need { bytes: 1, entries: 11 };
        assert!(!room.holds(many) && room.lacks(many).contains("10 inodes"));
        assert!(Room { entries: None, ..room }.holds(many));
    }
}
