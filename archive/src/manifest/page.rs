//! One page: its bytes, its bounds, and what it refers to.
//!
//! | kind | holds |
//! |---|---|
//! | 1 leaf | entries, in order |
//! | 2 index | children: page, first and last path, number of entries; `level` is 1 above leaves |
//! | 3 extents | a part of one file's extents |
//! | 4 extent index | children: page, number of extents, bytes covered; `level` is 1 above extents |
//! | 5 attributes | extended attributes of one entry |
//!
//! A path is stored as the number of bytes it shares with the path before it
//! in the page, and the rest; in an index page, a child's first path follows
//! the last path of the child before, and its last path its own first.
//! Extents are four numbers each: bytes of hole since the extent before, place
//! in the page's table of frames, offset in the frame, length. No number is
//! absolute, so that pages after an insertion stay what they were.
//!
//! Whatever is decoded here came from a store. A page is at most 2 MiB of at
//! most 4096 rows, and paths are put together one at a time.

use prost::Message;

use super::error::ManifestError;
use super::path::{PathError, TreeOrder};
use crate::entry::{Extent, path_order};
use crate::frame::{self, MAX_RAW};
use crate::ids::FrameId;

/// Longest page a reader accepts, raw bytes.
pub(crate) const MAX_PAGE_RAW: usize = 2 << 20;
/// A page ends once its rows take this many bytes.
pub(crate) const PAGE_CAP: usize = 64 << 10;
/// Most rows of one page.
pub(crate) const MAX_ROWS: usize = 4096;
/// Most levels above leaves or extents. Every level at least halves.
pub(crate) const MAX_LEVEL: u32 = 40;
/// Extent lists and attributes longer than this go into pages of their own.
pub(crate) const INLINE_BYTES: usize = 4 << 10;
/// Most extents of one file: 8 TiB in chunks of 1 MiB.
pub const MAX_EXTENTS: u64 = 8 << 20;
/// Most bytes of one entry's extended attributes, names and values together.
pub const MAX_XATTR_BYTES: usize = 16 << 20;
pub(crate) const MAX_XATTR_NAME: usize = 255;
pub(crate) const MAX_XATTR_VALUE: usize = 64 << 10;
pub(crate) const MAX_XATTR_PAGES: usize = 1024;

pub(crate) const FLAG_TORN: u32 = 1;
pub(crate) const FLAG_UNREADABLE: u32 = 4;

/// What is wrong with a page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("it has {0} bytes, more than a page may")]
    Long(usize),
    #[error("it does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("it has more rows than a page may")]
    TooManyRows,
    #[error("it is of kind {found} and level {level} where {expected} was expected")]
    Kind { found: u32, level: u32, expected: &'static str },
    #[error("{0}")]
    Malformed(&'static str),
    #[error("path `{}`: {reason}", path.escape_ascii())]
    Path { path: Vec<u8>, reason: PathError },
    #[error("entry `{}`: {reason}", path.escape_ascii())]
    Entry { path: Vec<u8>, reason: &'static str },
    #[error("it does not hold what the page above says of it: {0}")]
    Mismatch(&'static str),
}

/// What a page refers to itself, not through other pages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRefs {
    /// Index, leaf, extent and attribute pages.
    pub pages: Vec<FrameId>,
    /// Frames with content of files.
    pub data: Vec<FrameId>,
}

/// The frames one page refers to. The page is checked as far as it can be
/// without the others: paths and their order, places in its tables, extents.
///
/// # Errors
/// If the bytes are no page.
pub fn page_refs(raw: &[u8]) -> Result<PageRefs, ManifestError> {
    refs(raw).map_err(|source| ManifestError::Page { page: frame::frame_id(raw), source })
}

fn refs(raw: &[u8]) -> Result<PageRefs, PageError> {
    let page = PageMessage::read(raw)?;
    page.check_kind()?;
    let frames = page.frame_table()?;
    let mut pages = Vec::new();
    let mut path = Vec::new();
    let mut order = TreeOrder::default();
    for entry in &page.entries {
        apply_suffix(&mut path, entry.shared, &entry.suffix)?;
        order.accept_part(&path).map_err(|reason| PageError::Path { path: path.clone(), reason })?;
        decode_extents(&entry.extents, &frames, 0)?;
        for page in &entry.xattr_pages {
            pages.push(id(page)?);
        }
        if !entry.extent_root.is_empty() {
            pages.push(id(&entry.extent_root)?);
        }
    }
    decode_extents(&page.extents, &frames, 0)?;
    path.clear();
    for (n, child) in page.children.iter().enumerate() {
        let before = path.clone();
        apply_suffix(&mut path, child.first_shared, &child.first_suffix)?;
        let first = path.clone();
        apply_suffix(&mut path, child.last_shared, &child.last_suffix)?;
        // With an overlap, one path could stand in two pages.
        if n > 0 && path_order(&before, &first).is_ge() || path_order(&first, &path).is_gt() {
            return Err(PageError::Malformed("its children overlap"));
        }
        pages.push(id(&child.page)?);
    }
    for child in &page.extent_children {
        pages.push(id(&child.page)?);
    }
    Ok(PageRefs { pages, data: frames })
}

pub(crate) const LEAF: u32 = 1;
pub(crate) const INDEX: u32 = 2;
pub(crate) const EXTENTS: u32 = 3;
pub(crate) const EXTENT_INDEX: u32 = 4;
pub(crate) const XATTRS: u32 = 5;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PageMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) kind: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) level: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) frames: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) xattrs: Vec<XattrMessage>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) entries: Vec<EntryMessage>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) children: Vec<ChildMessage>,
    #[prost(uint64, repeated, tag = "7")]
    pub(crate) extents: Vec<u64>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) extent_children: Vec<ExtentChildMessage>,
}

