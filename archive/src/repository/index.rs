//! Which frame lies in which pack: from the tables of the packs themselves.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::ids::{FrameId, PackId};
use crate::pack::PackError;
use crate::pack_io::{FrameKind, FrameLocation, PackEntry};
use crate::store::StoreError;

/// A pack with its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFacts {
    pub id: PackId,
    /// Bytes.
    pub len: u64,
    pub frames: u32,
}

/// A listed pack whose table could not be had.
#[derive(Debug)]
pub struct BrokenPack {
    pub id: PackId,
    /// As listed, bytes.
    pub len: u64,
    pub error: BrokenPackError,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum BrokenPackError {
    #[error("its table could not be read")]
    Store(#[from] StoreError),
    #[error("its table is wrong")]
    Table(#[from] PackError),
}

/// A listed pack, as far as its table could be read.
#[derive(Debug)]
pub(super) enum ListedPack {
    Whole(Vec<PackEntry>),
    Broken {
        /// Frames that prove themselves, from the pack's bytes.
        found: Vec<PackEntry>,
        error: BrokenPackError,
    },
}

/// Where a frame lies, but for its id.
#[derive(Debug, Clone, Copy)]
struct Slot {
    pack: u32,
    kind: FrameKind,
    key_epoch: u32,
    offset: u64,
    stored_len: u32,
    raw_len: u32,
}

/// All frames of a repository. About 80 bytes a frame.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<PackFacts>,
    /// Of all packs that frames were found in, also of those that are gone: a slot
    /// names its pack by the place in here.
    ids: Vec<PackId>,
    frames: HashMap<FrameId, Slot>,
    /// Where a frame lies once more.
    copies: HashMap<FrameId, Vec<Slot>>,
    broken: Vec<BrokenPack>,
}

impl Index {
    /// Adds a pack's table.
    pub fn add(&mut self, id: PackId, len: u64, table: &[PackEntry]) {
        self.packs.push(PackFacts { id, len, frames: table.len() as u32 });
        self.add_frames(id, table);
    }

    /// Adds frames that were found in a pack whose table cannot be had. The
    /// pack itself counts as broken.
    pub fn add_frames(&mut self, id: PackId, table: &[PackEntry]) {
        let pack = self.ids.len() as u32;
        self.ids.push(id);
        for entry in table {
            let PackEntry { id, kind, key_epoch, offset, stored_len, raw_len } = *entry;
            let slot = Slot { pack, kind, key_epoch, offset, stored_len, raw_len };
            match self.frames.entry(id) {
                Entry::Vacant(vacant) => {
                    vacant.insert(slot);
                }
                // The first place is the one that is read; the others serve where it fails.
                Entry::Occupied(_) => self.copies.entry(id).or_default().push(slot),
            }
        }
    }

    /// Adds a listed pack, whatever became of reading its table.
    pub(super) fn take(&mut self, id: PackId, len: u64, read: ListedPack) {
        match read {
            ListedPack::Whole(table) => self.add(id, len, &table),
            ListedPack::Broken { found, error } => {
                self.add_frames(id, &found);
                self.broken.push(BrokenPack { id, len, error });
            }
        }
    }

    /// Lets go of packs that are not there any more. Gives the frames that lay
    /// nowhere else.
    pub(super) fn remove(&mut self, gone: &HashSet<PackId>) -> Vec<(FrameId, PackId)> {
        self.packs.retain(|pack| !gone.contains(&pack.id));
        self.broken.retain(|broken| !gone.contains(&broken.id));
        let packs = &self.ids;
        let is_gone = |slot: &Slot| gone.contains(&packs[slot.pack as usize]);
        let copies = &mut self.copies;
        copies.values_mut().for_each(|places| places.retain(|slot| !is_gone(slot)));
        let mut lost = Vec::new();
        self.frames.retain(|id, slot| {
            if !is_gone(slot) {
                return true;
            }
            // The copies that are gone were taken out before.
            match copies.get_mut(id).and_then(Vec::pop) {
                Some(other) => *slot = other,
                None => lost.push((*id, packs[slot.pack as usize])),
            }
            !is_gone(slot)
        });
        lost
    }

    /// Packs that were there when they were looked for last.
    pub(crate) fn known(&self) -> HashSet<PackId> {
        let whole = self.packs.iter().map(|pack| pack.id);
        whole.chain(self.broken.iter().map(|broken| broken.id)).collect()
    }

    pub fn contains(&self, frame: &FrameId) -> bool {
        self.frames.contains_key(frame)
    }

    /// Where a frame lies; the first place if there are several.
    pub fn locate(&self, frame: &FrameId) -> Option<FrameLocation> {
        self.frames.get(frame).map(|slot| self.location(frame, slot))
    }

    /// Everywhere a frame lies.
    pub fn locations<'a>(&'a self, frame: &'a FrameId) -> impl Iterator<Item = FrameLocation> + 'a {
        let copies = self.copies.get(frame).into_iter().flatten();
        self.frames.get(frame).into_iter().chain(copies).map(|slot| self.location(frame, slot))
    }

    pub fn packs(&self) -> &[PackFacts] {
        &self.packs
    }

    /// Number of different frames.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Packs that are there but whose table could not be had. Frames that prove
    /// themselves are found in them all the same.
    pub fn broken(&self) -> &[BrokenPack] {
        &self.broken
    }

    fn location(&self, frame: &FrameId, slot: &Slot) -> FrameLocation {
        let Slot { pack, kind, key_epoch, offset, stored_len, raw_len } = *slot;
        FrameLocation {
            pack: self.ids[pack as usize],
            entry: PackEntry { id: *frame, kind, key_epoch, offset, stored_len, raw_len },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AllocationId;

    #[test]
    fn a_pack_that_went_and_came_back_is_known_and_there_once() {
        let entry = PackEntry {
            id: FrameId([1; 32]),
            kind: FrameKind::Data,
            key_epoch: 0,
            offset: 0,
            stored_len: 10,
            raw_len: 20,
        };
        let pack = PackId { sha256: [2; 32], allocation: AllocationId::generate() };
        let table = [entry.clone()];
        let mut index = Index::default();
        index.add(pack, 100, &table);
        assert_eq!(index.remove(&HashSet::from([pack])), [(entry.id, pack)]);
        assert!(index.known().is_empty() && index.packs().is_empty() && !index.contains(&entry.id));
        index.add(pack, 100, &table);
        assert_eq!(index.known(), HashSet::from([pack]), "a refresh would add it once more");
        assert_eq!((index.packs().len(), index.locations(&entry.id).count()), (1, 1));
    }
}
