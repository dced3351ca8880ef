//! Reading one regular file.
//!
//! Its length is what it was at open: a file that grows without end is read
//! up to there. Whoever reads compares the inode afterwards.

use std::collections::{HashSet, VecDeque};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;

use crate::entry::Extent;
use crate::frame::frame_id;
use crate::fs::content::{ContentHasher, DataRange};
use crate::fs::cut::{CHUNK_MAX, first_chunk};
use crate::fs::metadata::{size_of, type_of};
use crate::fs::open::{self, Mounts};
use crate::fs::pipeline::{Known, Pipeline, Stopped};
use crate::fs::ranges::Ranges;
use crate::fs::walk::retry;
use crate::ids::FrameId;
use crate::pack_io::FrameKind;

/// What is read ahead of the cutter, bytes.
const WINDOW: usize = 3 * CHUNK_MAX;

/// A regular file that has been looked at but not opened yet.
pub(super) struct Handle {
    fd: OwnedFd,
    pub(super) stat: Stat,
}

impl Handle {
    pub(super) fn new(dir: BorrowedFd<'_>, name: &CStr, mounts: Mounts) -> Result<Self, Errno> {
        let fd = open::handle(dir, name, mounts)?;
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    pub(super) fn is_regular(&self) -> bool {
        type_of(&self.stat) == FileType::RegularFile
    }

    pub(super) fn open(self) -> Result<OwnedFd, Errno> {
        open::reopen_file(self.fd.as_fd())
    }
}

/// What was read of a file, and what of it has no place in a frame yet.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Bytes, holes included; less than at open if the file was cut short.
    pub(super) size: u64,
    pub(super) data_bytes: u64,
    pub(super) short: bool,
    pub(super) hash: Option<[u8; 16]>,
    /// Of a small file: its data, now at the end of the group.
    pub(super) ranges: Vec<DataRange>,
    /// Of a large file: complete.
    pub(super) extents: Vec<Extent>,
}

/// Why a file was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    Source(Errno),
    Stopped,
}

impl From<Errno> for ReadError {
    fn from(error: Errno) -> Self {
        Self::Source(error)
    }
}

impl From<Stopped> for ReadError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Reads a small file's data to the end of `into`. On failure `into` is as it was.
pub(super) fn read_small(
    file: BorrowedFd<'_>,
    stat: &Stat,
    into: &mut Vec<u8>,
) -> Result<Content, ReadError> {
    let start = into.len();
    let content = try_read_small(file, stat, into);
    if content.is_err() {
        into.truncate(start);
    }
    content
}

fn try_read_small(file: BorrowedFd<'_>, stat: &Stat, into: &mut Vec<u8>) -> Result<Content, ReadError> {
    let mut content = Content { size: size_of(stat), ..Content::default() };
    let mut hasher = ContentHasher::new();
    let mut ranges = Ranges::new(file, stat);
    // The holes are asked for range by range while the file is read: a list of them all could be as
    // long as the file.
    while let Some(range) = ranges.next_range()? {
        let start = into.len();
        // A small file by its length at open, so this is bounded by
        // [`SMALL`](crate::fs::group::SMALL).
        into.resize(start + usize::try_from(range.len).unwrap_or(0), 0);
        let got = fill(file, &mut into[start..], range.offset)?;
        into.truncate(start + got);
        let got = DataRange { offset: range.offset, len: got as u64 };
        if got.len > 0 {
            hasher.update(&into[start..]);
            hasher.range(got);
            content.data_bytes += got.len;
            content.ranges.push(got);
        }
        if got.len < range.len {
            content.size = got.end();
            content.short = true;
            break;
        }
    }
    if content.data_bytes > 0 {
        content.hash = Some(hasher.finish(content.size));
    }
    Ok(content)
}

