//! Inodes with several names: the first becomes a file, the others links to
//! it. Per inode about 64 bytes: its number, and its first path as a last
//! component and the directory it lies in, which its neighbours share.

use std::collections::HashMap;

/// Device and inode.
type Id = (u64, u64);

#[derive(Debug, Default)]
pub struct Links {
    inodes: HashMap<Id, First>,
    names: Vec<u8>,
    directories: Vec<Part>,
}

#[derive(Debug, Clone, Copy)]
struct First {
    part: Part,
    /// Names not met yet.
    left: u32,
    mark: u32,
}

/// A path: its last component, and the directory above.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Index into `directories`; `NONE` for the root.
    above: u32,
    start: u32,
    len: u32,
}

const NONE: u32 = u32::MAX;

impl Links {
    /// The first path of this inode, once it was inserted. `mark` is what the
    /// inode looks like: one that looks otherwise than it did is another, its
    /// number used again, or was written to since; either way its content is
    /// not that of the first path.
    pub fn follow(&mut self, id: Id, mark: u32) -> Option<Vec<u8>> {
        let first = self.inodes.get_mut(&id).filter(|first| first.mark == mark)?;
        // The count is of the moment the first name was met: a name made since then is one more
        // than it says.
        first.left = first.left.saturating_sub(1);
        let part = first.part;
        // All are met: the number may be used again for another inode.
        if first.left == 0 {
            self.inodes.remove(&id);
        }
        Some(self.path_of(part))
    }

    /// `path` is the first of an inode with `names` names.
    pub fn insert(&mut self, id: Id, mark: u32, names: u64, path: &[u8]) {
        if let Some(part) = self.keep(path) {
            let left = u32::try_from(names.saturating_sub(1)).unwrap_or(u32::MAX);
            self.inodes.insert(id, First { part, left, mark });
        }
    }

    /// Inodes of which some names were not met: they lie outside, or came and went.
    pub(crate) fn unfinished(&self) -> usize {
        self.inodes.len()
    }

    /// `None` when there is no room, after gigabytes of names: such an inode is stored as files.
    fn keep(&mut self, path: &[u8]) -> Option<Part> {
        let (directory, name) = super::open::split_path(path);
        let above = self.directory(directory)?;
        self.part(above, name)
    }

    /// Neighbours follow each other in a walk, so the last directory is nearly always the one.
    fn directory(&mut self, path: &[u8]) -> Option<u32> {
        if path.is_empty() {
            return Some(NONE);
        }
        if let Some(last) = self.directories.last().copied()
            && self.path_of(last) == path
        {
            return u32::try_from(self.directories.len() - 1).ok();
        }
        let part = self.part(NONE, path)?;
        let at = u32::try_from(self.directories.len()).ok().filter(|&at| at != NONE)?;
        self.directories.push(part);
        Some(at)
    }

    fn part(&mut self, above: u32, name: &[u8]) -> Option<Part> {
        let start = u32::try_from(self.names.len()).ok()?;
        let len = u32::try_from(name.len()).ok()?;
        self.names.extend_from_slice(name);
        Some(Part { above, start, len })
    }

    fn path_of(&self, part: Part) -> Vec<u8> {
        let name = |part: Part| &self.names[part.start as usize..part.start as usize + part.len as usize];
        let mut path = Vec::new();
        if let Some(&directory) = self.directories.get(part.above as usize) {
            path.extend_from_slice(name(directory));
            path.push(b'/');
        }
        path.extend_from_slice(name(part));
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_names_link_to_the_first() {
        let mut links = Links::default();
        links.insert((1, 10), 0, 3, b"a/x");
        links.insert((1, 11), 0, 2, b"a/y");
        links.insert((2, 10), 0, 2, b"top");
        assert_eq!(links.follow((1, 10), 0), Some(b"a/x".to_vec()));
        assert_eq!(links.follow((1, 11), 0), Some(b"a/y".to_vec()));
        assert_eq!(links.follow((2, 10), 0), Some(b"top".to_vec()));
        assert_eq!(links.unfinished(), 1);
        assert_eq!(links.follow((1, 10), 0), Some(b"a/x".to_vec()));
        assert_eq!(links.unfinished(), 0);
        assert_eq!(links.follow((1, 10), 0), None);
    }

    #[test]
    fn an_inode_that_looks_otherwise_is_another() {
        let mut links = Links::default();
        links.insert((1, 10), 7, 2, b"a");
        assert_eq!(links.follow((1, 10), 8), None);
        assert_eq!(links.follow((1, 10), 7), Some(b"a".to_vec()));
    }
}
