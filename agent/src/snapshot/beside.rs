//! A directory that a restore fills beside its place.
//!
//! Whoever may write the directory that holds it can move things about in
//! there, and that directory itself, while the restore runs as root. So the
//! holding directory is opened once, and asked what it is and whether the host
//! allows it; all that follows is done in it by names of one component, and
//! what was filled is known by its inode.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use holdfast_archive::fs::parts::{Mounts, Names, directory};
use holdfast_proto::ids::JobId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::allow::Allow;
use crate::clone::remove_contents;
use crate::resume::RESTORE_DIRECTORY;

use super::target::TargetError;

/// A directory that may be made: absent, or empty.
#[derive(Debug)]
pub(super) struct Wanted {
    /// A handle of the directory that is to hold it.
    parent: OwnedFd,
    /// Where that was when it was opened, through no link.
    parent_path: PathBuf,
    name: CString,
}

/// A directory being filled under another name.
#[derive(Debug)]
pub(super) struct Filled {
    wanted: Wanted,
    staging: CString,
    root: OwnedFd,
    /// Device and inode of the root.
    id: (u64, u64),
}

impl Wanted {
    /// Opens first and asks afterwards where that is, so that no link can be
    /// changed in between.
    pub(super) fn resolve(allow: &Allow, path: &Path) -> Result<Self, TargetError> {
        let invalid = || TargetError::NoDirectory { path: path.to_owned() };
        let (parent, name) = (path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?);
        let unusable = |error: std::io::Error| TargetError::NoParent { parent: parent.to_owned(), error };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle =
            rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| unusable(error.into()))?;
        let wanted = Self {
            parent_path: real_path(&handle).map_err(unusable)?,
            parent: handle,
            name: CString::new(name.as_bytes()).map_err(|_| invalid())?,
        };
        allow.check_path(&wanted.path())?;
        wanted.refuse_filled()?;
        Ok(wanted)
    }

    /// Where it is to be.
    fn path(&self) -> PathBuf {
        self.parent_path.join(os_name(&self.name))
    }

    /// Where the directory is that is to hold it.
    pub(super) fn parent_path(&self) -> &Path {
        &self.parent_path
    }

    /// A handle of that directory.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// Where it is while it is being filled.
    pub(super) fn staging_path(&self, job: JobId) -> PathBuf {
        self.parent_path.join(format!("{RESTORE_DIRECTORY}{job}"))
    }

    fn refuse_filled(&self) -> Result<(), TargetError> {
        let found = match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.map_err(unreadable)?,
        };
        let empty = FileType::from_raw_mode(found.st_mode) == FileType::Directory
            && directory(self.parent.as_fd(), &self.name, Mounts::Cross)
                .and_then(|directory| Ok(Names::read(directory.as_fd())?.is_empty()))
                .map_err(unreadable)?;
        if empty {
            return Ok(());
        }
        Err(TargetError::DirectoryExists { path: self.path() })
    }

    /// Makes the directory to be filled, for root alone until it is whole.
    pub(super) fn make(self, job: JobId) -> Result<Filled, TargetError> {
        let failed =
            |error: Errno| TargetError::Write { path: self.staging_path(job), action: "made", error };
        let staging = CString::new(format!("{RESTORE_DIRECTORY}{job}")).expect("an id has no NUL byte");
        rustix::fs::mkdirat(&self.parent, &staging, Mode::RWXU).map_err(failed)?;
        // Known by its inode from here on: the name may be given to something else.
        let root = directory(self.parent.as_fd(), &staging, Mounts::Stay).map_err(failed)?;
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        Ok(Filled { wanted: self, staging, root, id: (stat.st_dev, stat.st_ino) })
    }

    fn has(&self, name: &CStr, id: (u64, u64)) -> bool {
        rustix::fs::statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == id)
    }
}

impl Filled {
    /// A handle of the root, opened anew.
    pub(super) fn root(&self) -> Result<OwnedFd, TargetError> {
        directory(self.root.as_fd(), c".", Mounts::Stay).map_err(unreadable)
    }

    /// Gives it its name, in place of an empty directory or of nothing, at
    /// once. Blocks until that is on disk.
    pub(super) fn keep(&self) -> Result<(), TargetError> {
        let (wanted, path) = (&self.wanted, self.wanted.path());
        // The path was allowed, not the directory: one that was moved meanwhile may lie
        // where nothing is.
        let in_place = real_path(&wanted.parent).is_ok_and(|now| now == wanted.parent_path);
        if !in_place || !wanted.has(&self.staging, self.id) {
            return Err(self.lost());
        }
        let put = rustix::fs::renameat(&wanted.parent, &self.staging, &wanted.parent, &wanted.name);
        put.map_err(|error| TargetError::NotInPlace { path: path.clone(), error })?;
        // Between the look and the rename somebody may have exchanged the two names.
        if !wanted.has(&wanted.name, self.id) {
            return Err(self.lost());
        }
        let synced = directory(wanted.parent.as_fd(), c".", Mounts::Stay).and_then(rustix::fs::fsync);
        synced.map_err(|error| TargetError::Write { path, action: "synced", error })
    }

    /// Removes what was filled, wherever it was moved with the directory that
    /// holds it. Blocks.
    pub(super) fn remove(&self) -> Result<(), TargetError> {
        let path = self.wanted.parent_path.join(os_name(&self.staging));
        let emptied = self.root()?;
        remove_contents(emptied.as_fd(), &path)?;
        if !self.wanted.has(&self.staging, self.id) {
            return Ok(());
        }
        let removed = rustix::fs::unlinkat(&self.wanted.parent, &self.staging, AtFlags::REMOVEDIR);
        removed.map_err(|error| TargetError::Write { path, action: "removed", error })
    }

