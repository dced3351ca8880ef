//! One entry that is no directory becomes its copy.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_archive::entry::{EntryKind, FileData};
use holdfast_archive::fs::parts::{
    Missing, Mounts, Wanted, Xattrs, apply, apply_to_handle, changed, create_file, ctime_ns, entry, handle,
    reopen_file, type_of, xattrs_at, xattrs_of_file,
};
use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, Stat, fdatasync, fstat, mknodat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use super::content::{Copied, Copier, Side};
use super::error::CloneError;
use super::flags;

/// Why an entry was not copied.
pub(super) enum EntryError {
    /// A call on the source failed; it may have changed or gone.
    Source(Errno, &'static str),
    /// A call on the clone failed; nobody else touches that.
    Clone(Errno, &'static str),
    /// The source is something else than it was a moment ago.
    Raced,
    /// The clone cannot have all that the source has.
    Lacks(String),
    Quota,
    Is(CloneError),
}

impl From<Side> for EntryError {
    fn from(side: Side) -> Self {
        match side {
            Side::Source(error) => Self::Source(error, "read"),
            Side::Clone(error) => Self::Clone(error, "copied"),
            Side::Cancelled => Self::Is(CloneError::Cancelled),
        }
    }
}

/// Where an entry is and where its copy belongs.
pub(super) struct Spot<'a> {
    pub(super) source: BorrowedFd<'a>,
    pub(super) clone: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
}

/// A copy that was made.
pub(super) struct Made {
    /// What the source looked like when the copying began.
    pub(super) stat: Stat,
    pub(super) clone_inode: u64,
    pub(super) freezing: IFlags,
    pub(super) copied: Copied,
    /// The source may have changed while it was copied.
    pub(super) torn: bool,
    /// A change from this time on may have escaped the copying, nanoseconds.
    pub(super) bound_ns: i128,
}

pub(super) fn file(spot: &Spot<'_>, copier: &mut Copier<'_>, state: Source) -> Result<Made, EntryError> {
    let (file, stat) = open(spot)?;
    let bound_ns = state.bound_ns(file.as_fd(), ctime_ns(&stat));
    let set = flags::read(file.as_fd()).map_err(|error| EntryError::Source(error, "read"))?;
    let to = create_file(spot.clone, spot.name).map_err(|error| EntryError::Clone(error, "created"))?;
    flags::carry(set, to.as_fd()).map_err(|error| lacks("its flags", error))?;
    let copied = copier.copy(file.as_fd(), to.as_fd(), &stat)?;
    let xattrs = xattrs_of_file(file.as_fd()).map_err(|error| EntryError::Source(error, "read"))?;
    let after = fstat(&file).map_err(|error| EntryError::Source(error, "read"))?;
    let meant = entry(b"", EntryKind::File(FileData::default()), &stat, xattrs);
    let mut missing = Vec::new();
    apply(to.as_fd(), &Wanted { entry: &meant, mode_mask: 0o7777, capability: true }, &mut missing);
    none(&missing)?;
    let made = fstat(&to).map_err(|error| EntryError::Clone(error, "read"))?;
    let torn = copied == Copied::Short || changed(&stat, &after);
    let freezing = flags::freezing(set);
    if !freezing.is_empty() {
        // Better found out now than when the data is quiesced.
        let tried = flags::freeze(to.as_fd(), freezing).and_then(|()| flags::thaw(to.as_fd()));
        tried.map_err(|error| lacks("its immutable or append-only flag", error))?;
    }
    Ok(Made { stat, clone_inode: made.st_ino, freezing, copied, torn, bound_ns })
}

/// How far the times of the source can be trusted.
///
/// The clock of timestamps is coarse, and a store into a mapped page changes
/// them only when that page was clean before. So a file that looks unchanged
/// may have been written to all the same, unless the last change it tells of
/// is older than a write-back that came before the copying.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// Written to meanwhile. Dirty pages were written back from `synced_ns` on.
    /// Timestamps may lie so much before the clock that bounds them. Nanoseconds.
    Live { synced_ns: i128, grace_ns: i128 },
    /// Nobody writes to it.
    Quiesced,
}

