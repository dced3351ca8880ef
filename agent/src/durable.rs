//! Small files that a crash leaves whole, and files that are locks.
//!
//! The new content goes into a temporary file beside its place, is synced, and
//! takes the name by a rename: whoever opens the name finds the old content or
//! the new one. Synced before the rename, because a file system may write the
//! new name to disk earlier than the bytes behind it, and a power cut between
//! the two would leave an empty file. The rename itself is durable once the
//! directory is synced; only then may what the file announces be done.
//!
//! `tempfile` syncs neither, crates for atomic writes do not sync the
//! directory, and both choose random names, so that each crash would leave one
//! more file. Here the name of the temporary file is fixed: the next write
//! takes it over. So a file may have one writer at a time, which its callers see
//! to, by a lock or by being the only process that writes it.
//!
//! Knows nothing of what is in the files. Everything blocks on the disk.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// For a file with secrets or settings of containers in it.
pub(crate) const OWNER_ONLY: u32 = 0o600;

/// For a file that anybody may read, as far as its directory lets them.
pub(crate) const READABLE: u32 = 0o644;

/// Ends the name of a temporary file.
const TEMPORARY_SUFFIX: &str = ".new";

/// Replaces the content of `path`, or makes the file, with `mode` less the
/// umask. Once this returns, no crash takes it back. On an error there is the
/// old or the new content, whole.
///
/// # Errors
/// When the file cannot be written, or its directory cannot be synced.
pub(crate) fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    put(path, mode, bytes)?;
    sync_directory(directory_of(path))
}

/// The same without the sync of the directory: a crash may still take it back.
/// For callers that tell the two failures apart.
///
/// # Errors
/// When the file cannot be written; what was there stays.
pub(crate) fn put(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    put_like(path, mode, None, bytes)
}

/// Replaces the content of a file that is somebody else's: it keeps its mode
/// and its owner, and a link to it stays one. A file that is not there is made
/// with `mode` less the umask. Durable as [`replace`] is.
///
/// # Errors
/// As [`replace`], and when the owner cannot be kept; what was there stays.
pub(crate) fn replace_content(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let path = behind_links(path);
    let before = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    put_like(&path, mode, before.as_ref(), bytes)?;
    sync_directory(directory_of(&path))
}

/// Removes a file; none there is no failure. Durable once the directory is
/// synced.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes durable which names are in a directory.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Whether a crash inside [`put`] leaves files of this name. They hold nothing
/// that counts.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY_SUFFIX)
}

/// Opens a file that is a lock, made if it is not there. Nothing is in it and
/// nobody removes it: a process that waits for the lock of a removed file would
/// get one that nobody else sees. The kernel drops a lock with its holder, so
/// one that was killed leaves none.
///
/// # Errors
/// When it cannot be opened or made.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path)
}

