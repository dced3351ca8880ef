//! Removes a clone, or what is left of one.
//!
//! One directory is open at a time. The way back up is `..`, checked to be
//! where the way down came from.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use holdfast_archive::fs::parts::{
    Mounts, Names, directory, handle, parent, reopen_directory, reopen_file, type_of,
};
use rustix::fs::{AtFlags, FileType, fstat, fsync, statat, unlinkat};
use rustix::io::Errno;

use super::error::{CloneError, shown};
use super::flags;
use super::place::{Place, is_clone_path};

/// Removes the tree at a path that [`clone_path`](super::clone_path()) gave.
/// Nothing there is fine. Blocks; returns when its name is gone from disk.
///
/// # Errors
/// If the path is no clone's, or something of the tree cannot be removed:
/// another filesystem is mounted in it, or the kernel refuses.
pub(crate) fn remove(clone: &Path) -> Result<(), CloneError> {
    // Before a whole tree goes: a damaged record must not name any other path here.
    if !is_clone_path(clone) {
        return Err(CloneError::NotAClone { path: shown(clone) });
    }
    let place = match Place::of(clone) {
        // The directory around it is gone, as when a volume was removed, and the clone with it.
        Err(CloneError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        place => place?,
    };
    remove_tree(place.parent.as_fd(), &place.name).map_err(|error| match error {
        Errno::PERM => CloneError::Immutable { path: shown(clone) },
        Errno::NOTDIR | Errno::LOOP => CloneError::NotADirectory { path: shown(clone) },
        error => CloneError::of(shown(clone), "removed", error),
    })?;
    fsync(&place.parent).map_err(|error| CloneError::of(shown(clone), "removed", error))
}

/// Removes everything in an open directory and leaves the directory itself.
/// Blocks; returns when that is on disk. `path` is for messages.
///
/// # Errors
/// If something in it cannot be removed: another filesystem is mounted in it,
/// or the kernel refuses. What is left can be removed by another call.
pub(crate) fn remove_contents(directory: BorrowedFd<'_>, path: &Path) -> Result<(), CloneError> {
    let emptied = || {
        let names = Names::read(directory)?;
        for at in 0..names.len() {
            let Some((name, _)) = names.get(at) else { break };
            remove_at(directory, name)?;
        }
        fsync(directory)
    };
    emptied().map_err(|error| match error {
        Errno::PERM => CloneError::Immutable { path: shown(path) },
        error => CloneError::of(shown(path), "emptied", error),
    })
}

/// Removes whatever bears the name, a directory with all that is in it.
pub(super) fn remove_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // Linux answers EISDIR for a directory, so no question for the type is needed first.
    match unlink(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => remove_tree(dir, name),
        result => result,
    }
}

/// One directory on the way down.
struct Level {
    id: (u64, u64),
    name: CString,
    /// Those of its directories that are still to be removed.
    pending: Vec<CString>,
}

fn remove_tree(above: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let mut current = match directory(above, name, Mounts::Stay) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    let device = fstat(above)?.st_dev;
    let mut levels = vec![enter(&current, name, device)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.pending.pop() {
            current = directory(current.as_fd(), &name, Mounts::Stay)?;
            levels.push(enter(&current, &name, device)?);
            continue;
        }
        let Some(Level { name, .. }) = levels.pop() else { break };
        let Some(next) = levels.last() else {
            return unlink(above, &name, AtFlags::REMOVEDIR);
        };
        current = parent(current.as_fd())?;
        let found = fstat(&current)?;
        if (found.st_dev, found.st_ino) != next.id {
            return Err(Errno::STALE);
        }
        unlink(current.as_fd(), &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Removes everything in a directory but directories.
fn enter(current: &OwnedFd, name: &CStr, device: u64) -> Result<Level, Errno> {
    let stat = fstat(current)?;
    if stat.st_dev != device {
        return Err(Errno::XDEV);
    }
    let names = Names::read(current.as_fd())?;
    let mut pending = Vec::new();
    for at in 0..names.len() {
        let Some((name, hint)) = names.get(at) else { break };
        let kind = match hint {
            FileType::Unknown => type_of(&statat(current, name, AtFlags::SYMLINK_NOFOLLOW)?),
            kind => kind,
        };
        if kind == FileType::Directory {
            pending.push(name.to_owned());
        } else {
            unlink(current.as_fd(), name, AtFlags::empty())?;
        }
    }
    Ok(Level { id: (stat.st_dev, stat.st_ino), name: name.to_owned(), pending })
}

/// Takes a name away, and before that what forbids it.
fn unlink(dir: BorrowedFd<'_>, name: &CStr, how: AtFlags) -> Result<(), Errno> {
    let unlinked = match unlinkat(dir, name, how) {
        // Also what some filesystems answer for a directory that is not to be removed as a file.
        Err(Errno::PERM) if thaw(dir, name)? => unlinkat(dir, name, how),
        result => result,
    };
    match unlinked {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Whether it was an immutable or append-only flag that stood in the way.
fn thaw(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    let above = reopen_directory(dir).and_then(|dir| flags::thaw(dir.as_fd()))?;
    let handle = handle(dir, name, Mounts::Stay)?;
    let below = match type_of(&fstat(&handle)?) {
        FileType::Directory => flags::thaw(reopen_directory(handle.as_fd())?.as_fd())?,
        FileType::RegularFile => flags::thaw(reopen_file(handle.as_fd())?.as_fd())?,
        _ => false,
    };
    Ok(above || below)
}
