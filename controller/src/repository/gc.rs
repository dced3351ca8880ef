//! Removing what nothing needs: purging forgotten snapshots, collecting packs
//! no snapshot reaches, and objects no row accounts for.
//!
//! A round is made of bounded steps, each of which may be the last before a
//! crash: what it was about is in the rows, and the next round goes on there.
//! The order of a round is: finish deletions that were begun, purge, decide
//! what was condemned before, mark and condemn, decide again (at once where
//! no lease is open), look for orphans. The rules are in `protocol`.

use std::collections::{BTreeSet, HashSet};

use holdfast_archive::ids::PackId;
use holdfast_archive::keys::{ObjectKey, Prefix};
use roaring::RoaringTreemap;

use super::{Holding, Repository, RepositoryError};
use crate::catalog::packs::{Held, PackRecord};
use crate::catalog::snapshots::SnapshotRecord;
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::model::job::prune::PruneReport;
use crate::model::protocol::{PackFacts, PackState, Protocol, PurgeStep, SnapshotState, Trust};

/// Packs looked at together.
const PACKS: u32 = 1000;
/// Snapshots purged in one round.
const PURGES: usize = 10_000;
/// Pages of the store's listing looked at in one round.
const LISTED_PAGES: u32 = 20;

/// In the note about an object that is still there.
const NOT_DELETED: &str = "could not be deleted and is tried again";

/// One round. Safe to run at any time; two at once take turns.
///
/// # Errors
/// When catalogue or store fail, or the repository is suspended.
pub async fn round(repository: &Repository) -> Result<PruneReport, RepositoryError> {
    // A job and the loop may both ask for a round: one at a time.
    let _one = repository.inner.collecting.lock().await;
    if repository.check().await? != Trust::Whole {
        repository.refuse_suspended().await?;
    }
    repository.refuse_suspended().await?;
    repository.refuse_collection_off().await?;
    let mut report = PruneReport::default();
    let round = Round { repository };
    // What an earlier round decided and did not come to. First: on a full store it
    // makes the room that the rest may need.
    round.sweep(&mut report).await?;
    // Snapshots before packs: what they alone reached is unused from here on.
    round.purge(&mut report).await?;
    // What was condemned by an earlier round, before this one condemns more.
    round.decide(&mut report).await?;
    round.condemn(&mut report).await?;
    // Again: with no lease open, what was just condemned need not wait a round.
    round.decide(&mut report).await?;
    round.sweep(&mut report).await?;
    round.orphans(&mut report).await?;
    round.count(&mut report).await?;
    Ok(report)
}

/// An object that a round was to delete and could not, in a sentence.
pub fn undeleted(report: &PruneReport) -> Option<&str> {
    report.notes.iter().map(String::as_str).find(|note| note.contains(NOT_DELETED))
}

/// What a round would do now, without doing it.
///
/// # Errors
/// When the catalogue fails.
pub async fn plan(repository: &Repository) -> Result<PruneReport, RepositoryError> {
    let mut report = PruneReport::default();
    if let Some(reason) = repository.suspended().await? {
        report.notes.push(format!("nothing would be deleted: the repository is suspended: {reason}"));
        return Ok(report);
    }
    if let Err(RepositoryError::Suspended(reason)) = repository.refuse_collection_off().await {
        report.notes.push(reason);
        return Ok(report);
    }
    Round { repository }.foresee(&mut report).await?;
    Ok(report)
}

/// Packs that no snapshot reaches, of those that have a row, and their bytes.
///
/// # Errors
/// When the catalogue fails.
pub(super) async fn unused(repository: &Repository) -> Result<(u64, u64), RepositoryError> {
    let round = Round { repository };
    let kept = repository.catalog().kept_frames().await?;
    let (mut packs, mut bytes, mut after) = (0, 0, 0);
    loop {
        let page = repository.catalog().packs_in(PackState::Live, after, PACKS).await?;
        let Some(last) = page.last() else { return Ok((packs, bytes)) };
        after = last.number;
        let used = round.used(&page, &kept).await?;
        for pack in page.iter().filter(|pack| !used.contains(pack.number)) {
            packs += 1;
            bytes += pack.length;
        }
    }
}

