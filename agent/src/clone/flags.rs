//! Flags of inodes, as `chattr` sets them.
//!
//! Most must be set on an empty file or directory, before anything is written,
//! or steer how it is written. Those that forbid writing come last of all.

use std::os::fd::BorrowedFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// `FS_NOCOMP_FL` and `FS_CASEFOLD_FL`, which have no names here.
const UNNAMED: IFlags = IFlags::from_bits_retain(0x0000_0400 | 0x4000_0000);

const CARRIED: IFlags = IFlags::NOCOW
    .union(IFlags::COMPRESSED)
    .union(IFlags::NODUMP)
    .union(IFlags::NOATIME)
    .union(IFlags::SYNC)
    .union(IFlags::DIRSYNC)
    .union(UNNAMED);

/// Nothing can be changed, or only added.
const FREEZING: IFlags = IFlags::IMMUTABLE.union(IFlags::APPEND);

/// The flags of an open file or directory; none where the filesystem has none.
pub(super) fn read(file: BorrowedFd<'_>) -> Result<IFlags, Errno> {
    match ioctl_getflags(file) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(IFlags::empty()),
        result => result,
    }
}

/// Gives an empty file or directory the flags of another, but for the freezing ones.
pub(super) fn carry(from: IFlags, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let there = read(to)?;
    let wanted = there.difference(CARRIED) | (from & CARRIED);
    // Off before on: btrfs refuses to turn one flag into its opposite in one step.
    let fewer = there & wanted;
    if fewer != there {
        ioctl_setflags(to, fewer)?;
    }
    if wanted != fewer { ioctl_setflags(to, wanted) } else { Ok(()) }
}

/// Those of the flags that forbid writing.
pub(super) fn freezing(flags: IFlags) -> IFlags {
    flags & FREEZING
}

/// Forbids writing, for good.
pub(super) fn freeze(file: BorrowedFd<'_>, flags: IFlags) -> Result<(), Errno> {
    ioctl_setflags(file, read(file)? | flags)
}

/// Allows writing again; false if nothing forbade it.
pub(super) fn thaw(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let flags = read(file)?;
    if freezing(flags).is_empty() {
        return Ok(false);
    }
    ioctl_setflags(file, flags.difference(FREEZING))?;
    Ok(true)
}
