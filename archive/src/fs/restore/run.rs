//! One restore from start to end, and all of it but the content of files.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::dirs::Dirs;
use super::file::{create, data_len, data_of, last_name, work};
use super::request::{RestoreError, RestoreReport, RestoreRequest};
use super::select::{Found, Selection};
use super::shared::{LargeFile, NewFile, Shared, StopOnPanic, Task, io, lock, refused};
use crate::entry::{Entry, EntryKind};
use crate::fetch::FrameFetcher;
use crate::fs::names::Names;
use crate::fs::text::escape_path;
use crate::fs::{metadata, open};
use crate::manifest::{ManifestReader, check_path};

/// Files up to this much data are made several at once.
const TOGETHER: usize = 1 << 20;
/// What one task holds, bytes: as much as the memory allows between these. A
/// file that is the same as an earlier one lies in that one's frame, which may
/// be in any pack: the more files ask together, the more of them share a request
/// and the decoding of a frame.
const MIN_TASK_BYTES: usize = 4 << 20;
const MAX_TASK_BYTES: usize = 16 << 20;
const TASK_FILES: usize = 8192;
/// Data that one worker writes in one task, bytes: among larger files there are
/// few that share a frame, and the other workers want some.
const TASK_DATA: usize = 64 << 20;
/// An entry without its path and attributes, roughly.
const ENTRY_BYTES: usize = 256;
/// Extents in one piece of a large file.
const PIECE_EXTENTS: usize = 512;
/// What one worker holds besides a task's data: a range as stored, a frame.
const READING_BYTES: usize = 14 << 20;
const PAGE_CACHE: usize = 4 << 20;
/// Frames of small files kept as they are stored: a copy of a file is anywhere
/// in the tree, its content in the frame of the first.
const MAX_KEPT: usize = 64 << 20;
/// Links made at once, when everything before them is there.
const LINKS: usize = 1024;
/// And bytes of their paths.
const LINKS_BYTES: usize = 4 << 20;

/// Restores a tree. Blocks until it is complete and written to disk.
///
/// # Errors
/// At the first thing that cannot be restored, but for what the options allow
/// to be left out. The target is then incomplete.
pub fn restore(request: RestoreRequest) -> Result<RestoreReport, RestoreError> {
    let RestoreRequest { root, target, options, source, progress, cancel } = request;
    rustix::fs::access("/proc/self/fd", rustix::fs::Access::EXISTS)
        .map_err(|error| RestoreError::NoProc { source: error.into() })?;
    let target = open::reopen_directory(target.as_fd()).map_err(unusable)?;
    // Before anything is made, and through the handle that everything is made below.
    let was_empty = Names::read(target.as_fd()).map_err(unusable)?.is_empty();
    if !was_empty && !options.into_nonempty {
        return Err(RestoreError::NotEmpty);
    }
    // Half for what small files share, the rest for the workers.
    let kept = (options.memory_bytes / 2).min(MAX_KEPT);
    let memory_bytes = options.memory_bytes - kept;
    let fetcher = FrameFetcher::new(source, PAGE_CACHE).keeping(kept);
    let workers = workers(options.workers, memory_bytes);
    let shared = Shared::new(&options, &fetcher, &progress, &cancel, workers + 1);
    // Otherwise the target would hand it on to all that is created in it, over the modes and lists
    // of the snapshot.
    let default_acl = metadata::take_default_acl(target.as_fd());
    let outcome = std::thread::scope(|scope| {
        // The workers end when the queue is closed or abandoned, which the guard does on a panic as
        // well: the scope waits for them.
        (0..workers).for_each(|_| drop(scope.spawn(|| work(&shared))));
        let guard = StopOnPanic(&shared);
        let selection = Selection::new(ManifestReader::open(&fetcher, root), &options.paths, options.salvage);
        let run = Run::new(&shared, &target, selection, task_bytes(workers, memory_bytes));
        let outcome = run.run(&cancel, was_empty);
        match &outcome {
            Ok(()) => shared.tasks.close(),
            Err(_) => shared.stop(),
        }
        drop(guard);
        outcome
    });
    // Put back even after a failure; what was restored whole has its own by now.
    if let Some(acl) = default_acl.filter(|_| outcome.is_err() || !was_empty) {
        metadata::put_default_acl(target.as_fd(), &acl).map_err(unusable)?;
    }
    outcome?;
    // Once for all: to sync each file by itself would take a flush of the disk for each of them.
    rustix::fs::syncfs(&target).map_err(unusable)?;
    Ok(report(&shared))
}

