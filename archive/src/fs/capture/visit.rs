//! One entry of the walk becomes one entry of the manifest.
//!
//! What an entry is can change between any two calls. Every step that finds
//! something else than the one before gives up and the entry is looked at
//! again, a few times; then it is reported.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::file::{Content, Handle, ReadError, read_small};
use super::request::{CaptureError, NestedMounts, TornPolicy};
use super::run::{Halt, Run};
use super::unchanged::holds;
use crate::entry::{Entry, EntryFlags, EntryKind, FileData};
use crate::fs::group::SMALL;
use crate::fs::metadata::{self, Xattrs, changed, size_of, type_of};
use crate::fs::open::Mounts;
use crate::fs::text::escape_path;
use crate::fs::walk::{Walk, retry};
use crate::ids::FrameId;

/// How often an entry is looked at that turns into something else meanwhile.
const LOOKS: u32 = 3;

/// What came of looking at an entry once.
enum Look {
    Done,
    /// It is something else than it was a moment ago.
    Raced,
    /// It is there and cannot be read.
    Failed(Option<Stat>, Errno),
}

impl Look {
    /// What a failed call says about an entry that was there before.
    fn from_error(stat: Option<Stat>, error: Errno) -> Self {
        match error {
            // Gone is found out by looking again.
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::INVAL | Errno::STALE => Self::Raced,
            error => Self::Failed(stat, error),
        }
    }
}

/// A small or large file that was read.
struct ReadFile {
    content: Content,
    stat: Stat,
    xattrs: Result<Xattrs, Errno>,
    torn: bool,
    /// Where its data begins in the group, for a small one.
    start: usize,
}

