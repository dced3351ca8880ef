//! Trying places: whether a frame is where a table says it is.
//!
//! A store may answer "not found" a moment too long, and a bit may flip on its
//! way here. So what did not come is asked for again, after a pause, before it
//! counts as gone.

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_archive::ids::FrameId;

use super::bucket::{Bucket, Place};
use super::{Repository, RepositoryError};
use crate::repository::reread::LOOKS;

/// Frames of data tried together; each may have 4 MiB.
const DATA: usize = 16;

impl Repository {
    /// Reads each of these frames from wherever it lies; `None` for one that no
    /// place has. Every place that was tried is noted.
    pub(super) async fn read_anywhere(
        &self,
        bucket: &mut Bucket,
        numbers: &[u64],
    ) -> Result<Vec<(u64, Option<Bytes>)>, RepositoryError> {
        let mut left = numbers.to_vec();
        let mut read = Vec::with_capacity(numbers.len());
        for look in 0..LOOKS {
            let most = left.iter().map(|number| bucket.places(*number).len()).max().unwrap_or(0);
            if look > 0 && most > 0 {
                self.pause().await;
            }
            // One place of each frame at a time: a frame that was found is read nowhere else.
            for nth in 0..most {
                let places: Vec<Place> =
                    left.iter().filter_map(|number| bucket.places(*number).get(nth).copied()).collect();
                for (place, raw) in self.probe(bucket, &places).await? {
                    bucket.note(place, raw.is_some());
                    if let Some(raw) = raw {
                        let number = bucket.number(bucket.entry(place).id);
                        left.retain(|other| *other != number);
                        read.push((number, Some(raw)));
                    }
                }
            }
            if left.is_empty() {
                break;
            }
        }
        read.extend(left.into_iter().map(|number| (number, None)));
        Ok(read)
    }

    /// Tries each of these places and notes what was found.
    pub(super) async fn try_places(
        &self,
        bucket: &mut Bucket,
        places: &[Place],
    ) -> Result<(), RepositoryError> {
        for batch in places.chunks(DATA) {
            let mut left = batch.to_vec();
            for look in 0..LOOKS {
                if look > 0 {
                    self.pause().await;
                }
                let read = self.probe(bucket, &left).await?;
                left.clear();
                for (place, raw) in read {
                    bucket.note(place, raw.is_some());
                    left.extend(raw.is_none().then_some(place));
                }
                if left.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One look at each place.
    async fn probe(
        &self,
        bucket: &Bucket,
        places: &[Place],
    ) -> Result<Vec<(Place, Option<Bytes>)>, RepositoryError> {
        let mut all = Vec::with_capacity(places.len());
        let mut left = places.to_vec();
        while !left.is_empty() {
            // Answers go by id: no two places of one frame in one question.
            let mut asked: HashMap<FrameId, Place> = HashMap::new();
            left.retain(|place| match asked.entry(bucket.entry(*place).id) {
                std::collections::hash_map::Entry::Occupied(_) => true,
                std::collections::hash_map::Entry::Vacant(free) => {
                    free.insert(*place);
                    false
                }
            });
            let locations = asked.values().map(|place| bucket.location(*place)).collect();
            let read = self.read_apart(locations).await?;
            all.extend(read.into_iter().filter_map(|(id, raw)| Some((*asked.get(&id)?, raw))));
        }
        Ok(all)
    }
}
