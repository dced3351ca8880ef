//! Entries out of pages.
//!
//! A reader walks from the root page down, one page a level in memory, and
//! looks only into index children that can hold what it was asked for. It
//! believes nothing: a page must be of the kind, level and extent the page
//! above says, paths must be sorted and unique, and in a walk over the whole
//! tree each must hang below a directory that came before.
//!
//! A page that cannot be had costs what is below it. The iterator gives the
//! error in its place and goes on, so salvage reads the rest; whoever wants
//! all or nothing stops at the first error.

use std::collections::HashMap;

use bytes::Bytes;

use super::error::{ManifestError, StepError};
use super::open_page::OpenPage;
use super::other_pages::OtherPages;
use super::page::{INDEX, LEAF, PageError, PageMessage};
use super::path::TreeOrder;
use super::scope::Scope;
use crate::entry::Entry;
use crate::fetch::FrameFetcher;
use crate::ids::FrameId;

/// Raw bytes of pages of one level fetched before they are needed. A request
/// takes its time however little it brings, so a walk of a whole manifest asks
/// for as much at once as it may hold.
const AHEAD_BYTES: usize = 2 << 20;
const AHEAD_PAGES: usize = 1024;

/// Reads one manifest.
#[derive(Clone, Copy)]
pub struct ManifestReader<'a> {
    fetcher: &'a FrameFetcher,
    root: FrameId,
}

impl<'a> ManifestReader<'a> {
    /// A reader of the manifest with this root page. Nothing is read yet.
    pub fn open(fetcher: &'a FrameFetcher, root: FrameId) -> Self {
        Self { fetcher, root }
    }

    /// All entries in order.
    pub fn entries(&self) -> Entries<'a> {
        self.walk(Scope::All)
    }

    /// The entry with this path.
    ///
    /// # Errors
    /// If a page on the way to it cannot be had.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, ManifestError> {
        self.walk(Scope::Exact(path.to_vec())).next().transpose()
    }

    /// What lies directly in a directory, in order. What lies deeper is passed
    /// over where whole pages hold nothing else.
    pub fn children(&self, dir: &[u8]) -> Entries<'a> {
        self.walk(Scope::Children(dir.to_vec()))
    }

    /// The entry with this path and all below it, in order.
    pub fn subtree(&self, dir: &[u8]) -> Entries<'a> {
        self.walk(Scope::Subtree(dir.to_vec()))
    }

    fn walk(&self, scope: Scope) -> Entries<'a> {
        Entries {
            fetcher: self.fetcher,
            scope,
            start: Some(self.root),
            open: Vec::new(),
            ahead: HashMap::new(),
            order: TreeOrder::default(),
        }
    }
}

/// Entries of a manifest, streaming. Goes on after an error with what lies
/// behind the page it was about.
pub struct Entries<'a> {
    fetcher: &'a FrameFetcher,
    scope: Scope,
    start: Option<FrameId>,
    open: Vec<OpenPage>,
    /// Pages by level that come next.
    ahead: HashMap<u32, HashMap<FrameId, Bytes>>,
    order: TreeOrder,
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(root) = self.start.take()
            && let Err(error) = self.open_root(root)
        {
            return Some(Err(error));
        }
        loop {
            let id = self.open.last()?.id;
            match self.step() {
                Ok(None) => {}
                Ok(Some(entry)) => return Some(Ok(entry)),
                Err(StepError::Page(source)) => {
                    self.open.pop();
                    return Some(Err(ManifestError::Page { page: id, source }));
                }
                Err(StepError::Below(error)) => return Some(Err(error)),
            }
        }
    }
}

impl Entries<'_> {
    /// After an error: the path of the entry it was about, where it was about
    /// one and not about a whole page of them.
    pub(crate) fn reading(&self) -> Option<&[u8]> {
        let top = self.open.last()?;
        (top.page.kind == LEAF).then_some(&top.path)
    }
}