/// Takes the lock unless somebody has it. True: it is held until `file` is
/// closed.
///
/// # Errors
/// When the file system has no locks.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether somebody has the lock. Whoever tries to take it just then may be
/// refused.
///
/// # Errors
/// When there is no such file, or the file system has no locks.
pub(crate) fn is_locked(path: &Path) -> io::Result<bool> {
    // Shared, so that two who ask do not see each other.
    match File::open(path)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Writes a file beside `path`, which then takes its name; with the mode and the
/// owner of `before`, if there is one.
fn put_like(path: &Path, mode: u32, before: Option<&Metadata>, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_of(path);
    // One that a crash left may have another mode, which opening would keep.
    remove_if_there(&temporary)?;
    // Nobody reads it before it has its owner.
    let first_mode = before.map_or(mode, |_| OWNER_ONLY);
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(first_mode).open(&temporary)?;
        if let Some(before) = before {
            keep(&file, before)?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    // On a full disk the part that was written would only take more room.
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn keep(file: &File, before: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    let (owner, group) = (before.uid(), before.gid());
    if (new.uid(), new.gid()) != (owner, group) {
        fchown(file, Some(owner), Some(group))?;
    }
    // Last: a change of the owner takes some modes away.
    file.set_permissions(before.permissions())
}

/// What a path leads to. Of links that lead nowhere the first is followed, so
/// that the file is made where they lead.
fn behind_links(path: &Path) -> PathBuf {
    fs::canonicalize(path)
        .or_else(|_| fs::read_link(path).map(|target| directory_of(path).join(target)))
        .unwrap_or_else(|_| path.to_owned())
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

/// A bare name lies in the working directory.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn content_is_replaced_as_a_whole_by_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        replace(&path, OWNER_ONLY, b"a long first content").unwrap();
        let before = File::open(&path).unwrap();
        replace(&path, OWNER_ONLY, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        // Whoever had it open reads the old one to its end.
        assert_eq!(io::read_to_string(before).unwrap(), "a long first content");
        assert_eq!(names(directory.path()), ["a.json"]);
    }

    #[test]
    fn the_mode_is_that_of_the_last_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "open to all").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        replace(&path, OWNER_ONLY, b"hush").unwrap();
        assert_eq!(mode(&path), OWNER_ONLY);
        replace(&path, READABLE, b"known").unwrap();
        assert_eq!(mode(&path) & OWNER_ONLY, OWNER_ONLY);
    }

    #[test]
    fn content_that_is_somebody_elses_keeps_its_mode_its_owner_and_its_links() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&path, "first").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        }
        let before = fs::metadata(&path).unwrap();
        symlink("file", &link).unwrap();
        replace_content(&link, READABLE, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("file"));
        let after = fs::metadata(&path).unwrap();
        assert_eq!((mode(&path), after.uid(), after.gid()), (0o640, before.uid(), before.gid()));
        assert_ne!(after.ino(), before.ino(), "replaced as a whole");
        assert_eq!(names(directory.path()), ["file", "link"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_yet_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        symlink("file", &link).unwrap();
        replace_content(&link, OWNER_ONLY, b"new").unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("file"));
        assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"new");
        assert_eq!(mode(&directory.path().join("file")), OWNER_ONLY);
    }

    #[test]
    fn what_a_crash_left_hinders_nothing_and_lends_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        fs::write(&path, "old").unwrap();
        let left = directory.path().join("a.json.new");
        fs::write(&left, "cut short, and longer than what comes").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(is_temporary("a.json.new") && !is_temporary("a.json"));
        replace(&path, OWNER_ONLY, b"new").unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (b"new".as_slice(), OWNER_ONLY));
        assert_eq!(names(directory.path()), ["a.json"]);
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there_and_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, OWNER_ONLY, b"over a directory").is_err());
        assert!(path.is_dir());
        assert_eq!(names(directory.path()), ["a"]);
        assert!(replace(&directory.path().join("none/a"), OWNER_ONLY, b"").is_err());
    }

    /// That a sync reached the disk is seen only after a power cut; which
    /// directory is synced, and that a failure is told, is seen here.
    #[test]
    fn the_directory_that_holds_the_name_is_synced() {
        let directory = tempfile::tempdir().unwrap();
        sync_directory(directory.path()).unwrap();
        assert!(sync_directory(&directory.path().join("none")).is_err());
        assert_eq!(directory_of(Path::new("/etc/a")), Path::new("/etc"));
        assert_eq!(directory_of(Path::new("a")), Path::new("."));
    }

    #[test]
    fn a_lock_has_one_holder_and_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(is_locked(&path).is_err(), "there is none yet");
        let first = lock_file(&path).unwrap();
        assert!(!is_locked(&path).unwrap(), "open is not held");
        assert!(try_lock(&first).unwrap() && is_locked(&path).unwrap());
        let second = lock_file(&path).unwrap();
        assert_eq!(second.metadata().unwrap().ino(), first.metadata().unwrap().ino());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }
}