impl Source {
    /// From when on a change may escape a copying that begins now.
    fn bound_ns(self, file: BorrowedFd<'_>, ctime_ns: i128) -> i128 {
        let Self::Live { synced_ns, grace_ns } = self else { return i128::MAX };
        let (bound_ns, now_ns) = (synced_ns - grace_ns, now_ns() - grace_ns);
        // Changed since the filesystem was written back, though not just now: written back by itself.
        let later = bound_ns <= ctime_ns && ctime_ns < now_ns;
        if later && fdatasync(file).is_ok() { now_ns } else { bound_ns }
    }
}

pub(super) fn now_ns() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

fn open(spot: &Spot<'_>) -> Result<(OwnedFd, Stat), EntryError> {
    let source = |error| EntryError::Source(error, "opened");
    let handle = handle(spot.source, spot.name, Mounts::Stay).map_err(source)?;
    // Only what is a regular file is opened: a device's driver would be called, a FIFO would wait.
    if type_of(&fstat(&handle).map_err(source)?) != FileType::RegularFile {
        return Err(EntryError::Raced);
    }
    let file = reopen_file(handle.as_fd()).map_err(source)?;
    let stat = fstat(&file).map_err(source)?;
    Ok((file, stat))
}

/// A link, FIFO, socket or device. `stat` is what it was found to be.
pub(super) fn special(spot: &Spot<'_>, stat: &Stat, state: Source) -> Result<Made, EntryError> {
    let kind = type_of(stat);
    let bound_ns = match state {
        Source::Live { grace_ns, .. } => now_ns() - grace_ns,
        Source::Quiesced => i128::MAX,
    };
    let target = match kind {
        FileType::Symlink => {
            let target = readlinkat(spot.source, spot.name, Vec::new());
            Some(target.map_err(|error| EntryError::Source(error, "read"))?)
        }
        _ => None,
    };
    let xattrs = xattrs_at(spot.source, spot.name).map_err(|error| EntryError::Source(error, "read"))?;
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let after = statat(spot.source, spot.name, flags).map_err(|error| EntryError::Source(error, "read"))?;
    let torn = after.st_ino != stat.st_ino || type_of(&after) != kind || changed(stat, &after);
    let made = match &target {
        Some(target) => symlinkat(target, spot.clone, spot.name),
        None => mknodat(spot.clone, spot.name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev),
    };
    made.map_err(|error| EntryError::Clone(error, "created"))?;
    let clone_inode = finish(spot, stat, target.map(|target| target.into_bytes()), xattrs)?;
    let (copied, freezing) = (Copied::Bytes(0), IFlags::empty());
    Ok(Made { stat: *stat, clone_inode, freezing, copied, torn, bound_ns })
}

fn finish(spot: &Spot<'_>, stat: &Stat, target: Option<Vec<u8>>, xattrs: Xattrs) -> Result<u64, EntryError> {
    let clone = |error| EntryError::Clone(error, "opened");
    let handle = handle(spot.clone, spot.name, Mounts::Stay).map_err(clone)?;
    let made = fstat(&handle).map_err(clone)?;
    if type_of(&made) != type_of(stat) {
        return Err(clone(Errno::STALE));
    }
    // Of the kinds that are not opened only links matter here: they have no mode.
    let kind = target.map_or(EntryKind::Fifo, |target| EntryKind::Symlink { target });
    let meant = entry(b"", kind, stat, xattrs);
    let mut missing = Vec::new();
    apply_to_handle(
        handle.as_fd(),
        &Wanted { entry: &meant, mode_mask: 0o7777, capability: true },
        &mut missing,
    );
    none(&missing)?;
    Ok(made.st_ino)
}

/// Fails with the first of what a copy could not be given.
pub(super) fn none(missing: &[Missing]) -> Result<(), EntryError> {
    missing.first().map_or(Ok(()), |what| Err(EntryError::Lacks(what.to_string())))
}

pub(super) fn lacks(what: &str, error: Errno) -> EntryError {
    EntryError::Lacks(format!("{what} ({error})"))
}
