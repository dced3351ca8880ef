//! Groups of small files: one frame for neighbours.
//!
//! A group closes after a file once it has [`CLOSE`] bytes and the next file
//! lies in another directory or its path hashes to a multiple of 16, and
//! before [`MOST`] bytes in any case. So equal trees are cut alike wherever
//! the walk began, and an edit moves few cuts.

/// Files up to this size are grouped, bytes.
pub const SMALL: u64 = 512 << 10;
const CLOSE: u64 = 768 << 10;
const MOST: u64 = 1536 << 10;

/// The bytes of the group being filled and the running total.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) bytes: Vec<u8>,
    /// Sizes of the files that entered, sharers of earlier content included.
    total: u64,
    /// Directory of the last file.
    directory: Vec<u8>,
}

impl Group {
    /// Whether the group has to close before a file of this path and size enters.
    pub(crate) fn closes_before(&self, path: &[u8], size: u64) -> bool {
        // Never an empty group, however large the file.
        if self.total + size > MOST {
            return self.total > 0;
        }
        self.total >= CLOSE && (directory_of(path) != self.directory || boundary(path))
    }

    /// A file has entered.
    pub(crate) fn entered(&mut self, path: &[u8], size: u64) {
        self.total += size;
        let directory = directory_of(path);
        if self.directory != directory {
            self.directory.clear();
            self.directory.extend_from_slice(directory);
        }
    }

    /// Takes the bytes out and starts the next group.
    pub(crate) fn close(&mut self) -> Vec<u8> {
        self.total = 0;
        std::mem::take(&mut self.bytes)
    }
}

fn directory_of(path: &[u8]) -> &[u8] {
    super::open::split_path(path).0
}

fn boundary(path: &[u8]) -> bool {
    blake3::hash(path).as_bytes()[0] & 0x0f == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many files of this size each group of the paths gets.
    fn groups(paths: &[String], size: u64) -> Vec<usize> {
        let mut group = Group::default();
        let mut counts = vec![0];
        for path in paths {
            if group.closes_before(path.as_bytes(), size) {
                group.close();
                counts.push(0);
            }
            group.entered(path.as_bytes(), size);
            *counts.last_mut().unwrap() += 1;
        }
        counts
    }

    #[test]
    fn a_group_ends_with_its_directory_or_at_a_marked_name() {
        let two: Vec<String> = (0..384).map(|n| format!("d{}/f{n:03}", n / 96)).collect();
        assert_eq!(groups(&two, 8 << 10), [96, 96, 96, 96]);
        let one: Vec<String> = (0..1000).map(|n| format!("d/f{n:04}")).collect();
        let cut = groups(&one, 8 << 10);
        assert!(cut.iter().rev().skip(1).all(|&n| (96..=192).contains(&n)), "{cut:?}");
        // A file more at the front moves only the first cuts.
        let mut more = one.clone();
        more.insert(0, "d/a".to_owned());
        let moved = groups(&more, 8 << 10);
        assert_eq!(cut.last(), moved.last());
    }

    #[test]
    fn a_group_never_reaches_its_limit() {
        let paths: Vec<String> = (0..50).map(|n| format!("d/f{n}")).collect();
        let cut = groups(&paths, SMALL);
        assert!(cut.iter().all(|&n| n as u64 * SMALL <= MOST), "{cut:?}");
    }
}
