//! The entries of the base snapshot, next to the walk.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::entry::{Entry, path_order};
use crate::fs::recent::RecentIds;
use crate::ids::{FrameId, PackId};
use crate::manifest::{Entries, ManifestError};
use crate::pack_io::{FrameLocation, PackIoError, PackSource};

/// Page ids remembered: those of about a million entries.
const PAGES: usize = 16 << 10;

/// A source that remembers which frames were asked of it lately: through it
/// come the pages of the base, which need not be sent again.
pub(super) struct Remembering {
    source: Arc<dyn PackSource>,
    asked: Mutex<RecentIds>,
}

impl Remembering {
    pub(super) fn new(source: Arc<dyn PackSource>) -> Self {
        Self { source, asked: Mutex::new(RecentIds::new(PAGES)) }
    }

    pub(super) fn knows(&self, id: &FrameId) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

impl PackSource for Remembering {
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        let found = self.source.locate(frames)?;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was asked for and is not there has to be sent.
        for (id, _) in frames.iter().zip(&found).filter(|(_, location)| location.is_some()) {
            asked.insert(id);
        }
        Ok(found)
    }

    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        self.source.read(pack, range)
    }

    fn lost(&self, frame: &FrameId, pack: &PackId) {
        // It was located and could not be read: a page of that name has to be stored again.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(frame);
        self.source.lost(frame, pack);
    }
}

/// The stream of the base's entries.
pub(super) struct BaseEntries<'a> {
    entries: Option<Entries<'a>>,
    next: Option<Entry>,
    /// What made the base end early.
    lost: Option<ManifestError>,
}

impl<'a> BaseEntries<'a> {
    pub(super) fn new(entries: Option<Entries<'a>>) -> Self {
        Self { entries, next: None, lost: None }
    }

    /// The base's entry of this path. Paths must be asked for in order.
    ///
    /// A page that is gone or damaged ends the base: what comes after is read
    /// as if it were new.
    pub(super) fn seek(&mut self, path: &[u8]) -> Result<Option<Entry>, ManifestError> {
        loop {
            if self.next.is_none() {
                self.next = self.advance()?;
            }
            let Some(next) = &self.next else { return Ok(None) };
            match path_order(&next.path, path) {
                // It is gone from the tree, or hangs below something that is.
                std::cmp::Ordering::Less => self.next = None,
                std::cmp::Ordering::Equal => return Ok(self.next.take()),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
    }

    pub(super) fn lost(&self) -> Option<&ManifestError> {
        self.lost.as_ref()
    }

    fn advance(&mut self) -> Result<Option<Entry>, ManifestError> {
        let Some(entries) = &mut self.entries else { return Ok(None) };
        match entries.next() {
            Some(Ok(entry)) => Ok(Some(entry)),
            None => {
                self.entries = None;
                Ok(None)
            }
            // Gone for good. A store that is out of reach ends the capture instead: the tree would
            // be read whole for nothing.
            Some(Err(error)) if error.is_loss() => {
                self.entries = None;
                self.lost = Some(error);
                Ok(None)
            }
            Some(Err(error)) => Err(error),
        }
    }
}
