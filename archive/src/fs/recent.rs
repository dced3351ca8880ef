//! Small memories of what was seen lately, of fixed size. Each only saves
//! work: forgetting something costs a question or a frame, never an answer.

use std::collections::{HashMap, VecDeque};

use crate::ids::FrameId;

/// Frame ids seen lately; a newer one may push an older one out.
#[derive(Debug)]
pub(crate) struct RecentIds {
    slots: Vec<[u8; 32]>,
}

impl RecentIds {
    /// Room for `slots` ids at 32 bytes each; a power of two.
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots: vec![[0; 32]; slots] }
    }

    pub(crate) fn insert(&mut self, id: &FrameId) {
        let at = self.slot(id);
        self.slots[at] = *id.as_bytes();
    }

    pub(crate) fn contains(&self, id: &FrameId) -> bool {
        self.slots[self.slot(id)] == *id.as_bytes()
    }

    pub(crate) fn remove(&mut self, id: &FrameId) {
        let at = self.slot(id);
        if self.slots[at] == *id.as_bytes() {
            self.slots[at] = [0; 32];
        }
    }

    fn slot(&self, id: &FrameId) -> usize {
        let b = id.as_bytes();
        u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize & (self.slots.len() - 1)
    }
}

/// How many small files are remembered for those that equal them.
const FILES: usize = 64 << 10;

/// Where the content of a small file went: a group of this run, and the place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: u64,
    pub(crate) offset: u32,
}

/// Contents of the last small files of a run, by their hash, and the frames
/// their groups became.
#[derive(Debug, Default)]
pub(crate) struct RecentFiles {
    places: HashMap<[u8; 16], Place>,
    order: VecDeque<([u8; 16], u64)>,
    frames: VecDeque<FrameId>,
    /// The group `frames` begins with.
    first_group: u64,
}

impl RecentFiles {
    pub(crate) fn find(&self, hash: &[u8; 16]) -> Option<Place> {
        self.places.get(hash).copied()
    }

    pub(crate) fn insert(&mut self, hash: [u8; 16], place: Place) {
        self.places.insert(hash, place);
        self.order.push_back((hash, place.group));
        if self.order.len() > FILES
            && let Some((old, _)) = self.order.pop_front()
        {
            self.places.remove(&old);
            // Groups before the oldest file that is known are not asked for any more.
            let oldest = self.order.front().map_or(place.group, |&(_, group)| group);
            while self.first_group < oldest && self.frames.pop_front().is_some() {
                self.first_group += 1;
            }
        }
    }

    /// The frame a closed group became.
    pub(crate) fn frame(&self, group: u64) -> Option<FrameId> {
        let at = usize::try_from(group.checked_sub(self.first_group)?).ok()?;
        self.frames.get(at).copied()
    }

    /// The next group has closed as this frame.
    pub(crate) fn closed(&mut self, frame: FrameId) {
        self.frames.push_back(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_until_pushed_out() {
        let mut ids = RecentIds::new(4);
        let id = |n: u8, rest: u8| {
            let mut bytes = [rest; 32];
            bytes[..4].copy_from_slice(&u32::from(n).to_le_bytes());
            FrameId(bytes)
        };
        ids.insert(&id(1, 7));
        assert!(ids.contains(&id(1, 7)));
        assert!(!ids.contains(&id(1, 8)));
        ids.insert(&id(5, 7));
        assert!(!ids.contains(&id(1, 7)));
    }

    #[test]
    fn the_last_files_are_remembered_with_their_frames() {
        let mut files = RecentFiles::default();
        let hash = |n: usize| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
            bytes
        };
        for n in 0..FILES + 10 {
            let group = n as u64 / 8;
            files.insert(hash(n), Place { group, offset: 0 });
            if n % 8 == 7 {
                files.closed(FrameId([group as u8; 32]));
            }
        }
        assert_eq!(files.find(&hash(9)), None);
        let place = files.find(&hash(10)).unwrap();
        assert_eq!(files.frame(place.group), Some(FrameId([1; 32])));
        assert_eq!(files.frame(0), None);
        assert_eq!(files.places.len(), FILES);
    }
}