#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct XattrMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) shared: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) suffix: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub(crate) kind: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) gid: u32,
    #[prost(uint64, tag = "7")]
    pub(crate) size: u64,
    #[prost(sint64, tag = "8")]
    pub(crate) mtime_seconds: i64,
    #[prost(uint32, tag = "9")]
    pub(crate) mtime_nanos: u32,
    #[prost(sint64, tag = "10")]
    pub(crate) ctime_seconds: i64,
    #[prost(uint32, tag = "11")]
    pub(crate) ctime_nanos: u32,
    #[prost(uint64, tag = "12")]
    pub(crate) inode: u64,
    #[prost(bytes = "vec", tag = "13")]
    pub(crate) target: Vec<u8>,
    #[prost(uint32, tag = "14")]
    pub(crate) major: u32,
    #[prost(uint32, tag = "15")]
    pub(crate) minor: u32,
    #[prost(uint32, tag = "16")]
    pub(crate) flags: u32,
    #[prost(uint32, repeated, tag = "17")]
    pub(crate) xattrs: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "18")]
    pub(crate) xattr_pages: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "19")]
    pub(crate) hash: Vec<u8>,
    #[prost(uint64, repeated, tag = "20")]
    pub(crate) extents: Vec<u64>,
    #[prost(bytes = "vec", tag = "21")]
    pub(crate) extent_root: Vec<u8>,
    #[prost(uint32, tag = "22")]
    pub(crate) extent_level: u32,
    #[prost(uint64, tag = "23")]
    pub(crate) extent_count: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChildMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) page: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) first_shared: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) first_suffix: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub(crate) last_shared: u32,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) last_suffix: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub(crate) entries: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExtentChildMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) page: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(crate) extents: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) span: u64,
}

impl PageMessage {
    /// Decodes a page whose rows have been counted before any is allocated.
    ///
    /// # Errors
    /// It is longer or has more rows than a page may, or is no message of this kind.
    pub(crate) fn read(raw: &[u8]) -> Result<Self, PageError> {
        if raw.len() > MAX_PAGE_RAW {
            return Err(PageError::Long(raw.len()));
        }
        // Before the decoder allocates: a page of 2 MiB may hold a million empty rows.
        count_rows(raw)?;
        Ok(Self::decode(raw)?)
    }

    /// The page if it is of the kind and level that whoever refers to it says.
    ///
    /// # Errors
    /// It cannot be read, has rows of another kind than its own, or is not the page that
    /// was referred to.
    pub(crate) fn read_as(
        raw: &[u8],
        kind: u32,
        level: u32,
        expected: &'static str,
    ) -> Result<Self, PageError> {
        let page = Self::read(raw)?;
        page.check_kind()?;
        if page.kind != kind || page.level != level {
            return Err(PageError::Kind { found: page.kind, level: page.level, expected });
        }
        Ok(page)
    }

    /// That a page has the rows of its kind and no others.
    ///
    /// # Errors
    /// Its kind is unknown, its level is none that kind has, or it has rows of another
    /// kind or none.
    pub(crate) fn check_kind(&self) -> Result<(), PageError> {
        let has = [
            !self.entries.is_empty(),
            !self.children.is_empty(),
            !self.extents.is_empty(),
            !self.extent_children.is_empty(),
            self.kind == XATTRS && !self.xattrs.is_empty(),
        ];
        let wanted = [LEAF, INDEX, EXTENTS, EXTENT_INDEX, XATTRS].map(|kind| self.kind == kind);
        if !wanted.contains(&true) {
            return Err(PageError::Kind { found: self.kind, level: self.level, expected: "a known kind" });
        }
        // Rows of a kind that the page is not would be read by nobody, or by the wrong reader.
        if has != wanted {
            return Err(PageError::Malformed("it has rows of another kind of page, or none of its own"));
        }
        let indexes = matches!(self.kind, INDEX | EXTENT_INDEX);
        // The level falls by one with each page below, so a walk down ends.
        if indexes != (self.level > 0) || self.level > MAX_LEVEL {
            return Err(PageError::Malformed("its level is none a page of its kind has"));
        }
        Ok(())
    }

