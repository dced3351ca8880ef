//! Workers of a restore: content into files.

use std::collections::HashMap;
use std::ffi::CString;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::request::RestoreError;
use super::shared::{LargeFile, NewFile, Shared, StopOnPanic, Task, io, refused};
use crate::entry::{Entry, EntryKind, Extent, FileData};
use crate::fetch::FetchError;
use crate::fs::text::escape_path;
use crate::fs::{metadata, open};
use crate::ids::FrameId;

/// What workers do until there are no more tasks.
pub(super) fn work(shared: &Shared<'_>) {
    let guard = StopOnPanic(shared);
    while let Some(task) = shared.tasks.take() {
        if shared.halted() {
            break;
        }
        let (number, outcome) = match task {
            Task::Files { number, files } => (number, make_files(shared, files)),
            Task::Piece { file, extents } => (file.number, write_piece(shared, &file, extents)),
        };
        // A part that failed counts as done: the thread that waits for it is notified, and finds the
        // failure.
        if let Err(error) = outcome {
            shared.fail(error);
        }
        shared.part_done(number);
    }
    drop(guard);
}

/// A file to be filled, and whether its content can be had.
struct Filling {
    new: NewFile,
    /// Data without holes.
    bytes: Vec<u8>,
    lost: bool,
}

fn make_files(shared: &Shared<'_>, files: Vec<NewFile>) -> Result<(), RestoreError> {
    let (whole, parted): (Vec<NewFile>, Vec<NewFile>) =
        // Files in one frame need no buffer of their own. Others are put together in memory first,
        // because their frames come in the order of the packs.
        files.into_iter().partition(|new| data_of(&new.entry).extents.len() == 1);
    make_whole(shared, &whole)?;
    make_parted(shared, parted)
}

/// Makes files that lie in one frame each, all of a frame while it is there.
fn make_whole(shared: &Shared<'_>, files: &[NewFile]) -> Result<(), RestoreError> {
    let mut plan = Plan::new();
    for new in files {
        for extent in &data_of(&new.entry).extents {
            plan.add(extent.frame, (new, extent));
        }
    }
    shared.fetcher.try_shared(&plan.ids, &mut |place, outcome| {
        for &(new, extent) in &plan.uses[place] {
            if shared.halted() {
                return Err(RestoreError::Cancelled.into());
            }
            match content(shared, &new.entry, outcome.as_ref())? {
                // Created when its content is at hand: a file that is lost leaves no empty one
                // behind.
                Some(raw) => {
                    let piece = slice(raw, extent.frame_offset, extent.len, &new.entry)?;
                    let file = create(new)?;
                    write_at(file.as_fd(), piece, extent.file_offset)
                        .map_err(|error| io(&new.entry.path, "written", error))?;
                    finish_file(shared, &file, &new.entry)?;
                }
                None => shared.lose(&escape_path(&new.entry.path)),
            }
        }
        Ok::<(), Stop>(())
    })?;
    Ok(())
}

fn make_parted(shared: &Shared<'_>, files: Vec<NewFile>) -> Result<(), RestoreError> {
    let mut filling: Vec<Filling> = files
        .into_iter()
        .map(|new| Filling { bytes: vec![0; data_len(&new.entry)], new, lost: false })
        .collect();
    fill(shared, &mut filling)?;
    for file in &filling {
        if shared.halted() {
            return Ok(());
        }
        if file.lost {
            shared.lose(&escape_path(&file.new.entry.path));
        } else {
            make_file(shared, file)?;
        }
    }
    Ok(())
}

/// Frames to fetch, each once, with where each is used.
struct Plan<U> {
    ids: Vec<FrameId>,
    uses: Vec<Vec<U>>,
    places: HashMap<FrameId, usize>,
}

impl<U> Plan<U> {
    fn new() -> Self {
        Self { ids: Vec::new(), uses: Vec::new(), places: HashMap::new() }
    }

    fn add(&mut self, frame: FrameId, one_use: U) {
        let place = *self.places.entry(frame).or_insert_with(|| {
            self.ids.push(frame);
            self.uses.push(Vec::new());
            self.ids.len() - 1
        });
        self.uses[place].push(one_use);
    }
}

/// Brings the content of all the files.
fn fill(shared: &Shared<'_>, files: &mut [Filling]) -> Result<(), RestoreError> {
    let mut plan = Plan::new();
    for (n, file) in files.iter().enumerate() {
        let mut at = 0;
        for extent in &data_of(&file.new.entry).extents {
            plan.add(extent.frame, (n, at, extent.frame_offset, extent.len));
            at += extent.len as usize;
        }
    }
    shared.fetcher.try_shared(&plan.ids, &mut |place, outcome| {
        for &(n, at, frame_offset, len) in &plan.uses[place] {
            let file = &mut files[n];
            match content(shared, &file.new.entry, outcome.as_ref())? {
                Some(raw) => {
                    let piece = slice(raw, frame_offset, len, &file.new.entry)?;
                    file.bytes[at..at + len as usize].copy_from_slice(piece);
                }
                None => file.lost = true,
            }
        }
        Ok::<(), Stop>(())
    })?;
    Ok(())
}

/// The frame; `None` where it is lost and that may be.
fn content<'b>(
    shared: &Shared<'_>,
    entry: &Entry,
    outcome: Result<&'b Bytes, &FetchError>,
) -> Result<Option<&'b Bytes>, RestoreError> {
    match outcome {
        Ok(raw) => Ok(Some(raw)),
        Err(error) if shared.options.salvage && error.is_loss() => Ok(None),
        Err(error) => Err(RestoreError::Content { path: escape_path(&entry.path), source: error.clone() }),
    }
}

