//! The repository is the one that was opened, and no other is taken for it.

use std::path::PathBuf;

use holdfast_archive::backoff::Backoff;
use holdfast_archive::state::IndexedPack;
use holdfast_archive::store::{Fault, FaultPlan, RetryPolicy, Rule, StoreErrorKind, Verb};

use super::*;

impl World {
    pub(super) fn mounted(&self) -> PathBuf {
        self.dir.path().join("bucket")
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// The path leads to an empty mount point.
    fn unmount(&self) {
        std::fs::rename(self.mounted(), self.disk()).expect("unmounted");
        std::fs::create_dir(self.mounted()).expect("mount point");
    }

    fn mount(&self) {
        std::fs::remove_dir(self.mounted()).expect("nothing was written beside the repository");
        std::fs::rename(self.disk(), self.mounted()).expect("mounted");
    }

    /// All frames a snapshot reaches, each with whether it is read and whole.
    pub(super) async fn read_all(&self, id: &SnapshotId) -> Vec<(FrameId, bool)> {
        let record = self.repository.get(id).await.expect("known");
        let reached = self.repository.frames_of(record.commit_number).await.expect("asked");
        let rows = self.repository.catalog().frames_by_number(&reached).await.expect("asked");
        let wanted = rows.into_iter().map(|row| row.location).collect();
        let read = self.repository.read_frames(wanted).await.expect("read");
        read.into_iter().map(|(id, raw)| (id, raw.is_some())).collect()
    }
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        give_up_after: Duration::from_secs(300),
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(10)),
        stall_after: Duration::from_millis(50),
    }
}

pub(super) async fn faulty() -> (World, FaultPlan) {
    let plan = FaultPlan::new();
    let altered = plan.clone();
    (World::on(|store| store.with_retry(quick()).faulty(altered)).await, plan)
}

