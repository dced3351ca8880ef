//! The hash of a file's content: its data ranges and where they lie.
//!
//! BLAKE3 over the bytes of the data ranges in order, then for each range its
//! offset and length, then the file's size, all numbers as 64-bit little
//! endian; the first 128 bits of that. Ranges that touch are one range, so
//! the hash does not depend on how the ranges were cut into extents.

use crate::entry::FileData;

/// A range of data in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRange {
    pub offset: u64,
    pub len: u64,
}

impl DataRange {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

#[derive(Debug)]
pub(crate) struct ContentHasher {
    data: blake3::Hasher,
    ranges: Vec<DataRange>,
}

impl ContentHasher {
    pub(crate) fn new() -> Self {
        Self { data: blake3::Hasher::new(), ranges: Vec::new() }
    }

    /// The next bytes of data; ranges follow with [`Self::range`].
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.data.update(bytes);
    }

    /// A data range whose bytes have been given.
    pub(crate) fn range(&mut self, range: DataRange) {
        match self.ranges.last_mut() {
            Some(last) if last.end() == range.offset => last.len += range.len,
            _ => self.ranges.push(range),
        }
    }

    pub(crate) fn finish(mut self, size: u64) -> [u8; 16] {
        for range in &self.ranges {
            self.data.update(&range.offset.to_le_bytes());
            self.data.update(&range.len.to_le_bytes());
        }
        self.data.update(&size.to_le_bytes());
        let mut hash = [0; 16];
        self.data.finalize_xof().fill(&mut hash);
        hash
    }
}

/// The data ranges an entry's extents cover, touching ones as one.
pub(crate) fn ranges_of(file: &FileData) -> Vec<DataRange> {
    let mut ranges: Vec<DataRange> = Vec::new();
    for extent in &file.extents {
        let (offset, len) = (extent.file_offset, u64::from(extent.len));
        match ranges.last_mut() {
            Some(last) if last.end() == offset => last.len += len,
            _ => ranges.push(DataRange { offset, len }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[(u64, &[u8])], size: u64) -> [u8; 16] {
        let mut hasher = ContentHasher::new();
        for (offset, bytes) in parts {
            hasher.update(bytes);
            hasher.range(DataRange { offset: *offset, len: bytes.len() as u64 });
        }
        hasher.finish(size)
    }

    #[test]
    fn place_and_size_are_part_of_the_content() {
        let base = hash(&[(0, b"ab")], 2);
        assert_ne!(base, hash(&[(1, b"ab")], 3));
        assert_ne!(base, hash(&[(0, b"ab")], 3));
        assert_ne!(base, hash(&[(0, b"a"), (4, b"b")], 5));
        assert_eq!(base, hash(&[(0, b"a"), (1, b"b")], 2), "touching ranges are one");
        assert_ne!(base, hash(&[(0, b"ac")], 2));
    }

    #[test]
    fn the_definition_is_pinned() {
        let mut all = b"ab".to_vec();
        for number in [4096u64, 2, 8192] {
            all.extend_from_slice(&number.to_le_bytes());
        }
        assert_eq!(hash(&[(4096, b"ab")], 8192), blake3::hash(&all).as_bytes()[..16]);
    }
}