fn slice<'b>(raw: &'b Bytes, offset: u32, len: u32, entry: &Entry) -> Result<&'b [u8], RestoreError> {
    let start = offset as usize;
    raw.get(start..start + len as usize)
        .ok_or_else(|| refused(&entry.path, "an extent of it lies outside of its frame"))
}

fn make_file(shared: &Shared<'_>, filling: &Filling) -> Result<(), RestoreError> {
    let entry = &filling.new.entry;
    let file = create(&filling.new)?;
    let (mut at, mut extents) = (0, data_of(entry).extents.as_slice());
    while let Some(first) = extents.first() {
        let (len, count) = run_of(extents);
        // What has no extent stays a hole.
        write_at(file.as_fd(), &filling.bytes[at..at + len], first.file_offset)
            .map_err(|error| io(&entry.path, "written", error))?;
        at += len;
        extents = &extents[count..];
    }
    finish_file(shared, &file, entry)
}

/// How many bytes the first extents cover without a gap in the file, and how many they are.
fn run_of(extents: &[Extent]) -> (usize, usize) {
    let mut len = 0;
    for (count, extent) in extents.iter().enumerate() {
        if extent.file_offset != extents[0].file_offset + len as u64 {
            return (len, count);
        }
        len += extent.len as usize;
    }
    (len, extents.len())
}

/// Creates a file that is not there.
pub(super) fn create(new: &NewFile) -> Result<OwnedFd, RestoreError> {
    let name = last_name(&new.entry)?;
    open::create_file(new.dir.as_fd(), &name).map_err(|error| io(&new.entry.path, "created", error))
}

/// The last component of an entry's path.
pub(super) fn last_name(entry: &Entry) -> Result<CString, RestoreError> {
    let name = open::split_path(&entry.path).1;
    CString::new(name).map_err(|_| refused(&entry.path, "its name has a NUL byte"))
}

/// Size and metadata of a file whose data is written.
fn finish_file(shared: &Shared<'_>, file: &OwnedFd, entry: &Entry) -> Result<(), RestoreError> {
    let data = data_of(entry);
    let end = data.extents.last().map_or(0, |extent| extent.file_offset + u64::from(extent.len));
    // A hole at the end.
    if end < data.size {
        rustix::fs::ftruncate(file, data.size).map_err(|error| io(&entry.path, "extended", error))?;
    }
    let mut missing = Vec::new();
    metadata::apply(file.as_fd(), &shared.wanted(entry), &mut missing);
    shared.note(&entry.path, missing)?;
    shared.progress.bytes.add(data_len(entry) as u64);
    shared.progress.files.add(1);
    shared.progress.entries.add(1);
    Ok(())
}

fn write_piece(shared: &Shared<'_>, large: &LargeFile, extents: Range<usize>) -> Result<(), RestoreError> {
    let entry = &large.new.entry;
    let mut plan = Plan::new();
    for extent in &large.extents()[extents] {
        plan.add(extent.frame, extent);
    }
    shared.fetcher.try_many(&plan.ids, &mut |place, outcome| {
        let Some(raw) = content(shared, entry, outcome.as_ref())? else {
            large.lost.store(true, Ordering::Relaxed);
            return Ok::<(), Stop>(());
        };
        for extent in &plan.uses[place] {
            let piece = slice(raw, extent.frame_offset, extent.len, entry)?;
            write_at(large.file.as_fd(), piece, extent.file_offset)
                .map_err(|error| io(&entry.path, "written", error))?;
        }
        Ok(())
    })?;
    // Whoever writes the last piece finishes the file, and sees what all others wrote about it.
    if large.pieces_left.fetch_sub(1, Ordering::AcqRel) > 1 {
        return Ok(());
    }
    if !large.lost.load(Ordering::Relaxed) {
        return finish_file(shared, &large.file, entry);
    }
    shared.lose(&escape_path(&entry.path));
    let name = last_name(entry)?;
    // It was created before it was known to be lost: half a file is not left where a whole one is
    // looked for.
    rustix::fs::unlinkat(&large.new.dir, name.as_c_str(), AtFlags::empty())
        .map_err(|error| io(&entry.path, "removed again", error))
}

fn write_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match open::again(|| rustix::io::pwrite(file, bytes, offset))? {
            0 => return Err(Errno::IO),
            n => {
                bytes = &bytes[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// The content of a file's entry; others have none.
pub(super) fn data_of(entry: &Entry) -> &FileData {
    const NOTHING: &FileData = &FileData { size: 0, extents: Vec::new(), hash: None };
    match &entry.kind {
        EntryKind::File(data) => data,
        _ => NOTHING,
    }
}

/// Bytes of content without holes.
pub(super) fn data_len(entry: &Entry) -> usize {
    data_of(entry).extents.iter().map(|extent| extent.len as usize).sum()
}

/// Ends the reading of frames: with a failure of the repository or of ours.
struct Stop(Box<RestoreError>);

impl From<FetchError> for Stop {
    fn from(source: FetchError) -> Self {
        Self(Box::new(RestoreError::Manifest { source: source.into() }))
    }
}

impl From<RestoreError> for Stop {
    fn from(error: RestoreError) -> Self {
        Self(Box::new(error))
    }
}

impl From<Stop> for RestoreError {
    fn from(stop: Stop) -> Self {
        *stop.0
    }
}