/// What was restored, and what was not.
fn report(shared: &Shared<'_>) -> RestoreReport {
    let left_out = std::mem::take(&mut *lock(&shared.left_out));
    let mut lost = std::mem::take(&mut *lock(&shared.lost));
    lost.listed.sort_unstable();
    let warnings = std::mem::take(&mut *lock(&shared.warnings)).listed;
    RestoreReport {
        entries: shared.progress.entries(),
        files: shared.progress.files(),
        bytes: shared.progress.bytes(),
        left_out: left_out.listed,
        left_out_total: left_out.total,
        lost: lost.listed,
        lost_total: lost.total,
        warnings,
    }
}

fn workers(asked: usize, memory_bytes: usize) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = if asked == 0 { processors } else { asked };
    wanted.min(memory_bytes.saturating_sub(PAGE_CACHE) / (READING_BYTES + MIN_TASK_BYTES)).max(1)
}

/// How much data one task may have, with so many workers in so much memory.
fn task_bytes(workers: usize, memory_bytes: usize) -> usize {
    let each = memory_bytes.saturating_sub(PAGE_CACHE) / workers;
    each.saturating_sub(READING_BYTES).clamp(MIN_TASK_BYTES, MAX_TASK_BYTES)
}

fn unusable(error: Errno) -> RestoreError {
    RestoreError::Target { source: error.into() }
}

/// Why something of the snapshot is not on the target.
enum Absent {
    LeftOut,
    Lost,
}

/// A further name to be given to an inode.
struct Link {
    dir: Arc<OwnedFd>,
    entry: Entry,
    target: Vec<u8>,
}

struct Run<'a> {
    shared: &'a Shared<'a>,
    target: &'a OwnedFd,
    selection: Selection<'a>,
    dirs: Dirs,
    /// Files for the next task.
    batch: Vec<NewFile>,
    batch_bytes: usize,
    batch_data: usize,
    task_bytes: usize,
    /// Of the next task.
    number: u64,
    links: Vec<Link>,
    /// Of their paths.
    links_bytes: usize,
    /// Of the links that are being collected.
    link_batch: u64,
    /// Paths not asked for whose content was restored under another of its names.
    copies: HashMap<Vec<u8>, Vec<u8>>,
}

impl<'a> Run<'a> {
    fn new(shared: &'a Shared<'a>, target: &'a OwnedFd, selection: Selection<'a>, task_bytes: usize) -> Self {
        Self {
            shared,
            target,
            selection,
            dirs: Dirs::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            batch_data: 0,
            task_bytes,
            number: 0,
            links: Vec::new(),
            links_bytes: 0,
            link_batch: 0,
            copies: HashMap::new(),
        }
    }
}

