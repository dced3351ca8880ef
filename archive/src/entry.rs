//! One entry of a tree, as manifests hold it.

use crate::ids::FrameId;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File(FileData),
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of the file at `target`, which comes earlier in the order.
    Hardlink {
        target: Vec<u8>,
    },
    Fifo,
    Socket,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// Content of a regular file: data ranges in order; what no extent covers is
/// a hole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileData {
    /// Bytes, holes included.
    pub size: u64,
    pub extents: Vec<Extent>,
    /// BLAKE3 of the data ranges and the hole map, first 128 bits. Always
    /// there unless every extent is a whole frame.
    pub hash: Option<[u8; 16]>,
}

/// `len` bytes at `file_offset` are the bytes of `frame` from `frame_offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    pub file_offset: u64,
    pub frame: FrameId,
    pub frame_offset: u32,
    pub len: u32,
}

/// What went wrong while the entry was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryFlags {
    /// Changed while it was read, also the second time.
    pub torn: bool,
    /// Its content or attributes could not be read.
    pub unreadable: bool,
}

/// One name in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Components joined by `/`, relative to the root; the root itself is empty.
    pub path: Vec<u8>,
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky: the low 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since the Unix epoch; before it negative.
    pub mtime_ns: i128,
    pub ctime_ns: i128,
    pub inode: u64,
    /// Sorted by name. ACLs and capabilities are among them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub flags: EntryFlags,
}

/// Order of entries in a manifest and in a walk: by components, bytewise, so
/// a directory comes before its content and its content before its siblings.
pub fn path_order(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let shared = shared_prefix(a, b);
    // Where they part, the path that ends comes first, then the one whose component ends.
    let rank = |path: &[u8]| match path.get(shared) {
        None => 0,
        Some(b'/') => 1,
        Some(&byte) => 2 + u16::from(byte),
    };
    rank(a).cmp(&rank(b))
}

/// How many bytes two paths share at their beginning.
pub(crate) fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 256;
    let steps = a.chunks(STEP).zip(b.chunks(STEP)).take_while(|(a, b)| a == b).map(|(a, _)| a.len());
    let whole: usize = steps.sum();
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_components(a in "[/a-c.-]{0,6}", b in "[/a-c.-]{0,6}", common in 0_usize..600) {
            let path = |tail: &str| format!("{}{tail}", "x/".repeat(common)).into_bytes();
            let (a, b) = (path(&a), path(&b));
            let split = |path: &[u8]| path.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
            prop_assert_eq!(path_order(&a, &b), split(&a).cmp(&split(&b)));
        }
    }

    #[test]
    fn a_directory_precedes_its_content_and_that_its_siblings() {
        let mut paths: Vec<&[u8]> = vec![b"a.b", b"a/b", b"", b"a-b", b"a", b"a/b/c", b"b"];
        paths.sort_by(|a, b| path_order(a, b));
        let expected: Vec<&[u8]> = vec![b"", b"a", b"a/b", b"a/b/c", b"a-b", b"a.b", b"b"];
        assert_eq!(paths, expected);
    }
}
