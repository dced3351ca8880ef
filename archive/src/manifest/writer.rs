//! Makes pages of entries as they come.
//!
//! Holds one open page a level and nothing else: a page is given away as soon
//! as it ends, so a tree of any size costs the memory of its height.
//!
//! Pinned, because every change of it makes all pages new: a leaf ends after
//! the entry where the first 32 bits (little-endian) of BLAKE3(path) have
//! their low 6 bits zero; an index page of level n after the child where that
//! holds for the bits from byte 4n mod 32 of BLAKE3(last path), if it has two
//! children at least; an extents page after the extent where the low 8 bits of
//! the first byte of BLAKE3(frame id, frame offset, length) are zero; an extent
//! index likewise by 6 bits from byte 4n mod 32 of the child's id. All end at
//! 64 KiB or 4096 rows.

use std::collections::HashMap;

use prost::Message;
use prost::encoding::encoded_len_varint;

use super::page::{
    ChildMessage, EXTENT_INDEX, EXTENTS, EntryMessage, ExtentChildMessage, FLAG_TORN, FLAG_UNREADABLE, INDEX,
    INLINE_BYTES, LEAF, MAX_EXTENTS, MAX_LEVEL, MAX_ROWS, MAX_XATTR_BYTES, MAX_XATTR_NAME, MAX_XATTR_PAGES,
    MAX_XATTR_VALUE, PAGE_CAP, PageError, PageMessage, XATTRS, XattrMessage,
};
use super::path::TreeOrder;
use crate::entry::{Entry, EntryKind, Extent, FileData, shared_prefix};
use crate::frame::MAX_RAW;
use crate::ids::FrameId;

const LEAF_MASK: u32 = 0x3f;
const INDEX_MASK: u32 = 0x3f;
const EXTENTS_MASK: u32 = 0xff;

/// A manifest that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError<E: std::error::Error + 'static> {
    #[error("a page of the manifest could not be kept")]
    Emit(#[source] E),
    #[error("the manifest cannot hold the entry")]
    Entry(#[source] PageError),
}

type Emit<'a, E> = &'a mut dyn FnMut(Vec<u8>) -> Result<FrameId, E>;

/// Writes a manifest of entries pushed in order.
pub struct ManifestWriter<'a, E> {
    emit: Emit<'a, E>,
    order: TreeOrder,
    leaf: Leaf,
    levels: Vec<Index>,
}

