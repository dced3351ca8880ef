//! A walk of a tree in the order of manifests: names sorted bytewise, a
//! directory before its content and its content before its siblings.
//!
//! The walk holds the names of the directories on its path, at most
//! [`OPEN`] of their handles, and nothing else: no recursion, no whole tree.
//! A handle given up on the way down is got back from its child by `..` on
//! the way up, and counts only if it is the very inode it was: a directory
//! that was moved meanwhile is reported, never mistaken for another.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;

use super::names::Names;
use super::open::{self, Mounts};

/// Handles of directories held open at once.
pub const OPEN: usize = 32;

#[derive(Debug)]
pub struct Walk {
    root: OwnedFd,
    levels: Vec<Level>,
    path: Vec<u8>,
}

#[derive(Debug)]
struct Level {
    dir: Option<OwnedFd>,
    /// Device and inode.
    id: (u64, u64),
    names: Names,
    /// The name after the current one.
    next: usize,
    path_len: usize,
}

/// What [`Walk::advance`] came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The walk stands on a name.
    Name,
    /// The directory at this path was moved while its subtree was walked:
    /// names left in it are lost.
    Lost(Vec<u8>),
    End,
}

impl Walk {
    /// A walk of everything below `root`, standing on the root itself.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, levels: Vec::new(), path: Vec::new() }
    }

    /// Goes into the root. Fails as reading a directory does.
    ///
    /// # Errors
    /// The root cannot be opened or its names cannot be read.
    pub fn enter_root(&mut self) -> Result<(), Errno> {
        let dir = open::reopen_directory(self.root.as_fd())?;
        self.push(dir)
    }

    /// Goes into the directory the walk stands on; `expected` is what its
    /// caller took it for. `Errno::STALE` when another is there by now.
    ///
    /// # Errors
    /// `STALE` as said, or what opening the directory and reading its names fails with.
    pub fn enter(&mut self, expected: &Stat, mounts: Mounts) -> Result<(), Errno> {
        let dir = open::directory(self.dir(), self.name(), mounts)?;
        let found = fstat(&dir)?;
        // Between the look and the open another directory may have been given the name. The handle
        // is what counts; whoever asked looks again.
        if (found.st_dev, found.st_ino) != (expected.st_dev, expected.st_ino) {
            return Err(Errno::STALE);
        }
        self.push(dir)
    }

    fn push(&mut self, dir: OwnedFd) -> Result<(), Errno> {
        let stat = fstat(&dir)?;
        let names = retry(|| {
            // A second try begins again: the first one may have read some of the names.
            rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0))?;
            Names::read(dir.as_fd())
        })?;
        let level = Level {
            dir: Some(dir),
            id: (stat.st_dev, stat.st_ino),
            names,
            next: 0,
            path_len: self.path.len(),
        };
        self.levels.push(level);
        if let Some(far) = self.levels.len().checked_sub(OPEN + 1) {
            self.levels[far].dir = None;
        }
        Ok(())
    }

    /// Goes to the next name.
    pub fn advance(&mut self) -> Step {
        loop {
            let Some(level) = self.levels.last_mut() else { return Step::End };
            // First of all: the path still has the last component of the name before.
            self.path.truncate(level.path_len);
            if level.next < level.names.len() {
                level.next += 1;
                let Some((name, _)) = level.names.get(level.next - 1) else { continue };
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(name.to_bytes());
                return Step::Name;
            }
            if let Some(lost) = self.leave() {
                return Step::Lost(lost);
            }
        }
    }

    /// Takes the last level off; the path of its parent if that is lost.
    fn leave(&mut self) -> Option<Vec<u8>> {
        let child = self.levels.pop()?;
        let level = self.levels.last_mut()?;
        if level.dir.is_some() {
            return None;
        }
        // `..` of the child leads wherever the child lies now, so the inode is compared.
        let found = child.dir.ok_or(Errno::STALE).and_then(|dir| open::parent(dir.as_fd()));
        let same = |dir: &OwnedFd| fstat(dir).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == level.id);
        match found {
            Ok(dir) if same(&dir) => {
                level.dir = Some(dir);
                None
            }
            _ => {
                // Without a handle neither this level nor those above can be read on; each is
                // reported in its turn if names are left in it.
                let left = level.next < level.names.len();
                level.next = level.names.len();
                left.then(|| self.path[..level.path_len].to_vec())
            }
        }
    }

    /// Where the walk stands; empty for the root.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The directory that holds the current name.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.levels.last().and_then(|level| level.dir.as_ref()).unwrap_or(&self.root).as_fd()
    }

    /// The last component of the current path.
    pub fn name(&self) -> &CStr {
        self.current().map_or(c".", |(name, _)| name)
    }

    /// What the directory says the current name is; may be `Unknown`.
    pub(crate) fn hint(&self) -> FileType {
        self.current().map_or(FileType::Directory, |(_, kind)| kind)
    }

    /// How many directories enclose the current name.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The names of the directory the walk is in, as they were when it was entered.
    pub fn names(&self) -> Option<&Names> {
        self.levels.last().map(|level| &level.names)
    }

    fn current(&self) -> Option<(&CStr, FileType)> {
        let level = self.levels.last()?;
        level.names.get(level.next.checked_sub(1)?)
    }
}

