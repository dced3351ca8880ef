//! The root of a directory repository, held open for the time of one request.
//!
//! A disk can be unmounted under a running program. Its mount point then is a
//! directory like any other, on another disk, and the same path leads there.
//! So a request opens the root once, reads through that very handle which
//! repository lies there, and reaches every object through it. An unmount in
//! the middle of the request leaves the handle on the disk that was meant.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, CWD, FileType, Mode, OFlags, fadvise, mkdirat, openat, statat};
use rustix::io::Errno;

use super::error::{StoreError, StoreErrorKind};
use crate::ids::RepositoryId;
use crate::info::RepositoryInfo;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const INFO: &str = "repo.json";
/// In the error about a directory that is there and lacks `repo.json`.
pub const NO_INFO: &str = "there is no repo.json in it";
/// A repository's own is about 1 KiB.
const MAX_INFO_BYTES: u64 = 64 << 10;

/// Directories remembered as durable at once: more than a repository has packs'
/// directories. When there are more, the memory begins anew.
const REMEMBERED: usize = 65_536;

pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// Directories whose names this process knows to be on disk. One that is merely
/// there may be another request's, which has made it and not synced it yet, or
/// that of a process which died in between.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// Device and inode.
    known: Mutex<HashSet<(u64, u64)>>,
    /// How many names were synced.
    syncs: AtomicU64,
}

