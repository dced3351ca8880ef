//! What a fetcher gives of stores that are whole, damaged or out of reach.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::frame::{EncodedFrame, encode};
use crate::ids::AllocationId;
use crate::pack::PackBuilder;
use crate::pack_io::SealedPack;
use crate::store::{StoreError, StoreErrorKind};

/// Packs in memory.
#[derive(Default)]
pub(crate) struct MemorySource {
    pub(crate) packs: HashMap<PackId, Bytes>,
    pub(crate) index: HashMap<FrameId, FrameLocation>,
    pub(crate) reads: AtomicUsize,
    /// How the store fails at every read.
    pub(crate) fails: Option<StoreErrorKind>,
}

impl MemorySource {
    pub(crate) fn add(&mut self, pack: SealedPack) -> PackId {
        let id = PackId { sha256: pack.sha256, allocation: AllocationId::generate() };
        for entry in pack.table {
            self.index.insert(entry.id, FrameLocation { pack: id, entry });
        }
        self.packs.insert(id, pack.bytes);
        id
    }
}

impl PackSource for MemorySource {
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        assert!(frames.len() <= LOCATE_BATCH);
        Ok(frames.iter().map(|frame| self.index.get(frame).cloned()).collect())
    }

    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = self.fails {
            return Err(StoreError::new(kind, "a test").into());
        }
        let bytes = self.packs.get(pack).ok_or_else(|| PackIoError::loss("not-found", "no such pack"))?;
        if range.end > bytes.len() as u64 {
            return Err(PackIoError::loss("corrupt", "the pack ends before"));
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }
}

fn frames(kind: FrameKind, count: usize) -> Vec<EncodedFrame> {
    (0..count).map(|n| encode(kind, format!("content {n}").as_bytes(), 3)).collect()
}

fn source_of(frames: &[EncodedFrame]) -> MemorySource {
    let mut source = MemorySource::default();
    for part in frames.chunks(frames.len().div_ceil(2)) {
        let mut builder = PackBuilder::new();
        part.iter().cloned().for_each(|frame| builder.push(frame));
        source.add(builder.finish());
    }
    source
}

#[test]
fn neighbours_are_read_at_once_and_each_gets_its_own() {
    let frames = frames(FrameKind::Data, 5000);
    let source = Arc::new(source_of(&frames));
    let fetcher = FrameFetcher::new(source.clone(), 0);
    let mut ids: Vec<FrameId> = frames.iter().map(|frame| frame.id).collect();
    ids.push(ids[0]);
    let mut got = vec![Bytes::new(); ids.len()];
    fetcher
        .get_many(&ids, &mut |place, raw| {
            got[place] = raw;
            Ok::<(), FetchError>(())
        })
        .unwrap();
    for (n, raw) in got[..5000].iter().enumerate() {
        assert_eq!(raw, format!("content {n}").as_bytes());
    }
    assert_eq!(got[5000], got[0]);
    assert!(source.reads.load(Ordering::Relaxed) <= 6, "{source:?}", source = source.reads);
}

#[test]
fn pages_are_cached_within_the_bound_and_data_never() {
    let pages = frames(FrameKind::Page, 100);
    let source = Arc::new(source_of(&pages));
    let fetcher = FrameFetcher::new(source.clone(), 200);
    for frame in &pages {
        fetcher.get(frame.id).unwrap();
    }
    assert_eq!(source.reads.load(Ordering::Relaxed), 100);
    assert!(fetcher.cache().held <= 200 && fetcher.cache().held > 150);
    fetcher.get(pages[99].id).unwrap();
    assert_eq!(source.reads.load(Ordering::Relaxed), 100);
    fetcher.get(pages[0].id).unwrap();
    assert_eq!(source.reads.load(Ordering::Relaxed), 101);
}

