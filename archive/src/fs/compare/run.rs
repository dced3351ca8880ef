//! One comparison from start to end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::checks::{Check, Checks, Giver, workers};
use super::node::{differences, is_kind, is_unsupported};
use crate::entry::{Entry, EntryKind, path_order};
use crate::fetch::FrameFetcher;
use crate::fs::metadata::{self, size_of};
use crate::fs::open::{self, Mounts};
use crate::fs::progress::RestoreProgress;
use crate::fs::restore::{Found, RestoreError, RestoreOptions, RestoreReport, RestoreRequest, Selection};
use crate::fs::text::escape_path;
use crate::fs::walk::{Step, Walk};
use crate::manifest::ManifestReader;

const PAGE_CACHE: usize = 4 << 20;

/// A finished comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CompareReport {
    pub entries: u64,
    pub files: u64,
    /// Content read and hashed.
    pub bytes: u64,
    /// The first of what differs, with escaped paths.
    pub differences: Vec<String>,
    /// How much differs in all.
    pub differences_total: u64,
    /// What is not there and may be lost, when salvaging: names of files, and
    /// pages of the manifest.
    pub lost_total: u64,
}

impl CompareReport {
    /// Holds what is not there against what the restore says is lost. A salvage
    /// lets any file be absent; one that the restore did not name differs.
    #[must_use]
    pub fn after(mut self, written: &RestoreReport) -> Self {
        if self.lost_total != written.lost_total {
            self.differences_total += 1;
            self.differences.push(format!(
                ".: {} files or pages of the manifest are missing, and the restore found {} lost",
                self.lost_total, written.lost_total
            ));
        }
        self
    }
}

/// Holds a tree against a manifest, as a restore with the same options should
/// have left it.
///
/// # Errors
/// If the manifest or the target cannot be read, or the cancel flag is set. A
/// difference is no error.
pub fn compare(request: RestoreRequest) -> Result<CompareReport, RestoreError> {
    let RestoreRequest { root, target, options, source, progress, cancel } = request;
    let unusable = |error: Errno| RestoreError::Target { source: error.into() };
    let target = open::reopen_directory(target.as_fd()).map_err(unusable)?;
    let fetcher = FrameFetcher::new(source, PAGE_CACHE);
    let walk = Walk::new(target.try_clone().map_err(|source| RestoreError::Target { source })?);
    let workers = workers(&options);
    let checks = Checks::new(&progress, &cancel, workers);
    let lost_total = std::thread::scope(|scope| {
        // Before the workers: it is dropped on every way out, and they end by that.
        let giver = Giver::new(&checks);
        (0..workers).for_each(|_| drop(scope.spawn(|| checks.work())));
        let run = Run {
            options: &options,
            target: &target,
            selection: Selection::new(ManifestReader::open(&fetcher, root), &options.paths, options.salvage),
            walk,
            here: false,
            ended: false,
            giver,
            checks: &checks,
            progress: &progress,
            lost: 0,
        };
        run.run(&cancel)
    })?;
    // What was cancelled counts as unequal so far: it must not be reported.
    if cancel.load(Ordering::Relaxed) {
        return Err(RestoreError::Cancelled);
    }
    let found = checks.found();
    Ok(CompareReport {
        entries: progress.entries(),
        files: progress.files(),
        bytes: progress.bytes(),
        differences: found.listed,
        differences_total: found.total,
        lost_total,
    })
}

struct Run<'a> {
    options: &'a RestoreOptions,
    target: &'a OwnedFd,
    selection: Selection<'a>,
    walk: Walk,
    /// The walk stands on a name that was not compared yet.
    here: bool,
    ended: bool,
    giver: Giver<'a>,
    checks: &'a Checks<'a>,
    progress: &'a RestoreProgress,
    /// What is not there and may be lost.
    lost: u64,
}

/// Whether something of the snapshot may be missing on the target.
#[derive(PartialEq, Eq)]
enum Missing {
    No,
    LeftOut,
    Lost,
}

