//! From what was found to rows. Nothing here takes away from what a snapshot
//! is known to reach.

use std::collections::{BTreeMap, HashMap};

use holdfast_archive::ids::{FrameId, HostId, PackId, SnapshotId};
use holdfast_archive::pack_io::PackEntry;
use holdfast_archive::snapshot::encode_body;
use roaring::RoaringTreemap;

use super::bucket::{Bucket, Seen};
use super::{Losses, Rebuilt, Repository, RepositoryError};
use crate::catalog::import::FoundSnapshot;
use crate::catalog::losses::LossRow;
use crate::model::protocol::SnapshotState;

/// Rows looked up or written together.
const ROWS: usize = 4096;

/// By host: the row's number of each frame it needs, by its number here.
type RowNumbers = BTreeMap<HostId, HashMap<u64, u64>>;

impl Repository {
    /// Writes rows of packs and frames; gives the numbers frames have there.
    pub(super) async fn write_packs(
        &self,
        bucket: &Bucket,
        indexes: BTreeMap<u64, u64>,
        rebuilt: &mut Rebuilt,
    ) -> Result<RowNumbers, RepositoryError> {
        // Before packs are written: a frame that lies elsewhere is placed there by what follows,
        // and counts as damaged no more.
        for number in &bucket.absent {
            self.catalog().mark_absent_pack(*number).await?;
        }
        let needs = bucket.needs();
        for (at, pack) in (0_u32..).zip(&bucket.packs) {
            // Nothing needs it: without a row it is an orphan, which collection deletes when it
            // has been one for long enough.
            let Some(host) = pack.host else {
                rebuilt.unused_packs += 1;
                rebuilt.unused_bytes += pack.length;
                continue;
            };
            // Of a pack that is the host's for want of a better place only what it needs gets a
            // row, in `write_frames`: the rest may be of files it never had.
            let is_bad = |row: u32| bucket.tried((at, row)) == Some(false);
            let table: Vec<PackEntry> = match pack.proven {
                true => {
                    (0..).zip(&pack.table).filter(|(row, _)| !is_bad(*row)).map(|(_, e)| e.clone()).collect()
                }
                false => Vec::new(),
            };
            self.catalog().import_pack(&pack.id, host, pack.length, &table).await?;
            rebuilt.packs += 1;
        }
        let mut numbers = RowNumbers::new();
        for (host, needed) in &needs {
            numbers.insert(*host, self.write_frames(bucket, *host, needed).await?);
        }
        // After the rows: what is placed above counts as whole until it is marked here.
        self.mark_bad(bucket).await?;
        self.write_hints_found(bucket, indexes).await?;
        Ok(numbers)
    }

    /// Notes which index file holds the table of which pack.
    async fn write_hints_found(
        &self,
        bucket: &Bucket,
        indexes: BTreeMap<u64, u64>,
    ) -> Result<(), RepositoryError> {
        self.catalog().forget_indexes().await?;
        let mut packs: BTreeMap<u64, Vec<PackId>> = BTreeMap::new();
        for pack in bucket.packs.iter().filter(|pack| pack.host.is_some()) {
            if let Some(number) = pack.hint {
                packs.entry(number).or_default().push(pack.id);
            }
        }
        for (number, total) in indexes {
            let packs = packs.remove(&number).unwrap_or_default();
            self.catalog().note_index(number, total, &packs).await?;
        }
        Ok(())
    }

    /// Makes the rows of the frames a host needs say where each lies.
    async fn write_frames(
        &self,
        bucket: &Bucket,
        host: HostId,
        needed: &RoaringTreemap,
    ) -> Result<HashMap<u64, u64>, RepositoryError> {
        let needed: Vec<u64> = needed.iter().collect();
        let mut moved: BTreeMap<u32, Vec<PackEntry>> = BTreeMap::new();
        let mut lost: Vec<FrameId> = Vec::new();
        for part in needed.chunks(ROWS) {
            let ids: Vec<FrameId> = part.iter().map(|number| bucket.id(*number)).collect();
            let rows = self.catalog().find_frames(host, &ids).await?;
            for ((number, id), row) in part.iter().zip(&ids).zip(rows) {
                let Some(place) = bucket.choose(host, *number) else {
                    lost.push(*id);
                    continue;
                };
                let location = bucket.location(place);
                if row.is_none_or(|row| row.location != location || row.fact.damaged) {
                    moved.entry(place.0).or_default().push(location.entry);
                }
            }
        }
        for (pack, entries) in moved {
            for part in entries.chunks(ROWS) {
                self.catalog().place_frames(host, &bucket.packs[pack as usize].id, part).await?;
            }
        }
        for part in lost.chunks(ROWS) {
            self.catalog().note_missing_frames(host, part).await?;
        }
        // Asked for when all rows are written: only now has each frame a number.
        let mut numbers = HashMap::with_capacity(needed.len());
        for part in needed.chunks(ROWS) {
            let ids: Vec<FrameId> = part.iter().map(|number| bucket.id(*number)).collect();
            let rows = self.catalog().frame_numbers(host, &ids).await?;
            numbers.extend(part.iter().copied().zip(rows).filter_map(|(here, row)| Some((here, row?))));
        }
        Ok(numbers)
    }

