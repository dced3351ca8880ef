//! The catalogue from the bucket: for a controller that lost its own, and for
//! one whose catalogue is an old copy.
//!
//! Everything is read: each pack's table, each snapshot, each manifest page
//! once. What the bucket holds is then written down. Nothing that was believed
//! before is given up for what could not be read now: what a snapshot is known
//! to reach only grows, the row of a pack that is gone stays while a snapshot
//! uses one of its frames, and where anything is missing, nothing is deleted
//! until it was found or an operator has given it up. Cut off anywhere, it is
//! begun again; nothing is deleted meanwhile.
//!
//! A bucket does not say whose a pack is. A pack belongs to the host whose
//! snapshots use a frame that lies nowhere else; so no host gets frames it
//! never sent, also where two hosts have equal files.

mod bucket;
mod packs;
mod probe;
mod snapshots;
mod write;

use std::collections::BTreeMap;

use holdfast_archive::ids::SnapshotId;
use holdfast_archive::keys::{ObjectKey, Prefix};
use holdfast_archive::state::Head;

use super::head::HeadRead;
use super::{Repository, RepositoryError, gc};
use crate::catalog::losses::LossRow;
use crate::catalog::repository::RepositoryRow;
use bucket::Bucket;

/// Requests to the store at once.
const REQUESTS: usize = 16;

/// Why nothing is deleted while a reconciliation is under way.
pub(super) const UNFINISHED: &str =
    "a reconciliation was begun and is not finished: run `holdfast-controller reconcile`";

/// What a rebuild or reconciliation found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub snapshots: u64,
    pub packs: u64,
    pub frames: u64,
    /// What was not as it should be and costs nothing; a sentence each.
    pub notes: Vec<String>,
    /// What is missing; a sentence each. None of it was given up before.
    pub losses: Vec<String>,
    /// Packs that no snapshot reaches, and their bytes: what collection deletes
    /// when it is on.
    pub unused_packs: u64,
    pub unused_bytes: u64,
    /// Why collection is off; empty where it is on.
    pub collection_off: String,
}

/// What is missing, by object.
#[derive(Debug, Default)]
struct Losses {
    found: BTreeMap<String, (u64, String)>,
    /// Snapshots whose object is missing or unusable.
    objects: Vec<SnapshotId>,
}

/// Whether a catalogue knows of every snapshot there ever was: it is no copy of
/// itself that was put back, as far as it and the bucket can tell.
fn remembers_all(row: &RepositoryRow, head: &Head) -> bool {
    row.suspended.is_empty()
        && row.collection_off != UNFINISHED
        && (1..=row.commit_number).contains(&head.commit_number)
}

impl Losses {
    fn add(&mut self, snapshot: &SnapshotId, frames: u64, reason: String) {
        if frames == LossRow::WHOLE {
            self.objects.push(*snapshot);
        }
        self.found.insert(format!("snapshot {snapshot}"), (frames, reason));
    }
}

impl Repository {
    /// Makes the catalogue agree with the bucket. `take_over` names the new
    /// owner, who takes the repository from whichever controller had it.
    ///
    /// Where something is missing, collection is off afterwards. With
    /// `accept_loss` it is given up and collection is on: but only what the
    /// reconciliation before this one has shown, for nobody can mean what they
    /// have not seen.
    ///
    /// # Errors
    /// When catalogue or store fail, or the repository is another
    /// controller's and not taken over.
    pub async fn reconcile(
        &self,
        take_over: Option<&str>,
        accept_loss: bool,
    ) -> Result<Rebuilt, RepositoryError> {
        // No collection meanwhile: it would go by rows that are being rewritten.
        let _one = self.inner.collecting.lock().await;
        self.settle_owner(take_over).await?;
        // Read before the next line writes over it why collection is off.
        let before = self.catalog().repository().await?;
        self.catalog().begin_reconciliation(UNFINISHED).await?;
        let mut bucket = Bucket::default();
        let head = self.head_for_reconciliation(&mut bucket).await?;
        if before.is_some_and(|row| remembers_all(&row, &head)) {
            bucket.given = self.catalog().head().await?.numbers;
        }
        // Before anything is surveyed: a number that the bucket has seen is not given again,
        // whatever this comes to.
        self.catalog().take_head(&head).await?;

        // What the bucket holds. Packs before snapshots: pages are read by the tables.
        let mut losses = Losses::default();
        let indexes = self.survey_packs(&mut bucket).await?;
        self.survey_snapshots(&mut bucket, &head, &mut losses).await?;
        self.follow(&mut bucket).await?;
        // By what snapshots reach, so after all of it is known.
        bucket.assign_hosts();
        self.settle_doubts(&mut bucket).await?;

        // What was found is written down: packs first, for rows of snapshots name their frames
        // by number.
        let mut rebuilt = Rebuilt { frames: bucket.frame_count(), ..Rebuilt::default() };
        rebuilt.notes.append(&mut bucket.notes);
        let numbers = self.write_packs(&bucket, indexes, &mut rebuilt).await?;
        let unstored = self.write_snapshots(&bucket, &numbers, &mut rebuilt, &mut losses).await?;
        // A copy of the catalogue from before this is known as an old one from here on.
        self.catalog().raise_commit_number().await?;
        self.raise_head().await?;
        self.store_again(&unstored, std::mem::take(&mut bucket.unusable), &mut rebuilt).await?;
        self.conclude(&mut rebuilt, losses, accept_loss).await?;
        tracing::info!(
            snapshots = rebuilt.snapshots,
            packs = rebuilt.packs,
            frames = rebuilt.frames,
            missing = rebuilt.losses.len(),
            "the catalogue agrees with the bucket"
        );
        Ok(rebuilt)
    }

