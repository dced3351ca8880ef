//! The content of one file against its entry.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::entry::FileData;
use crate::frame::{MAX_RAW, frame_id};
use crate::fs::content::{ContentHasher, DataRange, ranges_of};
use crate::fs::ranges::Ranges;
use crate::fs::walk::retry;

/// Reads files for comparison; its buffer is kept from file to file.
pub(super) struct Checker<'a> {
    buffer: Vec<u8>,
    cancel: &'a AtomicBool,
    /// Bytes hashed so far.
    pub(super) bytes: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn new(cancel: &'a AtomicBool) -> Self {
        Self { buffer: vec![0; MAX_RAW], cancel, bytes: 0 }
    }

    /// Whether the file, of the right size already, holds what the entry says.
    pub(super) fn holds(&mut self, file: &OwnedFd, data: &FileData) -> Result<bool, Errno> {
        let ranges = ranges_of(data);
        let equal = match data.hash {
            Some(hash) => self.hash(file.as_fd(), &ranges, data.size)? == Some(hash),
            None => self.frames(file.as_fd(), data)?,
        };
        // The hash covers the ranges alone: bytes that were written outside of them show only here.
        Ok(equal && self.zeros(file.as_fd(), &ranges, data.size)?)
    }

    fn hash(
        &mut self,
        file: BorrowedFd<'_>,
        ranges: &[DataRange],
        size: u64,
    ) -> Result<Option<[u8; 16]>, Errno> {
        let mut hasher = ContentHasher::new();
        for &range in ranges {
            let mut at = range.offset;
            while at < range.end() {
                let len = self.read(file, at, range.end() - at)?;
                // The file ended early, or the comparison is cancelled: neither is equal.
                if len == 0 {
                    return Ok(None);
                }
                hasher.update(&self.buffer[..len]);
                at += len as u64;
                self.bytes += len as u64;
            }
            hasher.range(range);
        }
        Ok(Some(hasher.finish(size)))
    }

    /// Without a hash, every extent is a whole frame.
    fn frames(&mut self, file: BorrowedFd<'_>, data: &FileData) -> Result<bool, Errno> {
        for extent in &data.extents {
            let len = extent.len as usize;
            // The list comes from the repository: a length beyond any frame's is no match.
            if len > self.buffer.len() {
                return Ok(false);
            }
            let mut got = 0;
            while got < len {
                let at = extent.file_offset + got as u64;
                match retry(|| rustix::io::pread(file, &mut self.buffer[got..len], at))? {
                    0 => return Ok(false),
                    n => got += n,
                }
            }
            self.bytes += len as u64;
            if frame_id(&self.buffer[..len]) != extent.frame || self.cancel.load(Ordering::Relaxed) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether everything but the ranges reads as zeros.
    fn zeros(&mut self, file: BorrowedFd<'_>, ranges: &[DataRange], size: u64) -> Result<bool, Errno> {
        let ends = std::iter::once(0).chain(ranges.iter().map(DataRange::end));
        let starts = ranges.iter().map(|range| range.offset).chain(std::iter::once(size));
        for (start, end) in ends.zip(starts).filter(|(start, end)| start < end) {
            // Holes are not read: they are zeros, and may be terabytes.
            let mut written = Ranges::between(file, start, end);
            while let Some(range) = retry(|| written.next_range())? {
                let mut at = range.offset;
                while at < range.end() {
                    let len = self.read(file, at, range.end() - at)?;
                    if len == 0 || self.buffer[..len].iter().any(|&byte| byte != 0) {
                        return Ok(false);
                    }
                    at += len as u64;
                }
            }
        }
        Ok(true)
    }

    fn read(&mut self, file: BorrowedFd<'_>, at: u64, most: u64) -> Result<usize, Errno> {
        if self.cancel.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let len = self.buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        retry(|| rustix::io::pread(file, &mut self.buffer[..len], at))
    }
}
