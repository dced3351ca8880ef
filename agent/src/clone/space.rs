//! Whether a tree can be cloned and put back, and what that takes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use holdfast_proto::ids::JobId;
use rustix::fs::{
    AtFlags, IFlags, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags, fstat, fstatfs, fstatvfs,
    ioctl_ficlone, mkdirat, openat, renameat_with, statx,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{CloneError, shown};
use super::exchange::refused;
use super::flags;
use super::place::{Place, clone_path};
use super::remove::remove;
use crate::mountinfo;
use crate::usage::{self, UsageError};

const OVERLAY: u64 = 0x794c_7630;
const MIB: u64 = 1 << 20;
/// At least this is left free.
const SPARE_BYTES: u64 = 64 * MIB;
/// What an entry takes besides its data: an inode, its name, a note of the first pass.
const ENTRY_BYTES: u64 = 1024;

/// How a clone gets the content of files. Kept in records of upgrades: names
/// stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// The filesystem shares it until either side is written to.
    Reflink,
    /// It is read and written once more.
    Copy,
}

/// What a clone needs and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub means: Means,
    /// Allocated by the tree, in bytes.
    pub size_bytes: u64,
    pub needed_bytes: u64,
    pub free_bytes: u64,
    pub needed_inodes: u64,
    /// None where the filesystem makes inodes as they are needed.
    pub free_inodes: Option<u64>,
}

impl Room {
    /// Why there is too little room, in words; none if there is enough: what is
    /// needed and a twentieth of that more, or 64 MiB.
    pub(crate) fn refusal(&self) -> Option<String> {
        let wanted = self.needed_bytes.saturating_add((self.needed_bytes / 20).max(SPARE_BYTES));
        if wanted > self.free_bytes {
            let (wanted, free) = (wanted.div_ceil(MIB), self.free_bytes / MIB);
            return Some(format!(
                "a copy beside the data takes {wanted} MiB with some to spare, and {free} MiB are free"
            ));
        }
        let wanted = self.needed_inodes.saturating_add(self.needed_inodes / 20);
        let free = self.free_inodes.filter(|&free| free < wanted)?;
        Some(format!("a copy beside the data takes {wanted} inodes with some to spare, and {free} are free"))
    }
}

/// Measures a tree and tries on its filesystem what a clone will need, at the
/// place where the clone is to lie. Blocks for a walk of the tree; `cancel`
/// ends it early.
///
/// # Errors
/// If the tree cannot be cloned or its clone could not be put back, whatever
/// room there is.
pub(crate) fn room(root: &Path, job: JobId, cancel: &AtomicBool) -> Result<Room, CloneError> {
    let place = Place::of(root)?;
    let directory = place.open(root)?;
    check(root, &place, &directory)?;
    let measured = usage::walk(rustix::io::dup(&directory).map_err(failed(root, "opened"))?, root, cancel);
    let usage = measured.map_err(|error| match error {
        UsageError::Abandoned => CloneError::Cancelled,
        error => CloneError::Measure { path: shown(root), source: Box::new(error) },
    })?;
    let means = probe(root, &clone_path(root, job))?;
    let free = fstatvfs(&directory).map_err(failed(root, "measured"))?;
    let entries = usage.entries.saturating_add(1);
    let data = if means == Means::Copy { usage.size_bytes } else { 0 };
    Ok(Room {
        means,
        size_bytes: usage.size_bytes,
        needed_bytes: entries.saturating_mul(ENTRY_BYTES).saturating_add(data),
        free_bytes: free.f_bavail.saturating_mul(free.f_frsize),
        needed_inodes: entries,
        free_inodes: (free.f_files > 0).then_some(free.f_favail),
    })
}

fn failed(path: &Path, action: &'static str) -> impl Fn(Errno) -> CloneError {
    move |error| CloneError::of(shown(path), action, error)
}

/// Refuses what an exchange would be refused for.
fn check(root: &Path, place: &Place, directory: &OwnedFd) -> Result<(), CloneError> {
    let looked = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::INO);
    let looked = looked.map_err(failed(root, "looked at"))?;
    let device = |file: &OwnedFd| fstat(file).map(|stat| stat.st_dev).map_err(failed(root, "looked at"));
    // A subvolume has a device number of its own and is no mount; in its place its clone would be less.
    if looked.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        || device(directory)? != device(&place.parent)?
    {
        return Err(CloneError::MountPoint { path: shown(root) });
    }
    let set = flags::read(directory.as_fd()).map_err(failed(root, "looked at"))?;
    if set.contains(IFlags::PROJECT_INHERIT) {
        return Err(CloneError::Quota { path: shown(root) });
    }
    let above = flags::read(place.parent.as_fd()).map_err(failed(root, "looked at"))?;
    for (set, path) in [(set, Some(root)), (above, root.parent())] {
        if let (false, Some(path)) = (flags::freezing(set).is_empty(), path) {
            return Err(CloneError::Immutable { path: shown(path) });
        }
    }
    // Directories of lower layers cannot be renamed, and only those that are in none could be tried.
    let filesystem = fstatfs(directory).map_err(failed(root, "looked at"))?;
    if filesystem.f_type as u64 == OVERLAY {
        return Err(CloneError::NoExchange { path: shown(root), source: Errno::XDEV.into() });
    }
    let whole = std::fs::canonicalize(root);
    let whole = whole.map_err(|source| CloneError::Io { path: shown(root), action: "resolved", source })?;
    match mountinfo::mount_point_below(&whole) {
        Some(inside) => Err(CloneError::MountInside { path: shown(&inside) }),
        None => Ok(()),
    }
}

/// Tries to share content and to exchange two directories, in the place where
/// the clone is to lie. What a crash leaves of that, [`remove`] removes.
fn probe(root: &Path, clone: &Path) -> Result<Means, CloneError> {
    let place = Place::of(clone)?;
    mkdirat(&place.parent, &place.name, Mode::RWXU).map_err(|error| match error {
        Errno::EXIST => CloneError::Exists { path: shown(clone) },
        error => failed(clone, "created")(error),
    })?;
    let tried = place.open(clone).and_then(|directory| {
        exchange(&directory).map_err(|error| refused(root, error))?;
        share(&directory).map_err(failed(clone, "tried out"))
    });
    remove(clone)?;
    tried
}

fn exchange(directory: &OwnedFd) -> Result<(), Errno> {
    for name in [c"a", c"b"] {
        mkdirat(directory, name, Mode::RWXU)?;
    }
    renameat_with(directory, c"a", directory, c"b", RenameFlags::EXCHANGE)
}

fn share(directory: &OwnedFd) -> Result<Means, Errno> {
    let create = |name| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
    };
    let (from, to) = (create(c"from")?, create(c"to")?);
    // More than any filesystem keeps within the inode, which could not be shared.
    let content = [7; 64 << 10];
    if rustix::io::pwrite(&from, &content, 0)? < content.len() {
        return Err(Errno::NOSPC);
    }
    match ioctl_ficlone(&to, &from) {
        Ok(()) => Ok(Means::Reflink),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(Errno::NOSPC),
        Err(_) => Ok(Means::Copy),
    }
}
