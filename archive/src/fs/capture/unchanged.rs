//! Whether an entry of the base still describes what is there.
//!
//! Type, size, mtime, ctime and inode must be equal. The device number is
//! not asked: it changes with reboots and btrfs snapshots. A time that is not
//! clearly older than the base run proves nothing: the clock of timestamps is
//! coarse, so a file may have been written once more, within the same tick,
//! after it was read.

use std::collections::HashSet;

use rustix::fs::{FileType, Stat};

use crate::entry::{Entry, EntryKind};
use crate::fs::metadata::{ctime_ns, mtime_ns, size_of, type_of};
use crate::ids::FrameId;

/// How far before the base run a time must lie.
pub(crate) const GRACE_NS: i128 = 2_000_000_000;
/// How much earlier a run counts as begun when dirty pages could not be
/// written back first: a store to a mapped page may reach the file's times
/// that late.
pub(crate) const UNSYNCED_NS: i64 = 120_000_000_000;

/// Times from here on prove nothing, given when the base run started.
pub(crate) fn bound_ns(started_unix_ns: i64) -> i128 {
    i128::from(started_unix_ns) - GRACE_NS
}

/// Whether `entry` of a base run still holds for an inode that looks like `stat`.
pub(crate) fn holds(entry: &Entry, stat: &Stat, bound_ns: i128, damaged: &HashSet<FrameId>) -> bool {
    let same_kind = match (&entry.kind, type_of(stat)) {
        (EntryKind::File(file), FileType::RegularFile) => {
            file.size == size_of(stat)
                && (damaged.is_empty() || !file.extents.iter().any(|extent| damaged.contains(&extent.frame)))
        }
        (EntryKind::Directory, FileType::Directory)
        | (EntryKind::Symlink { .. }, FileType::Symlink)
        | (EntryKind::Fifo, FileType::Fifo)
        | (EntryKind::Socket, FileType::Socket)
        | (EntryKind::CharDevice { .. }, FileType::CharacterDevice)
        | (EntryKind::BlockDevice { .. }, FileType::BlockDevice) => true,
        _ => false,
    };
    same_kind
        // What could not be read whole is tried again each time, though it may not have changed
        // since.
        && !entry.flags.torn
        && !entry.flags.unreadable
        && entry.inode == stat.st_ino
        && entry.mtime_ns == mtime_ns(stat)
        && entry.ctime_ns == ctime_ns(stat)
        // A change of these moves ctime, where the filesystem keeps one.
        && (entry.mode, entry.uid, entry.gid) == (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
        && entry.mtime_ns.max(entry.ctime_ns) < bound_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Extent, FileData};
    use crate::fs::metadata;

    fn file() -> (Entry, Stat, i128) {
        let mut stat = rustix::fs::fstat(tempfile::tempfile().unwrap()).unwrap();
        stat.st_size = 5;
        let extent = Extent { file_offset: 0, frame: FrameId([1; 32]), frame_offset: 0, len: 5 };
        let data = FileData { size: 5, extents: vec![extent], hash: None };
        let entry = metadata::entry(b"f", EntryKind::File(data), &stat, Vec::new());
        let late = entry.ctime_ns + 1;
        (entry, stat, late)
    }

    #[test]
    fn equal_and_old_means_unchanged() {
        let none = HashSet::new();
        let (entry, stat, late) = file();
        assert!(holds(&entry, &stat, late, &none));
        assert!(!holds(&entry, &stat, late - 1, &none), "as new as the base run");
        assert!(!holds(&entry, &stat, late, &HashSet::from([FrameId([1; 32])])), "damaged");
        let different: [fn(&mut Stat); 5] = [
            |stat| stat.st_size += 1,
            |stat| stat.st_mtime_nsec ^= 1,
            |stat| stat.st_ctime_nsec ^= 1,
            |stat| stat.st_ino += 1,
            |stat| stat.st_mode = 0o10_644,
        ];
        for change in different {
            let mut changed = stat;
            change(&mut changed);
            assert!(!holds(&entry, &changed, late, &none));
        }
        let flags: [fn(&mut Entry); 2] = [|e| e.flags.torn = true, |e| e.flags.unreadable = true];
        for flag in flags {
            let mut flagged = entry.clone();
            flag(&mut flagged);
            assert!(!holds(&flagged, &stat, late, &none));
        }
    }

    #[test]
    fn the_device_number_does_not_matter() {
        let (entry, mut stat, late) = file();
        stat.st_dev ^= 1;
        assert!(holds(&entry, &stat, late, &HashSet::new()));
    }
}
