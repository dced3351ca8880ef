//! A repository in a local directory.
//!
//! An object appears whole or not at all: its bytes go to a temporary file
//! beside its place, are synced, renamed over the place, and the directory is
//! synced. A crash leaves at most a temporary file, which no listing shows
//! and which a listing a day later removes.
//!
//! Once it is known which repository lies here, nothing is written, removed or
//! believed to be absent before `repo.json` has said so again (`root`): a disk
//! that was unmounted must not turn into a directory on the disk below.
//!
//! Directories that became empty stay: removing them would race with a write
//! that has just made sure they are there.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, openat, renameat, unlinkat};

use super::error::StoreError;
use super::listing::list;
use super::root::{Durable, Root, failed, is_medium, not_a_directory};
use super::{MAX_OBJECT_BYTES, RawBody, RawPage};
use crate::ids::RepositoryId;

pub(super) const TEMPORARY: &str = ".holdfast-tmp-";

#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
    /// The repository that lies here, once somebody has said so.
    expected: Arc<OnceLock<RepositoryId>>,
    durable: Arc<Durable>,
}

impl Directory {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        Root::open(root)?;
        Ok(Self { root: root.to_owned(), expected: Arc::default(), durable: Arc::default() })
    }

    /// Makes the directory, with its parents, where it is not there.
    pub(super) fn create(root: &Path) -> Result<Self, StoreError> {
        make_directories(root).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => not_a_directory(root),
            _ => failed("create the repository directory", root, error),
        })?;
        Self::open(root)
    }

    pub(super) fn location(&self) -> String {
        self.root.display().to_string()
    }

    /// Expects that repository here from now on. The first call counts.
    pub(super) fn bind(&self, repository: RepositoryId) {
        let _ = self.expected.set(repository);
    }

    pub(super) fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<RawBody, StoreError> {
        let root = Root::open(&self.root)?;
        let attempt = || -> std::io::Result<Result<RawBody, StoreError>> {
            let mut file = root.file(name)?;
            let len = file.metadata()?.len();
            let range = range.unwrap_or(0..len);
            // The store says what it has; that this is less than was asked for is for the handle to
            // find, as with any store.
            let declared = range.end.min(len).saturating_sub(range.start);
            if declared > MAX_OBJECT_BYTES {
                return Ok(Err(super::too_large(&root.path().join(name).display(), declared)));
            }
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = Vec::with_capacity(usize::try_from(declared).unwrap_or(0));
            file.take(declared).read_to_end(&mut bytes)?;
            Ok(Ok(RawBody { declared, bytes: bytes.into() }))
        };
        attempt().map_err(|error| self.explain("read", &root, name, error))?
    }

    pub(super) fn put(&self, name: &str, bytes: &Bytes) -> Result<(), StoreError> {
        // Before anything is made: a mount point whose disk is gone must not get a directory
        // `packs`.
        let root = self.verified()?;
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
        let attempt = || -> std::io::Result<()> {
            // The root itself is never made here.
            let parent = root.make_directory(parent, &self.durable)?;
            write_whole(&parent, last, bytes)
        };
        attempt().map_err(|error| match error.kind() {
            // The root is held open and empty of names: it was removed.
            ErrorKind::NotFound => Root::open(&self.root).err().unwrap_or_else(|| {
                failed("write", &root.path().join(name), std::io::Error::other("its directory went away"))
            }),
            _ => failed("write", &root.path().join(name), error),
        })
    }

    pub(super) fn head(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let root = Root::open(&self.root)?;
        match root.file_len(name) {
            Ok(len) => Ok(len),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                // Absent from a repository that is here, or from an empty mount point: only the
                // first is an answer.
                self.check(&root).map(|()| None)
            }
            Err(error) => Err(self.explain("look at", &root, name, error)),
        }
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        let root = self.verified()?;
        list(&root, prefix, after.unwrap_or(""), limit)
            .map_err(|error| self.explain("list", &root, prefix, error))
    }

    /// An object that is not there counts as removed.
    pub(super) fn delete(&self, name: &str) -> Result<(), StoreError> {
        let root = self.verified()?;
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
        let attempt = || -> std::io::Result<()> {
            let parent = root.directory(parent)?;
            unlinkat(&parent, last, AtFlags::empty())?;
            // A deletion that a crash undoes would bring back an object that the catalogue has
            // forgotten.
            Ok(fsync(&parent)?)
        };
        match attempt() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| self.explain("remove", &root, name, error)),
        }
    }

    /// The root, which holds the repository that is expected.
    fn verified(&self) -> Result<Root, StoreError> {
        let root = Root::open(&self.root)?;
        self.check(&root)?;
        Ok(root)
    }

    fn check(&self, root: &Root) -> Result<(), StoreError> {
        self.expected.get().map_or(Ok(()), |expected| root.holds(*expected))
    }

    /// What a failure means. An object is gone only from a repository that is
    /// there, and damaged only on a disk that still answers.
    fn explain(&self, verb: &str, root: &Root, name: &str, error: std::io::Error) -> StoreError {
        let doubtful = error.kind() == ErrorKind::NotFound || is_medium(&error);
        if doubtful && let Err(reason) = self.check(root) {
            return reason;
        }
        failed(verb, &root.path().join(name), error)
    }
}

