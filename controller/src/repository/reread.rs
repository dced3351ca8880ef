//! Looking again.
//!
//! A store may answer "not found" a moment too long, and a bit may flip on its
//! way here. So nothing is taken for gone or damaged by one look.

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_archive::ids::FrameId;
use holdfast_archive::pack_io::FrameLocation;
use holdfast_archive::store::{StoreError, StoreErrorKind};

use super::read::READS_OF_HOST;
use super::{Repository, RepositoryError};

/// How often something is looked for before it counts as gone.
pub(super) const LOOKS: usize = 3;

/// Whether the answer is about the object, and not about the way to it: it is
/// gone, damaged or not to be had.
pub(super) fn is_about_object(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Corrupt | StoreErrorKind::Refused)
}

impl Repository {
    /// Waits before something is looked for once more.
    pub(super) async fn pause(&self) {
        tokio::time::sleep(self.settings().second_look).await;
    }

    /// Reads frames because a host asked, looking again for what did not come,
    /// and gives what `keep` makes of each. A frame of some hundred bytes
    /// decodes to 4 MiB: only one at a time is in memory as a whole, on few
    /// threads.
    pub(super) async fn read_each_surely<T: Send + 'static>(
        &self,
        wanted: Vec<FrameLocation>,
        keep: fn(Bytes) -> T,
    ) -> Result<Vec<(FrameId, Option<T>)>, RepositoryError> {
        let mut read = self.read_with(wanted.clone(), READS_OF_HOST, keep).await?;
        for _ in 1..LOOKS {
            // One frame may be wanted from several places.
            let mut lost: HashMap<FrameId, Vec<usize>> = HashMap::new();
            for (at, (id, _)) in read.iter().enumerate().filter(|(_, (_, kept))| kept.is_none()) {
                lost.entry(*id).or_default().push(at);
            }
            let again: Vec<FrameLocation> =
                wanted.iter().filter(|location| lost.contains_key(&location.entry.id)).cloned().collect();
            if again.is_empty() {
                break;
            }
            self.pause().await;
            for (id, kept) in self.read_with(again, READS_OF_HOST, keep).await? {
                // Answers of one frame are alike: which of its places one fills is no matter.
                if let Some(at) = lost.get_mut(&id).and_then(Vec::pop) {
                    read[at].1 = kept;
                }
            }
        }
        Ok(read)
    }

    /// [`Repository::read_frames`], but what cannot be had of one range costs
    /// none of the others.
    pub(super) async fn read_apart(
        &self,
        wanted: Vec<FrameLocation>,
    ) -> Result<Vec<(FrameId, Option<Bytes>)>, RepositoryError> {
        // All at once first: a request for each is needed only where one object fails.
        match self.read_frames(wanted.clone()).await {
            Err(RepositoryError::Store(error)) if is_about_object(&error) => {}
            outcome => return outcome,
        }
        let mut read = Vec::with_capacity(wanted.len());
        for location in wanted {
            let id = location.entry.id;
            match self.read_frames(vec![location]).await {
                Ok(one) => read.extend(one),
                Err(RepositoryError::Store(error)) if is_about_object(&error) => read.push((id, None)),
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}
