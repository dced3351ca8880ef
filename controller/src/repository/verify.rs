//! Verifying the bucket with the catalogue at hand: what is damaged is not only
//! reported, the next backups send it again where its host still has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use holdfast_archive::ids::PackId;
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::repository::Repository as Bucket;
use holdfast_archive::verify::{Level, Problem, ProblemKind, Report, Share, verify_with};

use super::protocol::PackState;
use super::{Repository, RepositoryError};

/// What a verification found and did.
#[derive(Debug)]
pub struct Verified {
    pub report: Report,
    /// Frames that are not offered to hosts any more, of those in packs with a
    /// problem.
    pub marked: u64,
}

impl Repository {
    /// Verifies the repository: everything but the content of packs if `quick`,
    /// otherwise every bit. Agents may go on meanwhile.
    ///
    /// # Errors
    /// When the store cannot be listed or the catalogue fails. Whatever else
    /// fails is in the report.
    pub async fn verify(&self, quick: bool) -> Result<Verified, RepositoryError> {
        let bucket = Bucket::open(self.store().clone())
            .await
            .map_err(|error| RepositoryError::Damaged(error.to_string()))?;
        let level = if quick { Level::Metadata } else { Level::Packs(Share::ALL) };
        // Before the store is listed: a pack that is committed later is no loss.
        let rows = self.catalog().all_packs().await?;
        let live = rows.into_iter().filter(|row| row.state == PackState::Live);
        let expected: Vec<(PackId, u64)> = live.map(|row| (row.id, row.length)).collect();
        let mut report = verify_with(&bucket, level, &expected, Arc::default()).await?;
        let packs: BTreeSet<PackId> = report.problems.iter().filter_map(pack_of).collect();
        let mut unused = BTreeSet::new();
        let mut marked = 0;
        for pack in packs {
            let frames = self.catalog().frames_of_pack(&pack).await?;
            if frames.is_empty() {
                unused.insert(pack);
            }
            marked += self.note_lost(frames).await?;
        }
        // One that was collected meanwhile, or whose frames were all sent again, is no loss.
        let no_loss = |problem: &Problem| {
            problem.kind == ProblemKind::MissingPack
                && problem.snapshots.is_empty()
                && pack_of(problem).is_some_and(|pack| unused.contains(&pack))
        };
        report.problems.retain(|problem| !no_loss(problem));
        Ok(Verified { report, marked })
    }
}

fn pack_of(problem: &Problem) -> Option<PackId> {
    match ObjectKey::parse(&problem.object) {
        Some(ObjectKey::Pack(pack)) => Some(pack),
        _ => None,
    }
}
