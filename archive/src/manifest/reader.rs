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

use std::cmp::Ordering;
use std::collections::HashMap;

use bytes::Bytes;

use super::page::{
    self, ChildMessage, EXTENT_INDEX, EXTENTS, EntryMessage, FLAG_TORN, FLAG_UNREADABLE, INDEX, LEAF,
    MAX_EXTENTS, MAX_LEVEL, MAX_XATTR_BYTES, MAX_XATTR_PAGES, PageError, PageMessage, XATTRS,
};
use super::path::{TreeOrder, check_path, is_within};
use crate::entry::{Entry, EntryFlags, EntryKind, Extent, FileData, path_order};
use crate::fetch::{FetchError, FrameFetcher};
use crate::ids::FrameId;

/// Raw bytes of pages of one level fetched before they are needed. A request
/// takes its time however little it brings, so a walk of a whole manifest asks
/// for as much at once as it may hold.
const AHEAD_BYTES: usize = 2 << 20;
const AHEAD_PAGES: usize = 1024;

/// A manifest that could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ManifestError {
    #[error("a page of the manifest could not be had")]
    Fetch(#[source] Box<FetchError>),
    #[error("manifest page {page} is invalid")]
    Page { page: FrameId, source: PageError },
}

impl From<FetchError> for ManifestError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Box::new(error))
    }
}

impl ManifestError {
    /// The page that is missing, damaged or invalid.
    pub fn page(&self) -> Option<FrameId> {
        match self {
            Self::Fetch(error) => error.frame(),
            Self::Page { page, .. } => Some(*page),
        }
    }

    /// Whether the page is gone or wrong, rather than out of reach for now.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_loss(),
            Self::Page { .. } => true,
        }
    }
}

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

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Which entries a walk gives.
enum Scope {
    All,
    Exact(Vec<u8>),
    Children(Vec<u8>),
    Subtree(Vec<u8>),
}

impl Scope {
    fn wants(&self, path: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Exact(wanted) => path == wanted,
            Self::Children(dir) => super::parent(path) == Some(dir),
            Self::Subtree(dir) => is_within(path, dir),
        }
    }

    /// Whether a page from `first` to `last` can hold anything wanted.
    fn may_hold(&self, first: &[u8], last: &[u8]) -> bool {
        let within = |path: &[u8]| path_order(first, path).is_le() && path_order(path, last).is_le();
        match self {
            Self::All => true,
            Self::Exact(path) => within(path),
            Self::Subtree(dir) => within(dir) || is_within(first, dir),
            Self::Children(dir) => {
                let deep = |path: &[u8]| super::parent(path).is_some_and(|above| above != dir);
                let one_child = is_within(first, dir)
                    && is_within(last, dir)
                    && deep(first)
                    && child_of(first, dir) == child_of(last, dir);
                !one_child && (within(dir) || is_within(first, dir))
            }
        }
    }

    /// Whether nothing wanted comes at or after `path`.
    fn ends_before(&self, path: &[u8]) -> bool {
        match self {
            Self::All => false,
            Self::Exact(wanted) => path_order(path, wanted) == Ordering::Greater,
            Self::Children(dir) | Self::Subtree(dir) => {
                !is_within(path, dir) && path_order(path, dir) == Ordering::Greater
            }
        }
    }
}

/// The first component of `path` below `dir`.
fn child_of<'p>(path: &'p [u8], dir: &[u8]) -> Option<&'p [u8]> {
    let below = path.strip_prefix(dir)?;
    let below = if dir.is_empty() { below } else { below.strip_prefix(b"/")? };
    below.split(|&byte| byte == b'/').next()
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

/// A page being read.
struct OpenPage {
    id: FrameId,
    page: PageMessage,
    frames: Vec<FrameId>,
    next: usize,
    /// The path before the next row.
    path: Vec<u8>,
    /// Last path and number of entries, as the page above has it.
    promised: Option<(Vec<u8>, u64)>,
}