impl Run<'_> {
    /// Gives what is not there and may be lost.
    fn run(mut self, cancel: &AtomicBool) -> Result<u64, RestoreError> {
        while let Some(found) = self.selection.next()? {
            if cancel.load(Ordering::Relaxed) {
                return Err(RestoreError::Cancelled);
            }
            match found {
                Found::Entry(entry) => self.entry(entry)?,
                Found::Lost(_) => self.lost += 1,
            }
        }
        self.rest_is_extra();
        self.giver.finish();
        Ok(self.lost)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), RestoreError> {
        if entry.path.is_empty() {
            return self.root(&entry);
        }
        if self.advance_to(&entry.path) {
            self.here = false;
            return self.compare(entry);
        }
        match self.may_be_missing(&entry)? {
            Missing::No => self.differs(&entry.path, "it is missing"),
            Missing::LeftOut => {}
            Missing::Lost => self.lost += 1,
        }
        Ok(())
    }

    fn root(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        let unusable = |error: Errno| RestoreError::Target { source: error.into() };
        let stat = fstat(self.target).map_err(unusable)?;
        let xattrs = metadata::xattrs_of_file(self.target.as_fd()).map_err(unusable)?;
        // Into a directory that was there only what is in it was restored.
        if !self.options.into_nonempty {
            let unsupported = |name: &[u8]| is_unsupported(self.target.as_fd(), c".", name);
            for what in differences(entry, &stat, &xattrs, self.options, &unsupported) {
                self.differs(&entry.path, &what);
            }
        }
        self.progress.entries.add(1);
        self.walk.enter_root().map_err(unusable)
    }

    /// Moves the walk on to this path; false if it is not there.
    fn advance_to(&mut self, path: &[u8]) -> bool {
        loop {
            if !self.here && !self.step() {
                return false;
            }
            match path_order(self.walk.path(), path) {
                // The walk and the manifest are in the same order: what stands before the entry is
                // in no manifest.
                std::cmp::Ordering::Less => self.extra(),
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Greater => return false,
            }
        }
    }

    /// Goes to the next name of the target.
    fn step(&mut self) -> bool {
        while !self.ended {
            match self.walk.advance() {
                Step::Name => {
                    self.here = true;
                    return true;
                }
                Step::Lost(path) => self.differs(&path, "it was moved while it was compared"),
                Step::End => self.ended = true,
            }
        }
        false
    }

    fn extra(&mut self) {
        self.here = false;
        if !self.options.into_nonempty {
            let path = self.walk.path().to_vec();
            self.differs(&path, "it should not be there");
        }
    }

    fn rest_is_extra(&mut self) {
        while self.here || self.step() {
            self.extra();
        }
    }

    /// Compares what the walk stands on.
    fn compare(&mut self, entry: Entry) -> Result<(), RestoreError> {
        match self.try_compare(entry) {
            Ok(()) => {
                self.progress.entries.add(1);
                Ok(())
            }
            Err(EntryError::Source(error)) => {
                self.differs(self.walk.path(), &format!("it cannot be read ({error})"));
                Ok(())
            }
            Err(EntryError::Manifest(error)) => Err(*error),
        }
    }

    fn try_compare(&mut self, entry: Entry) -> Result<(), EntryError> {
        let stat = statat(self.walk.dir(), self.walk.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        if !is_kind(&entry, &stat) {
            self.differs(&entry.path, "it is of another kind");
            return Ok(());
        }
        if let EntryKind::Hardlink { target } = &entry.kind {
            return self.hardlink(&entry, &stat, target);
        }
        self.metadata(&entry, &stat)?;
        match &entry.kind {
            EntryKind::Directory => self.walk.enter(&stat, Mounts::Cross)?,
            EntryKind::Symlink { target } => {
                let there = readlinkat(self.walk.dir(), self.walk.name(), Vec::new())?;
                if there.as_bytes() != target {
                    self.differs(&entry.path, "it leads elsewhere");
                }
            }
            EntryKind::File(_) => self.file(entry, &stat)?,
            _ => {}
        }
        Ok(())
    }

    fn metadata(&mut self, entry: &Entry, stat: &Stat) -> Result<(), EntryError> {
        let xattrs = metadata::xattrs_at(self.walk.dir(), self.walk.name())?;
        // A directory above what was asked for may have been there before.
        let before = self.options.into_nonempty && entry.kind == EntryKind::Directory;
        if !before {
            let unsupported = |name: &[u8]| is_unsupported(self.walk.dir(), self.walk.name(), name);
            for what in differences(entry, stat, &xattrs, self.options, &unsupported) {
                self.differs(&entry.path, &what);
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: Entry, stat: &Stat) -> Result<(), EntryError> {
        let Entry { path, kind: EntryKind::File(data), flags, .. } = entry else { return Ok(()) };
        if flags.unreadable && data.extents.is_empty() {
            self.differs(&path, "it is there though its content is not in the snapshot");
            return Ok(());
        }
        if size_of(stat) != data.size {
            self.differs(&path, &format!("it has {} bytes, not {}", stat.st_size, data.size));
            return Ok(());
        }
        // The handle is taken now and read later by another thread: by then the name may lead
        // elsewhere.
        let handle = open::handle(self.walk.dir(), self.walk.name(), Mounts::Cross)?;
        let found = fstat(&handle)?;
        if (found.st_dev, found.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(Errno::STALE.into());
        }
        self.giver.give(Check { path, handle, data });
        Ok(())
    }

    /// Two names of one inode; or, where the other was not asked for, a copy.
    fn hardlink(&mut self, entry: &Entry, stat: &Stat, target: &[u8]) -> Result<(), EntryError> {
        if self.selection.holds(target) {
            let (above, name) = open::split_path(target);
            let there = open::descend(self.target.as_fd(), above)
                .and_then(|above| statat(&above, name, AtFlags::SYMLINK_NOFOLLOW));
            let same = there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino));
            if !same {
                self.differs(&entry.path, &format!("it is not another name of {}", escape_path(target)));
            }
            return Ok(());
        }
        let original =
            self.selection.lookup(target).map_err(|error| EntryError::Manifest(Box::new(error)))?;
        match original {
            Some(original) if is_kind(&original, stat) => {
                let copy = Entry { path: entry.path.clone(), ..original };
                self.metadata(&copy, stat)?;
                self.file(copy, stat)
            }
            _ => {
                self.differs(&entry.path, "it is of another kind");
                Ok(())
            }
        }
    }

    /// Whether a restore with these options leaves the entry out.
    fn may_be_missing(&self, entry: &Entry) -> Result<Missing, RestoreError> {
        let when = |may: bool, missing: Missing| if may { missing } else { Missing::No };
        Ok(match &entry.kind {
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
                when(!self.options.devices, Missing::LeftOut)
            }
            EntryKind::File(data) if entry.flags.unreadable && data.extents.is_empty() => Missing::LeftOut,
            EntryKind::File(_) => when(self.options.salvage, Missing::Lost),
            EntryKind::Hardlink { target } => match self.selection.lookup(target) {
                // Of a hostile manifest a link may lead to a link: it is not followed further.
                Ok(Some(original)) if !matches!(original.kind, EntryKind::Hardlink { .. }) => {
                    let unselected = !self.selection.holds(target);
                    let file = matches!(original.kind, EntryKind::File(_));
                    if unselected && !file { Missing::LeftOut } else { self.may_be_missing(&original)? }
                }
                Ok(_) => Missing::No,
                Err(error) if self.options.salvage && error.is_manifest_loss() => Missing::Lost,
                Err(error) => return Err(error),
            },
            _ => Missing::No,
        })
    }

    fn differs(&self, path: &[u8], what: &str) {
        self.checks.differs(path, what);
    }
}

/// Why an entry was not compared.
enum EntryError {
    Source(Errno),
    Manifest(Box<RestoreError>),
}

impl From<Errno> for EntryError {
    fn from(error: Errno) -> Self {
        Self::Source(error)
    }
}