impl Durable {
    /// Syncs the name of `below` into `at`, unless that was done before.
    fn ensure(&self, at: &OwnedFd, below: &OwnedFd, made: bool) -> std::io::Result<()> {
        let stat = rustix::fs::fstat(below)?;
        let id = (stat.st_dev, stat.st_ino);
        // By inode and not by name: a directory that was recreated under its old name is not on
        // disk yet.
        if !made && self.lock().contains(&id) {
            return Ok(());
        }
        // Without the lock: others sync other directories meanwhile. Two may sync the same one,
        // which is harmless.
        rustix::fs::fsync(at)?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // Only now may others count on it.
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            // Forgetting costs a sync more and proves nothing wrong.
            known.clear();
        }
        known.insert(id);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(u64, u64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// # Errors
    /// `NoBucket` where there is no such directory, also where something else is in its place.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        match openat(CWD, path, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            Err(Errno::NOENT) => Err(StoreError::new(
                StoreErrorKind::NoBucket,
                format!(
                    "the repository directory {} does not exist; if it is on a disk of its own, mount that",
                    path.display()
                ),
            )),
            Err(Errno::NOTDIR) => Err(not_a_directory(path)),
            Err(error) => Err(failed("open the repository directory", path, error.into())),
        }
    }

    /// Refuses a root that holds no repository, or another one than that.
    /// A `repo.json` that is there but cannot be understood passes: it is
    /// damaged, which is for whoever reads it to say.
    ///
    /// # Errors
    /// `NoBucket` where that repository does not lie here.
    pub(super) fn holds(&self, expected: RepositoryId) -> Result<(), StoreError> {
        let path = self.path.display();
        let absent = |what: String| {
            let remedy = "mount the disk the repository is on; nothing was written or removed here";
            Err(StoreError::new(StoreErrorKind::NoBucket, format!("{path} {what}; {remedy}")))
        };
        match self.read_info() {
            Ok(bytes) => match RepositoryInfo::decode(&bytes) {
                Ok(info) if info.id != expected => {
                    absent(format!("holds repository {} where {expected} is expected", info.id))
                }
                Ok(_) | Err(_) => Ok(()),
            },
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                absent(format!("does not hold repository {expected}: {NO_INFO}"))
            }
            // Whether the repository is here cannot be told. To call the object damaged would count
            // a pulled-out disk as loss.
            Err(error) if is_medium(&error) => Err(StoreError::new(
                StoreErrorKind::Unreachable,
                format!("the disk below {path} does not answer: {INFO} cannot be read: {error}"),
            )
            .caused_by(error)),
            Err(error) => Err(failed("read", &self.path.join(INFO), error)),
        }
    }

    fn read_info(&self) -> std::io::Result<Vec<u8>> {
        let file = self.file(INFO)?;
        // From the medium and not from memory: a disk that was pulled out
        // would go on answering for what was read before.
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
        let mut bytes = Vec::new();
        file.take(MAX_INFO_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Opens an object for reading.
    pub(super) fn file(&self, name: &str) -> std::io::Result<File> {
        let fd = openat(&self.fd, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// Opens a directory below; the root itself for an empty name.
    pub(super) fn directory(&self, name: &str) -> std::io::Result<OwnedFd> {
        open_directory(self.fd.as_fd(), if name.is_empty() { "." } else { name })
    }

    /// Opens a directory below, made where it is not there. Each name on the
    /// way is on disk in its parent when this returns.
    pub(super) fn make_directory(&self, name: &str, durable: &Durable) -> std::io::Result<OwnedFd> {
        let mut at = self.directory("")?;
        for part in name.split('/').filter(|part| !part.is_empty()) {
            let made = match mkdirat(&at, part, Mode::from_raw_mode(0o777)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let below = open_directory(at.as_fd(), part)?;
            durable.ensure(&at, &below, made)?;
            at = below;
        }
        Ok(at)
    }

    /// Length in bytes of a plain file; `None` for anything else.
    pub(super) fn file_len(&self, name: &str) -> std::io::Result<Option<u64>> {
        let stat = statat(&self.fd, name, rustix::fs::AtFlags::empty())?;
        let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(plain.then(|| u64::try_from(stat.st_size).unwrap_or(0)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// As where there is nothing: the repository is not there, and may be again once its
/// disk is mounted.
pub(super) fn not_a_directory(path: &Path) -> StoreError {
    let text = format!("{} is not a directory; a repository needs one", path.display());
    StoreError::new(StoreErrorKind::NoBucket, text)
}

pub(super) fn open_directory(at: BorrowedFd<'_>, name: &str) -> std::io::Result<OwnedFd> {
    Ok(openat(at, name, DIRECTORY, Mode::empty())?)
}

/// Whether the medium below a file has lost what it held: a bad sector, a
/// checksum of the file system that does not match, a structure of it that is
/// damaged. Asking again does not help.
pub(super) fn is_medium(error: &std::io::Error) -> bool {
    let media = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO];
    error.raw_os_error().is_some_and(|raw| media.contains(&Errno::from_raw_os_error(raw)))
}

pub(super) fn failed(verb: &str, path: &Path, error: std::io::Error) -> StoreError {
    let path = path.display();
    if is_medium(&error) {
        let message = format!(
            "could not {verb} {path}: {error}: the disk or its file system is damaged there; see the kernel's log, \
             then run `holdfast-controller verify`"
        );
        return StoreError::new(StoreErrorKind::Corrupt, message).caused_by(error).at_rest();
    }
    let (kind, remedy) = match error.kind() {
        ErrorKind::NotFound => (StoreErrorKind::NotFound, ""),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            (StoreErrorKind::Full, "; make room there or prune the repository")
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            (StoreErrorKind::Refused, "; check its owner, its mode and how it is mounted")
        }
        _ => (StoreErrorKind::Other, ""),
    };
    StoreError::new(kind, format!("could not {verb} {path}: {error}{remedy}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another request, or a process that died, has made directories; nobody
    /// knows whether their names are on disk.
    #[test]
    fn h20_a_directory_that_is_there_is_synced_before_it_is_counted_on() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let durable = Durable::default();
        let syncs = || durable.syncs.load(Ordering::Relaxed);
        std::fs::create_dir_all(dir.path().join("packs/00")).unwrap();
        root.make_directory("packs/00", &durable).unwrap();
        assert_eq!(syncs(), 2, "each name on the way");
        root.make_directory("packs/00", &durable).unwrap();
        assert_eq!(syncs(), 2, "and once");
        root.make_directory("packs/01/x", &durable).unwrap();
        assert_eq!(syncs(), 4);
        // Recreated by somebody else: another directory.
        std::fs::rename(dir.path().join("packs/00"), dir.path().join("away")).unwrap();
        std::fs::create_dir(dir.path().join("packs/00")).unwrap();
        root.make_directory("packs/00", &durable).unwrap();
        assert_eq!(syncs(), 5);
        // A request on another disk knows nothing of this one's.
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir(other.path().join("packs")).unwrap();
        Root::open(other.path()).unwrap().make_directory("packs", &durable).unwrap();
        assert_eq!(syncs(), 6);
    }

    #[test]
    fn h04_what_the_medium_lost_is_damage_and_no_passing_failure() {
        for errno in [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA] {
            let error = failed("read", Path::new("packs/1"), errno.into());
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
            assert!(error.is_at_rest());
        }
        for errno in [Errno::INTR, Errno::NOBUFS, Errno::TIMEDOUT, Errno::NODEV] {
            let error = failed("read", Path::new("packs/1"), errno.into());
            assert_eq!((error.kind(), error.is_at_rest()), (StoreErrorKind::Other, false), "{error}");
        }
    }
}
