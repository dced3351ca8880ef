//! Frames that a session found gone or damaged, until they are told.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use holdfast_archive::ids::FrameId;

/// Most ids in one call.
const BATCH: usize = 4096;

/// Most ids a session tells. Where more is lost, so is the bucket, and
/// verifying the repository is what finds it all.
const MOST: usize = 16 * BATCH;

/// What is lost, each told once.
#[derive(Debug, Default)]
pub(super) struct Lost(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    told: BTreeSet<FrameId>,
    untold: BTreeSet<FrameId>,
}

impl Lost {
    pub(super) fn add(&self, frame: FrameId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.told.len() + known.untold.len() < MOST && !known.told.contains(&frame) {
            known.untold.insert(frame);
        }
    }

    /// What was not told yet, in pieces for a call each. It counts as told.
    pub(super) fn take(&self) -> Vec<Vec<FrameId>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let frames: Vec<FrameId> = std::mem::take(&mut known.untold).into_iter().collect();
        known.told.extend(&frames);
        frames.chunks(BATCH).map(<[FrameId]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: usize) -> FrameId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        FrameId::from_slice(&bytes).unwrap()
    }

    #[test]
    fn each_is_told_once_and_no_call_is_too_long() {
        let lost = Lost::default();
        assert!(lost.take().is_empty());
        (0..BATCH + 1).chain(0..10).for_each(|n| lost.add(frame(n)));
        assert_eq!(lost.take().iter().map(Vec::len).collect::<Vec<_>>(), [BATCH, 1]);
        lost.add(frame(3));
        assert!(lost.take().is_empty());
        (0..2 * MOST).for_each(|n| lost.add(frame(n)));
        assert_eq!(lost.take().iter().map(Vec::len).sum::<usize>(), MOST - BATCH - 1);
    }
}
