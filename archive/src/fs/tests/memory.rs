//! A repository in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::ids::{AllocationId, FrameId, PackId};
use crate::pack_io::{FrameKind, FrameLocation, PackIoError, PackSink, PackSource, SealedPack};

#[derive(Default)]
pub(super) struct Memory {
    packs: Mutex<HashMap<PackId, Bytes>>,
    frames: Mutex<HashMap<FrameId, FrameLocation>>,
    pub(super) puts: AtomicU64,
    pub(super) asked: AtomicU64,
    /// Fails every upload from this one on.
    pub(super) fail_from: Mutex<Option<u64>>,
}

impl Memory {
    /// Frames of data, and their raw bytes.
    pub(super) fn data(&self) -> (usize, u64) {
        let frames = self.frames.lock().unwrap();
        let data = frames.values().filter(|location| location.entry.kind == FrameKind::Data);
        data.fold((0, 0), |(n, bytes), location| (n + 1, bytes + u64::from(location.entry.raw_len)))
    }

    pub(super) fn forget(&self, id: FrameId) {
        self.frames.lock().unwrap().remove(&id).unwrap();
    }

    pub(super) fn holds(&self, id: FrameId) -> bool {
        self.frames.lock().unwrap().contains_key(&id)
    }

    pub(super) fn puts(&self) -> u64 {
        self.puts.load(Ordering::Relaxed)
    }
}

impl PackSink for Memory {
    fn have(&self, frames: &[FrameId]) -> Result<Vec<bool>, PackIoError> {
        assert!(frames.len() <= 4096);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let known = self.frames.lock().unwrap();
        Ok(frames.iter().map(|id| known.contains_key(id)).collect())
    }

    fn put_pack(&self, pack: SealedPack) -> Result<(), PackIoError> {
        let number = self.puts.fetch_add(1, Ordering::Relaxed);
        if self.fail_from.lock().unwrap().is_some_and(|from| number >= from) {
            return Err(PackIoError::new("unreachable", "the store is gone"));
        }
        let id = PackId { sha256: pack.sha256, allocation: AllocationId::generate() };
        self.packs.lock().unwrap().insert(id, pack.bytes);
        let mut frames = self.frames.lock().unwrap();
        for entry in pack.table {
            frames.insert(entry.id, FrameLocation { pack: id, entry });
        }
        Ok(())
    }
}

impl PackSource for Memory {
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        let known = self.frames.lock().unwrap();
        Ok(frames.iter().map(|id| known.get(id).cloned()).collect())
    }

    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        let packs = self.packs.lock().unwrap();
        let bytes = packs.get(pack).ok_or_else(|| PackIoError::loss("not-found", "no such pack"))?;
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }
}