#[test]
fn shared_frames_are_kept_as_stored_within_the_bound() {
    let frames = frames(FrameKind::Data, 100);
    let source = Arc::new(source_of(&frames));
    let stored: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
    let fetcher = FrameFetcher::new(source.clone(), 0).keeping(stored / 2);
    let ids: Vec<FrameId> = frames.iter().map(|frame| frame.id).collect();
    let read = |ids: &[FrameId]| {
        let mut got = vec![Bytes::new(); ids.len()];
        let each = &mut |place: usize, raw: Result<Bytes, FetchError>| -> Result<(), FetchError> {
            got[place] = raw?;
            Ok(())
        };
        fetcher.try_shared(ids, each).unwrap();
        (got, source.reads.load(Ordering::Relaxed))
    };
    let (first, reads) = read(&ids);
    assert!(fetcher.kept().held <= stored / 2 && fetcher.kept().held > stored / 3);
    // What was read last is there, and is the same.
    let kept: Vec<FrameId> =
        ids.iter().copied().filter(|id| fetcher.kept().frames.contains_key(id)).collect();
    let (again, reads_again) = read(&kept);
    assert_eq!(reads_again, reads);
    for (id, raw) in kept.iter().zip(&again) {
        let place = ids.iter().position(|other| other == id).unwrap();
        assert_eq!(raw, &first[place]);
    }
    // Others do not push them out.
    let before = fetcher.kept().frames.len();
    fetcher.get(ids[0]).unwrap();
    assert_eq!(fetcher.kept().frames.len(), before);
}

#[test]
fn loss_of_one_frame_is_named_and_costs_no_other() {
    let frames = frames(FrameKind::Data, 20);
    let mut source = source_of(&frames);
    let bad = source.index[&frames[3].id].clone();
    let mut bytes = source.packs[&bad.pack].to_vec();
    bytes[end(&bad) as usize - 1] ^= 1;
    // The first pack is damaged in frame 3 and cut off within frame 9, its last.
    bytes.truncate(end(&source.index[&frames[9].id]) as usize - 1);
    source.packs.insert(bad.pack, bytes.into());
    source.index.remove(&frames[15].id);
    let fetcher = FrameFetcher::new(Arc::new(source), 0);
    let ids: Vec<FrameId> = frames.iter().map(|frame| frame.id).collect();
    let mut lost = Vec::new();
    fetcher
        .try_many(&ids, &mut |place, outcome| {
            match outcome {
                Ok(raw) => assert_eq!(raw, format!("content {place}").as_bytes()),
                Err(error) => {
                    assert!(error.is_loss());
                    assert_eq!(error.frame(), Some(ids[place]));
                    lost.push((place, std::mem::discriminant(&error)));
                }
            }
            Ok::<(), FetchError>(())
        })
        .unwrap();
    lost.sort_by_key(|(place, _)| *place);
    assert_eq!(lost.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [3, 9, 15]);
    assert!(lost[0].1 != lost[1].1 && lost[1].1 != lost[2].1);
}

#[test]
fn h04_a_store_out_of_reach_is_asked_once_a_range_and_a_damaged_one_once_a_frame() {
    let frames = frames(FrameKind::Data, 20);
    for (kind, reads, loss) in [(StoreErrorKind::Unreachable, 2, false), (StoreErrorKind::Corrupt, 22, true)]
    {
        let source = Arc::new(MemorySource { fails: Some(kind), ..source_of(&frames) });
        let fetcher = FrameFetcher::new(source.clone(), 0);
        let ids: Vec<FrameId> = frames.iter().map(|frame| frame.id).collect();
        let mut failed = Vec::new();
        fetcher
            .try_many(&ids, &mut |place, outcome| {
                let error = outcome.expect_err("nothing can be read");
                assert_eq!((error.frame(), error.is_loss()), (Some(ids[place]), loss));
                failed.push(place);
                Ok::<(), FetchError>(())
            })
            .unwrap();
        assert_eq!(failed.len(), 20);
        assert_eq!(source.reads.load(Ordering::Relaxed), reads, "{kind:?}");
    }
}
