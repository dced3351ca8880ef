//! The content of one file into another: shared where the filesystem can,
//! else its data copied and its holes left.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_archive::fs::parts::{DataRange, Ranges, size_of};
use rustix::fs::{Stat, copy_file_range, ftruncate, ioctl_ficlone};
use rustix::io::Errno;

/// Bytes copied between two looks at the order to stop.
const STEP: u64 = 16 << 20;
const BUFFER: usize = 256 << 10;

/// Which of the two files a call failed on.
pub(super) enum Side {
    Source(Errno),
    Clone(Errno),
    Cancelled,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copied {
    Shared,
    Bytes(u64),
    /// The file ended before the size it had.
    Short,
}

/// Copies files, and remembers what the filesystem refused for all of them.
pub(super) struct Copier<'a> {
    cancel: &'a AtomicBool,
    share: bool,
    in_kernel: bool,
}

impl<'a> Copier<'a> {
    pub(super) fn new(cancel: &'a AtomicBool) -> Self {
        Self { cancel, share: true, in_kernel: true }
    }

    /// Copies into an empty file. `stat` is what the source looked like.
    pub(super) fn copy(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<Copied, Side> {
        let size = size_of(stat);
        if size == 0 {
            return Ok(Copied::Bytes(0));
        }
        if self.share {
            match ioctl_ficlone(to, from) {
                Ok(()) => return Ok(Copied::Shared),
                // The filesystem cannot do it: not asked again for a million files.
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::XDEV) => self.share = false,
                // This one file cannot be shared: a swap file, or one that was written to just now.
                Err(Errno::INVAL | Errno::PERM | Errno::TXTBSY | Errno::AGAIN) => {}
                Err(error) => return Err(Side::Clone(error)),
            }
        }
        // Else the ranges that hold data are copied; holes stay holes.
        let (mut copied, mut end) = (0, 0);
        let mut ranges = Ranges::new(from, stat);
        while let Some(range) = ranges.next_range().map_err(Side::Source)? {
            if !self.range(from, to, range)? {
                return Ok(Copied::Short);
            }
            copied += range.len;
            end = range.offset + range.len;
        }
        // A hole at the end is no range.
        if end < size {
            ftruncate(to, size).map_err(Side::Clone)?;
        }
        Ok(Copied::Bytes(copied))
    }

    /// False if the file ends within the range.
    fn range(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, range: DataRange) -> Result<bool, Side> {
        let mut buffer = Vec::new();
        let (mut at, end) = (range.offset, range.offset + range.len);
        while at < end {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Side::Cancelled);
            }
            // In steps, so that a cancel is seen within a file of terabytes.
            let step = (end - at).min(STEP) as usize;
            let moved = if self.in_kernel {
                self.step(from, to, at, step)?
            } else {
                by_hand(from, to, at, step, &mut buffer)?
            };
            match moved {
                Some(0) => return Ok(false),
                Some(len) => at += len as u64,
                None => {}
            }
        }
        Ok(true)
    }

    /// How far it got; none if the kernel will not do it.
    fn step(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        at: u64,
        len: usize,
    ) -> Result<Option<usize>, Side> {
        let (mut off_in, mut off_out) = (at, at);
        match copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), len) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::INTR) => Ok(None),
            Err(
                Errno::INVAL | Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::TXTBSY,
            ) => {
                // What the kernel refuses for one file is done by hand from here on.
                self.in_kernel = false;
                Ok(None)
            }
            Err(error) => Err(Side::Clone(error)),
        }
    }
}

fn by_hand(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    at: u64,
    len: usize,
    buffer: &mut Vec<u8>,
) -> Result<Option<usize>, Side> {
    buffer.resize(BUFFER, 0);
    let read = match rustix::io::pread(from, &mut buffer[..len.min(BUFFER)], at) {
        Ok(read) => read,
        Err(Errno::INTR) => return Ok(None),
        Err(error) => return Err(Side::Source(error)),
    };
    let mut written = 0;
    while written < read {
        match rustix::io::pwrite(to, &buffer[written..read], at + written as u64) {
            Ok(0) => return Err(Side::Clone(Errno::IO)),
            Ok(len) => written += len,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Side::Clone(error)),
        }
    }
    Ok(Some(read))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    fn copied(copier: &mut Copier<'_>, from: &File) -> (File, Copied) {
        let to = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(from).unwrap();
        let Ok(copied) = copier.copy(from.as_fd(), to.as_fd(), &stat) else { panic!("it is copied") };
        (to, copied)
    }

    #[test]
    fn holes_stay_holes_by_the_kernel_and_by_hand() {
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(&[7; 300_000], 1 << 20).unwrap();
        from.write_all_at(b"end", 1 << 30).unwrap();
        from.set_len(2 << 30).unwrap();
        let cancel = AtomicBool::new(false);
        for in_kernel in [true, false] {
            let mut copier = Copier { share: false, in_kernel, ..Copier::new(&cancel) };
            let (to, copied) = copied(&mut copier, &from);
            let Copied::Bytes(bytes) = copied else { panic!("{copied:?}") };
            assert!((300_003..500_000).contains(&bytes), "{bytes}");
            assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
            assert_eq!(to.metadata().unwrap().len(), 2 << 30);
            let mut there = [0; 300_000];
            to.read_exact_at(&mut there, 1 << 20).unwrap();
            assert_eq!(there, [7; 300_000]);
        }
    }

    #[test]
    fn a_file_that_shrank_and_an_order_to_stop_are_seen() {
        let from = tempfile::tempfile().unwrap();
        from.write_all_at(&[7; 10_000], 0).unwrap();
        let stat = rustix::fs::fstat(&from).unwrap();
        from.set_len(5_000).unwrap();
        let to = tempfile::tempfile().unwrap();
        let stop = AtomicBool::new(false);
        let mut copier = Copier { share: false, ..Copier::new(&stop) };
        assert!(matches!(copier.copy(from.as_fd(), to.as_fd(), &stat), Ok(Copied::Short)));
        stop.store(true, Ordering::Relaxed);
        let mut copier = Copier { share: false, ..Copier::new(&stop) };
        assert!(matches!(copier.copy(from.as_fd(), to.as_fd(), &stat), Err(Side::Cancelled)));
    }
}