/// Writes a file that appears under its name only when it is whole and synced.
fn write_whole(parent: &OwnedFd, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    // At random: two writers of one object have a file each.
    let temporary = format!("{TEMPORARY}{:016x}", rand::random::<u64>());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(parent, &*temporary, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file
        .write_all(bytes)
        // Synced before it gets its name: after a crash the name leads to the whole or to nothing.
        .and_then(|()| file.sync_all())
        .and_then(|()| Ok(renameat(parent, &*temporary, parent, name)?));
    if written.is_err() {
        let _ = unlinkat(parent, &*temporary, AtFlags::empty());
    }
    written?;
    Ok(fsync(parent)?)
}

/// Like `create_dir_all`, each new name synced into its parent.
fn make_directories(path: &Path) -> std::io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent() else { return Err(error) };
            make_directories(parent)?;
            make_directories(path)
        }
        // Whoever made it may not have synced it; a parent that cannot be
        // opened is not ours to sync.
        Err(_) if path.is_dir() => match path.parent().map(File::open) {
            Some(Ok(parent)) => parent.sync_all(),
            Some(Err(_)) | None => Ok(()),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::error::StoreErrorKind;
    use super::super::listing::STALE;
    use super::*;

    fn store() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_missing_directory_is_not_made_silently() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let error = Directory::open(&path).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NoBucket);
        assert!(!path.exists());
        Directory::create(&path).unwrap();
        assert!(path.is_dir());
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_no_repository() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for path in [file.clone(), file.join("below")] {
            for error in [Directory::open(&path).unwrap_err(), Directory::create(&path).unwrap_err()] {
                assert_eq!(error.kind(), StoreErrorKind::NoBucket, "{error}");
                assert!(error.to_string().contains("is not a directory"), "{error}");
            }
        }
    }

    #[test]
    fn a_root_that_went_away_is_not_made_again() {
        let (dir, store) = store();
        drop(dir);
        let error = store.put("packs/00/x", &Bytes::from_static(b"x")).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NoBucket, "{error}");
        assert_eq!(store.list("", None, 10).unwrap_err().kind(), StoreErrorKind::NoBucket);
    }

    #[test]
    fn pages_follow_the_order_of_whole_names() {
        let (_dir, store) = store();
        let names = ["a-", "a.", "a/x", "a/y/z", "a0", "b"];
        for name in names {
            store.put(name, &Bytes::from(name)).unwrap();
        }
        let mut seen = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = store.list("", after.as_deref(), 2).unwrap();
            seen.extend(page.items.into_iter().map(|item| item.name));
            after = seen.last().cloned();
            if !page.truncated {
                break;
            }
        }
        assert_eq!(seen, names);
    }

    #[test]
    fn what_an_interrupted_write_left_is_never_listed_and_goes_after_a_day() {
        let (dir, store) = store();
        let fresh = dir.path().join(format!("{TEMPORARY}fresh"));
        let stale = dir.path().join(format!("{TEMPORARY}stale"));
        fs::write(&fresh, "x").unwrap();
        fs::write(&stale, "x").unwrap();
        let two_days_ago = SystemTime::now() - 2 * STALE;
        File::options().write(true).open(&stale).unwrap().set_modified(two_days_ago).unwrap();
        assert!(store.list("", None, 10).unwrap().items.is_empty());
        assert!(fresh.exists());
        assert!(!stale.exists());
    }

    fn info(id: RepositoryId) -> Bytes {
        use crate::info::{CryptoMode, RepositoryInfo};
        RepositoryInfo::new(id, "me".to_owned(), 1, CryptoMode::None).encode().into()
    }

    /// A bound repository, and where its disk is moved to and from.
    fn bound() -> (tempfile::TempDir, Directory, PathBuf, RepositoryId) {
        let dir = tempfile::tempdir().unwrap();
        let store = Directory::create(&dir.path().join("mounted")).unwrap();
        let id = RepositoryId::generate();
        store.put("repo.json", &info(id)).unwrap();
        store.put("packs/00/x", &Bytes::from_static(b"x")).unwrap();
        store.bind(id);
        let away = dir.path().join("away");
        (dir, store, away, id)
    }

    #[test]
    fn h03_nothing_is_written_removed_or_missed_where_the_repository_is_not() {
        let (dir, store, away, _) = bound();
        let mounted = dir.path().join("mounted");
        fs::rename(&mounted, &away).unwrap();
        fs::create_dir(&mounted).unwrap();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("repo.json"), info(RepositoryId::generate())).unwrap();
        let empty = dir.path().join("empty");
        for place in [None, Some(&other)] {
            if let Some(place) = place {
                fs::rename(&mounted, &empty).unwrap();
                fs::rename(place, &mounted).unwrap();
            }
            let before = fs::read_dir(&mounted).unwrap().count();
            let refused = [
                store.put("packs/00/y", &Bytes::from_static(b"y")).unwrap_err(),
                store.get("packs/00/x", None).unwrap_err(),
                store.head("packs/00/x").unwrap_err(),
                store.list("", None, 10).unwrap_err(),
                store.delete("packs/00/x").unwrap_err(),
            ];
            for error in refused {
                assert_eq!(error.kind(), StoreErrorKind::NoBucket, "{error}");
                assert!(error.to_string().contains("mount the disk"), "{error}");
            }
            assert_eq!(fs::read_dir(&mounted).unwrap().count(), before);
        }
        // Mounted again.
        fs::rename(&mounted, &other).unwrap();
        fs::rename(&away, &mounted).unwrap();
        assert_eq!(store.get("packs/00/x", None).unwrap().bytes, "x");
        store.put("packs/00/y", &Bytes::from_static(b"y")).unwrap();
        assert_eq!(store.list("packs/", None, 10).unwrap().items.len(), 2);
    }

    #[test]
    fn h03_a_request_stays_on_the_disk_it_began_on() {
        let (dir, store, away, id) = bound();
        let root = store.verified().unwrap();
        let mounted = dir.path().join("mounted");
        fs::rename(&mounted, &away).unwrap();
        fs::create_dir(&mounted).unwrap();
        let parent = root.make_directory("packs/01", &store.durable).unwrap();
        write_whole(&parent, "z", b"z").unwrap();
        root.holds(id).unwrap();
        assert_eq!(fs::read(away.join("packs/01/z")).unwrap(), b"z");
        assert_eq!(fs::read_dir(&mounted).unwrap().count(), 0);
    }
}
