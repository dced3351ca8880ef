//! Where a clone lies, and how it and its tree are opened.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use holdfast_proto::ids::JobId;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::error::{CloneError, shown};

const NAMED: &str = "holdfast-clone-";
/// The Engine's name for the data of a volume.
const VOLUME_DATA: &str = "_data";
const JOB_LEN: usize = 26;
/// What a directory entry may have, less what a clone's name adds.
const NAME_MAX: usize = 255 - ".".len() - NAMED.len() - JOB_LEN - "-".len();

/// Where a tree's clone lies while it is kept. The clone of a volume's data is
/// in the volume's directory and goes away with it; that of any other
/// directory is a hidden one beside it.
pub(crate) fn clone_path(root: &Path, job: JobId) -> PathBuf {
    let name = root.file_name().unwrap_or_default();
    if name == VOLUME_DATA {
        return root.with_file_name(format!("{NAMED}{job}"));
    }
    let mut clone = OsString::from(format!(".{NAMED}{job}-"));
    clone.push(short(name));
    root.with_file_name(clone)
}

/// The name, or a digest of one that is too long to be added to.
fn short(name: &OsStr) -> OsString {
    if name.len() <= NAME_MAX {
        return name.to_owned();
    }
    hex::encode(Sha256::digest(name.as_bytes())).into()
}

/// Whether [`clone_path`] could have given this path.
pub(super) fn is_clone_path(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let hidden = name.starts_with(b".");
    let Some(rest) = name[usize::from(hidden)..].strip_prefix(NAMED.as_bytes()) else { return false };
    let Some((job, rest)) = rest.split_at_checked(JOB_LEN) else { return false };
    let job = std::str::from_utf8(job).is_ok_and(|job| job.parse::<JobId>().is_ok());
    job && if hidden { rest.starts_with(b"-") && rest.len() > 1 } else { rest.is_empty() }
}

/// A directory's own directory, open, and its name in there.
pub(super) struct Place {
    pub(super) parent: OwnedFd,
    pub(super) name: CString,
}

impl Place {
    /// Opens the directory that holds `path`. There need be nothing at `path`.
    pub(super) fn of(path: &Path) -> Result<Self, CloneError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(CloneError::MountPoint { path: shown(path) });
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        // Links above are followed, since the data root may be one. `open` follows none.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, parent, flags, Mode::empty());
        let opened = opened.map_err(|error| CloneError::of(shown(parent), "opened", error))?;
        let name =
            CString::new(name.as_bytes()).map_err(|_| CloneError::of(shown(path), "opened", Errno::INVAL))?;
        Ok(Self { parent: opened, name })
    }

    /// Opens what is there, which must be a directory and no link to one.
    pub(super) fn open(&self, path: &Path) -> Result<OwnedFd, CloneError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.parent, &self.name, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => CloneError::NotADirectory { path: shown(path) },
            error => CloneError::of(shown(path), "opened", error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_lie_in_the_volume_or_beside_the_directory() {
        let job: JobId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        let volume = clone_path(Path::new("/var/lib/docker/volumes/db/_data"), job);
        assert_eq!(volume, Path::new("/var/lib/docker/volumes/db/holdfast-clone-01ARZ3NDEKTSV4RRFFQ69G5FAV"));
        let bind = clone_path(Path::new("/srv/web/"), job);
        assert_eq!(bind, Path::new("/srv/.holdfast-clone-01ARZ3NDEKTSV4RRFFQ69G5FAV-web"));
        let long = clone_path(&Path::new("/srv").join("n".repeat(255)), job);
        assert!(long.file_name().unwrap().len() <= 255, "{long:?}");
        assert_ne!(long, clone_path(&Path::new("/srv").join("n".repeat(254)), job));
        for path in [volume, bind, long] {
            assert!(is_clone_path(&path), "{path:?}");
        }
        for other in [
            "/srv/web",
            "/srv/holdfast-clone-",
            "/srv/holdfast-clone-01ARZ3NDEKTSV4RRFFQ69G5FAV-x",
            "/srv/.holdfast-clone-01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "/srv/.holdfast-clone-01ARZ3NDEKTSV4RRFFQ69G5FAV-",
            "/srv/holdfast-clone-not-an-id-of-any-job!!!!!!",
            "/",
        ] {
            assert!(!is_clone_path(Path::new(other)), "{other}");
        }
    }
}
