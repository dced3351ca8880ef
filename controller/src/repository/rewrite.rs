//! Writing what is whole of a damaged pack again, into a pack of its own.
//!
//! A pack is never overwritten. What the catalogue says of it is enough to read
//! its frames without its table; they are stored in a new pack, and one
//! transaction points their rows at that. Nothing points at the damaged pack
//! then, so a collection deletes it as any pack that nothing reaches. Who has
//! asked where a frame lies before that finds it in the damaged pack, which
//! stays while a lease that was open then is.

use std::collections::HashMap;

use bytes::Bytes;
use holdfast_archive::frame::decode;
use holdfast_archive::ids::{AllocationId, FrameId, PackId};
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::pack::PackBuilder;
use holdfast_archive::pack_io::{PackEntry, SealedPack};

use super::{Repository, RepositoryError};
use crate::catalog::frames::FoundFrame;
use crate::catalog::packs::PackRecord;
use crate::model::protocol::PackCommit;

impl Repository {
    /// Stores these frames, all of that pack, in a new pack and points their
    /// rows at it. Gives the new pack.
    ///
    /// # Errors
    /// When one of the frames is not whole, the store fails, or the repository
    /// is suspended. The rows point where they did then.
    pub(super) async fn write_again(
        &self,
        pack: &PackRecord,
        frames: &[FoundFrame],
    ) -> Result<PackId, RepositoryError> {
        self.refuse_suspended().await?;
        self.refuse_foreign().await?;
        let SealedPack { bytes, sha256, table } = self.copied(&pack.id, frames).await?;
        let new = PackId { sha256, allocation: AllocationId::generate() };
        let length = bytes.len() as u64;
        // The intent before the object: a crash leaves a row that collection
        // removes with the object.
        let intended = self.catalog().intend_pack(&new, pack.host, NO_LEASE, length, u64::MAX).await?;
        let new = intended.unwrap_or(new);
        self.store().put(&ObjectKey::Pack(new), bytes).await?;
        let seen = self.is_stored(&new, length).await?;
        match self.catalog().move_frames(&new, pack.number, frames, &table, seen).await? {
            PackCommit::Accept | PackCommit::Repeat => Ok(new),
            PackCommit::NotStored | PackCommit::Lost => {
                Err(RepositoryError::Busy(format!("pack {new} was given up meanwhile; verify again")))
            }
        }
    }

    /// These frames of a pack in a pack of their own.
    async fn copied(&self, pack: &PackId, frames: &[FoundFrame]) -> Result<SealedPack, RepositoryError> {
        // Two hosts may have a row each for one frame.
        let by_id: HashMap<FrameId, PackEntry> =
            frames.iter().map(|frame| (frame.location.entry.id, frame.location.entry.clone())).collect();
        let mut entries: Vec<PackEntry> = by_id.into_values().collect();
        entries.sort_by_key(|entry| entry.offset);
        let key = ObjectKey::Pack(*pack);
        // One that does not come as a whole is read frame by frame: what a bad
        // sector costs is what lies on it.
        let whole = self.store().get(&key).await.ok();
        let mut builder = PackBuilder::new();
        for entry in entries {
            let range = entry.offset..entry.offset + u64::from(entry.stored_len);
            let stored = match &whole {
                Some(bytes) if range.end <= bytes.len() as u64 => {
                    bytes.slice(usize_of(range.start)..usize_of(range.end))
                }
                Some(_) | None => self.store().get_range(&key, range).await?,
            };
            let stored = checked(pack, entry.clone(), stored).await?;
            builder.push_stored(entry.id, entry.kind, entry.key_epoch, entry.raw_len, &stored);
        }
        Ok(builder.finish())
    }
}

/// Number of the lease of a pack that no host sends.
const NO_LEASE: u64 = 0;

/// Within a pack, which is no longer than 64 MiB.
fn usize_of(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// The stored bytes of a frame, if they are.
async fn checked(pack: &PackId, entry: PackEntry, stored: Bytes) -> Result<Bytes, RepositoryError> {
    let damaged =
        |error: String| RepositoryError::Damaged(format!("frame {} of pack {pack}: {error}", entry.id));
    let bytes = stored.clone();
    let wanted = entry.clone();
    let decoded = tokio::task::spawn_blocking(move || decode(&bytes, &wanted).map(drop)).await;
    match decoded {
        Ok(Ok(())) => Ok(stored),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(error) => Err(damaged(error.to_string())),
    }
}
