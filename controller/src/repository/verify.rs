//! Verifying the bucket with the catalogue at hand: what is damaged is not only
//! reported, the next backups send it again where its host still has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_archive::ids::{PackId, SnapshotId};
use holdfast_archive::keys::{ObjectKey, Prefix, RecoveryFile};
use holdfast_archive::repository::{Repository as Bucket, text};
use holdfast_archive::snapshot::encode_object;
use holdfast_archive::verify::{Level, Problem, ProblemKind, Report, Share, verify_with};
use roaring::RoaringTreemap;

use super::{Repository, RepositoryError};
use crate::catalog::frames::FoundFrame;
use crate::model::protocol::{PackState, SnapshotState};

/// What a verification found and did.
#[derive(Debug)]
pub struct Verified {
    pub report: Report,
    /// Objects with a problem that costs nothing: no snapshot needs what is
    /// damaged in them.
    pub unneeded: BTreeSet<String>,
    /// Frames that are not offered to hosts any more, of those in packs with a
    /// problem.
    pub marked: u64,
    /// Packs whose damage could not be noted, a sentence each: their frames
    /// are not sent again yet.
    pub unmarked: Vec<String>,
    /// Snapshots whose object was missing or damaged and was stored again from
    /// the catalogue, which has the same bytes.
    pub stored_again: u64,
    /// Files under `RECOVERY/` that were missing or not Holdfast's, and are
    /// this program's now.
    pub recovery_written: u64,
}