impl<'a, E: std::error::Error + 'static> ManifestWriter<'a, E> {
    /// `emit` keeps a page as a frame of kind page and gives its id.
    pub fn new(emit: Emit<'a, E>) -> Self {
        Self { emit, order: TreeOrder::default(), leaf: Leaf::default(), levels: Vec::new() }
    }

    /// Adds the next entry: the root directory first, then by
    /// [`path_order`](crate::entry::path_order).
    ///
    /// # Errors
    /// If the entry is out of order or holds what no manifest can, or a page
    /// could not be kept. An entry that was refused may be left out or pushed
    /// again in another shape; after a failed page the manifest is lost.
    pub fn push(&mut self, entry: Entry) -> Result<(), WriteError<E>> {
        // The entry comes before the order: one that is refused here may be pushed again changed.
        check_entry(&entry)
            .map_err(|reason| WriteError::Entry(PageError::Entry { path: entry.path.clone(), reason }))?;
        let is_directory = entry.kind == EntryKind::Directory;
        self.order
            .accept(&entry.path, is_directory)
            .map_err(|reason| WriteError::Entry(PageError::Path { path: entry.path.clone(), reason }))?;
        let row = self.row(entry)?;
        self.leaf.add(row);
        if self.leaf.is_full() || cut(blake3::hash(&self.leaf.last).as_bytes(), 0, LEAF_MASK) {
            self.close_leaf()?;
        }
        Ok(())
    }

    /// Ends the manifest and gives its root page.
    ///
    /// # Errors
    /// If nothing was pushed or a page could not be kept.
    pub fn finish(mut self) -> Result<FrameId, WriteError<E>> {
        if !self.leaf.rows.is_empty() {
            self.close_leaf()?;
        }
        // A level that is closed adds a child to the one above: the levels can grow in number.
        let mut level = 0;
        while level < self.levels.len() {
            let top = level + 1 == self.levels.len();
            // A single child at the top is the root: an index of one child would only add a level.
            if top && self.levels[level].children.len() == 1 {
                return Ok(self.levels[level].children[0].page);
            }
            if !self.levels[level].children.is_empty() {
                self.close_index(level)?;
            }
            level += 1;
        }
        let reason = super::PathError::NoRoot;
        Err(WriteError::Entry(PageError::Path { path: Vec::new(), reason }))
    }

    fn row(&mut self, entry: Entry) -> Result<Row, WriteError<E>> {
        let (mtime_seconds, mtime_nanos) = split_time(entry.mtime_ns);
        let (ctime_seconds, ctime_nanos) = split_time(entry.ctime_ns);
        let mut message = EntryMessage {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime_seconds,
            mtime_nanos,
            ctime_seconds,
            ctime_nanos,
            inode: entry.inode,
            flags: u32::from(entry.flags.torn) * FLAG_TORN
                + u32::from(entry.flags.unreadable) * FLAG_UNREADABLE,
            ..EntryMessage::default()
        };
        let extents = self.put_kind(entry.kind, &mut message)?;
        let mut xattrs = Vec::new();
        // A long list gets pages of its own, so that one entry cannot fill a leaf beyond its cap.
        if xattrs_len(&entry.xattrs) > INLINE_BYTES {
            message.xattr_pages = write_xattrs(self.emit, entry.xattrs)?;
        } else {
            xattrs = entry.xattrs;
        }
        Ok(Row { path: entry.path, message, extents, xattrs })
    }

    /// Puts what there is of that kind into the message. Gives the extents that
    /// are to stand in the leaf: a long list gets pages of its own.
    fn put_kind(
        &mut self,
        kind: EntryKind,
        message: &mut EntryMessage,
    ) -> Result<Vec<Extent>, WriteError<E>> {
        let mut extents = Vec::new();
        // These numbers are the format and never change.
        message.kind = match kind {
            EntryKind::File(FileData { size, extents: list, hash }) => {
                message.size = size;
                message.hash = hash.map(|hash| hash.to_vec()).unwrap_or_default();
                if extents_len(&list) > INLINE_BYTES {
                    let root = write_extents(self.emit, &list)?;
                    message.extent_root = root.page.0.to_vec();
                    message.extent_level = root.level;
                    message.extent_count = root.extents;
                } else {
                    extents = list;
                }
                1
            }
            EntryKind::Directory => 2,
            EntryKind::Symlink { target } => {
                message.target = target;
                3
            }
            EntryKind::Hardlink { target } => {
                message.target = target;
                4
            }
            EntryKind::Fifo => 5,
            EntryKind::Socket => 6,
            EntryKind::CharDevice { major, minor } => {
                (message.major, message.minor) = (major, minor);
                7
            }
            EntryKind::BlockDevice { major, minor } => {
                (message.major, message.minor) = (major, minor);
                8
            }
        };
        Ok(extents)
    }

    fn close_leaf(&mut self) -> Result<(), WriteError<E>> {
        let leaf = std::mem::take(&mut self.leaf);
        let entries = leaf.rows.len() as u64;
        let (first, last) = (leaf.first, leaf.last);
        let message = PageMessage {
            kind: LEAF,
            frames: leaf.frames.bytes,
            xattrs: leaf.xattrs,
            entries: leaf.rows,
            ..PageMessage::default()
        };
        let page = (self.emit)(message.encode_to_vec()).map_err(WriteError::Emit)?;
        self.add_child(0, Child { page, first, last, entries })
    }

    fn close_index(&mut self, level: usize) -> Result<(), WriteError<E>> {
        let children = std::mem::take(&mut self.levels[level]).children;
        let (Some(head), Some(tail)) = (children.first(), children.last()) else { return Ok(()) };
        let (first, last) = (head.first.clone(), tail.last.clone());
        let entries = children.iter().map(|child| child.entries).sum();
        let mut before: &[u8] = &[];
        let mut rows = Vec::with_capacity(children.len());
        for child in &children {
            let first_shared = shared_prefix(before, &child.first);
            let last_shared = shared_prefix(&child.first, &child.last);
            rows.push(ChildMessage {
                page: child.page.0.to_vec(),
                first_shared: first_shared as u32,
                first_suffix: child.first[first_shared..].to_vec(),
                last_shared: last_shared as u32,
                last_suffix: child.last[last_shared..].to_vec(),
                entries: child.entries,
            });
            before = &child.last;
        }
        let message =
            PageMessage { kind: INDEX, level: level as u32 + 1, children: rows, ..PageMessage::default() };
        let page = (self.emit)(message.encode_to_vec()).map_err(WriteError::Emit)?;
        self.add_child(level + 1, Child { page, first, last, entries })
    }

    fn add_child(&mut self, level: usize, child: Child) -> Result<(), WriteError<E>> {
        if level as u32 >= MAX_LEVEL {
            return Err(WriteError::Entry(PageError::Malformed("the manifest has too many levels")));
        }
        if self.levels.len() == level {
            self.levels.push(Index::default());
        }
        let index = &mut self.levels[level];
        let ends = cut(blake3::hash(&child.last).as_bytes(), level + 1, INDEX_MASK);
        let before = index.children.last().map_or(&[][..], |before| &before.last);
        // An estimate of the encoded length. It decides where pages end, so it must not change.
        index.size += 32
            + 20
            + (child.first.len() - shared_prefix(before, &child.first))
            + (child.last.len() - shared_prefix(&child.first, &child.last));
        index.children.push(child);
        let full = index.size >= PAGE_CAP || index.children.len() == MAX_ROWS;
        // With one child a page, a level would have as many pages as the one below, without end.
        if index.children.len() >= 2 && (ends || full) {
            self.close_index(level)?;
        }
        Ok(())
    }
}

