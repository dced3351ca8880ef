//! How much a volume holds, found by a walk.
//!
//! No link is followed and no other filesystem entered. The walk holds one
//! directory open at a time and goes back up by `..`, checking that it arrives
//! where it came from: a directory that is moved meanwhile ends the walk with
//! an error instead of leading it out of the volume. Names are kept for the
//! directories on the way only.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::volume_path::{ReachError, ReachedVolume};

/// What a walk found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Allocated, in bytes; a file with several names counts once.
    pub size_bytes: u64,
    /// Everything below the root.
    pub entries: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error("{} cannot be walked", .path.display())]
    Walk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("a directory below {} was moved while it was walked", .path.display())]
    Moved { path: PathBuf },
    #[error("nobody waits for the result any more")]
    Abandoned,
}

/// Stops a walk when the caller goes away.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Walks a volume. A caller that goes away ends the walk.
///
/// # Errors
/// When the volume's data cannot be opened or read.
pub(crate) async fn measure(reached: &ReachedVolume) -> Result<Usage, UsageError> {
    let (root, path) = (reached.open_root()?, reached.path().to_owned());
    let stop = StopOnDrop(Arc::default());
    let stopped = stop.0.clone();
    tokio::task::spawn_blocking(move || walk(root, &path, &stopped)).await.expect("a walk does not panic")
}

/// One directory on the way down.
struct Level {
    id: (u64, u64),
    /// Those of its directories that are still to be walked.
    pending: Vec<CString>,
}

struct Walk<'a> {
    path: &'a Path,
    device: u64,
    several_names: HashSet<u64>,
    usage: Usage,
}

/// Walks the tree below a root; `path` is for errors only. Blocks.
pub(crate) fn walk(root: OwnedFd, path: &Path, stopped: &AtomicBool) -> Result<Usage, UsageError> {
    let failed = |error: Errno| UsageError::Walk { path: path.to_owned(), source: error.into() };
    let found = rustix::fs::fstat(&root).map_err(failed)?;
    let mut walk =
        Walk { path, device: found.st_dev, several_names: HashSet::new(), usage: Usage::default() };
    let mut current = root;
    let mut levels = vec![walk.enter(&current)?];
    while let Some(level) = levels.last_mut() {
        if stopped.load(Ordering::Relaxed) {
            return Err(UsageError::Abandoned);
        }
        if let Some(name) = level.pending.pop() {
            // Gone, or another thing by now: nothing is there to be counted.
            let Some(below) = open_below(&current, &name).map_err(failed)? else { continue };
            // A mount inside: its space is another filesystem's.
            if rustix::fs::fstat(&below).map_err(failed)?.st_dev != walk.device {
                continue;
            }
            current = below;
            levels.push(walk.enter(&current)?);
            continue;
        }
        levels.pop();
        if let Some(above) = levels.last() {
            // One handle at a time, whatever the depth. So the way back is by name, and
            // has to lead to where the way down came from.
            current = open_directory(&current, c"..").map_err(failed)?;
            if id(&current).map_err(failed)? != above.id {
                return Err(UsageError::Moved { path: path.to_owned() });
            }
        }
    }
    Ok(walk.usage)
}

impl Walk<'_> {
    /// Counts what a directory holds.
    fn enter(&mut self, directory: &OwnedFd) -> Result<Level, UsageError> {
        let failed = |error: Errno| UsageError::Walk { path: self.path.to_owned(), source: error.into() };
        let mut pending = Vec::new();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let found = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
            };
            self.usage.entries += 1;
            let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
            if is_directory {
                pending.push(name.to_owned());
            }
            // Only inodes with several names are kept: a tree may hold millions of others.
            if is_directory || found.st_nlink < 2 || self.several_names.insert(found.st_ino) {
                self.usage.size_bytes += u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512);
            }
        }
        Ok(Level { id: id(directory).map_err(failed)?, pending })
    }
}

fn id(directory: impl AsFd) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(directory).map(|found| (found.st_dev, found.st_ino))
}

fn open_directory(at: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn open_below(at: &OwnedFd, name: &std::ffi::CStr) -> Result<Option<OwnedFd>, Errno> {
    match open_directory(at, name) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn measured(path: &Path) -> Result<Usage, UsageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let root = rustix::fs::open(path, flags, Mode::empty()).unwrap();
        walk(root, path, &AtomicBool::new(false))
    }

    #[test]
    fn links_are_counted_and_not_followed_and_shared_files_count_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("a")).unwrap();
        fs::write(path.join("a/file"), vec![7; 1 << 20]).unwrap();
        let before = measured(path).unwrap();
        assert_eq!(before.entries, 2);
        assert!(before.size_bytes >= 1 << 20, "{before:?}");
        fs::hard_link(path.join("a/file"), path.join("b")).unwrap();
        symlink("/", path.join("root")).unwrap();
        symlink("..", path.join("a/up")).unwrap();
        let after = measured(path).unwrap();
        assert_eq!((after.entries, after.size_bytes), (5, before.size_bytes));
    }

    #[test]
    fn three_thousand_nested_directories_are_walked_with_one_open_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut at =
            rustix::fs::open(directory.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_directory(&at, c"d").unwrap();
        }
        drop(at);
        assert_eq!(measured(directory.path()).unwrap().entries, 3000);
    }

    #[test]
    fn a_walk_nobody_waits_for_ends() {
        let directory = tempfile::tempdir().unwrap();
        let root =
            rustix::fs::open(directory.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let error = walk(root, directory.path(), &AtomicBool::new(true)).unwrap_err();
        assert!(matches!(error, UsageError::Abandoned), "{error}");
    }
}
