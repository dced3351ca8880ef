//! The clone's directories on the way of a walk through its source.
//!
//! Like the walk, this holds few handles and gets one that was let go back
//! from its child. The clone is nobody else's, so a parent that is another
//! directory than it was is an error and nothing to go on from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use holdfast_archive::entry::Entry;
use holdfast_archive::fs::parts::{OPEN, parent};
use rustix::fs::{IFlags, fstat};
use rustix::io::Errno;

pub(super) struct Trail {
    levels: Vec<Level>,
}

struct Level {
    dir: Option<OwnedFd>,
    id: (u64, u64),
    meant: Meant,
}

/// What a directory is to look like in the end.
pub(super) struct Meant {
    pub(super) entry: Entry,
    pub(super) freezing: IFlags,
}

impl Trail {
    pub(super) fn new() -> Self {
        Self { levels: Vec::new() }
    }

    pub(super) fn depth(&self) -> usize {
        self.levels.len()
    }

    pub(super) fn push(&mut self, dir: OwnedFd, meant: Meant) -> Result<(), Errno> {
        let stat = fstat(&dir)?;
        self.levels.push(Level { dir: Some(dir), id: (stat.st_dev, stat.st_ino), meant });
        // Handles of far parents are closed: a deep tree would need more than a process may have.
        if let Some(far) = self.levels.len().checked_sub(OPEN + 1) {
            self.levels[far].dir = None;
        }
        Ok(())
    }

    /// Where the clone of what the walk stands on belongs.
    pub(super) fn top(&self) -> Result<BorrowedFd<'_>, Errno> {
        let dir = self.levels.last().and_then(|level| level.dir.as_ref());
        dir.map(AsFd::as_fd).ok_or(Errno::STALE)
    }

    /// Leaves the current directory, which is complete.
    pub(super) fn leave(&mut self) -> Result<Option<(OwnedFd, Meant)>, Errno> {
        let Some(level) = self.levels.pop() else { return Ok(None) };
        let dir = level.dir.ok_or(Errno::STALE)?;
        if let Some(above) = self.levels.last_mut()
            && above.dir.is_none()
        {
            let found = parent(dir.as_fd())?;
            let stat = fstat(&found)?;
            // `..` leads elsewhere once somebody has moved the child, so the parent is compared.
            if (stat.st_dev, stat.st_ino) != above.id {
                return Err(Errno::STALE);
            }
            above.dir = Some(found);
        }
        Ok(Some((dir, level.meant)))
    }
}