impl Verified {
    /// Whether everything that a snapshot needs is there and whole.
    pub fn is_sound(&self) -> bool {
        self.unmarked.is_empty()
            && self.report.problems.iter().all(|problem| self.unneeded.contains(&problem.object))
    }
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
        let snapshots = self.catalog().all_snapshot_ids().await?;
        let report = verify_with(&bucket, level, &expected, Arc::default()).await?;
        let mut verified = Verified {
            report,
            unneeded: BTreeSet::new(),
            marked: 0,
            unmarked: Vec::new(),
            stored_again: 0,
            recovery_written: 0,
        };
        // The report stays: hours of reading must not be lost because the catalogue fails now.
        if let Err(error) = self.settle_snapshots(&snapshots, &mut verified).await {
            let detail = format!("could not be held against the catalogue: {error}");
            verified.report.problems.push(Problem::new(ProblemKind::NotRead, Prefix::Snapshots, detail));
        }
        self.settle_recovery(&mut verified).await;
        self.settle_packs(&mut verified).await?;
        Ok(verified)
    }

    /// Holds each pack with a problem against the catalogue, and notes in the
    /// report what was done and what is to be done.
    async fn settle_packs(&self, verified: &mut Verified) -> Result<(), RepositoryError> {
        if verified.report.problems.iter().all(|problem| pack_of(problem).is_none()) {
            return Ok(());
        }
        let kept = self.catalog().kept_frames().await?;
        let mut problems = Vec::new();
        for mut problem in std::mem::take(&mut verified.report.problems) {
            if let Some(pack) = pack_of(&problem) {
                match self.settle_pack(&pack, problem.kind, &kept).await {
                    Ok(Settled::Collected) if problem.snapshots.is_empty() => continue,
                    Ok(Settled::Collected) => {}
                    Ok(Settled::There { marked, needed, note }) => {
                        verified.marked += marked;
                        problem.detail.push_str(&note);
                        if !needed && problem.snapshots.is_empty() {
                            verified.unneeded.insert(problem.object.clone());
                        }
                    }
                    Err(error) => verified.unmarked.push(format!("pack {pack}: {error}")),
                }
            }
            problems.push(problem);
        }
        verified.report.problems = problems;
        Ok(())
    }

    /// Holds the catalogue's snapshots against the bucket: the object of one
    /// that is missing or damaged there is stored again, so that a controller
    /// that is rebuilt from the bucket knows it.
    async fn settle_snapshots(
        &self,
        known: &[(SnapshotId, u64)],
        verified: &mut Verified,
    ) -> Result<(), RepositoryError> {
        let mut bad = snapshot_problems(&verified.report.problems);
        let listed = self.list_all(Prefix::Snapshots).await?;
        let listed: BTreeSet<SnapshotId> = listed
            .into_iter()
            .filter_map(|(key, _)| if let ObjectKey::Snapshot(id) = key { Some(id) } else { None })
            .collect();
        let absent = known.iter().map(|(id, _)| *id).filter(|id| !listed.contains(id));
        bad.extend(absent.map(|id| (id, None)));
        for (id, problem) in bad {
            let key = ObjectKey::Snapshot(id);
            // A listing may lag, and what is being removed is no loss.
            if problem.is_none() && self.store().head(&key).await?.is_some() {
                continue;
            }
            let Some(outcome) = self.store_object_again(id).await? else { continue };
            let remedy = match outcome {
                Ok(()) => {
                    verified.stored_again += 1;
                    "it was stored again from the catalogue".to_owned()
                }
                Err(error) => format!("it could not be stored again from the catalogue: {error}"),
            };
            match problem.and_then(|at| verified.report.problems.get_mut(at)) {
                Some(problem) => problem.detail.push_str(&format!("; {remedy}")),
                None => {
                    let detail = format!("not in the bucket; {remedy}");
                    let problem = Problem::new(ProblemKind::SnapshotObject, key, detail);
                    verified.report.problems.push(problem);
                }
            }
        }
        Ok(())
    }

    /// Writes this program's own files where those under `RECOVERY/` are gone
    /// or somebody else's. Nothing refers to them by hash but `repo.json`, which
    /// says what was first written and stays: it also says who owns the
    /// repository, and must never be written back after another took over.
    async fn settle_recovery(&self, verified: &mut Verified) {
        for problem in &mut verified.report.problems {
            let Some(ObjectKey::Recovery(file)) = ObjectKey::parse(&problem.object) else { continue };
            let remedy = match self.write_recovery(file).await {
                Ok(()) => {
                    verified.recovery_written += 1;
                    "it was written again".to_owned()
                }
                Err(error) => format!("it could not be written again: {error}"),
            };
            problem.detail.push_str(&format!("; {remedy}"));
        }
    }

    async fn write_recovery(&self, file: RecoveryFile) -> Result<(), RepositoryError> {
        self.refuse_foreign().await?;
        self.store().put(&ObjectKey::Recovery(file), text(file).as_bytes().into()).await?;
        Ok(())
    }

    /// Stores the object of a snapshot anew that somebody was promised; `None`
    /// if nobody was, or not any more. The head was raised when it was
    /// committed.
    pub(super) async fn store_object_again(
        &self,
        id: SnapshotId,
    ) -> Result<Option<Result<(), RepositoryError>>, RepositoryError> {
        let Some(record) = self.catalog().snapshot(&id).await? else { return Ok(None) };
        if !matches!(record.state, SnapshotState::Committed | SnapshotState::Forgotten) {
            return Ok(None);
        }
        let Some(stored) = self.catalog().stored_snapshot(record.commit_number).await? else {
            return Ok(None);
        };
        let object = encode_object(&stored.header, &stored.body);
        self.refuse_foreign().await?;
        let put = self.store().put(&ObjectKey::Snapshot(id), object.into()).await;
        Ok(Some(put.map(drop).map_err(RepositoryError::from)))
    }

    /// Notes what a pack with a problem has lost, and writes again what is
    /// whole of one that holds nothing else, so that the damaged copy can go.
    /// One that was collected meanwhile, or whose frames were all sent again,
    /// has lost nothing.
    async fn settle_pack(
        &self,
        pack: &PackId,
        kind: ProblemKind,
        kept: &RoaringTreemap,
    ) -> Result<Settled, RepositoryError> {
        let frames = self.catalog().frames_of_pack(pack).await?;
        let row = self.catalog().pack(pack).await?;
        let there = match frames.is_empty() || row.as_ref().is_none_or(|row| row.state == PackState::Deleting)
        {
            true => self.store().head(&ObjectKey::Pack(*pack)).await?.is_some(),
            false => true,
        };
        if !there {
            return Ok(Settled::Collected);
        }
        if kind == ProblemKind::NotRead {
            let marked = self.note_lost(frames).await?;
            return Ok(Settled::There { marked, needed: true, note: String::new() });
        }
        let lost = self.mark_lost(frames.clone()).await?;
        let lost_and_needed = !lost.is_disjoint(kept);
        let whole: Vec<FoundFrame> =
            frames.into_iter().filter(|frame| !lost.contains(frame.number)).collect();
        // Readers without a catalogue go by the table; without one they search.
        let hidden = matches!(kind, ProblemKind::PackTable | ProblemKind::PackHash);
        let needed = lost_and_needed || (hidden && !whole.is_empty());
        let mut note = String::new();
        let Some(row) = row else {
            note.push_str(UNKNOWN);
            return Ok(Settled::There { marked: lost.len(), needed, note });
        };
        // What a collection has condemned is not brought back.
        if !whole.is_empty() && row.state == PackState::Live && (hidden || !lost_and_needed) {
            match self.write_again(&row, &whole).await {
                Ok(new) => note.push_str(&format!("; what is whole in it was written again, as {new}")),
                Err(error) => {
                    note.push_str(&format!("; what is whole in it could not be written again: {error}"));
                    return Ok(Settled::There { marked: lost.len(), needed, note });
                }
            }
        }
        if !lost_and_needed {
            note.push_str(UNNEEDED);
        }
        Ok(Settled::There { marked: lost.len(), needed, note })
    }
}

/// Of a pack that nothing points at any more.
const UNNEEDED: &str = "; no snapshot needs this copy any more: it is deleted within a quarter of an hour, or by \
    `holdfast repo prune`";

/// Of a pack that nothing ever pointed at.
const UNKNOWN: &str = "; no snapshot needs it: the catalogue does not know it, and the controller deletes it a day \
    after it has first seen it";

/// What became of a pack with a problem.
enum Settled {
    Collected,
    There {
        /// So many of its frames are marked as damaged.
        marked: u64,
        /// Whether a snapshot needs what is damaged, or did until now.
        needed: bool,
        /// What was done and what is to be done, to be added to the problem.
        note: String,
    },
}

/// The snapshots whose objects are bad, each with the place of its problem in the list.
fn snapshot_problems(problems: &[Problem]) -> BTreeMap<SnapshotId, Option<usize>> {
    let of_objects =
        problems.iter().enumerate().filter(|(_, problem)| problem.kind == ProblemKind::SnapshotObject);
    of_objects
        .filter_map(|(at, problem)| match ObjectKey::parse(&problem.object) {
            Some(ObjectKey::Snapshot(id)) => Some((id, Some(at))),
            _ => None,
        })
        .collect()
}

fn pack_of(problem: &Problem) -> Option<PackId> {
    match ObjectKey::parse(&problem.object) {
        Some(ObjectKey::Pack(pack)) => Some(pack),
        _ => None,
    }
}