struct Round<'a> {
    repository: &'a Repository,
}

impl Round<'_> {
    /// Removes forgotten snapshots whose time is over: object, then row.
    async fn purge(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        // Bases of open uploads, and what is being restored, are not purged.
        let holding = self.repository.holding().await?;
        let begun =
            catalog.begin_purge(now_ms(), self.grace_ticks(), &holding.snapshots, PURGES, true).await?;
        // Also those of a round that was cut off.
        let purging = catalog.snapshots_in(SnapshotState::Purging, u32::MAX).await?;
        if purging.is_empty() {
            return Ok(());
        }
        tracing::info!(snapshots = purging.len(), begun = begun.len(), "snapshots are removed for good");
        self.repository.raise_head_on_a_full_store().await?;
        for number in purging {
            if let Some(record) = catalog.snapshot_by_commit(number).await? {
                self.purge_one(&record, report).await?;
            }
        }
        Ok(())
    }

    async fn purge_one(
        &self,
        record: &SnapshotRecord,
        report: &mut PruneReport,
    ) -> Result<(), RepositoryError> {
        let mut gone = false;
        loop {
            match Protocol::WHOLE.purge_step(gone) {
                PurgeStep::DeleteObject => {
                    // The object first: if its row went first, a rebuild could bring it back.
                    gone = self.delete(&[ObjectKey::Snapshot(record.id)], report).await?.is_empty();
                    failpoint("controller.purge.after-object");
                    if !gone {
                        // The row stays as well: the next round tries again.
                        return Ok(());
                    }
                }
                PurgeStep::DeleteRow => {
                    self.repository.catalog().drop_snapshot(record.commit_number).await?;
                    report.snapshots_purged += 1;
                    return Ok(());
                }
            }
        }
    }

    /// First mark, page by page.
    async fn condemn(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        // Once for all pages: a commit that comes after this revives what it uses of what
        // is condemned here.
        let kept = catalog.kept_frames().await?;
        catalog.drop_missing_frames(&kept).await?;
        let mut after = 0;
        loop {
            let page = catalog.packs_in(PackState::Live, after, PACKS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            // After the page: a lease opened later has nothing in it.
            let holding = self.repository.holding().await?;
            let used = self.used(&page, &kept).await?;
            let unused: RoaringTreemap = page
                .iter()
                .filter(|pack| Protocol::WHOLE.first_mark(facts(pack, &used, &holding)))
                .map(|pack| pack.number)
                .collect();
            if !unused.is_empty() {
                report.packs_condemned += catalog.condemn(&unused).await?;
                failpoint("controller.gc.after-condemn");
            }
        }
    }

    /// Second mark and the decision, over what was condemned when no lease
    /// that is still open had been opened, and over intents nobody holds.
    async fn decide(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        let mut kept = None;
        for state in [PackState::Condemned, PackState::Intended] {
            let mut after = 0;
            loop {
                let page = catalog.packs_in(state, after, PACKS).await?;
                let Some(last) = page.last() else { break };
                after = last.number;
                // After the page: a lease opened later has nothing in it.
                let holding = self.repository.holding().await?;
                let ripe = ripe(page, &holding);
                if ripe.is_empty() {
                    continue;
                }
                let kept = match &kept {
                    Some(kept) => kept,
                    None => kept.insert(catalog.kept_frames().await?),
                };
                let used = self.used(&ripe, kept).await?;
                let numbers: RoaringTreemap = ripe.iter().map(|pack| pack.number).collect();
                let decided = catalog.decide(&numbers, &used, &held(&holding)).await?;
                report.packs_revived += decided.revived;
                if decided.doomed > 0 {
                    failpoint("controller.gc.after-deleting");
                }
            }
        }
        Ok(())
    }

    /// Which of these packs hold a kept frame.
    async fn used(
        &self,
        packs: &[PackRecord],
        kept: &RoaringTreemap,
    ) -> Result<RoaringTreemap, RepositoryError> {
        let numbers = packs.iter().map(|pack| pack.number).collect();
        let frames = self.repository.catalog().frames_in(&numbers).await?;
        Ok(frames.into_iter().filter(|(_, inside)| !inside.is_disjoint(kept)).map(|(pack, _)| pack).collect())
    }

    /// Deletes what was decided: objects, then rows.
    async fn sweep(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        let mut after = 0;
        loop {
            let page = catalog.packs_in(PackState::Deleting, after, PACKS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            // Before each page: the pages before may have taken hours, and what is deleted
            // here cannot be taken back.
            if self.repository.check().await? != Trust::Whole {
                return self.repository.refuse_suspended().await;
            }
            self.repository.raise_head_on_a_full_store().await?;
            let keys: Vec<ObjectKey> = page.iter().map(|pack| ObjectKey::Pack(pack.id)).collect();
            let left = self.delete(&keys, report).await?;
            failpoint("controller.gc.after-objects");
            // What could not be deleted keeps its row, and with it its place in the next
            // round.
            let gone: Vec<&PackRecord> =
                page.iter().filter(|pack| !left.contains(&ObjectKey::Pack(pack.id))).collect();
            catalog.drop_packs(&gone.iter().map(|pack| pack.number).collect()).await?;
            report.packs_deleted += gone.len() as u64;
            report.bytes_deleted += gone.iter().map(|pack| pack.length).sum::<u64>();
        }
    }

    /// Looks through a part of the bucket for packs without a row. One is
    /// deleted once it has been seen for long enough: its row may have been
    /// dropped while its upload was still under way.
    async fn orphans(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        // Kept from round to round: a large bucket is listed over several.
        let mut cursor = catalog.orphan_cursor().await?;
        for _ in 0..LISTED_PAGES {
            let after = (!cursor.is_empty()).then_some(cursor.as_str());
            let page = self.repository.store().list(Prefix::Packs, after).await?;
            let packs: Vec<PackId> =
                page.items.iter().filter_map(|item| pack_of(item.key.as_ref())).collect();
            let known = catalog.known_packs(&packs).await?;
            let orphans: Vec<String> = packs
                .iter()
                .zip(known)
                .filter(|(_, known)| !known)
                .map(|(pack, _)| ObjectKey::Pack(*pack).to_string())
                .collect();
            cursor = page.next.unwrap_or_default();
            catalog.note_orphans(&orphans, &cursor).await?;
            if cursor.is_empty() {
                break;
            }
        }
        self.delete_orphans(report).await
    }

    async fn delete_orphans(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        let ticks = catalog.repository().await?.map_or(0, |row| row.ticks);
        // Too few ticks have passed for any to be ripe.
        let Some(until) = ticks.checked_sub(self.repository.settings().orphan_ticks) else { return Ok(()) };
        let names = catalog.ripe_orphans(until, PACKS).await?;
        let mut keys = Vec::new();
        for name in &names {
            // A pack that a reconciliation has given a row since is none.
            if let Some(ObjectKey::Pack(pack)) = ObjectKey::parse(name)
                && catalog.pack(&pack).await?.is_none()
            {
                keys.push(ObjectKey::Pack(pack));
            }
        }
        if !keys.is_empty() {
            // The listing may have taken long, and what is deleted here cannot be taken back.
            if self.repository.check().await? != Trust::Whole {
                return self.repository.refuse_suspended().await;
            }
            let left = self.delete(&keys, report).await?;
            report
                .notes
                .push(format!("{} packs that nothing accounts for were deleted", keys.len() - left.len()));
        }
        // Also those that could not be deleted: the next listing notes them again.
        Ok(catalog.drop_orphans(&names).await?)
    }

    /// Deletes objects of a bucket that is ours at this moment: a round may
    /// take hours, and another controller may take it over meanwhile. Gives
    /// those that are still there, each noted.
    async fn delete(
        &self,
        keys: &[ObjectKey],
        report: &mut PruneReport,
    ) -> Result<HashSet<ObjectKey>, RepositoryError> {
        // Each deletion asks first: a bucket that another controller has taken over is not ours.
        self.repository.refuse_foreign().await?;
        let failures = self.repository.store().delete(keys).await?;
        // A store that fails may fail for a thousand: ten are named.
        for (key, error) in failures.iter().take(10) {
            report.notes.push(format!("{key} {NOT_DELETED}: {error}"));
        }
        Ok(failures.into_iter().map(|(key, _)| key).collect())
    }

    async fn count(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        let counts = catalog.repository_counts().await?;
        report.packs_kept = counts.packs;
        report.bytes_kept = counts.stored_bytes;
        let waiting = catalog.packs_in(PackState::Condemned, 0, PACKS).await?.len();
        if waiting > 0 {
            report.notes.push(format!("{waiting} packs wait until the backups that run now have ended"));
        }
        let limits = self.repository.settings().leases;
        let ticks = catalog.repository().await?.map_or(0, |row| row.ticks);
        if let Some(before) = ticks.checked_sub(limits.resume) {
            catalog.drop_leases(before).await?;
        }
        Ok(())
    }

    async fn foresee(&self, report: &mut PruneReport) -> Result<(), RepositoryError> {
        let catalog = self.repository.catalog();
        let holding = self.repository.holding().await?;
        let purged =
            catalog.begin_purge(now_ms(), self.grace_ticks(), &holding.snapshots, PURGES, false).await?;
        report.snapshots_purged = purged.len() as u64;
        let kept = catalog.kept_frames_without(&purged).await?;
        for state in [PackState::Live, PackState::Condemned] {
            self.foresee_packs(state, &kept, &holding, report).await?;
        }
        if !holding.open.is_empty() {
            report
                .notes
                .push(format!("{} backups or restores run: deletion waits for them", holding.open.len()));
        }
        Ok(())
    }

    async fn foresee_packs(
        &self,
        state: PackState,
        kept: &RoaringTreemap,
        holding: &Holding,
        report: &mut PruneReport,
    ) -> Result<(), RepositoryError> {
        let mut after = 0;
        loop {
            let page = self.repository.catalog().packs_in(state, after, PACKS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            let used = self.used(&page, kept).await?;
            for pack in page {
                // One that is condemned is judged again: what has come since may use it.
                let live = PackRecord { state: PackState::Live, ..pack };
                if Protocol::WHOLE.first_mark(facts(&live, &used, holding)) {
                    report.packs_deleted += 1;
                    report.bytes_deleted += live.length;
                } else {
                    report.packs_kept += 1;
                    report.bytes_kept += live.length;
                }
            }
        }
    }

    fn grace_ticks(&self) -> u64 {
        self.repository.settings().grace.as_secs() / super::TICK.as_secs()
    }
}

/// Those that no open lease can still count on. A lease opened before a pack was
/// condemned may have been told that its frames are there; one opened later was not. An
/// intended pack was never offered to anybody.
fn ripe(page: Vec<PackRecord>, holding: &Holding) -> Vec<PackRecord> {
    let oldest_open = holding.open.iter().copied().min().unwrap_or(u64::MAX);
    let is_ripe = |pack: &PackRecord| pack.condemned_lease.is_none_or(|newest| oldest_open > newest);
    page.into_iter().filter(is_ripe).collect()
}

fn pack_of(key: Option<&ObjectKey>) -> Option<PackId> {
    match key {
        Some(ObjectKey::Pack(pack)) => Some(*pack),
        _ => None,
    }
}

fn held(holding: &Holding) -> Held {
    Held {
        packs: holding.packs.iter().copied().collect::<BTreeSet<u64>>(),
        intents: holding.open.iter().copied().collect(),
    }
}

fn facts(pack: &PackRecord, used: &RoaringTreemap, holding: &Holding) -> PackFacts {
    PackFacts {
        state: pack.state,
        used: used.contains(pack.number),
        held: holding.packs.contains(&pack.lease),
    }
}