/// Whether a hash ends a page of this level.
fn cut(hash: &[u8; 32], level: usize, mask: u32) -> bool {
    // Each level takes other bits: a path that ends a leaf does not end all levels above it.
    let at = level * 4 % 32;
    let bits = u32::from_le_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
    bits & mask == 0
}

fn split_time(ns: i128) -> (i64, u32) {
    // Euclidean, because nanoseconds are positive also before 1970.
    let seconds = ns.div_euclid(1_000_000_000).clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    (seconds as i64, ns.rem_euclid(1_000_000_000) as u32)
}

struct Row {
    path: Vec<u8>,
    message: EntryMessage,
    extents: Vec<Extent>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A page's table of frames.
#[derive(Default)]
struct FrameTable {
    bytes: Vec<u8>,
    places: HashMap<FrameId, u64>,
}

impl FrameTable {
    fn place(&mut self, frame: &FrameId) -> u64 {
        let next = self.places.len() as u64;
        *self.places.entry(*frame).or_insert_with(|| {
            self.bytes.extend_from_slice(&frame.0);
            next
        })
    }

    /// The numbers of an extent that follows what ends at `end`.
    fn numbers(&mut self, extent: &Extent, end: u64) -> [u64; 4] {
        [
            extent.file_offset - end,
            self.place(&extent.frame),
            u64::from(extent.frame_offset),
            u64::from(extent.len),
        ]
    }
}

#[derive(Default)]
struct Leaf {
    rows: Vec<EntryMessage>,
    frames: FrameTable,
    xattrs: Vec<XattrMessage>,
    xattr_places: HashMap<XattrMessage, u32>,
    first: Vec<u8>,
    last: Vec<u8>,
    size: usize,
}

impl Leaf {
    fn add(&mut self, row: Row) {
        let Row { path, mut message, extents, xattrs } = row;
        let shared = shared_prefix(&self.last, &path);
        message.shared = shared as u32;
        message.suffix = path[shared..].to_vec();
        let mut end = 0;
        for extent in &extents {
            message.extents.extend(self.frames.numbers(extent, end));
            end = extent.file_offset + u64::from(extent.len);
        }
        message.xattrs = xattrs.into_iter().map(|(name, value)| self.place(name, value)).collect();
        // 3 bytes stand for the row's tag and length in the page.
        self.size += message.encoded_len() + 3;
        if self.rows.is_empty() {
            self.first.clone_from(&path);
        }
        self.rows.push(message);
        self.last = path;
    }

