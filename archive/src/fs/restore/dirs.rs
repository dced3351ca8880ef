//! The directories a restore is in.
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
use super::shared::{Shared, io};
use crate::entry::Entry;
use crate::fs::handles::handle_share;
use crate::fs::walk::OPEN;
use crate::fs::{metadata, open};

/// Directories that may wait for their metadata, each with a handle, as far as
/// the process may hold so many. When there are more, files are made before
/// their task is full, and waited for: in a tree of small directories that
/// decides how many requests a restore takes and how many work at once.
const FINISHING: std::ops::RangeInclusive<usize> = 256..=4096;

pub(super) struct Dirs {
    levels: Vec<Level>,
    finishing: VecDeque<Finishing>,
    most_finishing: usize,
}

struct Level {
    dir: Option<Arc<OwnedFd>>,
    id: (u64, u64),
    path: Vec<u8>,
    /// What it is to look like in the end; `None` for one that was there before.
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
        Self { levels: Vec::new(), finishing: VecDeque::new(), most_finishing }
    }

    /// Goes into a directory.
    pub(super) fn push(
        &mut self,
        dir: OwnedFd,
        path: &[u8],
        entry: Option<Entry>,
    ) -> Result<(), RestoreError> {
        let stat = fstat(&dir).map_err(|error| io(path, "opened", error))?;
        self.levels.push(Level {
            dir: Some(Arc::new(dir)),
            id: (stat.st_dev, stat.st_ino),
            path: path.to_vec(),
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
        Some((level.dir.as_ref()?, &level.path))
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
        let Some(dir) = level.dir else {
            return Err(io(&level.path, "got back to", Errno::STALE));
        };
        if let Some(above) = self.levels.last_mut()
            && above.dir.is_none()
        {
            above.dir = Some(Arc::new(parent_of(&dir, above)?));
        }
        if let Some(entry) = level.entry {
            self.finishing.push_back(Finishing { dir, entry, task: level.task, links: level.links });
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
            one.links.is_some_and(|batch| batch >= links)
                || one.task.is_some_and(|task| task >= tasks || !shared.is_done(task))
        };
        while let Some(first) = self.finishing.pop_front_if(|one| !waits(one)) {
            finish(shared, &first)?;
        }
        Ok(())
    }

    /// What the first directory still waits for, if too many wait.
    pub(super) fn overdue(&self) -> Option<(Option<u64>, Option<u64>)> {
        let first = self.finishing.front().filter(|_| self.finishing.len() > self.most_finishing)?;
        Some((first.task, first.links))
    }
}

fn parent_of(child: &OwnedFd, above: &Level) -> Result<OwnedFd, RestoreError> {
    let found = open::parent(child.as_fd()).map_err(|error| io(&above.path, "got back to", error))?;
    let stat = fstat(&found).map_err(|error| io(&above.path, "got back to", error))?;
    if (stat.st_dev, stat.st_ino) == above.id {
        Ok(found)
    } else {
        // Somebody moved a directory of the target meanwhile.
        Err(io(&above.path, "got back to", Errno::STALE))
    }
}

fn finish(shared: &Shared<'_>, one: &Finishing) -> Result<(), RestoreError> {
    let mut missing = Vec::new();
    metadata::apply(one.dir.as_fd(), &shared.wanted(&one.entry), &mut missing);
    shared.progress.entries.add(1);
    shared.note(&one.entry.path, missing)
}
