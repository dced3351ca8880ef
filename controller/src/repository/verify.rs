//! Verifying the bucket with the catalogue at hand: what is damaged is not only
//! reported, the next backups send it again where its host still has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_archive::ids::PackId;
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::repository::Repository as Bucket;
use holdfast_archive::verify::{Level, Problem, Report, Share, verify_with};

use super::protocol::PackState;
use super::{Repository, RepositoryError};

/// What a verification found and did.
#[derive(Debug)]
pub struct Verified {
    pub report: Report,
    /// Frames that are not offered to hosts any more, of those in packs with a
    /// problem.
    pub marked: u64,
    /// Packs whose damage could not be noted, a sentence each: their frames
    /// are not sent again yet.
    pub unmarked: Vec<String>,
}

impl Repository {
    /// Verifies the repository: everything but the content of packs if `quick`,
    /// otherwise every bit. Agents may go on meanwhile.
    ///
    /// # Errors
    /// When the store cannot be listed, does not hold this repository, or the
    /// catalogue fails before anything was verified. Whatever else fails is in
    /// the report.
    pub async fn verify(&self, quick: bool) -> Result<Verified, RepositoryError> {
        self.refuse_foreign().await?;
        let bucket = Bucket::open(self.store().clone())
            .await
            .map_err(|error| RepositoryError::Damaged(error.to_string()))?;
        let level = if quick { Level::Metadata } else { Level::Packs(Share::ALL) };
        // Before the store is listed: a pack that is committed later is no loss.
        let rows = self.catalog().all_packs().await?;
        let live = rows.into_iter().filter(|row| row.state == PackState::Live);
        let expected: Vec<(PackId, u64)> = live.map(|row| (row.id, row.length)).collect();
        let report = verify_with(&bucket, level, &expected, Arc::default()).await?;
        let packs: BTreeSet<PackId> = report.problems.iter().filter_map(pack_of).collect();
        let mut verified = Verified { report, marked: 0, unmarked: Vec::new() };
        let mut collected = BTreeSet::new();
        for pack in packs {
            match self.settle_pack(&pack).await {
                Ok(Settled::Collected) => {
                    collected.insert(pack);
                }
                Ok(Settled::Marked(frames)) => verified.marked += frames,
                Err(error) => verified.unmarked.push(format!("pack {pack}: {error}")),
            }
        }
        let no_loss = |problem: &Problem| {
            problem.snapshots.is_empty() && pack_of(problem).is_some_and(|pack| collected.contains(&pack))
        };
        verified.report.problems.retain(|problem| !no_loss(problem));
        Ok(verified)
    }

    /// Notes what a pack with a problem has lost. One that was collected
    /// meanwhile, or whose frames were all sent again, has lost nothing.
    async fn settle_pack(&self, pack: &PackId) -> Result<Settled, RepositoryError> {
        let frames = self.catalog().frames_of_pack(pack).await?;
        let row = self.catalog().pack(pack).await?;
        let unused = frames.is_empty() || row.is_none_or(|row| row.state == PackState::Deleting);
        if unused && self.store().head(&ObjectKey::Pack(*pack)).await?.is_none() {
            return Ok(Settled::Collected);
        }
        Ok(Settled::Marked(self.note_lost(frames).await?))
    }
}

/// What became of a pack with a problem.
enum Settled {
    Collected,
    /// So many of its frames are marked as damaged.
    Marked(u64),
}

fn pack_of(problem: &Problem) -> Option<PackId> {
    match ObjectKey::parse(&problem.object) {
        Some(ObjectKey::Pack(pack)) => Some(pack),
        _ => None,
    }
}