    /// Tries whatever has more than one place until nothing is left to doubt.
    async fn settle_doubts(&self, bucket: &mut Bucket) -> Result<(), RepositoryError> {
        let damaged = self.catalog().all_damaged().await?;
        let needs = bucket.needs();
        loop {
            let doubtful = bucket.doubtful(&needs, &damaged);
            if doubtful.is_empty() {
                return Ok(());
            }
            self.try_places(bucket, &doubtful).await?;
        }
    }

    /// A head that cannot be read is recreated from what snapshots say.
    async fn head_for_reconciliation(&self, bucket: &mut Bucket) -> Result<Head, RepositoryError> {
        match self.read_head(true).await? {
            HeadRead::Head(head) => Ok(head),
            HeadRead::Absent => Ok(Head::default()),
            HeadRead::Damaged(reason) => {
                bucket.notes.push(format!("state/head was written anew: {reason}"));
                Ok(Head::default())
            }
        }
    }

    /// Decides whether collection is on from now on.
    async fn conclude(
        &self,
        rebuilt: &mut Rebuilt,
        losses: Losses,
        accept_loss: bool,
    ) -> Result<(), RepositoryError> {
        // What the reconciliation before this one has shown, and what was given up by then.
        let shown = self.catalog().losses().await?;
        let before = |object: &str| shown.get(object).copied().unwrap_or(LossRow { frames: 0, accepted: 0 });
        let mut rows = BTreeMap::new();
        let mut open = Vec::new();
        let mut unseen = 0;
        for (object, (frames, reason)) in &losses.found {
            let LossRow { frames: seen, mut accepted } = before(object);
            if accept_loss && seen >= *frames {
                accepted = accepted.max(*frames);
            }
            if accepted < *frames {
                unseen += u64::from(seen < *frames);
                open.push(reason.clone());
            }
            rows.insert(object.clone(), LossRow { frames: *frames, accepted });
        }
        if accept_loss && unseen > 0 {
            rebuilt.notes.push(format!(
                "nothing is given up: {unseen} of the losses below had not been shown before; \
                 look at them, then run `holdfast-controller reconcile --accept-loss` again"
            ));
            // All or nothing: whoever accepts has looked at a list, and it was another one.
            rows.iter_mut().for_each(|(object, row)| row.accepted = before(object).accepted);
            open = losses
                .found
                .iter()
                .filter(|(object, (frames, _))| before(object).accepted < *frames)
                .map(|(_, (_, reason))| reason.clone())
                .collect();
        }
        // Rows of snapshots without an object stay as long as anything is open: the object may
        // be found yet.
        if open.is_empty() {
            self.give_up(&losses.objects).await?;
        } else {
            rebuilt.collection_off = format!(
                "nothing is deleted while {} snapshots are not whole. With the controller stopped, \
                 `holdfast-controller reconcile` lists them and ends this once backups have sent again \
                 what is missing; with `--accept-loss` it gives up what it has listed before",
                open.len()
            );
        }
        let (packs, bytes) = gc::unused(self).await?;
        rebuilt.unused_packs += packs;
        rebuilt.unused_bytes += bytes;
        rebuilt.losses = open;
        // Last: until then collection is off as unfinished, and a crash leaves it so.
        self.catalog().end_reconciliation(&rows, &rebuilt.collection_off).await?;
        Ok(())
    }

    /// Drops rows of snapshots that were given up, object and all.
    async fn give_up(&self, snapshots: &[SnapshotId]) -> Result<(), RepositoryError> {
        for id in snapshots {
            if let Some(row) = self.catalog().snapshot(id).await? {
                self.catalog().drop_absent_snapshot(row.commit_number).await?;
            }
        }
        Ok(())
    }

    async fn settle_owner(&self, take_over: Option<&str>) -> Result<(), RepositoryError> {
        let mut info = self.info().await?;
        self.catalog().adopt_repository(info.id, take_over.unwrap_or(&info.owner)).await?;
        let row = self.catalog().repository().await?;
        let Some(row) = row.filter(|row| row.repository == info.id) else {
            return Err(RepositoryError::Suspended(format!(
                "{} holds another repository than this catalogue is of",
                self.store().location()
            )));
        };
        match take_over {
            Some(owner) => {
                // In the bucket first: the controller that had it finds itself replaced before
                // this one acts on what it finds.
                if info.owner != owner {
                    info.owner = owner.to_owned();
                    self.store().put(&ObjectKey::Repository, info.encode().into()).await?;
                }
                Ok(self.catalog().set_repository_owner(owner).await?)
            }
            None if row.owner == info.owner => Ok(()),
            None => Err(RepositoryError::Suspended(format!(
                "the repository belongs to controller {}, this is {}",
                info.owner, row.owner
            ))),
        }
    }

    pub(in crate::repository) async fn list_all(
        &self,
        prefix: Prefix,
    ) -> Result<Vec<(ObjectKey, u64)>, RepositoryError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store().list(prefix, after.as_deref()).await?;
            all.extend(page.items.into_iter().filter_map(|item| Some((item.key?, item.len))));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }
}