#[track_caller]
fn is_absent<T: std::fmt::Debug>(outcome: Result<T, RepositoryError>) {
    match outcome {
        Err(RepositoryError::Store(error)) => assert_eq!(error.kind(), StoreErrorKind::NoBucket, "{error}"),
        Err(RepositoryError::Suspended(reason)) => assert!(reason.contains("repo.json"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn h03_a_disk_that_is_not_mounted_takes_nothing_and_loses_nothing() {
    let world = World::new().await;
    let (first, second) = (tree("on the disk"), tree("sent while it is away"));
    let old = world.backup(&first).await;
    let lease = world.open().await;
    let announced = world
        .repository
        .alloc_pack(world.host, lease, second.pack.bytes.len() as u64, second.pack.sha256)
        .await;
    let (pack, _) = announced.expect("announced");
    let mut incoming = world.repository.begin_upload(world.host, lease, pack).await.expect("begins");
    incoming.push(&second.pack.bytes).expect("fits");

    world.unmount();
    is_absent(world.repository.finish_upload(incoming).await);
    is_absent(world.repository.commit_pack(world.host, lease, pack, &second.pack.table).await);
    // All of its frames are known, and none of them is written there.
    is_absent(world.repository.commit_snapshot(world.host, lease, &first.body).await);
    is_absent(world.repository.report_lost(world.host, lease, &first.frames).await);
    is_absent(world.repository.export_state(b"hosts", b"policies").await);
    is_absent(world.repository.check().await);
    is_absent(gc::round(&world.repository).await);
    is_absent(world.repository.verify(false).await);
    is_absent(world.repository.reconcile(None, false).await);
    let status = world.repository.status().await.expect("a status");
    assert!(status.suspended.contains("repo.json") && status.problem.contains("mount"), "{status:?}");
    let (job, generation) = world.job().await;
    is_absent(world.repository.open_upload(world.host, job, generation, world.source).await);

    world.mount();
    let status = world.repository.status().await.expect("a status");
    assert_eq!((&*status.suspended, &*status.problem), ("", ""));
    let (job, generation) = world.job().await;
    let opened =
        world.repository.open_upload(world.host, job, generation, world.source).await.expect("opens");
    assert_eq!((opened.damaged.frames, opened.base.expect("a base").0.id), (Vec::new(), old));
    assert_eq!(world.have(opened.lease, &first).await, [true, true]);
    let new = world.backup(&second).await;
    for id in [old, new] {
        assert!(world.read_all(&id).await.iter().all(|(_, whole)| *whole));
    }
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

#[tokio::test]
async fn h03_another_repository_in_its_place_is_not_taken_for_it() {
    let world = World::new().await;
    let tree = tree("ours");
    let id = world.backup(&tree).await;
    let lease = world.open().await;
    let other = World::new().await;
    std::fs::rename(world.mounted(), world.disk()).expect("unmounted");
    std::fs::rename(other.mounted(), world.mounted()).expect("another disk");
    let said = world.repository.report_lost(world.host, lease, &tree.frames).await;
    assert!(
        matches!(&said, Err(RepositoryError::Suspended(reason)) if reason.contains("holds repository")),
        "{said:?}"
    );
    assert!(world.repository.commit_snapshot(world.host, lease, &tree.body).await.is_err());
    assert_eq!(world.repository.check().await.expect("checked"), protocol::Trust::Foreign);
    std::fs::rename(world.mounted(), other.mounted()).expect("away again");
    std::fs::rename(world.disk(), world.mounted()).expect("mounted");
    // That is for an operator to look at; nothing is lost.
    world.repository.reconcile(None, false).await.expect("reconciled");
    let (job, generation) = world.job().await;
    let opened =
        world.repository.open_upload(world.host, job, generation, world.source).await.expect("opens");
    assert!(opened.damaged.frames.is_empty());
    assert!(world.read_all(&id).await.iter().all(|(_, whole)| *whole));
}

/// The same bucket under a catalogue of its own.
async fn taken_over(world: &World) -> Repository {
    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let store = Store::directory(&world.mounted()).expect("there");
    let rebuilt = Repository::new(catalog, store, world.repository.settings().clone());
    rebuilt.reconcile(Some("another"), false).await.expect("rebuilt");
    rebuilt
}

#[tokio::test]
async fn h12_a_commit_after_a_rebuild_elsewhere_is_refused() {
    let world = World::new().await;
    let (first, second) = (tree("before"), tree("after"));
    world.backup(&first).await;
    let lease = world.open().await;
    world.send(lease, &second.pack).await;
    let rebuilt = taken_over(&world).await;
    let head = rebuilt.read_head(true).await.expect("a head");
    let refused = world.repository.commit_snapshot(world.host, lease, &second.body).await;
    assert!(matches!(refused, Err(RepositoryError::Suspended(_))), "{refused:?}");
    let exported = world.repository.export_state(b"hosts", b"policies").await;
    assert!(matches!(exported, Err(RepositoryError::Suspended(_))), "{exported:?}");
    assert_eq!(world.repository.finish_committing().await.expect("nothing to do"), 0);
    assert_eq!(world.repository.list(&SnapshotFilter::default()).await.expect("listed").len(), 1);
    assert_eq!(rebuilt.read_head(true).await.expect("a head"), head, "its numbers are not overwritten");
    assert!(world.repository.status().await.expect("a status").suspended.contains("another"));
}

#[tokio::test]
async fn h12_nothing_is_put_or_deleted_after_a_rebuild_elsewhere() {
    let world = World::new().await;
    let (first, second) = (tree("before"), tree("after"));
    world.backup(&first).await;
    let lease = world.open().await;
    let announced = world
        .repository
        .alloc_pack(world.host, lease, second.pack.bytes.len() as u64, second.pack.sha256)
        .await;
    let (pack, _) = announced.expect("announced");
    let mut incoming = world.repository.begin_upload(world.host, lease, pack).await.expect("begins");
    incoming.push(&second.pack.bytes).expect("fits");
    let rows = world.repository.catalog().packs_without_hint(0, 10).await.expect("asked");
    let table = world.repository.read_table(&rows[0].id, rows[0].length).await.expect("read");
    let hint = IndexedPack { pack: rows[0].id, len: rows[0].length, table };
    taken_over(&world).await;
    let objects = || {
        let list = |name: &str| tree_of(&world.mounted().join(name));
        [list("packs"), list("index"), list("state"), list("snapshots")]
    };
    let before = objects();
    let refused = |outcome: Result<(), RepositoryError>| {
        assert!(matches!(outcome, Err(RepositoryError::Suspended(_))), "{outcome:?}");
    };
    refused(world.repository.finish_upload(incoming).await);
    refused(world.repository.write_index(vec![hint]).await);
    refused(world.repository.raise_head().await);
    assert_eq!(objects(), before);
    assert_eq!(world.repository.status().await.expect("a status").remedy, Remedy::OneController);
}

/// Every file below a folder, with its content.
pub(super) fn tree_of(folder: &std::path::Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(tree_of(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).expect("read")));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn h12_a_round_of_deletion_ends_when_the_bucket_is_taken_over_meanwhile() {
    let (world, plan) = faulty().await;
    let id = world.backup(&tree("forgotten here")).await;
    world.backup(&tree("kept")).await;
    world.repository.forget(&id).await.expect("forgotten");
    plan.add(Rule::new(Verb::Put, Fault::Stall).on("state/head"));
    let repository = world.repository.clone();
    let round = tokio::spawn(async move { gc::round(&repository).await });
    let hangs = async {
        while plan.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hangs).await.expect("the head is put");
    taken_over(&world).await;
    assert!(!round.is_finished());
    plan.clear();
    let outcome = round.await.expect("no panic");
    assert!(matches!(outcome, Err(RepositoryError::Suspended(_))), "{outcome:?}");
    let object = world.mounted().join(ObjectKey::Snapshot(id).to_string());
    assert!(object.exists(), "the other controller counts on it");
}

#[tokio::test]
async fn h01_the_status_knows_what_switches_collection_on_again() {
    let world = World::new().await;
    world.backup(&tree("whole")).await;
    let status = async || world.repository.status().await.expect("a status");
    assert_eq!(status().await.remedy, Remedy::None);
    let catalog = world.repository.catalog();
    catalog.begin_reconciliation(rebuild::UNFINISHED).await.expect("begun");
    let cut_off = status().await;
    assert_eq!((cut_off.remedy, &*cut_off.suspended), (Remedy::Reconcile, ""));
    assert_eq!(cut_off.collection_off, rebuild::UNFINISHED);
    catalog.begin_reconciliation("two snapshots are not whole").await.expect("noted");
    assert_eq!(status().await.remedy, Remedy::AcceptLoss);
    catalog.suspend("the catalogue is an old copy", None).await.expect("suspended");
    let behind = status().await;
    assert_eq!((behind.remedy, &*behind.collection_off), (Remedy::Reconcile, ""));
    world.unmount();
    assert_eq!(status().await.remedy, Remedy::BringBack);
}

#[tokio::test]
async fn h12_a_commit_that_is_under_way_when_it_is_rebuilt_elsewhere_is_not_acknowledged() {
    let (world, plan) = faulty().await;
    let tree = tree("under way");
    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    plan.add(Rule::new(Verb::Put, Fault::Stall).on("snapshots/"));
    let (repository, host, body) = (world.repository.clone(), world.host, tree.body.clone());
    let committing = tokio::spawn(async move { repository.commit_snapshot(host, lease, &body).await });
    let hangs = async {
        while plan.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hangs).await.expect("the object is put");
    let rebuilt = taken_over(&world).await;
    assert!(!committing.is_finished());
    plan.clear();
    let outcome = committing.await.expect("no panic");
    assert!(matches!(outcome, Err(RepositoryError::Suspended(_))), "{outcome:?}");
    assert!(
        world
            .repository
            .list(&SnapshotFilter::default())
            .await
            .expect("listed")
            .iter()
            .all(|record| { record.state == SnapshotState::Committing })
    );
    assert!(rebuilt.list(&SnapshotFilter::default()).await.expect("listed").is_empty());
}