/// Cuts large files into frames. Its window is kept from file to file.
pub(super) struct Cutter<'a> {
    pipeline: &'a Pipeline,
    damaged: &'a HashSet<FrameId>,
    window: Vec<u8>,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, damaged: &'a HashSet<FrameId>) -> Self {
        Self { pipeline, damaged, window: Vec::new() }
    }

    /// Reads a file and sends what of it is not in `known` on its way.
    pub(super) fn read(
        &mut self,
        file: BorrowedFd<'_>,
        stat: &Stat,
        known: &HashSet<FrameId>,
        read_bytes: &mut dyn FnMut(u64),
    ) -> Result<Content, ReadError> {
        self.window.resize(WINDOW, 0);
        let mut stream = Stream::new(file, stat);
        // Only a chunk that spans a hole makes extents that are not whole frames.
        let mut hasher = stream.may_have_holes().then(ContentHasher::new);
        let mut extents = Vec::new();
        let (mut start, mut end) = (0, 0);
        loop {
            // The cutter needs the longest chunk there may be in one piece, or the end of the file:
            // where it cuts must not depend on how much one read gave.
            if end - start < CHUNK_MAX && !stream.ended {
                self.window.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                let got = stream.read(&mut self.window[end..])?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(&self.window[end..end + got]);
                }
                read_bytes(got as u64);
                end += got;
                continue;
            }
            if start == end {
                break;
            }
            let len = first_chunk(&self.window[start..end]);
            let frame = self.send(&self.window[start..start + len], known)?;
            stream.place(frame, len, &mut extents);
            start += len;
        }
        let hash = hasher.filter(|_| stream.data_bytes > 0).map(|mut hasher| {
            stream.ranges.iter().for_each(|&range| hasher.range(range));
            hasher.finish(stream.size)
        });
        Ok(Content {
            size: stream.size,
            data_bytes: stream.data_bytes,
            short: stream.short,
            hash,
            ranges: Vec::new(),
            extents,
        })
    }

    fn send(&self, chunk: &[u8], known: &HashSet<FrameId>) -> Result<FrameId, Stopped> {
        let id = frame_id(chunk);
        // What the base has in this very file is stored, unless it was found damaged since.
        let damaged = self.damaged.contains(&id);
        if damaged || !known.contains(&id) {
            let how = if damaged { Known::SendAgain } else { Known::Ask };
            self.pipeline.push_as(id, FrameKind::Data, chunk.to_vec(), how)?;
        }
        Ok(id)
    }
}

/// The data of a file without its holes, as one stream, and where its bytes
/// belong in the file.
struct Stream<'a> {
    file: BorrowedFd<'a>,
    ranges_left: Ranges<'a>,
    dense: bool,
    /// What of the current range is not read yet.
    current: Option<DataRange>,
    /// Read but not placed into extents: file offsets and lengths.
    unplaced: VecDeque<DataRange>,
    ranges: Vec<DataRange>,
    ended: bool,
    size: u64,
    data_bytes: u64,
    short: bool,
}

impl<'a> Stream<'a> {
    fn new(file: BorrowedFd<'a>, stat: &Stat) -> Self {
        let ranges_left = Ranges::new(file, stat);
        Self {
            file,
            dense: !ranges_left.may_have_holes(),
            ranges_left,
            current: None,
            unplaced: VecDeque::new(),
            ranges: Vec::new(),
            ended: false,
            size: size_of(stat),
            data_bytes: 0,
            short: false,
        }
    }

    fn may_have_holes(&self) -> bool {
        !self.dense
    }

