//! The walk of the snapshots, made again where what it found may be only that
//! the repository is in use.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Findings, Problem, ProblemKind, Report, VerifyProgress, chain, manifests};
use crate::ids::{PackId, SnapshotId};
use crate::keys::{ObjectKey, Prefix};
use crate::repository::{BrokenSnapshot, Changes, DirectSession, Snapshots, list};
use crate::store::StoreError;

/// Looks that must find a loss unexplained before it counts: between two pages
/// of one listing a pack may come and another one go.
const CONFIRM: u32 = 2;
/// Looks in all: a repository that changes faster than it is walked has real
/// losses reported after so many.
const MOST: u32 = 12;

pub(super) struct Looks {
    pub(super) session: DirectSession,
    pub(super) snapshots: Arc<Snapshots>,
    /// Also reads each entry of each manifest.
    pub(super) thorough: bool,
    pub(super) progress: Arc<VerifyProgress>,
    /// What went while this ran.
    pub(super) gone: HashSet<PackId>,
    pub(super) removed: HashSet<SnapshotId>,
}

impl Looks {
    /// Walks until what was found is so, and reports it. Packs that somebody
    /// expects and that went are left for them to judge.
    pub(super) async fn finish(mut self, mut before: Findings, expected: &HashSet<PackId>) -> Report {
        let mut unsure = None;
        // Hours may have passed since packs were listed.
        if let Err(error) = self.look(&mut before).await {
            unsure = Some(error);
        }
        let mut found = self.walk(before.clone()).await;
        let mut confirmed = 0;
        for _ in 0..MOST {
            // A walk that found nothing needs no second look: what came or went meanwhile cost
            // nobody anything.
            let clean = found.report.is_clean() && self.broken().next().is_none();
            if clean || confirmed == CONFIRM || unsure.is_some() {
                break;
            }
            match self.look(&mut before).await {
                Ok(seen) if seen.explains(&found, &self.session) => {
                    // From the findings of before the walk: what the last one booked may be so no
                    // more.
                    found = self.walk(before.clone()).await;
                    confirmed = 0;
                }
                Ok(_) => confirmed += 1,
                Err(error) => unsure = Some(error),
            }
        }
        if let Some(error) = unsure {
            let detail = format!("what seems missing could not be looked for again: {}", chain(&error));
            found.add(Problem::new(ProblemKind::NotRead, "the repository", detail));
        }
        self.report(found, expected)
    }

    async fn walk(&self, mut findings: Findings) -> Findings {
        findings.settle(&self.session.index());
        let (session, snapshots) = (self.session.clone(), self.snapshots.clone());
        let (removed, thorough, progress) = (self.removed.clone(), self.thorough, self.progress.clone());
        let so_far = findings.clone();
        let work = move || {
            let there = snapshots.good.iter().filter(|snapshot| !removed.contains(&snapshot.header.id));
            manifests::check(session, &there.collect::<Vec<_>>(), thorough, &progress, findings)
        };
        // On a thread of its own, because it reads through a session that blocks. One that panics
        // costs the walk and not the report.
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            let mut findings = so_far;
            let detail = format!("the walk of the snapshots broke off: {error}");
            findings.add(Problem::new(ProblemKind::NotRead, Prefix::Snapshots, detail));
            findings
        })
    }

    /// Packs first: a snapshot has gone by the time its packs go.
    async fn look(&mut self, findings: &mut Findings) -> Result<Seen, StoreError> {
        let changes = self.session.refresh().await?;
        findings.hinted.extend(changes.lost.iter().copied());
        self.gone.extend(&changes.gone);
        self.gone.retain(|pack| !changes.new.contains(pack));
        let removed = self.drop_removed().await?;
        Ok(Seen { changes, removed })
    }

    /// Lets go of snapshots that are not there any more.
    async fn drop_removed(&mut self) -> Result<HashSet<SnapshotId>, StoreError> {
        let store = self.session.repository().store();
        let listed = list(store, Prefix::Snapshots).await?;
        let names: HashSet<&str> = listed.iter().map(|object| &*object.name).collect();
        let good = self.snapshots.good.iter().map(|snapshot| snapshot.header.id);
        let broken = self.snapshots.broken.iter().filter_map(|broken| broken.id);
        let mut removed = HashSet::new();
        for id in good.chain(broken).filter(|id| !self.removed.contains(id)) {
            let key = ObjectKey::Snapshot(id);
            // One that a listing leaves out is asked for by name.
            if !names.contains(&*key.to_string()) && store.head(&key).await?.is_none() {
                removed.insert(id);
            }
        }
        self.removed.extend(&removed);
        Ok(removed)
    }

    /// Snapshot objects that are there and cannot be read.
    fn broken(&self) -> impl Iterator<Item = &BrokenSnapshot> {
        let there = |id: SnapshotId| !self.removed.contains(&id);
        self.snapshots.broken.iter().filter(move |broken| broken.id.is_none_or(there))
    }

    fn report(self, mut found: Findings, expected: &HashSet<PackId>) -> Report {
        for broken in self.broken() {
            let mut problem = Problem::new(ProblemKind::SnapshotObject, &broken.name, chain(&broken.error));
            problem.snapshots.extend(broken.id);
            found.add(problem);
        }
        let mut report = found.report;
        let good = self.snapshots.good.iter().map(|snapshot| snapshot.header.id);
        report.snapshots = good.filter(|id| !self.removed.contains(id)).count() as u64;
        // A pack that nothing needed any more was collected.
        let collected = |problem: &Problem| match ObjectKey::parse(&problem.object) {
            Some(ObjectKey::Pack(pack)) => {
                self.gone.contains(&pack) && !expected.contains(&pack) && problem.snapshots.is_empty()
            }
            _ => false,
        };
        report.problems.retain(|problem| !collected(problem));
        report
    }
}

/// What one look showed.
struct Seen {
    changes: Changes,
    removed: HashSet<SnapshotId>,
}

impl Seen {
    /// Whether something that was found may be so no more.
    fn explains(&self, found: &Findings, session: &DirectSession) -> bool {
        let index = session.index();
        let new = |pack: &PackId| self.changes.new.contains(pack);
        let stored_anew =
            found.lost.keys().any(|frame| index.locations(frame).any(|location| new(&location.pack)));
        let mut touched = found.report.problems.iter().flat_map(|problem| &problem.snapshots);
        stored_anew || touched.any(|id| self.removed.contains(id))
    }
}
