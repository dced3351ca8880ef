//! The walk of one pass.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_archive::entry::EntryKind;
use holdfast_archive::fs::parts::{
    Links, Mounts, Names, Step, Walk, Wanted, Xattrs, apply, changed, ctime_ns, descend, directory, entry,
    handle, mark, reopen_directory, reopen_file, split_path, type_of, xattrs_of_file,
};
use rustix::fs::{AtFlags, FileType, IFlags, Mode, Stat, fstat, linkat, mkdirat, statat};
use rustix::io::Errno;

use super::content::{Copied, Copier};
use super::error::{CloneError, shown, shown_below};
use super::flags;
use super::make::{self, EntryError, Made, Source, Spot, lacks, none};
use super::notes::{Note, Noted, Notes};
use super::pass::{Stats, Trees};
use super::remove::remove_at;
use super::trail::{Meant, Trail};

const LOOK: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

pub(super) struct Run<'a> {
    trees: &'a Trees<'a>,
    state: Source,
    walk: Walk,
    trail: Trail,
    links: Links,
    copier: Copier<'a>,
    cancel: &'a AtomicBool,
    /// Being taken, in a first pass.
    pub(super) notes: Option<Notes>,
    /// Of the first pass, in a second one that has them: only then is anything in the clone.
    pub(super) noted: Option<Noted>,
    /// What is to be made unwritable in the end.
    frozen: Option<Notes>,
    stats: Stats,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        trees: &'a Trees<'a>,
        state: Source,
        cancel: &'a AtomicBool,
    ) -> Result<Self, CloneError> {
        let source = reopen_directory(trees.source.as_fd())
            .map_err(|error| CloneError::of(shown(trees.root_path), "opened", error))?;
        Ok(Self {
            trees,
            state,
            walk: Walk::new(source),
            trail: Trail::new(),
            links: Links::default(),
            copier: Copier::new(cancel),
            cancel,
            notes: None,
            noted: None,
            frozen: None,
            stats: Stats::default(),
        })
    }

    /// Gives back the notes that were taken.
    pub(super) fn run(mut self) -> Result<(Stats, Option<Notes>), CloneError> {
        let root = self.enter_root();
        self.settle(b"", root)?;
        loop {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CloneError::Cancelled);
            }
            match self.walk.advance() {
                Step::Name => {
                    self.leave_to(self.walk.depth())?;
                    self.stats.entries += 1;
                    if self.trail.depth() < self.walk.depth() {
                        // In a directory that changed when the clone was to follow into it.
                        self.stats.missed += 1;
                        continue;
                    }
                    let visited = self.visit();
                    let path = self.walk.path().to_vec();
                    self.settle(&path, visited)?;
                }
                Step::Lost(path) => self.settle(&path, Err(EntryError::Raced))?,
                Step::End => break,
            }
        }
        self.leave_to(0)?;
        // A root that changed while it was quiesced: somebody wrote who was not to.
        let stat = fstat(&self.trees.source);
        let stat = stat.map_err(|error| CloneError::of(shown(self.trees.root_path), "read", error))?;
        if self.is_quiesced() && changed(&self.trees.stat, &stat) {
            return Err(CloneError::Changing { path: shown(self.trees.root_path) });
        }
        self.freeze()?;
        Ok((self.stats, self.notes))
    }

    fn is_quiesced(&self) -> bool {
        matches!(self.state, Source::Quiesced)
    }

    /// A first pass goes on past whatever changes under it.
    fn settle(&mut self, path: &[u8], outcome: Result<(), EntryError>) -> Result<(), CloneError> {
        let error = match outcome {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let source = || shown_below(self.trees.root_path, path);
        match error {
            EntryError::Raced
            | EntryError::Source(
                Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE | Errno::INVAL,
                _,
            ) => {
                if self.is_quiesced() || path.is_empty() {
                    return Err(CloneError::Changing { path: source() });
                }
                self.stats.missed += 1;
                Ok(())
            }
            EntryError::Source(error, action) => Err(CloneError::of(source(), action, error)),
            EntryError::Clone(error, action) => {
                Err(CloneError::of(shown_below(self.trees.clone_path, path), action, error))
            }
            EntryError::Lacks(what) => Err(CloneError::Lacks { path: source(), what }),
            EntryError::Quota => Err(CloneError::Quota { path: source() }),
            EntryError::Is(error) => Err(error),
        }
    }

    fn enter_root(&mut self) -> Result<(), EntryError> {
        let xattrs = xattrs_of_file(self.trees.source.as_fd());
        let xattrs = xattrs.map_err(|error| EntryError::Source(error, "read"))?;
        self.walk.enter_root().map_err(|error| EntryError::Source(error, "read"))?;
        let clone = reopen_directory(self.trees.clone.as_fd());
        let clone = clone.map_err(|error| EntryError::Clone(error, "opened"))?;
        let stat = self.trees.stat;
        self.enter(clone, &stat, xattrs)
    }

    fn visit(&mut self) -> Result<(), EntryError> {
        let stat = statat(self.walk.dir(), self.walk.name(), LOOK);
        let stat = stat.map_err(|error| EntryError::Source(error, "read"))?;
        // A rename cannot exchange what lies on two filesystems, and a mount would
        // stay where it is.
        if stat.st_dev != self.trees.stat.st_dev {
            return Err(EntryError::Source(Errno::XDEV, "read"));
        }
        match type_of(&stat) {
            FileType::Directory => self.directory(&stat),
            FileType::Unknown => Err(EntryError::Source(Errno::OPNOTSUPP, "read")),
            kind => self.leaf(&stat, kind),
        }
    }

    fn directory(&mut self, stat: &Stat) -> Result<(), EntryError> {
        let name = self.walk.name().to_owned();
        self.walk.enter(stat, Mounts::Stay).map_err(|error| EntryError::Source(error, "opened"))?;
        let xattrs = xattrs_of_file(self.walk.dir()).map_err(|error| EntryError::Source(error, "read"))?;
        let there = self.there(&name)?;
        let kept = there.is_some_and(|there| type_of(&there) == FileType::Directory);
        if !kept {
            self.make_room(&name, there.as_ref())?;
        }
        let clone = self.open_directory(&name, kept)?;
        self.enter(clone, stat, xattrs)
    }

    fn open_directory(&self, name: &CStr, kept: bool) -> Result<OwnedFd, EntryError> {
        let clone = |action| move |error| EntryError::Clone(error, action);
        let top = self.trail.top().map_err(clone("opened"))?;
        if !kept {
            mkdirat(top, name, Mode::RWXU).map_err(clone("created"))?;
        }
        directory(top, name, Mounts::Stay).map_err(clone("opened"))
    }

    /// Goes into a directory of the clone. The walk is in its source already.
    fn enter(&mut self, clone: OwnedFd, stat: &Stat, xattrs: Xattrs) -> Result<(), EntryError> {
        let set = flags::read(self.walk.dir()).map_err(|error| EntryError::Source(error, "read"))?;
        if set.contains(IFlags::PROJECT_INHERIT) {
            return Err(EntryError::Quota);
        }
        flags::carry(set, clone.as_fd()).map_err(|error| lacks("its flags", error))?;
        self.prune(&clone)?;
        let meant = Meant {
            entry: entry(self.walk.path(), EntryKind::Directory, stat, xattrs),
            freezing: flags::freezing(set),
        };
        self.trail.push(clone, meant).map_err(|error| EntryError::Clone(error, "opened"))
    }

    /// Removes what the directory of the clone has and its source has not.
    fn prune(&mut self, clone: &OwnedFd) -> Result<(), EntryError> {
        let (Some(names), true) = (self.walk.names(), self.noted.is_some()) else { return Ok(()) };
        let there = Names::read(clone.as_fd()).map_err(|error| EntryError::Clone(error, "read"))?;
        // Both lists are sorted by name: one walk along them finds what is too much.
        let mut next = 0;
        for at in 0..there.len() {
            let Some((name, _)) = there.get(at) else { break };
            while names.get(next).is_some_and(|(wanted, _)| wanted < name) {
                next += 1;
            }
            if names.get(next).is_none_or(|(wanted, _)| wanted != name) {
                remove_at(clone.as_fd(), name).map_err(|error| EntryError::Clone(error, "removed"))?;
                self.stats.removed += 1;
            }
        }
        Ok(())
    }

    /// What the clone has under this name.
    fn there(&self, name: &CStr) -> Result<Option<Stat>, EntryError> {
        if self.noted.is_none() {
            return Ok(None);
        }
        let found = self.trail.top().and_then(|top| statat(top, name, LOOK));
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(EntryError::Clone(error, "read")),
        }
    }

    /// Removes what is there.
    fn make_room(&mut self, name: &CStr, there: Option<&Stat>) -> Result<(), EntryError> {
        if there.is_some() {
            let removed = self.trail.top().and_then(|top| remove_at(top, name));
            removed.map_err(|error| EntryError::Clone(error, "removed"))?;
            self.stats.removed += 1;
        }
        Ok(())
    }

    fn leaf(&mut self, stat: &Stat, kind: FileType) -> Result<(), EntryError> {
        let name = self.walk.name().to_owned();
        let note = match &mut self.noted {
            Some(noted) => noted.on(self.walk.path()).map_err(unnoted)?,
            None => None,
        };
        let id = (stat.st_dev, stat.st_ino);
        // Before its content is asked for: that is in the clone under the first name.
        if stat.st_nlink > 1
            && let Some(first) = self.links.follow(id, look_of(stat))
        {
            return self.link(&name, &first);
        }
        let there = self.there(&name)?;
        let holds = |note: &Note| there.is_some_and(|there| note.holds(stat, &there));
        if let Some(note) = note.filter(holds) {
            self.stats.unchanged += 1;
            self.remember_frozen(self.walk.path().to_vec(), note.freezing)?;
        } else {
            self.make_room(&name, there.as_ref())?;
            let top = self.trail.top().map_err(|error| EntryError::Clone(error, "opened"))?;
            let spot = Spot { source: self.walk.dir(), clone: top, name: &name };
            let made = match kind {
                FileType::RegularFile => make::file(&spot, &mut self.copier, self.state)?,
                _ => make::special(&spot, stat, self.state)?,
            };
            self.made(&made)?;
        }
        self.remember_link(stat);
        Ok(())
    }

    #[expect(clippy::unnecessary_cast, reason = "the type of the count differs between architectures")]
    fn remember_link(&mut self, stat: &Stat) {
        if stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            self.links.insert(id, look_of(stat), stat.st_nlink as u64, self.walk.path());
        }
    }

    fn made(&mut self, made: &Made) -> Result<(), EntryError> {
        match made.copied {
            Copied::Shared => self.stats.shared_files += 1,
            Copied::Bytes(bytes) => {
                self.stats.copied_files += 1;
                self.stats.copied_bytes += bytes;
            }
            Copied::Short => {}
        }
        // Left in the clone all the same: without a note the second pass takes it again.
        if made.torn {
            return Err(EntryError::Raced);
        }
        // Noted only where no change can have escaped the copying: the second pass
        // believes a note and does not look at the content again.
        if let Some(notes) = &mut self.notes
            && ctime_ns(&made.stat) < made.bound_ns
        {
            let note = Note::new(self.walk.path(), &made.stat, made.clone_inode, made.freezing);
            notes.take(&note).map_err(unnoted)?;
        }
        self.remember_frozen(self.walk.path().to_vec(), made.freezing)
    }

    /// A further name of what is in the clone under its first.
    fn link(&mut self, name: &CStr, first: &[u8]) -> Result<(), EntryError> {
        let clone = |action| move |error| EntryError::Clone(error, action);
        let (above, first) = split_path(first);
        let above = descend(self.trees.clone.as_fd(), above).map_err(clone("linked"))?;
        let meant = statat(&above, first, LOOK).map_err(clone("linked"))?;
        let there = self.there(name)?;
        if there.is_some_and(|there| there.st_ino == meant.st_ino) {
            self.stats.unchanged += 1;
            return Ok(());
        }
        self.make_room(name, there.as_ref())?;
        let top = self.trail.top().map_err(clone("linked"))?;
        linkat(&above, first, top, name, AtFlags::empty()).map_err(clone("linked"))
    }

    /// Completes directories until so many are left.
    fn leave_to(&mut self, depth: usize) -> Result<(), CloneError> {
        while self.trail.depth() > depth {
            let left = self.trail.leave().map_err(|error| {
                CloneError::of(shown(self.trees.clone_path), "walked back through", error)
            })?;
            let Some((dir, meant)) = left else { break };
            // Only now: making entries in it changed its times. A first pass leaves this to
            // the second.
            if self.is_quiesced() {
                let mut missing = Vec::new();
                let wanted = Wanted { entry: &meant.entry, mode_mask: 0o7777, capability: true };
                apply(dir.as_fd(), &wanted, &mut missing);
                let path = meant.entry.path;
                let done = none(&missing).and_then(|()| self.remember_frozen(path.clone(), meant.freezing));
                self.settle(&path, done)?;
            }
        }
        Ok(())
    }

    fn remember_frozen(&mut self, path: Vec<u8>, freezing: IFlags) -> Result<(), EntryError> {
        if freezing.is_empty() || !self.is_quiesced() {
            return Ok(());
        }
        let mut note = Note::new(&path, &self.trees.stat, 0, freezing);
        note.path = path;
        if self.frozen.is_none() {
            let parent = self.trees.clone_path.parent().unwrap_or(std::path::Path::new("."));
            self.frozen = Some(Notes::begin(parent).map_err(unnoted)?);
        }
        self.frozen.as_mut().map_or(Ok(()), |frozen| frozen.take(&note)).map_err(unnoted)
    }

    /// Forbids writing where the source does, now that all is written.
    fn freeze(&mut self) -> Result<(), CloneError> {
        let Some(frozen) = self.frozen.take() else { return Ok(()) };
        let failed =
            |source| CloneError::Io { path: shown(self.trees.clone_path), action: "noted about", source };
        let mut frozen = frozen.finish().map_err(failed)?;
        while let Some(note) = frozen.next().map_err(failed)? {
            let done =
                self.freeze_at(&note).map_err(|error| lacks("its immutable or append-only flag", error));
            self.settle(&note.path, done)?;
        }
        Ok(())
    }

    fn freeze_at(&self, note: &Note) -> Result<(), Errno> {
        let (above, name) = split_path(&note.path);
        let above = descend(self.trees.clone.as_fd(), above)?;
        let name = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
        let name = if name.is_empty() { c"." } else { &name };
        let handle = handle(above.as_fd(), name, Mounts::Stay)?;
        let opened = match type_of(&fstat(&handle)?) {
            FileType::Directory => reopen_directory(handle.as_fd())?,
            _ => reopen_file(handle.as_fd())?,
        };
        flags::freeze(opened.as_fd(), note.freezing)
    }
}

/// What tells an inode with several names from another that got its number.
fn look_of(stat: &Stat) -> u32 {
    mark(stat) ^ ctime_ns(stat) as u32
}

fn unnoted(source: io::Error) -> EntryError {
    EntryError::Is(CloneError::Io { path: "the notes about the copy".to_owned(), action: "kept", source })
}