    /// Marks rows that still point at a place which was tried and has nothing,
    /// so that nobody builds on them.
    async fn mark_bad(&self, bucket: &Bucket) -> Result<(), RepositoryError> {
        for (at, pack) in (0_u32..).zip(&bucket.packs) {
            let bad: Vec<&PackEntry> = (0..)
                .zip(&pack.table)
                .filter(|(row, _)| bucket.tried((at, *row)) == Some(false))
                .map(|(_, entry)| entry)
                .collect();
            if bad.is_empty() {
                continue;
            }
            let rows = self.catalog().frames_of_pack(&pack.id).await?;
            let marked = rows.into_iter().filter(|row| bad.contains(&&row.location.entry));
            self.catalog().mark_damaged(&marked.map(|row| row.number).collect()).await?;
        }
        Ok(())
    }

    /// Writes rows of snapshots. Those that are whole but for their object are
    /// given, to be stored again.
    pub(super) async fn write_snapshots(
        &self,
        bucket: &Bucket,
        numbers: &RowNumbers,
        rebuilt: &mut Rebuilt,
        losses: &mut Losses,
    ) -> Result<Vec<SnapshotId>, RepositoryError> {
        let before: HashMap<SnapshotId, u64> = self.catalog().all_snapshot_ids().await?.into_iter().collect();
        let mut restore = Vec::new();
        for seen in &bucket.snapshots {
            let id = seen.header.id;
            let rows = numbers.get(&id.host);
            let reached: RoaringTreemap =
                seen.frames.iter().filter_map(|here| rows?.get(&here).copied()).collect();
            let lacking = seen.frames.iter().filter(|number| bucket.is_lost(*number)).count() as u64;
            let partial = seen.body.partial || lacking > 0;
            match before.get(&id) {
                Some(number) => {
                    let known = self.catalog().snapshot_by_commit(*number).await?;
                    self.catalog().renew_snapshot(*number, &reached, partial, seen.stored).await?;
                    let state = known.map_or(SnapshotState::Committed, |known| known.state);
                    if !seen.stored && self.judge_unstored(seen, state, lacking, rebuilt, losses).await? {
                        restore.push(id);
                    }
                    rebuilt.snapshots += u64::from(seen.stored);
                }
                None => rebuilt.snapshots += u64::from(self.import(seen, &reached, partial, losses).await?),
            }
            if lacking > 0 && seen.stored {
                let reason = format!("{} lacks {lacking} frames", seen.name());
                losses.add(&id, lacking, reason);
            }
        }
        Ok(restore)
    }

    async fn import(
        &self,
        seen: &Seen,
        reached: &RoaringTreemap,
        partial: bool,
        losses: &mut Losses,
    ) -> Result<bool, RepositoryError> {
        let body = holdfast_archive::snapshot::SnapshotBody { partial, ..seen.body.clone() };
        let found = FoundSnapshot {
            id: seen.header.id,
            commit_number: seen.header.commit_number,
            created_ms: seen.header.created_unix_ms,
            names: &seen.header.names.or_of(&seen.body),
            body: &body,
            body_bytes: &encode_body(&seen.body),
            frames: reached,
        };
        let imported = self.catalog().import_snapshot(&found).await?;
        if !imported {
            let reason = format!("{} has the commit number of another and gets no row", seen.name());
            losses.add(&seen.header.id, LossRow::WHOLE, reason);
        }
        Ok(imported)
    }

    /// What becomes of a snapshot that only its row has. True: its object is to
    /// be stored again, for all its frames are there.
    async fn judge_unstored(
        &self,
        seen: &Seen,
        state: SnapshotState,
        lacking: u64,
        rebuilt: &mut Rebuilt,
        losses: &mut Losses,
    ) -> Result<bool, RepositoryError> {
        let id = seen.header.id;
        match (state, lacking) {
            // Its commit goes on when the controller runs.
            (SnapshotState::Committing, 0) => Ok(false),
            (SnapshotState::Committed | SnapshotState::Forgotten, 0) => Ok(true),
            (SnapshotState::Committed, _) => {
                let reason =
                    format!("{} is not in the bucket any more and lacks {lacking} frames", seen.name());
                losses.add(&id, LossRow::WHOLE, reason);
                Ok(false)
            }
            // Nobody was promised it: purged since the copy was made, or never committed.
            (SnapshotState::Committing | SnapshotState::Forgotten | SnapshotState::Purging, _) => {
                rebuilt.notes.push(format!(
                    "{} is not in the bucket any more; it was {}",
                    seen.name(),
                    state.as_str()
                ));
                self.catalog().drop_absent_snapshot(seen.header.commit_number).await?;
                Ok(false)
            }
        }
    }

    /// Stores the object of snapshots that only a row has. After the head was
    /// raised, as in a commit.
    pub(super) async fn store_again(
        &self,
        ids: &[SnapshotId],
        mut unusable: BTreeMap<SnapshotId, String>,
        rebuilt: &mut Rebuilt,
    ) -> Result<(), RepositoryError> {
        for id in ids {
            let Some(stored) = self.store_object_again(*id).await? else { continue };
            stored?;
            rebuilt.snapshots += 1;
            rebuilt.notes.push(match unusable.remove(id) {
                Some(reason) => format!("{reason}: it was stored again from the catalogue"),
                None => format!(
                    "snapshot {id} was not in the bucket any more and was stored again from the catalogue; \
                     forget it if it was removed on purpose"
                ),
            });
        }
        rebuilt.notes.extend(unusable.into_values());
        Ok(())
    }
}