    /// Where an attribute stands in the page's table: equal ones stand there once.
    fn place(&mut self, name: Vec<u8>, value: Vec<u8>) -> u32 {
        let xattr = XattrMessage { name, value };
        let next = self.xattrs.len() as u32;
        let place = *self.xattr_places.entry(xattr.clone()).or_insert(next);
        if place == next {
            self.size += xattr.encoded_len() + 3;
            self.xattrs.push(xattr);
        }
        place
    }

    fn is_full(&self) -> bool {
        // Interned attributes are rows too.
        let rows = self.rows.len().max(self.xattrs.len() + INLINE_BYTES / 2);
        self.size + self.frames.bytes.len() >= PAGE_CAP || rows >= MAX_ROWS
    }
}

struct Child {
    page: FrameId,
    first: Vec<u8>,
    last: Vec<u8>,
    entries: u64,
}

#[derive(Default)]
struct Index {
    children: Vec<Child>,
    size: usize,
}

fn check_entry(entry: &Entry) -> Result<(), &'static str> {
    if entry.mode > 0o7777 {
        return Err("its mode has more than the low 12 bits");
    }
    check_xattrs(&entry.xattrs)?;
    match &entry.kind {
        EntryKind::File(data) => check_file(data),
        EntryKind::Symlink { target } | EntryKind::Hardlink { target }
            if target.len() > super::MAX_PATH_LEN =>
        {
            Err("its target is longer than 256 KiB")
        }
        _ => Ok(()),
    }
}

fn check_file(data: &FileData) -> Result<(), &'static str> {
    if data.size > i64::MAX as u64 || data.extents.len() as u64 > MAX_EXTENTS {
        return Err("it is larger or in more pieces than a file may be");
    }
    let mut end = 0;
    for extent in &data.extents {
        let in_frame = u64::from(extent.frame_offset) + u64::from(extent.len) <= MAX_RAW as u64;
        let until = extent.file_offset.checked_add(u64::from(extent.len));
        if extent.len == 0 || !in_frame || extent.file_offset < end {
            return Err("its extents overlap, are empty or exceed their frame");
        }
        end = until.filter(|&until| until <= data.size).ok_or("its extents exceed its size")?;
    }
    Ok(())
}

fn check_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), &'static str> {
    let fits = |(name, value): &(Vec<u8>, Vec<u8>)| {
        !name.is_empty()
            && !name.contains(&0)
            && name.len() <= MAX_XATTR_NAME
            && value.len() <= MAX_XATTR_VALUE
    };
    if !xattrs.iter().all(fits) || xattrs_len(xattrs) > MAX_XATTR_BYTES {
        return Err("its extended attributes exceed what Linux allows, or 16 MiB together");
    }
    if !xattrs.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err("its extended attributes are not sorted by name, each once");
    }
    Ok(())
}