struct ChildRow {
    page: FrameId,
    first: Vec<u8>,
    last: Vec<u8>,
    entries: u64,
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

/// What went wrong in a step: the page being read, or one it refers to.
enum StepError {
    Page(PageError),
    Below(ManifestError),
}

impl From<PageError> for StepError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
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
            self.open.clear();
            return Ok(None);
        }
        let kind = message.kind;
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
        self.entry(path, message, inline).map(Some)
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
        let opened = open_child(&raw, level, &child)
            .map_err(|source| StepError::Below(ManifestError::Page { page: child.page, source }))?;
        self.open.push(opened);
        Ok(None)
    }

    /// A page that was fetched before, or is now, together with what follows it.
    fn take_ahead(&mut self, level: u32, page: FrameId) -> Option<Bytes> {
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

    /// The entry with what lies in other pages.
    fn entry(&self, path: Vec<u8>, message: EntryMessage, inline: Inline) -> Result<Entry, StepError> {
        let refuse = |reason| StepError::Page(PageError::Entry { path: path.clone(), reason });
        let mut xattrs = inline.xattrs;
        if !message.xattr_pages.is_empty() {
            xattrs = self.read_xattrs(&message.xattr_pages)?;
        }
        if !xattrs.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(refuse("its extended attributes are not sorted, each once"));
        }
        let kind = match message.kind {
            1 => {
                let mut extents = inline.extents;
                if !message.extent_root.is_empty() {
                    extents = self.read_extents(&message)?;
                }
                let end = extents.last().map_or(0, |extent| extent.file_offset + u64::from(extent.len));
                if message.size > i64::MAX as u64 || end > message.size {
                    return Err(refuse("its extents exceed its size, or that what a file may have"));
                }
                let hash = match message.hash.len() {
                    0 => None,
                    _ => Some(
                        message.hash.as_slice().try_into().map_err(|_| refuse("its hash is not 16 bytes"))?,
                    ),
                };
                EntryKind::File(FileData { size: message.size, extents, hash })
            }
            2 => EntryKind::Directory,
            3 => EntryKind::Symlink { target: message.target },
            4 => {
                let earlier = path_order(&message.target, &path) == Ordering::Less;
                if check_path(&message.target).is_err() || message.target.is_empty() || !earlier {
                    return Err(refuse("it is a link to no earlier path of the tree"));
                }
                EntryKind::Hardlink { target: message.target }
            }
            5 => EntryKind::Fifo,
            6 => EntryKind::Socket,
            7 => EntryKind::CharDevice { major: message.major, minor: message.minor },
            8 => EntryKind::BlockDevice { major: message.major, minor: message.minor },
            _ => return Err(refuse("its type is unknown")),
        };
        if message.mode > 0o7777 || message.flags & !(FLAG_TORN | FLAG_UNREADABLE) != 0 {
            return Err(refuse("its mode or flags have unknown bits"));
        }
        if message.mtime_nanos >= 1_000_000_000 || message.ctime_nanos >= 1_000_000_000 {
            return Err(refuse("its times have more nanoseconds than a second"));
        }
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

fn open_child(raw: &[u8], level: u32, child: &ChildRow) -> Result<OpenPage, PageError> {
    let kind = if level == 0 { LEAF } else { INDEX };
    let page = PageMessage::read_as(raw, kind, level, "a page of the manifest")?;
    let promised = Some((child.last.clone(), child.entries));
    let opened = OpenPage::new(child.page, page, promised)?;
    if opened.first() != child.first {
        return Err(PageError::Mismatch("its first path is another"));
    }
    Ok(opened)
}

/// What an entry holds within its own page.
struct Inline {
    extents: Vec<Extent>,
    xattrs: Xattrs,
}

impl OpenPage {
    fn new(id: FrameId, page: PageMessage, promised: Option<(Vec<u8>, u64)>) -> Result<Self, PageError> {
        let frames = page.frame_table()?;
        Ok(Self { id, page, frames, next: 0, path: Vec::new(), promised })
    }

    fn first(&self) -> &[u8] {
        match (self.page.entries.first(), self.page.children.first()) {
            (Some(entry), _) => &entry.suffix,
            (_, Some(child)) => &child.first_suffix,
            _ => &[],
        }
    }

    fn is_done(&self) -> bool {
        self.next >= self.page.entries.len().max(self.page.children.len())
    }

    fn check_end(&self) -> Result<(), PageError> {
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

    fn next_entry(&mut self) -> Result<EntryMessage, PageError> {
        let message = std::mem::take(&mut self.page.entries[self.next]);
        self.next += 1;
        page::apply_suffix(&mut self.path, message.shared, &message.suffix)?;
        Ok(message)
    }

    fn next_child(&mut self) -> Result<ChildRow, PageError> {
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
    fn rest(&self) -> impl Iterator<Item = FrameId> {
        self.page.children[self.next..].iter().filter_map(|child| FrameId::from_slice(&child.page))
    }

    fn inline(&self, path: &[u8], message: &EntryMessage) -> Result<Inline, PageError> {
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
