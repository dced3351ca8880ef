//! Entries made whole with what lies in pages of their own: long lists of
//! extents, large attributes.

use std::cmp::Ordering;

use super::Xattrs;
use super::error::{ManifestError, StepError};
use super::open_page::Inline;
use super::page::{
    self, EXTENT_INDEX, EXTENTS, EntryMessage, FLAG_TORN, FLAG_UNREADABLE, MAX_EXTENTS, MAX_LEVEL,
    MAX_XATTR_BYTES, MAX_XATTR_PAGES, PageError, PageMessage, XATTRS,
};
use super::path::check_path;
use crate::entry::{Entry, EntryFlags, EntryKind, Extent, FileData, path_order};
use crate::fetch::FrameFetcher;
use crate::ids::FrameId;

/// Reads them.
pub(super) struct OtherPages<'a> {
    pub(super) fetcher: &'a FrameFetcher,
}

impl OtherPages<'_> {
    /// The entry with what lies in other pages.
    pub(super) fn entry(
        &self,
        path: Vec<u8>,
        message: EntryMessage,
        inline: Inline,
    ) -> Result<Entry, StepError> {
        let refuse = |reason| StepError::Page(PageError::Entry { path: path.clone(), reason });
        let mut xattrs = inline.xattrs;
        if !message.xattr_pages.is_empty() {
            xattrs = self.read_xattrs(&message.xattr_pages)?;
        }
        // A name twice would be set twice, the last value winning: one inode must not have two
        // readings.
        if !xattrs.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(refuse("its extended attributes are not sorted, each once"));
        }
        let kind = self.kind(&path, &message, inline.extents)?;
        check_numbers(&message).map_err(refuse)?;
        Ok(Entry {
            path,
            kind,
            mode: message.mode,
            uid: message.uid,
            gid: message.gid,
            mtime_ns: join_time(message.mtime_seconds, message.mtime_nanos),
            ctime_ns: join_time(message.ctime_seconds, message.ctime_nanos),
            inode: message.inode,
            xattrs,
            flags: EntryFlags {
                torn: message.flags & FLAG_TORN != 0,
                unreadable: message.flags & FLAG_UNREADABLE != 0,
            },
        })
    }

    fn kind(&self, path: &[u8], message: &EntryMessage, inline: Vec<Extent>) -> Result<EntryKind, StepError> {
        let refuse = |reason| StepError::Page(PageError::Entry { path: path.to_vec(), reason });
        Ok(match message.kind {
            1 => EntryKind::File(self.file(path, message, inline)?),
            2 => EntryKind::Directory,
            3 => EntryKind::Symlink { target: message.target.clone() },
            4 => {
                // Only to what came before: a restore has made it, and no chain of links leads back
                // to its beginning.
                let earlier = path_order(&message.target, path) == Ordering::Less;
                if check_path(&message.target).is_err() || message.target.is_empty() || !earlier {
                    return Err(refuse("it is a link to no earlier path of the tree"));
                }
                EntryKind::Hardlink { target: message.target.clone() }
            }
            5 => EntryKind::Fifo,
            6 => EntryKind::Socket,
            7 => EntryKind::CharDevice { major: message.major, minor: message.minor },
            8 => EntryKind::BlockDevice { major: message.major, minor: message.minor },
            _ => return Err(refuse("its type is unknown")),
        })
    }

    fn file(&self, path: &[u8], message: &EntryMessage, inline: Vec<Extent>) -> Result<FileData, StepError> {
        let refuse = |reason| StepError::Page(PageError::Entry { path: path.to_vec(), reason });
        let extents = match message.extent_root.is_empty() {
            true => inline,
            false => self.read_extents(message)?,
        };
        // Extents are in order by their form: the last one ends last.
        let end = extents.last().map_or(0, |extent| extent.file_offset + u64::from(extent.len));
        if message.size > i64::MAX as u64 || end > message.size {
            return Err(refuse("its extents exceed its size, or that what a file may have"));
        }
        let hash = match message.hash.as_slice() {
            [] => None,
            hash => Some(hash.try_into().map_err(|_| refuse("its hash is not 16 bytes"))?),
        };
        Ok(FileData { size: message.size, extents, hash })
    }

    fn read_xattrs(&self, pages: &[Vec<u8>]) -> Result<Xattrs, StepError> {
        if pages.len() > MAX_XATTR_PAGES {
            return Err(PageError::Malformed("an entry has too many pages of attributes").into());
        }
        let mut xattrs = Vec::new();
        let mut size = 0;
        for page in pages {
            let id = page::id(page)?;
            let page = self.below(id, XATTRS, 0, "a page of attributes")?;
            for xattr in page.xattrs {
                size += xattr.name.len() + xattr.value.len();
                // Counted while they come: sixteen million bytes in small pages are as much as in
                // large ones.
                if size > MAX_XATTR_BYTES {
                    let source = PageError::Malformed("an entry has over 16 MiB of attributes");
                    return Err(StepError::Below(ManifestError::Page { page: id, source }));
                }
                xattrs.push((xattr.name, xattr.value));
            }
        }
        Ok(xattrs)
    }

    /// The extents below an entry's extent root, never more than it counts.
    fn read_extents(&self, message: &EntryMessage) -> Result<Vec<Extent>, StepError> {
        let EntryMessage { extent_level: level, extent_count: count, .. } = *message;
        if count > MAX_EXTENTS || level > MAX_LEVEL {
            return Err(PageError::Malformed("a file has more extents than any may").into());
        }
        let mut extents: Vec<Extent> = Vec::new();
        let mut end = 0;
        let mut todo = vec![(page::id(&message.extent_root)?, level)];
        while let Some((id, level)) = todo.pop() {
            let invalid = |source| StepError::Below(ManifestError::Page { page: id, source });
            // Each page that waits gives one extent at least. So a page that names another one a
            // thousand times over ends here, before that is read so often.
            if extents.len() as u64 + todo.len() as u64 > count {
                return Err(PageError::Malformed("a file has more extents than it counts").into());
            }
            if level > 0 {
                let page = self.below(id, EXTENT_INDEX, level, "an index of extents")?;
                for child in page.extent_children.iter().rev() {
                    todo.push((page::id(&child.page).map_err(invalid)?, level - 1));
                }
                continue;
            }
            let page = self.below(id, EXTENTS, 0, "a page of extents")?;
            let frames = page.frame_table().map_err(invalid)?;
            let (part, until) = page::decode_extents(&page.extents, &frames, end).map_err(invalid)?;
            end = until;
            extents.extend(part);
            if extents.len() as u64 + todo.len() as u64 > count {
                return Err(PageError::Malformed("a file has more extents than it counts").into());
            }
        }
        if extents.len() as u64 != count {
            return Err(PageError::Malformed("a file has fewer extents than it counts").into());
        }
        Ok(extents)
    }

    fn below(
        &self,
        id: FrameId,
        kind: u32,
        level: u32,
        expected: &'static str,
    ) -> Result<PageMessage, StepError> {
        let raw = self.fetcher.get(id).map_err(|error| StepError::Below(error.into()))?;
        PageMessage::read_as(&raw, kind, level, expected)
            .map_err(|source| StepError::Below(ManifestError::Page { page: id, source }))
    }
}

fn join_time(seconds: i64, nanos: u32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

/// That the numbers of an entry are some that an inode can have.
fn check_numbers(message: &EntryMessage) -> Result<(), &'static str> {
    if message.mode > 0o7777 || message.flags & !(FLAG_TORN | FLAG_UNREADABLE) != 0 {
        return Err("its mode or flags have unknown bits");
    }
    if message.mtime_nanos >= 1_000_000_000 || message.ctime_nanos >= 1_000_000_000 {
        return Err("its times have more nanoseconds than a second");
    }
    Ok(())
}
