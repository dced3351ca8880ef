//! A cache of frames, bounded by bytes.

use std::collections::{BTreeMap, HashMap};

use crate::ids::FrameId;

/// Frames in so many bytes; the least recently used go first.
pub(super) struct Recent<V> {
    room: usize,
    pub(super) held: usize,
    tick: u64,
    /// Each with its age and its bytes.
    pub(super) frames: HashMap<FrameId, (u64, usize, V)>,
    by_age: BTreeMap<u64, FrameId>,
}

impl<V: Clone> Recent<V> {
    pub(super) fn new(room: usize) -> Self {
        Self { room, held: 0, tick: 0, frames: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// How many bytes it may hold.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    pub(super) fn get(&mut self, id: &FrameId) -> Option<V> {
        let (age, _, value) = self.frames.get_mut(id)?;
        self.by_age.remove(age);
        self.tick += 1;
        *age = self.tick;
        self.by_age.insert(self.tick, *id);
        Some(value.clone())
    }

    pub(super) fn insert(&mut self, id: FrameId, bytes: usize, value: V) {
        if bytes > self.room || self.frames.contains_key(&id) {
            return;
        }
        self.tick += 1;
        self.held += bytes;
        self.by_age.insert(self.tick, id);
        self.frames.insert(id, (self.tick, bytes, value));
        while self.held > self.room {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some((_, bytes, _)) = self.frames.remove(&oldest) {
                self.held -= bytes;
            }
        }
    }
}
