//! Frames by id, wherever they lie.
//!
//! Every frame is checked against its id before anybody sees it. Frames asked
//! for together are read together: neighbours in a pack become one range, so
//! that a manifest or a restore costs requests by the megabyte, not by the
//! frame. If such a range is gone or damaged, its frames are tried one by one:
//! what a damaged store still has is still given. A store that is out of reach
//! has been asked for long enough already, and is not asked again for each.
//!
//! Manifest pages are kept in a small cache, since lookups pass through the
//! same ones again and again. Data frames are kept as they are stored, and only
//! where that is asked for: many small files share one.
//!
//! For whoever reads manifests or content. It knows packs by a [`PackSource`] and
//! writes nothing.

mod recent;
mod spans;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::frame::{self, FrameError};
use crate::ids::{FrameId, PackId};
use crate::pack_io::{FrameKind, FrameLocation, PackEntry, PackIoError, PackSource};
use recent::Recent;
use spans::{end, spans};

/// Most frames in one call of [`PackSource::locate`].
const LOCATE_BATCH: usize = 4096;
/// Most copies of a frame that are tried.
const MAX_COPIES: usize = 8;

/// A frame that could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    #[error("frame {frame} is in no pack of the repository")]
    Missing { frame: FrameId },
    #[error("frame {frame} in pack {pack} is damaged")]
    Damaged { frame: FrameId, pack: PackId, source: Box<FrameError> },
    #[error("frame {frame} in pack {pack} could not be read")]
    Read { frame: FrameId, pack: PackId, source: Arc<PackIoError> },
    #[error("frames could not be looked up")]
    Locate { source: Arc<PackIoError> },
}

impl FetchError {
    /// Whether the frame is gone or damaged, rather than out of reach for now.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Damaged { .. } => true,
            Self::Read { source, .. } => source.is_loss,
            Self::Locate { .. } => false,
        }
    }

    /// The failure of the other side, where it is what failed.
    pub fn source_error(&self) -> Option<&PackIoError> {
        match self {
            Self::Read { source, .. } | Self::Locate { source } => Some(source),
            Self::Missing { .. } | Self::Damaged { .. } => None,
        }
    }

    /// The same failure for another frame of the range that was asked for.
    fn of(self, location: &FrameLocation) -> Self {
        match self {
            Self::Read { source, .. } => Self::Read { frame: location.entry.id, pack: location.pack, source },
            other => other,
        }
    }

    /// The frame this is about, where it is about one.
    pub fn frame(&self) -> Option<FrameId> {
        match self {
            Self::Missing { frame } | Self::Damaged { frame, .. } | Self::Read { frame, .. } => Some(*frame),
            Self::Locate { .. } => None,
        }
    }
}

type Give<'a, E> = &'a mut dyn FnMut(&FrameId, Result<Bytes, FetchError>) -> Result<(), E>;

/// Reads frames through a [`PackSource`]. Usable from several threads.
pub struct FrameFetcher {
    source: Arc<dyn PackSource>,
    cache: Mutex<Recent<Bytes>>,
    /// Data frames as stored.
    kept: Mutex<Recent<(PackEntry, Bytes)>>,
}

impl FrameFetcher {
    /// Keeps up to `cache_bytes` of raw pages.
    pub fn new(source: Arc<dyn PackSource>, cache_bytes: usize) -> Self {
        Self { source, cache: Mutex::new(Recent::new(cache_bytes)), kept: Mutex::new(Recent::new(0)) }
    }

    /// Also keeps up to `bytes` of the data frames that [`Self::try_shared`]
    /// reads, as they are stored.
    #[must_use]
    pub fn keeping(self, bytes: usize) -> Self {
        Self { kept: Mutex::new(Recent::new(bytes)), ..self }
    }

    /// The raw bytes of one frame.
    ///
    /// # Errors
    /// If it is not there, damaged, or the other side fails.
    pub fn get(&self, id: FrameId) -> Result<Bytes, FetchError> {
        let mut got = None;
        self.get_many(&[id], &mut |_, raw| {
            got = Some(raw);
            Ok::<(), FetchError>(())
        })?;
        got.ok_or(FetchError::Missing { frame: id })
    }