impl Run<'_> {
    fn run(mut self, cancel: &AtomicBool, was_empty: bool) -> Result<(), RestoreError> {
        while let Some(found) = self.selection.next()? {
            if cancel.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(RestoreError::Cancelled);
            }
            let entry = match found {
                Found::Entry(entry) => entry,
                Found::Lost(what) => {
                    self.shared.lose(&what);
                    continue;
                }
            };
            // A reader gives no such path. Whatever else hands entries over, this is the last look
            // before a name is created.
            check_path(&entry.path).map_err(|_| refused(&entry.path, "its path leaves the tree"))?;
            self.entry(entry, was_empty)?;
        }
        // The end of the tree: what is still open is left from the inside out, then the last links
        // and files are made, and the last directories get their times after both.
        while self.dirs.leave()? {
            self.settle()?;
        }
        self.make_links()?;
        self.dispatch()?;
        self.shared.wait(u64::MAX)?;
        self.dirs.finish_ready(self.shared, self.number, self.link_batch)
    }

    fn entry(&mut self, entry: Entry, was_empty: bool) -> Result<(), RestoreError> {
        if entry.path.is_empty() {
            return self.root(entry, was_empty);
        }
        self.go_to_parent(&entry)?;
        match &entry.kind {
            EntryKind::Directory => {
                // The directory is restored and its content named as missing: it was backed up
                // without it.
                if entry.flags.unreadable {
                    self.shared.leave_out(
                        &entry.path,
                        "what was in it, which could not be read when it was backed up",
                    );
                }
                self.directory(entry)
            }
            EntryKind::File(data) if entry.flags.unreadable && data.extents.is_empty() => {
                self.shared.leave_out(&entry.path, "it, because it could not be read when it was backed up");
                Ok(())
            }
            EntryKind::File(_) => self.file(entry),
            EntryKind::Symlink { target } => self.symlink(&entry, target),
            EntryKind::Hardlink { target } => {
                let target = target.clone();
                self.hardlink(entry, target)
            }
            EntryKind::Fifo => self.node(&entry, FileType::Fifo, 0),
            EntryKind::Socket => self.node(&entry, FileType::Socket, 0),
            EntryKind::CharDevice { major, minor } => {
                self.device(&entry, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
            }
            EntryKind::BlockDevice { major, minor } => {
                self.device(&entry, FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
            }
        }
    }

    fn root(&mut self, entry: Entry, was_empty: bool) -> Result<(), RestoreError> {
        // A hostile manifest may call its root a file; the target is a directory.
        if entry.kind != EntryKind::Directory {
            return Err(refused(&entry.path, "the root is not a directory"));
        }
        let root = self.target.try_clone().map_err(|source| RestoreError::Target { source })?;
        self.dirs.push(root, b"", was_empty.then_some(entry))
    }

    fn symlink(&mut self, entry: &Entry, target: &[u8]) -> Result<(), RestoreError> {
        let target =
            CString::new(target).map_err(|_| refused(&entry.path, "its link target has a NUL byte"))?;
        let (dir, name) = self.place(entry)?;
        rustix::fs::symlinkat(&target, &dir, name.as_c_str())
            .map_err(|error| io(&entry.path, "created", error))?;
        self.finish_special(&dir, &name, entry, FileType::Symlink)
    }

    fn hardlink(&mut self, entry: Entry, target: Vec<u8>) -> Result<(), RestoreError> {
        let (dir, _) = self.place(&entry)?;
        // Links wait for what they lead to, which workers may still be making. Their
        // directory has to wait for them: a new name in it would change its times.
        self.dirs.linked_by(self.link_batch);
        self.links_bytes += entry.path.len() + target.len();
        self.links.push(Link { dir, entry, target });
        let many = self.links.len() >= LINKS || self.links_bytes >= LINKS_BYTES;
        if many { self.make_links() } else { Ok(()) }
    }

    /// Leaves directories until the one the entry lies in is the current one.
    fn go_to_parent(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        let parent = open::split_path(&entry.path).0;
        // In the order of manifests all of a directory comes before anything behind it: what is
        // left here is complete but for what workers and links still make.
        while self.dirs.top().is_some_and(|(_, path)| path != parent) {
            self.dirs.leave()?;
            self.settle()?;
        }
        match self.dirs.top() {
            Some(_) => Ok(()),
            None => Err(refused(&entry.path, "what lies above it is not a directory of the snapshot")),
        }
    }

    /// Gives finished directories their metadata, and waits if too many wait.
    fn settle(&mut self) -> Result<(), RestoreError> {
        self.dirs.finish_ready(self.shared, self.number, self.link_batch)?;
        // Each time round the first is finished: nothing is left to wait for.
        while let Some((task, links)) = self.dirs.overdue() {
            // Links first: they wait for every task by themselves.
            if links == Some(self.link_batch) {
                self.make_links()?;
            }
            if let Some(task) = task {
                // The directory waits for files that nobody was given yet.
                if task == self.number {
                    self.dispatch()?;
                }
                self.shared.wait(task)?;
            }
            self.dirs.finish_ready(self.shared, self.number, self.link_batch)?;
        }
        Ok(())
    }

    /// The current directory and the entry's name in it.
    fn place(&self, entry: &Entry) -> Result<(Arc<OwnedFd>, CString), RestoreError> {
        let (dir, _) = self.dirs.top().ok_or_else(|| refused(&entry.path, "it has no parent directory"))?;
        Ok((Arc::clone(dir), last_name(entry)?))
    }

    fn directory(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let (dir, name) = self.place(&entry)?;
        // For its owner alone until it has its own mode: nobody else looks in while it is filled.
        let made = rustix::fs::mkdirat(&dir, name.as_c_str(), Mode::RWXU);
        // What was there before keeps its metadata; a link of that name is refused when it is
        // opened.
        let existed = made == Err(Errno::EXIST) && self.shared.options.into_nonempty;
        if !existed {
            made.map_err(|error| io(&entry.path, "created", error))?;
        }
        let opened = open::directory(dir.as_fd(), &name, open::Mounts::Cross);
        let opened = opened.map_err(|error| io(&entry.path, "opened", error))?;
        let path = entry.path.clone();
        self.dirs.push(opened, &path, (!existed).then_some(entry))
    }

    fn file(&mut self, entry: Entry) -> Result<(), RestoreError> {
        let (dir, _) = self.place(&entry)?;
        let bytes = data_len(&entry);
        if bytes > TOGETHER {
            return self.large_file(NewFile { dir, entry });
        }
        self.dirs.made_by(self.number);
        self.batch_bytes += held(&entry);
        self.batch_data += bytes;
        self.batch.push(NewFile { dir, entry });
        let full = self.batch_bytes >= self.task_bytes || self.batch_data >= TASK_DATA;
        if full || self.batch.len() >= TASK_FILES { self.dispatch() } else { Ok(()) }
    }

    /// Hands the collected files to the workers.
    fn dispatch(&mut self) -> Result<(), RestoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let number = self.number;
        self.number += 1;
        (self.batch_bytes, self.batch_data) = (0, 0);
        // Announced before it is given: a worker may have done it before this thread goes on.
        self.shared.announce(number, 1);
        self.shared.give(Task::Files { number, files: std::mem::take(&mut self.batch) })
    }

    fn large_file(&mut self, new: NewFile) -> Result<(), RestoreError> {
        // The batch keeps its number; this file gets one of its own after it.
        self.dispatch()?;
        let number = self.number;
        self.number += 1;
        self.dirs.made_by(number);
        // Created by this thread, once; its pieces are written by several, at their offsets.
        let file = create(&new)?;
        let pieces = pieces(&new.entry);
        let large = Arc::new(LargeFile {
            number,
            new,
            file,
            pieces_left: AtomicUsize::new(pieces.len()),
            lost: AtomicBool::new(false),
        });
        self.shared.announce(number, pieces.len());
        for extents in pieces {
            self.shared.give(Task::Piece { file: Arc::clone(&large), extents })?;
        }
        Ok(())
    }

    fn device(&mut self, entry: &Entry, kind: FileType, device: u64) -> Result<(), RestoreError> {
        if self.shared.options.devices {
            return self.node(entry, kind, device);
        }
        self.shared.leave_out(&entry.path, "it, a device, which was not asked for");
        Ok(())
    }

    fn node(&mut self, entry: &Entry, kind: FileType, device: u64) -> Result<(), RestoreError> {
        let (dir, name) = self.place(entry)?;
        rustix::fs::mknodat(&dir, name.as_c_str(), kind, Mode::RUSR | Mode::WUSR, device)
            .map_err(|error| io(&entry.path, "created", error))?;
        self.finish_special(&dir, &name, entry, kind)
    }

    /// Metadata of what was just made and is no file.
    fn finish_special(
        &mut self,
        dir: &OwnedFd,
        name: &CString,
        entry: &Entry,
        kind: FileType,
    ) -> Result<(), RestoreError> {
        // Somebody may have replaced the name since it was made. The metadata goes to an inode of
        // the kind that was made, held by its handle, or nowhere.
        let handle = open::handle(dir.as_fd(), name, open::Mounts::Stay)
            .map_err(|error| io(&entry.path, "opened", error))?;
        let stat = rustix::fs::fstat(&handle).map_err(|error| io(&entry.path, "opened", error))?;
        if metadata::type_of(&stat) != kind {
            return Err(refused(&entry.path, "something else was put in its place"));
        }
        let mut missing = Vec::new();
        metadata::apply_to_handle(handle.as_fd(), &self.shared.wanted(entry), &mut missing);
        self.shared.progress.entries.add(1);
        self.shared.note(&entry.path, missing)
    }

    /// Makes the collected links, once everything they may lead to is there.
    fn make_links(&mut self) -> Result<(), RestoreError> {
        if self.links.is_empty() {
            return Ok(());
        }
        self.dispatch()?;
        self.shared.wait(u64::MAX)?;
        self.links_bytes = 0;
        for link in std::mem::take(&mut self.links) {
            self.link(link)?;
        }
        // Copies made in place of links were handed to the workers.
        self.dispatch()?;
        self.shared.wait(u64::MAX)?;
        self.link_batch += 1;
        Ok(())
    }

    fn link(&mut self, link: Link) -> Result<(), RestoreError> {
        let Link { dir, entry, target } = link;
        // The first name was not asked for: its content was restored under another of its names,
        // and this is a link to that.
        let first = self.copies.get(&target).cloned();
        if first.is_none() && !self.selection.holds(&target) {
            return self.copy(dir, entry, target);
        }
        // A copy may still be with the workers.
        self.dispatch()?;
        self.shared.wait(u64::MAX)?;
        match self.try_link(&dir, &entry, first.as_deref().unwrap_or(&target)) {
            Ok(()) => {
                self.shared.progress.entries.add(1);
                Ok(())
            }
            // The first name may be absent by the options or by loss; then so is this one.
            Err(Errno::NOENT) => match self.why_absent(&target)? {
                Some(Absent::LeftOut) => {
                    self.shared.leave_out(&entry.path, "it, because what it is another name of was left out");
                    Ok(())
                }
                Some(Absent::Lost) => {
                    self.shared.lose(&escape_path(&entry.path));
                    Ok(())
                }
                None => Err(io(&entry.path, "linked", Errno::NOENT)),
            },
            Err(error) => Err(io(&entry.path, "linked", error)),
        }
    }

    /// Both names are reached without following any link: from the root
    /// handle to the directory of the target, and one component from there.
    fn try_link(&self, dir: &OwnedFd, entry: &Entry, target: &[u8]) -> Result<(), Errno> {
        // `descend` refuses what leaves the target, but does not see the last component.
        check_path(target).map_err(|_| Errno::INVAL)?;
        let (above, name) = open::split_path(target);
        let above = open::descend(self.target.as_fd(), above)?;
        let new = open::split_path(&entry.path).1;
        rustix::fs::linkat(&above, name, dir, new, AtFlags::empty())
    }

    /// Why the first name of an inode may not be there; `None`: it should be.
    fn why_absent(&self, target: &[u8]) -> Result<Option<Absent>, RestoreError> {
        let options = self.shared.options;
        let entry = match self.selection.lookup(target) {
            Ok(entry) => entry,
            Err(error) if options.salvage && error.is_manifest_loss() => return Ok(Some(Absent::Lost)),
            Err(error) => return Err(error),
        };
        Ok(entry.and_then(|entry| match &entry.kind {
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
                (!options.devices).then_some(Absent::LeftOut)
            }
            EntryKind::File(data) if entry.flags.unreadable && data.extents.is_empty() => {
                Some(Absent::LeftOut)
            }
            EntryKind::File(_) => options.salvage.then_some(Absent::Lost),
            _ => None,
        }))
    }

    /// Restores under this name what was asked for only under this name.
    fn copy(&mut self, dir: Arc<OwnedFd>, entry: Entry, target: Vec<u8>) -> Result<(), RestoreError> {
        let original = match self.selection.lookup(&target) {
            Err(error) if self.shared.options.salvage && error.is_manifest_loss() => {
                self.shared.lose(&escape_path(&entry.path));
                return Ok(());
            }
            looked_up => looked_up?,
        };
        let original =
            original.ok_or_else(|| refused(&entry.path, "what it is another name of is missing"))?;
        let copy = Entry { path: entry.path.clone(), ..original };
        self.copies.insert(target, entry.path);
        match &copy.kind {
            EntryKind::File(data) if !(copy.flags.unreadable && data.extents.is_empty()) => {
                if data_len(&copy) > TOGETHER {
                    return self.large_file(NewFile { dir, entry: copy });
                }
                self.batch.push(NewFile { dir, entry: copy });
                self.dispatch()
            }
            _ => {
                self.shared.leave_out(&copy.path, "it, because its other name was not asked for");
                Ok(())
            }
        }
    }
}

/// What a file waiting in a task takes: its entry, and its data where that is
/// put together from several extents.
fn held(entry: &Entry) -> usize {
    let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let data = if data_of(entry).extents.len() > 1 { data_len(entry) } else { 0 };
    ENTRY_BYTES + entry.path.len() + attributes + data
}

/// Where a large file's extents are parted into tasks.
fn pieces(entry: &Entry) -> Vec<std::ops::Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    let extents = &data_of(entry).extents;
    for (n, extent) in extents.iter().enumerate() {
        // By bytes, so that workers share a large file; by number, so that one of many small
        // extents does not ask for more frames at once than a task may hold.
        if n > start && (bytes >= 2 * MIN_TASK_BYTES || n - start >= PIECE_EXTENTS) {
            pieces.push(start..n);
            (start, bytes) = (n, 0);
        }
        bytes += extent.len as usize;
    }
    pieces.push(start..extents.len());
    pieces
}
