//! A page while its rows are read, one after the other.

use super::Xattrs;
use super::page::{self, ChildMessage, EntryMessage, INDEX, LEAF, PageError, PageMessage};
use crate::entry::{Extent, path_order};
use crate::ids::FrameId;

/// A page being read.
pub(super) struct OpenPage {
    pub(super) id: FrameId,
    pub(super) page: PageMessage,
    frames: Vec<FrameId>,
    next: usize,
    /// The path before the next row.
    pub(super) path: Vec<u8>,
    /// Last path and number of entries, as the page above has it.
    promised: Option<(Vec<u8>, u64)>,
}

pub(super) struct ChildRow {
    pub(super) page: FrameId,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
    entries: u64,
}

/// What an entry holds within its own page.
pub(super) struct Inline {
    pub(super) extents: Vec<Extent>,
    pub(super) xattrs: Xattrs,
}

impl OpenPage {
    pub(super) fn new(
        id: FrameId,
        page: PageMessage,
        promised: Option<(Vec<u8>, u64)>,
    ) -> Result<Self, PageError> {
        let frames = page.frame_table()?;
        Ok(Self { id, page, frames, next: 0, path: Vec::new(), promised })
    }

    /// The page that a row of the page above is about, as that row has it.
    pub(super) fn child(raw: &[u8], level: u32, child: &ChildRow) -> Result<Self, PageError> {
        let kind = if level == 0 { LEAF } else { INDEX };
        let page = PageMessage::read_as(raw, kind, level, "a page of the manifest")?;
        let promised = Some((child.last.clone(), child.entries));
        let opened = Self::new(child.page, page, promised)?;
        if opened.first() != child.first {
            return Err(PageError::Mismatch("its first path is another"));
        }
        Ok(opened)
    }

    fn first(&self) -> &[u8] {
        match (self.page.entries.first(), self.page.children.first()) {
            (Some(entry), _) => &entry.suffix,
            (_, Some(child)) => &child.first_suffix,
            _ => &[],
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.next >= self.page.entries.len().max(self.page.children.len())
    }

    pub(super) fn check_end(&self) -> Result<(), PageError> {
        let Some((last, entries)) = &self.promised else { return Ok(()) };
        if self.path != *last {
            return Err(PageError::Mismatch("its last path is another"));
        }
        let held = self
            .page
            .children
            .iter()
            .fold(self.page.entries.len() as u64, |sum, child| sum.saturating_add(child.entries));
        if held != *entries {
            return Err(PageError::Mismatch("it has another number of entries"));
        }
        Ok(())
    }

    pub(super) fn next_entry(&mut self) -> Result<EntryMessage, PageError> {
        let message = std::mem::take(&mut self.page.entries[self.next]);
        self.next += 1;
        page::apply_suffix(&mut self.path, message.shared, &message.suffix)?;
        Ok(message)
    }

    pub(super) fn next_child(&mut self) -> Result<ChildRow, PageError> {
        let ChildMessage { page, first_shared, first_suffix, last_shared, last_suffix, entries } =
            &self.page.children[self.next];
        let (page, entries) = (page::id(page)?, *entries);
        let mut first = self.path.clone();
        page::apply_suffix(&mut first, *first_shared, first_suffix)?;
        let mut last = first.clone();
        page::apply_suffix(&mut last, *last_shared, last_suffix)?;
        // Ranges that are disjoint and nested let no page be entered twice.
        let after = self.next == 0 || path_order(&self.path, &first).is_lt();
        let inside = self.promised.as_ref().is_none_or(|(end, _)| path_order(&last, end).is_le());
        if !after || !inside || path_order(&first, &last).is_gt() {
            return Err(PageError::Malformed("its children overlap, or reach beyond it"));
        }
        self.next += 1;
        self.path.clone_from(&last);
        Ok(ChildRow { page, first, last, entries })
    }

    /// Children that were not read yet.
    pub(super) fn rest(&self) -> impl Iterator<Item = FrameId> {
        self.page.children[self.next..].iter().filter_map(|child| FrameId::from_slice(&child.page))
    }

    pub(super) fn inline(&self, path: &[u8], message: &EntryMessage) -> Result<Inline, PageError> {
        let (extents, _) = page::decode_extents(&message.extents, &self.frames, 0)?;
        let xattr = |&place: &u32| {
            let row = self.page.xattrs.get(place as usize).ok_or_else(|| PageError::Entry {
                path: path.to_vec(),
                reason: "it names an attribute outside the page's table",
            })?;
            Ok::<_, PageError>((row.name.clone(), row.value.clone()))
        };
        let mut xattrs = Vec::new();
        let mut size = 0;
        for place in &message.xattrs {
            let (name, value) = xattr(place)?;
            size += name.len() + value.len();
            if size > page::MAX_PAGE_RAW {
                return Err(PageError::Entry {
                    path: path.to_vec(),
                    reason: "it repeats attributes beyond any bound",
                });
            }
            xattrs.push((name, value));
        }
        Ok(Inline { extents, xattrs })
    }
}
