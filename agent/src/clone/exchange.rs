//! A tree and its clone change places.

use std::path::Path;

use rustix::fs::{AtFlags, RenameFlags, StatxFlags, renameat_with, statx, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::{CloneError, shown};
use super::place::Place;

/// What tells one directory from another, also after a restart of the host.
///
/// The inode's number, and the time it was made where the filesystem keeps
/// that. The number of the device is left out: it may be another after a
/// restart, and the trees that are told apart lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    inode: u64,
    born: Option<Born>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Born {
    seconds: i64,
    nanoseconds: u32,
}

/// Who the directory at `path` is. A link there is not followed.
///
/// # Errors
/// If there is no directory, or it cannot be looked at.
pub(crate) fn identity(path: &Path) -> Result<Identity, CloneError> {
    identity_at(&Place::of(path)?, path)
}

fn identity_at(place: &Place, path: &Path) -> Result<Identity, CloneError> {
    let directory = place.open(path)?;
    let mask = StatxFlags::INO | StatxFlags::BTIME;
    let found = statx(&directory, c"", AtFlags::EMPTY_PATH, mask)
        .map_err(|error| CloneError::of(shown(path), "looked at", error))?;
    let has_birth = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let born = found.stx_btime;
    let born = has_birth.then_some(Born { seconds: born.tv_sec, nanoseconds: born.tv_nsec });
    Ok(Identity { inode: found.stx_ino, born })
}

/// Puts the clone in the tree's place and the tree in the clone's, in one step
/// that a crash cannot halve. `original` is the identity of the tree that was
/// cloned, `cloned` that of its clone, both as they were before the first call.
/// Called again after it succeeded it changes nothing; by then the other tree
/// may have been removed. Returns when the exchange is on disk.
///
/// # Errors
/// If the two trees are not what they are said to be, or the kernel refuses.
/// Nothing was changed then.
pub(crate) fn put_back(
    root: &Path,
    clone: &Path,
    original: Identity,
    cloned: Identity,
) -> Result<(), CloneError> {
    let (at, aside) = (Place::of(root)?, Place::of(clone)?);
    let at_root = look(&at, root, original, cloned)?;
    let at_clone = look(&aside, clone, original, cloned)?;
    match (at_root, at_clone) {
        (Found::Original, Found::Cloned) => {
            renameat_with(&at.parent, &at.name, &aside.parent, &aside.name, RenameFlags::EXCHANGE)
                .map_err(|error| refused(root, error))?;
        }
        // Done by an earlier call, whose caller died before it knew.
        (Found::Cloned, Found::Original | Found::Nothing) => {}
        (at_root, at_clone) => {
            return Err(CloneError::Unexpected {
                root: shown(root),
                clone: shown(clone),
                at_root: at_root.words(),
                at_clone: at_clone.words(),
            });
        }
    }
    // Also where nothing was left to do: who did it may have died before this. The whole
    // filesystem, because what the log of single directories keeps of an exchange is less sure.
    syncfs(&at.parent).map_err(|error| CloneError::of(shown(root), "put back on disk", error))?;
    Ok(())
}

pub(super) fn refused(path: &Path, error: Errno) -> CloneError {
    let path = shown(path);
    match error {
        Errno::BUSY => CloneError::MountPoint { path },
        Errno::PERM => CloneError::Immutable { path },
        Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::XDEV => {
            CloneError::NoExchange { path, source: error.into() }
        }
        error => CloneError::of(path, "exchanged for its copy", error),
    }
}

enum Found {
    Original,
    Cloned,
    Other,
    Nothing,
}

impl Found {
    fn words(&self) -> &'static str {
        match self {
            Self::Original => "the tree that was copied",
            Self::Cloned => "its copy",
            Self::Other => "something else",
            Self::Nothing => "not there",
        }
    }
}

fn look(place: &Place, path: &Path, original: Identity, cloned: Identity) -> Result<Found, CloneError> {
    match identity_at(place, path) {
        Ok(found) if found == original => Ok(Found::Original),
        Ok(found) if found == cloned => Ok(Found::Cloned),
        Ok(_) | Err(CloneError::NotADirectory { .. }) => Ok(Found::Other),
        Err(CloneError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Found::Nothing)
        }
        Err(error) => Err(error),
    }
}