    /// Reads as much of one range as `into` takes; 0 at a range's end too.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Errno> {
        let range = match self.current.take() {
            Some(range) => range,
            None => match retry(|| self.ranges_left.next_range())? {
                Some(range) => range,
                None => {
                    self.ended = true;
                    return Ok(0);
                }
            },
        };
        // Never beyond what the file had at open: one that grows as fast as it is read would not
        // end.
        let most = into.len().min(usize::try_from(range.len).unwrap_or(usize::MAX));
        let got = fill(self.file, &mut into[..most], range.offset)?;
        self.took(DataRange { offset: range.offset, len: got as u64 });
        let rest = DataRange { offset: range.offset + got as u64, len: range.len - got as u64 };
        // Cut short meanwhile. What is missing is not made up by zeros: the file ends here, and is
        // torn.
        if got < most {
            self.short = true;
            self.ended = true;
            self.size = rest.offset;
        } else if rest.len > 0 {
            self.current = Some(rest);
        }
        Ok(got)
    }

    fn took(&mut self, range: DataRange) {
        if range.len == 0 {
            return;
        }
        self.data_bytes += range.len;
        // Ranges that touch become one: the list is as long as the file has holes, not as it took
        // reads.
        for ranges in [self.unplaced.back_mut(), self.ranges.last_mut()] {
            match ranges {
                Some(last) if last.end() == range.offset => last.len += range.len,
                _ => {}
            }
        }
        if self.unplaced.back().is_none_or(|last| last.end() != range.end()) {
            self.unplaced.push_back(range);
        }
        if self.ranges.last().is_none_or(|last| last.end() != range.end()) {
            self.ranges.push(range);
        }
    }

    /// The next `len` bytes of the stream have become a frame.
    fn place(&mut self, frame: FrameId, len: usize, extents: &mut Vec<Extent>) {
        let mut frame_offset = 0;
        while frame_offset < len as u64 {
            let Some(range) = self.unplaced.front_mut() else { return };
            let take = range.len.min(len as u64 - frame_offset);
            extents.push(Extent {
                file_offset: range.offset,
                frame,
                frame_offset: frame_offset as u32,
                len: take as u32,
            });
            frame_offset += take;
            *range = DataRange { offset: range.offset + take, len: range.len - take };
            if range.len == 0 {
                self.unplaced.pop_front();
            }
        }
    }
}

/// Reads until `into` is full or the file ends.
fn fill(file: BorrowedFd<'_>, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut got = 0;
    while got < into.len() {
        match retry(|| rustix::io::pread(file, &mut into[got..], offset + got as u64))? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    /// A file of so many bytes, and what was seen of it when it was opened.
    fn opened(len: usize) -> (File, Stat) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; len], 0).unwrap();
        let stat = fstat(&file).unwrap();
        (file, stat)
    }

    /// Length, bytes read and whether it was short: as of a small file, and as
    /// of a large one.
    fn read(file: &File, stat: &Stat) -> [(u64, u64, bool); 2] {
        let mut bytes = Vec::new();
        let small = read_small(file.as_fd(), stat, &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, small.data_bytes);
        let mut large = Stream::new(file.as_fd(), stat);
        let (mut window, mut got) = (vec![0; 64 << 10], 0);
        while !large.ended {
            got += large.read(&mut window).unwrap() as u64;
        }
        assert_eq!(got, large.data_bytes);
        [(small.size, small.data_bytes, small.short), (large.size, large.data_bytes, large.short)]
    }

    #[test]
    fn a20_a_file_cut_short_since_it_was_opened_has_the_length_that_was_read() {
        for (len, cut) in [(100_000, 40_000), (100_000, 0), (300_000, 131_072), (300_000, 299_999)] {
            let (file, stat) = opened(len);
            file.set_len(cut).unwrap();
            assert_eq!(read(&file, &stat), [(cut, cut, true); 2], "{len} bytes cut to {cut}");
        }
    }

    #[test]
    fn a21_a_file_that_has_grown_since_it_was_opened_is_read_as_far_as_it_was() {
        for (len, more) in [(1, 1), (100_000, 1), (100_000, 3 << 20)] {
            let (file, stat) = opened(len);
            file.write_all_at(&vec![8; more], len as u64).unwrap();
            let len = len as u64;
            assert_eq!(read(&file, &stat), [(len, len, false); 2], "{len} bytes and {more} more");
        }
    }
}
