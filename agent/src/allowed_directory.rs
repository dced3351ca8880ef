//! A directory of the host that the host's own file allows, held by what it is
//! and not by its name alone.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::allow::{Allow, NotAllowed};

/// A directory on the host that its own file allows.
#[derive(Debug)]
pub(crate) struct AllowedDirectory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error("directory `{}` cannot be opened: {source}", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("directory `{}` was replaced by another one meanwhile", .path.display())]
    Replaced { path: PathBuf },
}

impl AllowedDirectory {
    /// Opens first and asks afterwards where that is, so that no link can be
    /// changed in between.
    ///
    /// # Errors
    /// When it cannot be opened, or lies outside what the host allows.
    pub(crate) fn open(allow: &Allow, path: &Path) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Open { path: path.to_owned(), source };
        let handle = open_directory(path).map_err(failed)?;
        // Of the handle: a link that is exchanged after the check leads nowhere else.
        let real = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).map_err(failed)?;
        allow.check_path(&real)?;
        let found = rustix::fs::fstat(&handle).map_err(|error| failed(error.into()))?;
        Ok(Self { path: real, device: found.st_dev, inode: found.st_ino })
    }

    /// Where it is, through no link.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A handle on it.
    ///
    /// # Errors
    /// When something else is found under its path by now.
    pub(crate) fn root(&self) -> Result<OwnedFd, DirectoryError> {
        let failed = |source| DirectoryError::Open { path: self.path.clone(), source };
        let handle = open_directory(&self.path).map_err(failed)?;
        // By device and inode: the name may be another directory's by now.
        if self.is(&handle).map_err(failed)? {
            return Ok(handle);
        }
        Err(DirectoryError::Replaced { path: self.path.clone() })
    }

    /// Whether a handle is one on this directory.
    ///
    /// # Errors
    /// When the handle cannot be asked.
    pub(crate) fn is(&self, handle: impl AsFd) -> std::io::Result<bool> {
        let found = rustix::fs::fstat(handle)?;
        Ok((found.st_dev, found.st_ino) == (self.device, self.inode))
    }
}

fn open_directory(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_what_is_allowed_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let (allowed, secret) = (base.join("data"), base.join("database"));
        std::fs::create_dir(&allowed).unwrap();
        std::fs::create_dir(&secret).unwrap();
        std::os::unix::fs::symlink(&secret, allowed.join("out")).unwrap();
        let allow = Allow::parse([allowed.to_str().unwrap()]).unwrap();
        let open = |path: &Path| AllowedDirectory::open(&allow, path);
        for path in [allowed.join("out"), secret, allowed.join("../database")] {
            assert!(matches!(open(&path).unwrap_err(), DirectoryError::NotAllowed(_)), "{}", path.display());
        }
        assert!(matches!(open(&allowed.join("none")).unwrap_err(), DirectoryError::Open { .. }));
        let directory = open(&allowed).unwrap();
        assert_eq!(directory.path(), allowed);
        assert!(directory.is(directory.root().unwrap()).unwrap());
        std::fs::rename(&allowed, base.join("moved")).unwrap();
        std::fs::create_dir(&allowed).unwrap();
        assert!(matches!(directory.root().unwrap_err(), DirectoryError::Replaced { .. }));
    }
}