impl Run<'_> {
    pub(super) fn visit(&mut self, walk: &mut Walk) -> Result<(), Halt> {
        let mut base = self.seek(walk.path())?;
        let mut last = Look::Raced;
        // Read with the names of the directory: true until something else is seen.
        let mut hint = walk.hint();
        for _ in 0..LOOKS {
            // `base` is taken by the look that uses it: a second look at what has changed under the
            // first one reads it.
            last = self.look(walk, &mut base, hint)?;
            hint = FileType::Unknown;
            match last {
                Look::Done => return Ok(()),
                Look::Raced => {}
                Look::Failed(..) => break,
            }
        }
        match last {
            Look::Failed(stat, error) => self.unreadable(walk, stat, &error.to_string()),
            _ => self.unreadable(walk, None, "it became something else again and again"),
        }
    }

    fn look(&mut self, walk: &mut Walk, base: &mut Option<Entry>, hint: FileType) -> Result<Look, Halt> {
        // What must be read anyway is looked at by its handle: one call less for every new file.
        if base.is_none() && hint == FileType::RegularFile {
            return match Handle::new(walk.dir(), walk.name(), self.mounts) {
                Ok(handle) if handle.is_regular() => self.file(walk, handle, None),
                Ok(_) => Ok(Look::Raced),
                Err(Errno::NOENT) => Ok(self.vanished()),
                Err(Errno::XDEV) => self.mounted_file(walk),
                Err(error) => Ok(Look::from_error(None, error)),
            };
        }
        // To look must not make the kernel mount anything.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match retry(|| statat(walk.dir(), walk.name(), flags)) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(self.vanished()),
            Err(error) => return Ok(Look::from_error(None, error)),
        };
        // Before the base is asked: an inode has its content in a manifest once, under the first of
        // its names in this walk, whichever that was in the base.
        if let Some(done) = self.another_name(walk, &stat)? {
            return Ok(done);
        }
        if let Some(entry) = base.take_if(|entry| holds(entry, &stat, self.bound_ns, self.damaged)) {
            return self.unchanged(walk, entry, &stat);
        }
        match type_of(&stat) {
            FileType::Directory => {
                let xattrs = metadata::xattrs_at(walk.dir(), walk.name());
                self.directory(walk, &stat, xattrs)
            }
            FileType::RegularFile => match Handle::new(walk.dir(), walk.name(), self.mounts) {
                Ok(handle) if handle.is_regular() => self.file(walk, handle, base.as_ref()),
                Ok(_) => Ok(Look::Raced),
                Err(Errno::XDEV) => self.mounted_file(walk),
                Err(error) => Ok(Look::from_error(Some(stat), error)),
            },
            FileType::Symlink => self.symlink(walk, &stat),
            FileType::Fifo => self.special(walk, &stat, EntryKind::Fifo),
            FileType::Socket => self.special(walk, &stat, EntryKind::Socket),
            FileType::CharacterDevice => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.special(walk, &stat, EntryKind::CharDevice { major, minor })
            }
            FileType::BlockDevice => {
                let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                self.special(walk, &stat, EntryKind::BlockDevice { major, minor })
            }
            FileType::Unknown => Ok(Look::Failed(Some(stat), Errno::OPNOTSUPP)),
        }
    }

    fn vanished(&self) -> Look {
        self.progress.vanished_entries.add(1);
        Look::Done
    }

    /// An entry that is as the base has it: nothing of it is opened.
    fn unchanged(&mut self, walk: &mut Walk, entry: Entry, stat: &Stat) -> Result<Look, Halt> {
        if entry.kind == EntryKind::Directory {
            return self.directory(walk, stat, Ok(entry.xattrs));
        }
        self.push_first(walk, stat, entry, false)
    }

    /// A further name of an inode that is in already.
    fn another_name(&mut self, walk: &Walk, stat: &Stat) -> Result<Option<Look>, Halt> {
        if stat.st_nlink <= 1 || type_of(stat) == FileType::Directory {
            return Ok(None);
        }
        let Some(target) = self.links.follow((stat.st_dev, stat.st_ino), metadata::mark(stat)) else {
            return Ok(None);
        };
        let entry = metadata::entry(walk.path(), EntryKind::Hardlink { target }, stat, Vec::new());
        self.push(entry, false)?;
        Ok(Some(Look::Done))
    }

    /// An entry that is no further name of another.
    #[expect(clippy::unnecessary_cast, reason = "the type of the count differs between architectures")]
    fn push_first(&mut self, walk: &Walk, stat: &Stat, entry: Entry, grouped: bool) -> Result<Look, Halt> {
        self.push(entry, grouped)?;
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            self.links.insert(id, metadata::mark(stat), stat.st_nlink as u64, walk.path());
        }
        Ok(Look::Done)
    }

    fn directory(
        &mut self,
        walk: &mut Walk,
        stat: &Stat,
        xattrs: Result<Xattrs, Errno>,
    ) -> Result<Look, Halt> {
        let xattrs = match xattrs {
            Ok(xattrs) => xattrs,
            Err(error) => return Ok(Look::from_error(Some(*stat), error)),
        };
        let mut entry = metadata::entry(walk.path(), EntryKind::Directory, stat, xattrs);
        let elsewhere = stat.st_dev != self.root_dev;
        // A mount point shows the device of what is mounted on it. The same device may be mounted
        // once more: that one `enter` finds.
        if elsewhere && self.mounts == Mounts::Stay {
            self.mount_left_out(walk, &mut entry);
            self.push(entry, false)?;
            return Ok(Look::Done);
        }
        // `XDEV`: a mount of the same device, or one that has come since `stat`.
        match walk.enter(stat, self.mounts) {
            Ok(()) => {}
            Err(Errno::XDEV) => self.mount_left_out(walk, &mut entry),
            Err(error) => return Ok(Look::from_error(Some(*stat), error)),
        }
        // The sync of the root did not reach this one.
        if elsewhere && rustix::fs::syncfs(walk.dir()).is_err() {
            self.unsynced = true;
        }
        self.push(entry, false)?;
        Ok(Look::Done)
    }

    /// `entry` stands for what is left out, and is marked where that counts.
    fn mount_left_out(&mut self, walk: &Walk, entry: &mut Entry) {
        self.mounts_left_out += 1;
        let counts = self.nested_mounts == NestedMounts::Partial;
        if counts {
            entry.flags.unreadable = true;
            self.progress.unreadable_entries.add(1);
        }
        let lines = if counts { &mut self.findings } else { &mut self.warnings };
        lines.push(|| {
            let path = escape_path(walk.path());
            format!("{path} is another filesystem or subvolume; what is in it is not backed up")
        });
    }

    /// A file mounted over another: an empty file marks the place.
    fn mounted_file(&mut self, walk: &Walk) -> Result<Look, Halt> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statat(walk.dir(), walk.name(), flags) {
            Ok(stat) => stat,
            Err(error) => return Ok(Look::from_error(None, error)),
        };
        let kind = EntryKind::File(FileData::default());
        let mut entry = metadata::entry(walk.path(), kind, &stat, Vec::new());
        self.mount_left_out(walk, &mut entry);
        self.push(entry, false)?;
        Ok(Look::Done)
    }

    fn symlink(&mut self, walk: &Walk, stat: &Stat) -> Result<Look, Halt> {
        match readlinkat(walk.dir(), walk.name(), Vec::new()) {
            Ok(target) => self.special(walk, stat, EntryKind::Symlink { target: target.into_bytes() }),
            Err(error) => Ok(Look::from_error(Some(*stat), error)),
        }
    }

    fn special(&mut self, walk: &Walk, stat: &Stat, kind: EntryKind) -> Result<Look, Halt> {
        match metadata::xattrs_at(walk.dir(), walk.name()) {
            Ok(xattrs) => {
                let entry = metadata::entry(walk.path(), kind, stat, xattrs);
                self.push_first(walk, stat, entry, false)
            }
            Err(error) => Ok(Look::from_error(Some(*stat), error)),
        }
    }

    fn file(&mut self, walk: &Walk, handle: Handle, base: Option<&Entry>) -> Result<Look, Halt> {
        let stat = handle.stat;
        if let Some(done) = self.another_name(walk, &stat)? {
            return Ok(done);
        }
        let file = match handle.open() {
            Ok(file) => file,
            Err(error) => return Ok(Look::Failed(Some(stat), error)),
        };
        self.progress.changed_files.add(1);
        let base_file = base.and_then(|entry| match &entry.kind {
            EntryKind::File(file) if !entry.flags.unreadable => Some(file),
            _ => None,
        });
        match self.read(&file, stat, base_file) {
            Ok(read) => self.finish_file(walk, read, base_file),
            Err(ReadError::Stopped) => Err(Halt::Stopped),
            Err(ReadError::Source(error)) => Ok(Look::Failed(Some(stat), error)),
        }
    }

    /// Reads a file, once more if it changed meanwhile.
    fn read(
        &mut self,
        file: &OwnedFd,
        mut stat: Stat,
        base: Option<&FileData>,
    ) -> Result<ReadFile, ReadError> {
        let mut again = true;
        loop {
            let start = self.output.group.bytes.len();
            let content = self.read_once(file, &stat, base)?;
            // Of the open file: its name may lead to another by now.
            let after = fstat(file)?;
            let torn = content.short || changed(&stat, &after);
            if torn && again {
                // The bytes of the first reading lie at the end of the group and would be stored
                // for nobody.
                self.output.group.bytes.truncate(start);
                (again, stat) = (false, after);
                continue;
            }
            let xattrs = metadata::xattrs_of_file(file.as_fd());
            return Ok(ReadFile { content, stat, xattrs, torn, start });
        }
    }

    fn read_once(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        base: Option<&FileData>,
    ) -> Result<Content, ReadError> {
        if size_of(stat) <= SMALL {
            let content = read_small(file.as_fd(), stat, &mut self.output.group.bytes)?;
            self.progress.read_bytes.add(content.data_bytes);
            return Ok(content);
        }
        let known: HashSet<FrameId> =
            base.into_iter().flat_map(|file| &file.extents).map(|extent| extent.frame).collect();
        let progress = self.progress;
        self.cutter.read(file.as_fd(), stat, &known, &mut |bytes| progress.read_bytes.add(bytes))
    }

    fn finish_file(&mut self, walk: &Walk, read: ReadFile, base: Option<&FileData>) -> Result<Look, Halt> {
        let ReadFile { mut content, stat, xattrs, torn, start } = read;
        let mut flags = EntryFlags { torn, unreadable: false };
        let mut grouped = false;
        // A file that was touched and has the content it had keeps its extents: nothing of it is
        // stored again, and its frames are those of the base.
        let kept = base.filter(|base| {
            base.hash.is_some()
                && base.hash == content.hash
                && !base.extents.iter().any(|extent| self.damaged.contains(&extent.frame))
        });
        if let Some(base) = kept {
            self.output.group.bytes.truncate(start);
            content.extents.clone_from(&base.extents);
        } else if let Some(hash) = content.hash.filter(|_| !content.ranges.is_empty()) {
            let (findings, progress) = (&mut self.findings, self.progress);
            let placed = self.output.place(walk.path(), &content, hash, start, &mut |error| {
                super::run::refuse(findings, progress, &error);
            })?;
            (content.extents, grouped) = (placed.extents, placed.grouped);
        }
        let xattrs = xattrs.unwrap_or_else(|error| {
            // The content is good and kept; that something of the file is missing has to be seen.
            flags.unreadable = true;
            self.report_unreadable(walk, &format!("its attributes: {error}"));
            Vec::new()
        });
        if torn {
            // After what was read is in its group: with the policy to fail nothing of the run is
            // used.
            self.report_torn(walk)?;
        }
        let data = FileData { size: content.size, extents: content.extents, hash: content.hash };
        let mut entry = metadata::entry(walk.path(), EntryKind::File(data), &stat, xattrs);
        entry.flags = flags;
        self.push_first(walk, &stat, entry, grouped)
    }

    fn report_torn(&mut self, walk: &Walk) -> Result<(), Halt> {
        let path = escape_path(walk.path());
        if self.policy == TornPolicy::Fail {
            return Err(CaptureError::Torn { path }.into());
        }
        self.progress.torn_files.add(1);
        self.findings.push(|| format!("{path} changed while it was read, twice"));
        Ok(())
    }

    fn report_unreadable(&mut self, walk: &Walk, why: &str) {
        self.progress.unreadable_entries.add(1);
        self.findings.push(|| format!("{} cannot be read: {why}", escape_path(walk.path())));
    }

    /// An entry that is there and of which no more than this is known.
    fn unreadable(&mut self, walk: &Walk, stat: Option<Stat>, why: &str) -> Result<(), Halt> {
        self.report_unreadable(walk, why);
        // Its name is in the tree all the same: who restores it finds a mark in its place and not a
        // gap.
        let kind = stat.as_ref().map_or(walk.hint(), type_of);
        let kind = match kind {
            FileType::Directory => EntryKind::Directory,
            FileType::Fifo => EntryKind::Fifo,
            FileType::Socket => EntryKind::Socket,
            // A link or device whose details are unknown, as a file without content.
            _ => {
                let size =
                    stat.as_ref().filter(|stat| type_of(stat) == FileType::RegularFile).map_or(0, size_of);
                EntryKind::File(FileData { size, extents: Vec::new(), hash: None })
            }
        };
        let mut entry = match &stat {
            Some(stat) => metadata::entry(walk.path(), kind, stat, Vec::new()),
            None => bare(walk.path(), kind),
        };
        entry.flags.unreadable = true;
        self.push(entry, false)
    }
}

fn bare(path: &[u8], kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        inode: 0,
        xattrs: Vec::new(),
        flags: EntryFlags::default(),
    }
}
