//! The directories a restore is in.
//!
//! A manifest of another host may be a chain of more than a hundred thousand
//! directories. So their paths are one text, of which each level knows how much
//! is its own, and what waits is bounded in bytes as well as in number.
//!
//! Like a walk, this holds at most [`OPEN`](crate::fs::walk::OPEN) handles of
//! the path it is on and gets one that was let go back from its child, if the
//! parent is the very inode it was. Directories that are left wait here until
//! the files and links in them are made; then they get their metadata.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::request::RestoreError;
use super::shared::{Shared, io, refused};
use crate::entry::Entry;
use crate::fs::handles::handle_share;
use crate::fs::walk::OPEN;
use crate::fs::{metadata, open};

/// Directories that may wait for their metadata, each with a handle, as far as
/// the process may hold so many. When there are more, files are made before
/// their task is full, and waited for: in a tree of small directories that
/// decides how many requests a restore takes and how many work at once.
const FINISHING: std::ops::RangeInclusive<usize> = 256..=4096;

/// Bytes of paths and attributes of the directories that may wait.
const FINISHING_BYTES: usize = 4 << 20;

/// Bytes of attributes of the directories on one path, for a restore that is in
/// all of them.
const ATTRIBUTES: usize = 16 << 20;

pub(super) struct Dirs {
    /// Of the last level. That of each other one is the beginning of it.
    path: Vec<u8>,
    levels: Vec<Level>,
    /// Bytes of attributes of all levels.
    attributes: usize,
    finishing: VecDeque<Finishing>,
    most_finishing: usize,
    finishing_bytes: usize,
}

struct Level {
    dir: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    path_len: usize,
    /// What it is to look like in the end, without its path; `None` for one that
    /// was there before.
    entry: Option<Entry>,
    /// The last task that makes a file in it.
    task: Option<u64>,
    /// The batch of links that makes names in it.
    links: Option<u64>,
}

struct Finishing {
    dir: Arc<OwnedFd>,
    entry: Entry,
    task: Option<u64>,
    links: Option<u64>,
}

impl Dirs {
    pub(super) fn new() -> Self {
        let most_finishing = handle_share(*FINISHING.start(), *FINISHING.end());
        Self {
            path: Vec::new(),
            levels: Vec::new(),
            attributes: 0,
            finishing: VecDeque::new(),
            most_finishing,
            finishing_bytes: 0,
        }
    }

    /// Goes into a directory in the current one.
    pub(super) fn push(
        &mut self,
        dir: OwnedFd,
        path: &[u8],
        mut entry: Option<Entry>,
    ) -> Result<(), RestoreError> {
        let stat = fstat(&dir).map_err(|error| io(path, "opened", error))?;
        let above = self.levels.last().map_or(0, |level| level.path_len);
        self.attributes += entry.as_ref().map_or(0, attributes);
        // Each entry alone is within its bounds; a chain of a hundred thousand directories, each
        // with all it may have, is not.
        if self.attributes > ATTRIBUTES {
            return Err(refused(path, "the directories above it have more attributes than any real ones"));
        }
        if let Some(entry) = &mut entry {
            entry.path = Vec::new();
        }
        // What lies in the current directory begins with its path.
        self.path.truncate(above);
        self.path.extend_from_slice(&path[above..]);
        self.levels.push(Level {
            dir: Some(Arc::new(dir)),
            id: (stat.st_dev, stat.st_ino),
            path_len: path.len(),
            entry,
            task: None,
            links: None,
        });
        if let Some(far) = self.levels.len().checked_sub(OPEN + 1) {
            self.levels[far].dir = None;
        }
        Ok(())
    }

    /// Where the restore is: handle and path.
    pub(super) fn top(&self) -> Option<(&Arc<OwnedFd>, &[u8])> {
        let level = self.levels.last()?;
        Some((level.dir.as_ref()?, &self.path[..level.path_len]))
    }

    /// A file in the current directory is made by this task.
    pub(super) fn made_by(&mut self, task: u64) {
        if let Some(level) = self.levels.last_mut() {
            level.task = Some(task);
        }
    }

    /// A name in the current directory is made by this batch of links.
    pub(super) fn linked_by(&mut self, links: u64) {
        if let Some(level) = self.levels.last_mut() {
            level.links = Some(links);
        }
    }

    /// Leaves the current directory; false if there is none.
    pub(super) fn leave(&mut self) -> Result<bool, RestoreError> {
        let Some(level) = self.levels.pop() else { return Ok(false) };
        let path = &self.path[..level.path_len];
        // Only a level far above loses its handle, and it gets it back before it is the last one.
        let Some(dir) = level.dir else {
            return Err(io(path, "got back to", Errno::STALE));
        };
        if let Some(above) = self.levels.last_mut()
            && above.dir.is_none()
        {
            // Before the child is let go: its handle is the only way back that nobody can bend.
            let found = parent_of(&dir, above.id);
            let found = found.map_err(|error| io(&path[..above.path_len], "got back to", error))?;
            above.dir = Some(Arc::new(found));
        }
        if let Some(entry) = level.entry {
            self.attributes -= attributes(&entry);
            let one = Finishing {
                dir,
                entry: Entry { path: path.to_vec(), ..entry },
                task: level.task,
                links: level.links,
            };
            self.finishing_bytes += one.bytes();
            self.finishing.push_back(one);
        }
        Ok(true)
    }