fn xattrs_len(xattrs: &[(Vec<u8>, Vec<u8>)]) -> usize {
    xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

/// What an extent list takes in a page, independent of what else is there.
fn extents_len(extents: &[Extent]) -> usize {
    let mut end = 0;
    let mut frame = None;
    let mut len = 0;
    for extent in extents {
        len += 2 + encoded_len_varint(extent.file_offset - end);
        len += encoded_len_varint(u64::from(extent.frame_offset)) + encoded_len_varint(u64::from(extent.len));
        len += if frame == Some(extent.frame) { 0 } else { 32 };
        end = extent.file_offset + u64::from(extent.len);
        frame = Some(extent.frame);
    }
    len
}

fn write_xattrs<E: std::error::Error + 'static>(
    emit: Emit<'_, E>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<Vec<Vec<u8>>, WriteError<E>> {
    let mut pages = Vec::new();
    let mut rows = Vec::new();
    let mut size = 0;
    let count = xattrs.len();
    for (n, (name, value)) in xattrs.into_iter().enumerate() {
        size += name.len() + value.len();
        rows.push(XattrMessage { name, value });
        if size >= PAGE_CAP || rows.len() == MAX_ROWS || n + 1 == count {
            let xattrs = std::mem::take(&mut rows);
            let message = PageMessage { kind: XATTRS, xattrs, ..PageMessage::default() };
            pages.push(emit(message.encode_to_vec()).map_err(WriteError::Emit)?.0.to_vec());
            size = 0;
        }
    }
    debug_assert!(pages.len() <= MAX_XATTR_PAGES, "16 MiB of attributes fill fewer pages");
    Ok(pages)
}

#[derive(Clone, Copy)]
struct ExtentPage {
    page: FrameId,
    level: u32,
    extents: u64,
    span: u64,
}

/// Extents in pages of their own: those of one level, then those above them.
fn write_extents<E: std::error::Error + 'static>(
    emit: Emit<'_, E>,
    extents: &[Extent],
) -> Result<ExtentPage, WriteError<E>> {
    let mut pages = Vec::new();
    let mut rest = extents;
    let mut end = 0;
    while !rest.is_empty() {
        let mut frames = FrameTable::default();
        let mut numbers = Vec::new();
        let from = end;
        let mut count = 0;
        for extent in rest {
            numbers.extend(frames.numbers(extent, end));
            end = extent.file_offset + u64::from(extent.len);
            count += 1;
            // 12 bytes an extent are an estimate. It decides where pages end: never change it.
            if ends_extents(extent) || frames.bytes.len() + count * 12 >= PAGE_CAP || count == MAX_ROWS {
                break;
            }
        }
        rest = &rest[count..];
        let message =
            PageMessage { kind: EXTENTS, frames: frames.bytes, extents: numbers, ..PageMessage::default() };
        let page = emit(message.encode_to_vec()).map_err(WriteError::Emit)?;
        pages.push(ExtentPage { page, level: 0, extents: count as u64, span: end - from });
    }
    while pages.len() > 1 {
        pages = write_extent_level(emit, &pages)?;
    }
    Ok(pages[0])
}

fn ends_extents(extent: &Extent) -> bool {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&extent.frame.0);
    hasher.update(&extent.frame_offset.to_le_bytes());
    hasher.update(&extent.len.to_le_bytes());
    cut(hasher.finalize().as_bytes(), 0, EXTENTS_MASK)
}

fn write_extent_level<E: std::error::Error + 'static>(
    emit: Emit<'_, E>,
    below: &[ExtentPage],
) -> Result<Vec<ExtentPage>, WriteError<E>> {
    let level = below[0].level + 1;
    let mut pages = Vec::new();
    let mut rest = below;
    while !rest.is_empty() {
        let ends = |(n, child): (usize, &ExtentPage)| {
            // Two children at least, or a level could be as long as the one below it.
            n >= 1 && (cut(&child.page.0, level as usize, INDEX_MASK) || n + 1 == PAGE_CAP / 48)
        };
        let count = rest.iter().enumerate().position(ends).map_or(rest.len(), |n| n + 1);
        let (children, after) = rest.split_at(count);
        rest = after;
        let rows = children.iter().map(|child| ExtentChildMessage {
            page: child.page.0.to_vec(),
            extents: child.extents,
            span: child.span,
        });
        let message = PageMessage {
            kind: EXTENT_INDEX,
            level,
            extent_children: rows.collect(),
            ..PageMessage::default()
        };
        let page = emit(message.encode_to_vec()).map_err(WriteError::Emit)?;
        let extents = children.iter().map(|child| child.extents).sum();
        pages.push(ExtentPage { page, level, extents, span: children.iter().map(|child| child.span).sum() });
    }
    Ok(pages)
}
