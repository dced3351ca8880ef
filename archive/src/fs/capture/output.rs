//! Entries on their way to the manifest.
//!
//! Small files get their extents when their group closes, so entries wait in
//! order until then. What waits is bounded: by the group's own limits, and by
//! closing the group early when very many other entries come in between.

use std::collections::{HashSet, VecDeque};

use super::file::Content;
use crate::entry::{Entry, EntryKind, Extent, FileData};
use crate::fs::group::Group;
use crate::fs::pipeline::{Known, Pipeline, Stopped};
use crate::fs::recent::{Place, RecentFiles};
use crate::ids::FrameId;
use crate::manifest::{ManifestWriter, PageError, WriteError};
use crate::pack_io::FrameKind;

/// What may wait for a group, bytes.
const WAITING_BYTES: usize = 4 << 20;

/// Takes entries the manifest cannot hold, to be reported.
pub(super) type Refused<'a> = &'a mut dyn FnMut(PageError);

pub(super) struct Output<'a> {
    pipeline: &'a Pipeline,
    damaged: &'a HashSet<FrameId>,
    writer: ManifestWriter<'a, Stopped>,
    pub(super) group: Group,
    group_number: u64,
    recent: RecentFiles,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

struct Waiting {
    entry: Entry,
    /// Its extents lie in the group that is open.
    grouped: bool,
}

/// Extents of a small file, and whether their frame is still to come.
pub(super) struct Placed {
    pub(super) extents: Vec<Extent>,
    pub(super) grouped: bool,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        pipeline: &'a Pipeline,
        damaged: &'a HashSet<FrameId>,
        writer: ManifestWriter<'a, Stopped>,
    ) -> Self {
        Self {
            pipeline,
            damaged,
            writer,
            group: Group::default(),
            group_number: 0,
            recent: RecentFiles::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Adds the next entry.
    pub(super) fn push(&mut self, entry: Entry, grouped: bool, refused: Refused<'_>) -> Result<(), Stopped> {
        // Nothing waits before it: its place in the manifest is now. Otherwise it waits behind the
        // others, though it has all it needs: a manifest is written in order.
        if self.waiting.is_empty() && !grouped {
            return write(&mut self.writer, entry, refused);
        }
        self.waiting_bytes += weight(&entry);
        self.waiting.push_back(Waiting { entry, grouped });
        if self.waiting_bytes > WAITING_BYTES { self.close_group(refused) } else { Ok(()) }
    }

    /// Gives a small file whose data lies at the end of the group, from
    /// `start` on, its place: there, or where an equal file lies already.
    pub(super) fn place(
        &mut self,
        path: &[u8],
        content: &Content,
        hash: [u8; 16],
        mut start: usize,
        refused: Refused<'_>,
    ) -> Result<Placed, Stopped> {
        // The bytes are read at the end of the group before anybody knows whether they belong
        // there: what closes it takes them off first, and they begin the next one.
        if self.group.closes_before(path, content.data_bytes) {
            let tail = self.group.bytes.split_off(start);
            self.close_group(refused)?;
            self.group.bytes.extend_from_slice(&tail);
            start = 0;
        }
        self.group.entered(path, content.data_bytes);
        // An equal file was placed in this run: its bytes are taken off the group again.
        if let Some((place, frame)) = self.known_place(&hash) {
            self.group.bytes.truncate(start);
            // Stands for the open group until that has a name; `close_group` puts it in.
            let id = frame.unwrap_or(FrameId([0; 32]));
            return Ok(Placed { extents: extents(content, id, place.offset), grouped: frame.is_none() });
        }
        // A group has less than 2 MiB.
        let offset = start as u32;
        self.recent.insert(hash, Place { group: self.group_number, offset });
        Ok(Placed { extents: extents(content, FrameId([0; 32]), offset), grouped: true })
    }

    /// Where an equal file lies; no frame if that is the open group.
    fn known_place(&self, hash: &[u8; 16]) -> Option<(Place, Option<FrameId>)> {
        let place = self.recent.find(hash)?;
        if place.group == self.group_number {
            return Some((place, None));
        }
        self.recent.frame(place.group).map(|frame| (place, Some(frame)))
    }

    /// Sends the open group on its way and lets go of what waited for it.
    fn close_group(&mut self, refused: Refused<'_>) -> Result<(), Stopped> {
        let bytes = self.group.close();
        let mut frame = FrameId([0; 32]);
        if !bytes.is_empty() {
            frame = crate::frame::frame_id(&bytes);
            let how = if self.damaged.contains(&frame) { Known::SendAgain } else { Known::Ask };
            self.pipeline.push_as(frame, FrameKind::Data, bytes, how)?;
            // Only now equal files elsewhere may refer to it: the frame is on its way.
            self.recent.closed(frame);
            self.group_number += 1;
        }
        self.waiting_bytes = 0;
        for Waiting { mut entry, grouped } in self.waiting.drain(..) {
            if grouped && let EntryKind::File(FileData { extents, .. }) = &mut entry.kind {
                extents.iter_mut().for_each(|extent| extent.frame = frame);
            }
            write(&mut self.writer, entry, refused)?;
        }
        Ok(())
    }

    /// The manifest's root page.
    pub(super) fn finish(mut self, refused: Refused<'_>) -> Result<FrameId, WriteError<Stopped>> {
        self.close_group(refused).map_err(WriteError::Emit)?;
        self.writer.finish()
    }
}

fn write(
    writer: &mut ManifestWriter<'_, Stopped>,
    entry: Entry,
    refused: Refused<'_>,
) -> Result<(), Stopped> {
    match writer.push(entry) {
        Ok(()) => Ok(()),
        Err(WriteError::Emit(stopped)) => Err(stopped),
        // One name that no manifest can hold costs that entry and not the backup.
        Err(WriteError::Entry(error)) => {
            refused(error);
            Ok(())
        }
    }
}

/// Extents of data that lies in one piece in a frame.
fn extents(content: &Content, frame: FrameId, mut frame_offset: u32) -> Vec<Extent> {
    let mut extents = Vec::with_capacity(content.ranges.len());
    for range in &content.ranges {
        let len = range.len as u32;
        extents.push(Extent { file_offset: range.offset, frame, frame_offset, len });
        frame_offset += len;
    }
    extents
}

/// About what an entry takes in memory.
fn weight(entry: &Entry) -> usize {
    let extents = match &entry.kind {
        EntryKind::File(file) => file.extents.len(),
        _ => 0,
    };
    let xattrs: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
    size_of::<Waiting>() + entry.path.len() + extents * size_of::<Extent>() + xattrs + 64
}