    /// The frames its extents refer to by number.
    ///
    /// # Errors
    /// The table ends within an id.
    pub(crate) fn frame_table(&self) -> Result<Vec<FrameId>, PageError> {
        if !self.frames.len().is_multiple_of(32) {
            return Err(PageError::Malformed("its table of frames is cut off"));
        }
        Ok(self.frames.chunks(32).filter_map(FrameId::from_slice).collect())
    }
}

/// Refuses pages with more rows than a page may have: decoded, an empty row
/// takes a hundred times its two bytes.
fn count_rows(raw: &[u8]) -> Result<(), PageError> {
    const CUT: PageError = PageError::Malformed("a field is cut off");
    let mut rest = raw;
    let mut rows = [0_usize; 9];
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or(CUT)?;
        let len = match key & 7 {
            0 => varint(&mut rest).map(|_| 0).ok_or(CUT)?,
            1 => 8,
            2 => varint(&mut rest).ok_or(CUT)?,
            5 => 4,
            _ => return Err(PageError::Malformed("a field has an unknown wire type")),
        };
        rest = usize::try_from(len).ok().and_then(|len| rest.get(len..)).ok_or(CUT)?;
        if let Some(count) = rows.get_mut((key >> 3) as usize).filter(|_| key & 7 == 2) {
            *count += 1;
            if *count > MAX_ROWS {
                return Err(PageError::TooManyRows);
            }
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The id in a reference to a page.
///
/// # Errors
/// It is not 32 bytes.
pub(crate) fn id(bytes: &[u8]) -> Result<FrameId, PageError> {
    FrameId::from_slice(bytes).ok_or(PageError::Malformed("a reference to a page is not 32 bytes"))
}

/// Turns the path before into this one.
///
/// # Errors
/// It shares more than the path before has, or becomes longer than a path may.
pub(crate) fn apply_suffix(path: &mut Vec<u8>, shared: u32, suffix: &[u8]) -> Result<(), PageError> {
    let shared = shared as usize;
    if shared > path.len() {
        return Err(PageError::Malformed("a path shares more than the path before it has"));
    }
    // A few bytes may share a path of any length with the row before: the limit is on what it
    // becomes.
    if shared + suffix.len() > super::MAX_PATH_LEN {
        let path = suffix[..suffix.len().min(64)].to_vec();
        return Err(PageError::Path { path, reason: PathError::Long });
    }
    path.truncate(shared);
    path.extend_from_slice(suffix);
    Ok(())
}

/// Reads extents that continue at `from` in their file. Gives them and where
/// the last one ends.
///
/// # Errors
/// One is cut off, names a frame outside the table, or lies outside of what a frame or
/// a file may hold.
pub(crate) fn decode_extents(
    numbers: &[u64],
    frames: &[FrameId],
    from: u64,
) -> Result<(Vec<Extent>, u64), PageError> {
    if !numbers.len().is_multiple_of(4) {
        return Err(PageError::Malformed("an extent is cut off"));
    }
    let mut extents = Vec::with_capacity(numbers.len() / 4);
    let mut end = from;
    for extent in numbers.chunks(4) {
        let [gap, place, frame_offset, len] = [extent[0], extent[1], extent[2], extent[3]];
        let frame = usize::try_from(place).ok().and_then(|place| frames.get(place));
        let frame = *frame.ok_or(PageError::Malformed("an extent names a frame outside the page's table"))?;
        let fits = len > 0 && frame_offset.checked_add(len).is_some_and(|end| end <= MAX_RAW as u64);
        if !fits {
            return Err(PageError::Malformed("an extent lies outside of what a frame may hold"));
        }
        // Extents go forward only: by their form they can neither overlap nor come out of order.
        let file_offset = end.checked_add(gap).filter(|&at| at <= i64::MAX as u64 - len);
        let file_offset =
            file_offset.ok_or(PageError::Malformed("an extent lies beyond what a file may hold"))?;
        end = file_offset + len;
        extents.push(Extent { file_offset, frame, frame_offset: frame_offset as u32, len: len as u32 });
    }
    Ok((extents, end))
}