impl Entries<'_> {
    fn open_root(&mut self, root: FrameId) -> Result<(), ManifestError> {
        let raw = self.fetcher.get(root)?;
        let invalid = |source| ManifestError::Page { page: root, source };
        let page = PageMessage::read(&raw).map_err(invalid)?;
        page.check_kind().map_err(invalid)?;
        if !matches!(page.kind, LEAF | INDEX) {
            let expected = "a leaf or index page";
            return Err(invalid(PageError::Kind { found: page.kind, level: page.level, expected }));
        }
        self.open.push(OpenPage::new(root, page, None).map_err(invalid)?);
        Ok(())
    }

    /// Reads one row of the innermost page.
    fn step(&mut self) -> Result<Option<Entry>, StepError> {
        let Some(top) = self.open.last_mut() else { return Ok(None) };
        if top.is_done() {
            let outcome = top.check_end();
            outcome?;
            self.open.pop();
            return Ok(None);
        }
        if top.page.kind == LEAF { self.step_leaf() } else { self.step_index() }
    }

    fn step_leaf(&mut self) -> Result<Option<Entry>, StepError> {
        let Some(top) = self.open.last_mut() else { return Ok(None) };
        let message = top.next_entry()?;
        let path = top.path.clone();
        if self.scope.ends_before(&path) {
            // Entries come in order: nothing that is wanted follows, here or in the pages above.
            self.open.clear();
            return Ok(None);
        }
        let kind = message.kind;
        // In a part of a tree the directories above were not read: only the order can be checked.
        let outcome = match self.scope {
            Scope::All => self.order.accept(&path, kind == 2),
            _ => self.order.accept_part(&path),
        };
        outcome.map_err(|reason| PageError::Path { path: path.clone(), reason })?;
        if !self.scope.wants(&path) {
            return Ok(None);
        }
        let Some(top) = self.open.last() else { return Ok(None) };
        let inline = top.inline(&path, &message)?;
        let others = OtherPages { fetcher: self.fetcher };
        others.entry(path, message, inline).map(Some)
    }

    fn step_index(&mut self) -> Result<Option<Entry>, StepError> {
        let Some(top) = self.open.last_mut() else { return Ok(None) };
        let child = top.next_child()?;
        if self.scope.ends_before(&child.first) {
            self.open.clear();
            return Ok(None);
        }
        if !self.scope.may_hold(&child.first, &child.last) {
            return Ok(None);
        }
        let level = top.page.level - 1;
        let raw = match self.take_ahead(level, child.page) {
            Some(raw) => raw,
            None => self.fetcher.get(child.page).map_err(|error| StepError::Below(error.into()))?,
        };
        let opened = OpenPage::child(&raw, level, &child)
            .map_err(|source| StepError::Below(ManifestError::Page { page: child.page, source }))?;
        self.open.push(opened);
        Ok(None)
    }

    /// A page that was fetched before, or is now, together with what follows it.
    fn take_ahead(&mut self, level: u32, page: FrameId) -> Option<Bytes> {
        // Pages that were fetched ahead of their turn; each is used once.
        let known = self.ahead.get_mut(&level).and_then(|ahead| ahead.remove(&page));
        let far = match self.scope {
            Scope::All => true,
            Scope::Subtree(_) => level == 0,
            _ => false,
        };
        if known.is_some() || !far {
            return known;
        }
        let mut got = self.fetcher.ahead(&self.following(level, page), AHEAD_BYTES);
        let raw = got.remove(&page);
        self.ahead.insert(level, got);
        raw
    }

    /// This page of the level and those that come after it, as far as that is
    /// known without reading.
    fn following(&self, level: u32, page: FrameId) -> Vec<FrameId> {
        let Some((top, above)) = self.open.split_last() else { return vec![page] };
        let mut pages = vec![page];
        pages.extend(top.rest());
        let beside = above.last().filter(|_| matches!(self.scope, Scope::All));
        let known = self.ahead.get(&(level + 1));
        for id in beside.into_iter().flat_map(OpenPage::rest) {
            let raw = known.and_then(|known| known.get(&id));
            let page = raw.and_then(|raw| PageMessage::read_as(raw, INDEX, level + 1, "a page ahead").ok());
            let Some(page) = page.filter(|_| pages.len() < AHEAD_PAGES) else { break };
            pages.extend(page.children.iter().filter_map(|child| FrameId::from_slice(&child.page)));
        }
        pages.truncate(AHEAD_PAGES);
        pages
    }
}
