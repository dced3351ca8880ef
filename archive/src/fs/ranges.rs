//! Where a file's data lies: its holes are neither read nor stored.

use std::os::fd::BorrowedFd;

use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

use super::content::DataRange;
use super::metadata::size_of;

/// The data ranges of an open file up to `size`, found one at a time.
#[derive(Debug)]
pub struct Ranges<'a> {
    file: BorrowedFd<'a>,
    at: u64,
    size: u64,
    /// False when the file has as many blocks as its size needs: nothing to look for.
    may_have_holes: bool,
}

impl<'a> Ranges<'a> {
    pub fn new(file: BorrowedFd<'a>, stat: &Stat) -> Self {
        let size = size_of(stat);
        let allocated = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        Self { file, at: 0, size, may_have_holes: allocated < size }
    }

    /// What is no hole between two places of the file.
    pub(crate) fn between(file: BorrowedFd<'a>, start: u64, end: u64) -> Self {
        Self { file, at: start, size: end, may_have_holes: true }
    }

    pub(crate) fn may_have_holes(&self) -> bool {
        self.may_have_holes
    }

    /// The next range, never empty and never touching the one before. A
    /// filesystem that cannot tell has one range.
    ///
    /// # Errors
    /// The filesystem fails; where it cannot tell holes from data, all is data.
    pub fn next_range(&mut self) -> Result<Option<DataRange>, Errno> {
        if self.at >= self.size {
            return Ok(None);
        }
        if !self.may_have_holes {
            return Ok(Some(self.take(self.at, self.size)));
        }
        let start = match seek(self.file, SeekFrom::Data(self.at)) {
            Ok(start) if start < self.size => start,
            // No data from here on: the rest is a hole.
            Ok(_) | Err(Errno::NXIO) => {
                self.at = self.size;
                return Ok(None);
            }
            // A filesystem that knows no holes. What reads as zeros is then stored as zeros.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.may_have_holes = false;
                return Ok(Some(self.take(self.at, self.size)));
            }
            Err(error) => return Err(error),
        };
        let end = match seek(self.file, SeekFrom::Hole(start)) {
            Ok(end) if end > start => end.min(self.size),
            // Truncated between the two calls.
            Ok(_) | Err(Errno::NXIO) => self.size,
            Err(error) => return Err(error),
        };
        Ok(Some(self.take(start, end)))
    }

    fn take(&mut self, start: u64, end: u64) -> DataRange {
        self.at = end;
        DataRange { offset: start, len: end - start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    fn ranges(file: &File) -> Vec<(u64, u64)> {
        let stat = rustix::fs::fstat(file).unwrap();
        let mut ranges = Ranges::new(file.as_fd(), &stat);
        std::iter::from_fn(|| ranges.next_range().unwrap()).map(|range| (range.offset, range.len)).collect()
    }

    #[test]
    fn holes_are_found_and_dense_files_are_one_range() {
        let file = tempfile::tempfile().unwrap();
        assert!(ranges(&file).is_empty());
        file.write_all_at(&[1; 5000], 0).unwrap();
        assert_eq!(ranges(&file), [(0, 5000)]);
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.set_len(3 << 20).unwrap();
        assert_eq!(ranges(&file), [(0, 8192), (1 << 20, 4096)]);
        let empty = tempfile::tempfile().unwrap();
        empty.set_len(1 << 40).unwrap();
        assert!(ranges(&empty).is_empty());
    }
}