    /// Gives each of the frames with its place in `ids`, in the order of the
    /// store and not that of the ids. Holds at most one range of 8 MiB and one
    /// frame at a time.
    ///
    /// # Errors
    /// At the first frame that cannot be had, or with what `each` returned.
    pub fn get_many<E: From<FetchError>>(
        &self,
        ids: &[FrameId],
        each: &mut dyn FnMut(usize, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        self.try_many(ids, &mut |place, outcome| each(place, outcome?))
    }

    /// [`Self::try_many`] for frames that others will ask for again.
    ///
    /// # Errors
    /// With what `each` returned.
    pub fn try_shared<E: From<FetchError>>(
        &self,
        ids: &[FrameId],
        each: &mut dyn FnMut(usize, Result<Bytes, FetchError>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.many(ids, true, each)
    }

    /// [`Self::get_many`], but a frame that cannot be had does not end it.
    ///
    /// # Errors
    /// With what `each` returned.
    pub fn try_many<E: From<FetchError>>(
        &self,
        ids: &[FrameId],
        each: &mut dyn FnMut(usize, Result<Bytes, FetchError>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.many(ids, false, each)
    }

    fn many<E: From<FetchError>>(
        &self,
        ids: &[FrameId],
        keep: bool,
        each: &mut dyn FnMut(usize, Result<Bytes, FetchError>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (batch, first) in ids.chunks(LOCATE_BATCH).zip((0..).step_by(LOCATE_BATCH)) {
            // A frame that is asked for several times is fetched once.
            let mut places: BTreeMap<FrameId, Vec<usize>> = BTreeMap::new();
            for (n, id) in batch.iter().enumerate() {
                match self.cache().get(id).or_else(|| self.decode_kept(id)) {
                    Some(raw) => each(first + n, Ok(raw))?,
                    None => places.entry(*id).or_default().push(first + n),
                }
            }
            let mut give = |id: &FrameId, outcome: Result<Bytes, FetchError>| -> Result<(), E> {
                places[id].iter().try_for_each(|&place| each(place, outcome.clone()))
            };
            let wanted: Vec<FrameId> = places.keys().copied().collect();
            let mut found = Vec::with_capacity(wanted.len());
            for (id, location) in wanted.iter().zip(self.locate(&wanted)?) {
                match location {
                    Some(location) => found.push(location),
                    None => give(id, Err(FetchError::Missing { frame: *id }))?,
                }
            }
            // In the order of the store, which makes neighbours of what lies together.
            found.sort_by_key(|location| (location.pack, location.entry.offset));
            for span in spans(&found) {
                self.read_span(span, keep, &mut give)?;
            }
        }
        Ok(())
    }

    /// One of the kept frames. It was whole when it was kept.
    fn decode_kept(&self, id: &FrameId) -> Option<Bytes> {
        let (entry, stored) = self.kept().get(id)?;
        frame::decode(&stored, &entry).ok()
    }

    /// As many of the first of `ids` as have `budget` raw bytes together, at
    /// least one, for whoever will want them soon. Frames that cannot be had
    /// are left out: asking for them by [`Self::get`] says why.
    pub fn ahead(&self, ids: &[FrameId], budget: usize) -> HashMap<FrameId, Bytes> {
        let mut got = HashMap::new();
        let mut left = budget;
        let mut asked = Vec::new();
        for id in &ids[..ids.len().min(LOCATE_BATCH)] {
            match self.cache().get(id) {
                Some(raw) => {
                    left = left.saturating_sub(raw.len());
                    got.insert(*id, raw);
                }
                None => asked.push(*id),
            }
        }
        // Nothing here has to succeed: whoever needs a frame asks for it by itself.
        let Ok(locations) = self.locate(&asked) else { return got };
        let mut wanted = Vec::new();
        for location in locations.into_iter().flatten() {
            let raw_len = location.entry.raw_len as usize;
            if raw_len > left && !wanted.is_empty() {
                break;
            }
            left = left.saturating_sub(raw_len);
            wanted.push(location);
        }
        wanted.sort_by_key(|location| (location.pack, location.entry.offset));
        wanted.dedup_by_key(|location| location.entry.id);
        for span in spans(&wanted) {
            let _: Result<(), FetchError> = self.read_span(span, false, &mut |id, outcome| {
                if let Ok(raw) = outcome {
                    got.insert(*id, raw);
                }
                Ok(())
            });
        }
        got
    }

    fn locate(&self, ids: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, FetchError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |source: PackIoError| FetchError::Locate { source: Arc::new(source) };
        let mut locations = self.source.locate(ids).map_err(failed)?;
        // Answers are matched by place.
        if locations.len() != ids.len() {
            let message = format!("{} answers to {} questions", locations.len(), ids.len());
            return Err(failed(PackIoError::new("protocol", message)));
        }
        // An answer about another frame is no answer.
        for (id, location) in ids.iter().zip(&mut locations) {
            if location.as_ref().is_some_and(|location| location.entry.id != *id) {
                *location = None;
            }
        }
        Ok(locations)
    }

    fn read_span<E>(&self, span: &[FrameLocation], keep: bool, give: Give<'_, E>) -> Result<(), E> {
        let start = span[0].entry.offset;
        match self.read(span) {
            Ok(bytes) => span.iter().try_for_each(|location| {
                let at = (location.entry.offset - start) as usize;
                let outcome = self.decode(location, &bytes[at..]);
                if keep && outcome.is_ok() {
                    self.keep(&location.entry, &bytes[at..]);
                }
                give(&location.entry.id, outcome.or_else(|error| self.elsewhere(location, error)))
            }),
            // A bad sector loses the whole range to one request; its neighbours are read one by
            // one.
            Err(error) if span.len() > 1 && error.is_loss() => span.iter().try_for_each(|location| {
                let outcome = self.read_one(location);
                give(&location.entry.id, outcome.or_else(|error| self.elsewhere(location, error)))
            }),
            Err(error) => span.iter().try_for_each(|location| {
                give(&location.entry.id, self.elsewhere(location, error.clone().of(location)))
            }),
        }
    }

    fn read_one(&self, location: &FrameLocation) -> Result<Bytes, FetchError> {
        let bytes = self.read(std::slice::from_ref(location))?;
        self.decode(location, &bytes)
    }

    /// Another copy of a frame that was lost where it was looked for first.
    fn elsewhere(&self, location: &FrameLocation, error: FetchError) -> Result<Bytes, FetchError> {
        if error.is_loss() {
            self.source.lost(&location.entry.id, &location.pack);
        }
        let mut tried = vec![location.pack];
        // Not for a store out of reach: the other copy lies in the same one.
        while error.is_loss() && tried.len() < MAX_COPIES {
            let other = match self.source.elsewhere(&location.entry.id, &tried) {
                Ok(Some(other)) if other.entry.id == location.entry.id => other,
                _ => break,
            };
            if let Ok(raw) = self.read_one(&other) {
                return Ok(raw);
            }
            tried.push(other.pack);
        }
        Err(error)
    }

    /// The bytes from the first of these frames to the end of the last.
    fn read(&self, span: &[FrameLocation]) -> Result<Bytes, FetchError> {
        let first = &span[0];
        let range = first.entry.offset..span.iter().map(end).max().unwrap_or_default();
        let failed =
            |source| FetchError::Read { frame: first.entry.id, pack: first.pack, source: Arc::new(source) };
        let wanted = range.end - range.start;
        let bytes = self.source.read(&first.pack, range).map_err(failed)?;
        // A source that is somebody else's: its answer is cut to frames by offset, so its length
        // has to be right.
        if bytes.len() as u64 != wanted {
            let message = format!("{} bytes came where {wanted} were asked for", bytes.len());
            return Err(failed(PackIoError::loss("corrupt", message)));
        }
        Ok(bytes)
    }

    fn decode(&self, location: &FrameLocation, from: &[u8]) -> Result<Bytes, FetchError> {
        let FrameLocation { pack, entry } = location;
        let raw = frame::decode(&from[..entry.stored_len as usize], entry).map_err(|source| {
            FetchError::Damaged { frame: entry.id, pack: *pack, source: Box::new(source) }
        })?;
        if entry.kind == FrameKind::Page {
            self.cache().insert(entry.id, raw.len(), raw.clone());
        }
        Ok(raw)
    }

    fn keep(&self, entry: &PackEntry, from: &[u8]) {
        if entry.kind == FrameKind::Data && self.kept().room() > 0 {
            // A copy: a slice would hold the whole range.
            let stored = Bytes::copy_from_slice(&from[..entry.stored_len as usize]);
            self.kept().insert(entry.id, stored.len(), (entry.clone(), stored));
        }
    }

    fn cache(&self) -> MutexGuard<'_, Recent<Bytes>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Recent<(PackEntry, Bytes)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