    /// Gives directories that are complete their metadata: all whose files and
    /// links are there. `tasks` and `links` are the numbers of those that are
    /// still being collected.
    pub(super) fn finish_ready(
        &mut self,
        shared: &Shared<'_>,
        tasks: u64,
        links: u64,
    ) -> Result<(), RestoreError> {
        let waits = |one: &Finishing| {
            // What is still being collected cannot be done; the rest is asked of the workers.
            one.links.is_some_and(|batch| batch >= links)
                || one.task.is_some_and(|task| task >= tasks || !shared.is_done(task))
        };
        while let Some(first) = self.finishing.pop_front_if(|one| !waits(one)) {
            self.finishing_bytes -= first.bytes();
            finish(shared, &first)?;
        }
        Ok(())
    }

    /// What the first directory still waits for, if too many wait.
    pub(super) fn overdue(&self) -> Option<(Option<u64>, Option<u64>)> {
        let many = self.finishing.len() > self.most_finishing || self.finishing_bytes > FINISHING_BYTES;
        let first = self.finishing.front().filter(|_| many)?;
        Some((first.task, first.links))
    }
}

impl Finishing {
    fn bytes(&self) -> usize {
        self.entry.path.len() + attributes(&self.entry)
    }
}

/// Bytes of an entry's attributes, with what each takes besides.
fn attributes(entry: &Entry) -> usize {
    const EACH: usize = 2 * size_of::<Vec<u8>>();
    entry.xattrs.iter().map(|(name, value)| EACH + name.len() + value.len()).sum()
}

/// The directory a child lies in, if it is still the one with this id: somebody
/// may have moved a directory of the target meanwhile.
fn parent_of(child: &OwnedFd, id: (u64, u64)) -> Result<OwnedFd, Errno> {
    let found = open::parent(child.as_fd())?;
    let stat = fstat(&found)?;
    if (stat.st_dev, stat.st_ino) == id { Ok(found) } else { Err(Errno::STALE) }
}

fn finish(shared: &Shared<'_>, one: &Finishing) -> Result<(), RestoreError> {
    let mut missing = Vec::new();
    metadata::apply(one.dir.as_fd(), &shared.wanted(&one.entry), &mut missing);
    shared.progress.entries.add(1);
    shared.note(&one.entry.path, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryFlags, EntryKind};
    use crate::manifest::MAX_PATH_LEN;

    fn entry(path: &[u8], xattr: usize) -> Entry {
        Entry {
            path: path.to_vec(),
            kind: EntryKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            inode: 1,
            xattrs: if xattr > 0 { vec![(b"user.x".to_vec(), vec![0; xattr])] } else { Vec::new() },
            flags: EntryFlags::default(),
        }
    }

    fn open(root: &tempfile::TempDir) -> OwnedFd {
        std::fs::File::open(root.path()).unwrap().into()
    }

    fn held(dirs: &Dirs) -> usize {
        let entries = dirs.levels.iter().filter_map(|level| level.entry.as_ref());
        let heap: usize = entries.map(|entry| entry.path.capacity() + attributes(entry)).sum();
        dirs.path.capacity() + dirs.levels.capacity() * size_of::<Level>() + heap
    }

    #[test]
    fn h13_the_deepest_chain_takes_little_and_its_paths_are_right() {
        let root = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::new();
        dirs.push(open(&root), b"", None).unwrap();
        let mut path = Vec::new();
        while path.len() < MAX_PATH_LEN - 1 {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.push(b'a');
            dirs.push(open(&root), &path, Some(entry(&path, 0))).unwrap();
        }
        let levels = dirs.levels.len();
        assert_eq!(levels, MAX_PATH_LEN / 2 + 1);
        // A path for each would be more than 16 GiB.
        let held = held(&dirs);
        assert!(held < 96 << 20, "{levels} levels take {held} bytes");
        assert_eq!(dirs.top().unwrap().1, path);
    }

    #[test]
    fn h13_attributes_of_a_chain_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        let mut dirs = Dirs::new();
        dirs.push(open(&root), b"", None).unwrap();
        let mut path = Vec::new();
        let refused = (0..1000).find_map(|_| {
            path.extend_from_slice(if path.is_empty() { b"a" } else { b"/a" });
            dirs.push(open(&root), &path, Some(entry(&path, 60_000))).err()
        });
        let RestoreError::Refused { .. } = refused.expect("refused") else { panic!("another error") };
        assert!(held(&dirs) < ATTRIBUTES + (1 << 20));
    }
}