/// Repeats a read that failed with an input error; some devices need it.
///
/// # Errors
/// What the third call failed with, or one before it that repeating does not mend.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..2 {
        match call() {
            Err(Errno::IO | Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::path_order;
    use rustix::fs::{AtFlags, Mode, statat};
    use std::fs;

    fn walk_all(root: OwnedFd) -> Vec<Vec<u8>> {
        let mut walk = Walk::new(root);
        let mut paths = vec![walk.path().to_vec()];
        walk.enter_root().unwrap();
        loop {
            match walk.advance() {
                Step::Name => {
                    paths.push(walk.path().to_vec());
                    let stat = statat(walk.dir(), walk.name(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        walk.enter(&stat, Mounts::Stay).unwrap();
                    }
                }
                Step::Lost(path) => panic!("lost {path:?}"),
                Step::End => return paths,
            }
        }
    }

    #[test]
    fn the_walk_has_the_order_of_manifests() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/b.c", "a-b/x", "a.b/y", "b", "a/b-c"] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let paths = walk_all(fs::File::open(dir.path()).unwrap().into());
        assert!(paths.is_sorted_by(|a, b| path_order(a, b).is_lt()), "{paths:?}");
        assert_eq!(paths.len(), 11);
    }

    #[test]
    fn a32_three_thousand_levels_need_few_handles() {
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        let mut at = root.try_clone().unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, c"d", Mode::RWXU).unwrap();
            at = open::descend(at.as_fd(), b"d").unwrap();
        }
        drop(at);
        let mut walk = Walk::new(root.try_clone().unwrap());
        walk.enter_root().unwrap();
        let mut names = 0;
        while walk.advance() == Step::Name {
            names += 1;
            let stat = statat(walk.dir(), walk.name(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
            walk.enter(&stat, Mounts::Stay).unwrap();
            assert!(walk.levels.iter().filter(|level| level.dir.is_some()).count() <= OPEN);
        }
        assert_eq!(names, 3000);
        assert!(walk.levels.is_empty());
        remove_deep(&root);
    }

    /// The standard library removes a tree recursively.
    fn remove_deep(root: &OwnedFd) {
        std::process::Command::new("rm")
            .args(["-rf", &format!("/proc/self/fd/{}/d", std::os::fd::AsRawFd::as_raw_fd(root))])
            .status()
            .ok();
    }

    #[test]
    fn a_directory_moved_away_is_reported_and_no_other_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", OPEN + 4).collect();
        fs::create_dir_all(dir.path().join(&deep)).unwrap();
        fs::create_dir(dir.path().join("other")).unwrap();
        fs::write(dir.path().join("d/z"), "").unwrap();
        fs::write(dir.path().join("d/d/z"), "").unwrap();
        let mut walk = Walk::new(fs::File::open(dir.path()).unwrap().into());
        walk.enter_root().unwrap();
        let mut lost = Vec::new();
        loop {
            match walk.advance() {
                Step::Name => {
                    let stat = statat(walk.dir(), walk.name(), AtFlags::SYMLINK_NOFOLLOW).unwrap();
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        walk.enter(&stat, Mounts::Stay).unwrap();
                    }
                    if walk.depth() == OPEN + 4 {
                        let moved = dir.path().join("other/moved");
                        let _ = fs::rename(dir.path().join("d/d/d"), moved);
                    }
                }
                Step::Lost(path) => lost.push(path),
                Step::End => break,
            }
        }
        assert_eq!(lost[0], b"d/d");
    }
}
