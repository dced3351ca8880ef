//! A repository in a local directory.
//!
//! An object appears whole or not at all: its bytes go to a temporary file
//! beside its place, are synced, renamed over the place, and the directory is
//! synced. A crash leaves at most a temporary file, which no listing shows
//! and which a listing a day later removes.
//!
//! Directories that became empty stay: removing them would race with a write
//! that has just made sure they are there.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error::{StoreError, StoreErrorKind};
use super::{MAX_OBJECT_BYTES, RawBody, RawListed, RawPage};

const TEMPORARY: &str = ".holdfast-tmp-";
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Deeper than any name of ours; ends a loop of symbolic links.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let metadata = fs::metadata(root).map_err(|error| match error.kind() {
            ErrorKind::NotFound => StoreError::new(
                StoreErrorKind::NoBucket,
                format!(
                    "the repository directory {} does not exist; if it is on a disk of its own, mount that",
                    root.display()
                ),
            )
            .caused_by(error),
            _ => failed("open the repository directory", root, error),
        })?;
        if !metadata.is_dir() {
            return Err(StoreError::new(
                StoreErrorKind::Refused,
                format!("{} is not a directory; a repository needs one", root.display()),
            ));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Makes the directory, with its parents, where it is not there.
    pub(super) fn create(root: &Path) -> Result<Self, StoreError> {
        make_directories(root).map_err(|error| failed("create the repository directory", root, error))?;
        Self::open(root)
    }

    pub(super) fn location(&self) -> String {
        self.root.display().to_string()
    }

    pub(super) fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<RawBody, StoreError> {
        let path = self.root.join(name);
        let attempt = || -> std::io::Result<Result<RawBody, StoreError>> {
            let mut file = File::open(&path)?;
            let len = file.metadata()?.len();
            let range = range.unwrap_or(0..len);
            let declared = range.end.min(len).saturating_sub(range.start);
            if declared > MAX_OBJECT_BYTES {
                return Ok(Err(super::too_large(&path.display(), declared)));
            }
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = Vec::with_capacity(usize::try_from(declared).unwrap_or(0));
            file.take(declared).read_to_end(&mut bytes)?;
            Ok(Ok(RawBody { declared, bytes: bytes.into() }))
        };
        attempt().map_err(|error| failed("read", &path, error))?
    }

    pub(super) fn put(&self, name: &str, bytes: &Bytes) -> Result<(), StoreError> {
        let path = self.root.join(name);
        let attempt = || -> std::io::Result<()> {
            // The root itself is never made here: a disk that went away must
            // not turn into a directory on the disk below.
            fs::metadata(&self.root)?;
            let parent = path.parent().unwrap_or(&self.root);
            make_directories(parent)?;
            let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(parent)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            sync_directory(parent)
        };
        attempt().map_err(|error| match error.kind() {
            ErrorKind::NotFound => Self::open(&self.root)
                .err()
                .unwrap_or_else(|| failed("write", &path, std::io::Error::other("its directory went away"))),
            _ => failed("write", &path, error),
        })
    }

    pub(super) fn head(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let path = self.root.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(failed("look at", &path, error)),
        }
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        let mut walk = Listing { after: after.unwrap_or(""), limit, items: Vec::new(), truncated: false };
        Self::open(&self.root)?;
        let start = self.root.join(prefix);
        match walk.directory(&start, prefix, 0) {
            Ok(()) => Ok(RawPage { items: walk.items, truncated: walk.truncated }),
            Err(error) => Err(failed("list", &start, error)),
        }
    }

    /// An object that is not there counts as removed.
    pub(super) fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {
                let parent = path.parent().unwrap_or(&self.root);
                sync_directory(parent).map_err(|error| failed("sync", parent, error))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", &path, error)),
        }
    }
}

/// Walks in the order of whole names, bytewise, as S3 lists.
struct Listing<'a> {
    after: &'a str,
    limit: usize,
    items: Vec<RawListed>,
    truncated: bool,
}

impl Listing<'_> {
    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> std::io::Result<()> {
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Names of ours are ASCII; another is no object.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if name.starts_with(TEMPORARY) {
                remove_if_stale(&entry.path(), &metadata);
            } else if metadata.is_dir() {
                names.push((format!("{prefix}{name}/"), None));
            } else if metadata.is_file() {
                names.push((format!("{prefix}{name}"), Some(metadata.len())));
            }
        }
        names.sort_unstable();
        for (name, len) in names {
            match len {
                Some(_) if name.as_str() <= self.after => {}
                Some(_) if self.items.len() == self.limit => {
                    self.truncated = true;
                    return Ok(());
                }
                Some(len) => self.items.push(RawListed { name, len }),
                None if depth == MAX_DEPTH => {}
                None if name.as_str() <= self.after && !self.after.starts_with(&name) => {}
                None => self.directory(&self.path_below(path, &name), &name, depth + 1)?,
            }
            if self.truncated {
                return Ok(());
            }
        }
        Ok(())
    }

    fn path_below(&self, parent: &Path, name: &str) -> PathBuf {
        let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        parent.join(last)
    }
}

fn remove_if_stale(path: &Path, metadata: &fs::Metadata) {
    let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    if age.is_some_and(|age| age > STALE) && fs::remove_file(path).is_ok() {
        tracing::info!(path = %path.display(), "removed what an interrupted write left behind");
    }
}

/// Like `create_dir_all`, each new name synced into its parent.
fn make_directories(path: &Path) -> std::io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_directory),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let Some(parent) = path.parent() else { return Err(error) };
            make_directories(parent)?;
            make_directories(path)
        }
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn failed(verb: &str, path: &Path, error: std::io::Error) -> StoreError {
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
    StoreError::new(kind, format!("could not {verb} {}: {error}{remedy}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
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
}