    fn lost(&self) -> TargetError {
        TargetError::Moved { path: self.wanted.path() }
    }
}

fn os_name(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

fn real_path(handle: &OwnedFd) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

fn unreadable(error: Errno) -> TargetError {
    TargetError::Unreadable(error.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use holdfast_proto::ErrorCode;

    use super::*;

    struct Scene {
        base: tempfile::TempDir,
        allow: Allow,
    }

    impl Scene {
        fn new() -> Self {
            let base = tempfile::tempdir().unwrap();
            for name in ["allowed/held", "outside"] {
                fs::create_dir_all(base.path().join(name)).unwrap();
            }
            let allowed = base.path().canonicalize().unwrap().join("allowed");
            let allow = Allow::parse(["restore", allowed.to_str().unwrap()]).unwrap();
            Self { base, allow }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.base.path().canonicalize().unwrap().join(name)
        }

        fn resolve(&self, name: &str) -> Result<Wanted, TargetError> {
            Wanted::resolve(&self.allow, &self.at(name))
        }

        fn filled(&self, name: &str) -> Filled {
            let filled = self.resolve(name).unwrap().make(JobId::generate()).unwrap();
            fs::write(self.staging(&filled).join("file"), "x").unwrap();
            filled
        }

        /// Where it is by the handles, whatever became of the names.
        fn staging(&self, filled: &Filled) -> PathBuf {
            real_path(&filled.root).unwrap()
        }

        fn names(&self, name: &str) -> usize {
            fs::read_dir(self.at(name)).unwrap().count()
        }
    }

    #[test]
    fn a_directory_takes_the_place_of_an_empty_one_only() {
        let scene = Scene::new();
        for existing in [false, true] {
            if existing {
                fs::create_dir(scene.at("allowed/held/new")).unwrap();
            }
            scene.filled("allowed/held/new").keep().unwrap();
            assert_eq!(scene.names("allowed/held"), 1);
            fs::remove_dir_all(scene.at("allowed/held/new")).unwrap();
        }
        // Somebody makes it and writes into it meanwhile.
        let filled = scene.filled("allowed/held/new");
        fs::create_dir(scene.at("allowed/held/new")).unwrap();
        fs::write(scene.at("allowed/held/new/theirs"), "x").unwrap();
        assert_eq!(filled.keep().unwrap_err().code(), ErrorCode::TargetExists);
        assert!(scene.at("allowed/held/new/theirs").exists());
        filled.remove().unwrap();
        assert_eq!(scene.names("allowed/held"), 1);
        assert_eq!(scene.resolve("allowed/held/new").unwrap_err().code(), ErrorCode::TargetExists);
    }

    #[test]
    fn v14_no_link_in_the_place_of_the_holding_directory_leads_a_restore_out() {
        let scene = Scene::new();
        assert_eq!(scene.resolve("outside/new").unwrap_err().code(), ErrorCode::NotAllowed);
        symlink(scene.at("outside"), scene.at("allowed/link")).unwrap();
        assert_eq!(scene.resolve("allowed/link/new").unwrap_err().code(), ErrorCode::NotAllowed);

        // Swapped after it was asked for, and before anything is made.
        let wanted = scene.resolve("allowed/held/new").unwrap();
        let swap = || {
            fs::rename(scene.at("allowed/held"), scene.at("allowed/moved")).unwrap();
            symlink(scene.at("outside"), scene.at("allowed/held")).unwrap();
        };
        let swap_back = || {
            fs::remove_file(scene.at("allowed/held")).unwrap();
            fs::rename(scene.at("allowed/moved"), scene.at("allowed/held")).unwrap();
        };
        swap();
        let filled = wanted.make(JobId::generate()).unwrap();
        assert_eq!((scene.names("outside"), scene.names("allowed/moved")), (0, 1));
        fs::write(scene.at("allowed/moved").join(os_name(&filled.staging)).join("f"), "x").unwrap();
        assert_eq!(filled.keep().unwrap_err().code(), ErrorCode::TargetLost);
        filled.remove().unwrap();
        assert_eq!((scene.names("outside"), scene.names("allowed/moved")), (0, 0));
        swap_back();

        // Swapped while it was filled.
        let filled = scene.filled("allowed/held/new");
        swap();
        assert_eq!(filled.keep().unwrap_err().code(), ErrorCode::TargetLost);
        assert_eq!(scene.names("outside"), 0);
        filled.remove().unwrap();
        assert_eq!((scene.names("outside"), scene.names("allowed/moved")), (0, 0));
        swap_back();
    }

    #[test]
    fn v14_another_directory_under_the_name_of_the_filled_one_is_not_put_in_place() {
        let scene = Scene::new();
        let filled = scene.filled("allowed/held/new");
        let staging = scene.staging(&filled);
        fs::rename(&staging, scene.at("allowed/held/away")).unwrap();
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("theirs"), "x").unwrap();
        assert_eq!(filled.keep().unwrap_err().code(), ErrorCode::TargetLost);
        assert!(!scene.at("allowed/held/new").exists());
        filled.remove().unwrap();
        assert!(staging.join("theirs").exists(), "what is not ours stays");
        assert_eq!(scene.names("allowed/held/away"), 0, "what was restored goes wherever it is");
    }
}
