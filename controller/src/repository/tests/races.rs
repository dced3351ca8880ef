//! The races of the protocol one by one, over a real store and a real
//! catalogue. `exploration` goes through all of them at once, but over a
//! model of both.

use holdfast_archive::backoff::Backoff;
use holdfast_archive::pack_io::FrameLocation;
use holdfast_archive::store::{Fault, FaultPlan, RetryPolicy, Rule, Verb};

use super::*;
use crate::model::job::prune::PruneReport;

impl World {
    async fn number(&self, pack: PackId) -> u64 {
        self.repository.catalog().pack(&pack).await.expect("asked").expect("there").number
    }

    /// As a first mark does it that has found this pack unused.
    async fn condemn(&self, pack: PackId) {
        let marked = RoaringTreemap::from_iter([self.number(pack).await]);
        assert_eq!(self.repository.catalog().condemn(&marked).await.expect("condemned"), 1);
    }

    pub(super) async fn pass(&self, ticks: u64) {
        self.repository.catalog().advance_ticks(ticks).await.expect("time passes");
    }

    pub(super) async fn collect(&self) -> PruneReport {
        gc::round(&self.repository).await.expect("a round")
    }

    /// Whether every frame the snapshot reaches is read from the bucket, and is what it says.
    pub(super) async fn is_whole(&self, id: &SnapshotId) -> bool {
        let record = self.repository.get(id).await.expect("known");
        let reached = self.repository.frames_of(record.commit_number).await.expect("asked");
        let rows = self.repository.catalog().frames_by_number(&reached).await.expect("asked");
        let all = rows.len() as u64 == reached.len() && !reached.is_empty();
        let wanted = rows.into_iter().map(|row| row.location).collect();
        let read = self.repository.read_frames(wanted).await.expect("asked");
        all && read.iter().all(|(_, raw)| raw.is_some())
    }

    pub(super) async fn committed(&self, lease: LeaseId, tree: &Tree) -> SnapshotId {
        match self.commit(lease, tree).await {
            Committed::Snapshot(record) => record.id,
            Committed::Missing(frames) => panic!("missing {frames:?}"),
        }
    }
}

pub(super) fn quick() -> RetryPolicy {
    RetryPolicy {
        give_up_after: Duration::from_secs(300),
        backoff: Backoff::new(Duration::from_millis(1), Duration::from_millis(10)),
        stall_after: Duration::from_millis(50),
    }
}

#[tokio::test]
async fn r01_a_pack_used_after_the_first_mark_is_saved_by_the_second() {
    let world = World::new().await;
    let tree = tree("unused for a while");
    let dead = world.open().await;
    let pack = world.send(dead, &tree.pack).await;
    world.repository.close_lease(world.host, dead).await.expect("closed");
    world.pass(50).await;
    let plan = gc::plan(&world.repository).await.expect("a plan");
    assert_eq!(plan.packs_deleted, 1, "a first mark finds it unused");
    // Between that mark and its condemning a backup uses the pack and is over.
    let lease = world.open().await;
    assert_eq!(world.have(lease, &tree).await, [true, true]);
    let id = world.committed(lease, &tree).await;
    world.pass(200).await;
    world.condemn(pack).await;
    let done = world.collect().await;
    assert_eq!((done.packs_revived, done.packs_deleted), (1, 0));
    assert!(world.stored(pack).await && world.is_whole(&id).await);
    let lease = world.open().await;
    assert_eq!(world.have(lease, &tree).await, [true, true], "live again");
}

#[tokio::test]
async fn r02_a_frame_condemned_after_have_turns_live_or_is_sent_again() {
    let world = World::new().await;
    let tree = tree("offered once");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let first = world.committed(lease, &tree).await;
    let lease = world.open().await;
    assert_eq!(world.have(lease, &tree).await, [true, true]);
    world.condemn(pack).await;
    let second = world.committed(lease, &tree).await;
    let state = world.repository.catalog().pack(&pack).await.expect("asked").expect("there").state;
    assert_eq!(state, protocol::PackState::Live, "the commit has made it live again");

    // And where it is gone by then: no snapshot, but a question.
    let lease = world.open().await;
    assert_eq!(world.have(lease, &tree).await, [true, true]);
    for id in [first, second] {
        world.repository.forget(&id).await.expect("forgotten");
    }
    world.pass(200).await;
    assert_eq!(world.collect().await.packs_deleted, 1, "a lease that is silent for long holds nothing");
    let Committed::Missing(missing) = world.commit(lease, &tree).await else {
        panic!("a snapshot of frames that are gone");
    };
    assert!(tree.frames.contains(&missing[0]));
    let again = world.send(lease, &tree.pack).await;
    assert_ne!(again, pack);
    let third = world.committed(lease, &tree).await;
    world.collect().await;
    assert!(world.stored(again).await && world.is_whole(&third).await);
}

#[tokio::test]
async fn r04_a_commit_whose_put_hangs_keeps_its_frames_beyond_its_lease() {
    let plan = FaultPlan::new();
    let world = {
        let plan = plan.clone();
        World::on(|store| store.with_retry(quick()).faulty(plan)).await
    };
    let tree = tree("hangs");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    plan.add(Rule::new(Verb::Put, Fault::Stall).on("snapshots/"));
    let (repository, host, body) = (world.repository.clone(), world.host, tree.body.clone());
    let committing = tokio::spawn(async move { repository.commit_snapshot(host, lease, &body).await });
    let hangs = async {
        while plan.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hangs).await.expect("the object is put");
    // Longer than any lease lasts, by either limit.
    world.pass(5000).await;
    for _ in 0..2 {
        let done = world.collect().await;
        assert_eq!((done.packs_condemned, done.packs_deleted, done.packs_kept), (0, 0, 1));
    }
    plan.clear();
    let outcome = committing.await.expect("no panic").expect("committed");
    let Committed::Snapshot(record) = outcome else { panic!("{outcome:?}") };
    assert_eq!(record.state, SnapshotState::Committed);
    assert!(world.stored(pack).await && world.is_whole(&record.id).await);
}

#[tokio::test]
async fn r05_a_base_forgotten_meanwhile_stays_until_the_lease_on_it_ends() {
    let world = World::new().await;
    let tree = tree("the base");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let base = world.committed(lease, &tree).await;
    let building = world.open().await;
    world.repository.forget(&base).await.expect("forgotten");
    world.pass(50).await;
    let done = world.collect().await;
    assert_eq!((done.snapshots_purged, done.packs_condemned, done.packs_deleted), (0, 0, 0));
    assert_eq!(world.have(building, &tree).await, [true, true], "it can be built upon to the end");
    assert!(world.is_whole(&base).await);
    world.repository.close_lease(world.host, building).await.expect("closed");
    let done = world.collect().await;
    assert_eq!((done.snapshots_purged, done.packs_deleted), (1, 1));
    assert!(!world.stored(pack).await);
}

#[tokio::test]
async fn r06_a_snapshot_taken_back_after_its_pack_was_condemned_is_whole() {
    let world = World::new().await;
    let tree = tree("regretted");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let id = world.committed(lease, &tree).await;
    world.repository.forget(&id).await.expect("forgotten");
    world.condemn(pack).await;
    world.repository.undelete(&id).await.expect("taken back");
    let done = world.collect().await;
    assert_eq!((done.packs_revived, done.packs_deleted), (1, 0));
    assert!(world.stored(pack).await && world.is_whole(&id).await);
    // Once it is gone for good, nothing takes it back.
    world.repository.forget(&id).await.expect("forgotten");
    assert_eq!(world.collect().await.snapshots_purged, 1);
    world.repository.undelete(&id).await.expect_err("gone");
}

/// A host says nothing but the root; which frames that means is read from the
/// pages, so it cannot leave one out.
#[tokio::test]
async fn r08_a_frame_that_only_a_page_names_is_derived_and_kept() {
    let world = World::new().await;
    let first = tree("shared content");
    let lease = world.open().await;
    let content = world.send(lease, &first.pack).await;
    let old = world.committed(lease, &first).await;
    // New pages about old content, which is neither asked about nor sent.
    let second = tree_with(b"renamed", "shared content", false);
    let lease = world.open().await;
    world.send(lease, &second.pack).await;
    let new = world.committed(lease, &second).await;
    world.repository.forget(&old).await.expect("forgotten");
    world.pass(200).await;
    let done = world.collect().await;
    assert_eq!((done.snapshots_purged, done.packs_deleted), (1, 0));
    assert!(world.stored(content).await && world.is_whole(&new).await);
    // What no pack of this host ever held is asked for.
    let lying = tree_with(b"file", "never sent", false);
    let lease = world.open().await;
    world.send(lease, &lying.pack).await;
    assert_eq!(world.commit(lease, &lying).await, Committed::Missing(vec![lying.frames[0]]));
}

#[tokio::test]
async fn r11_a_damaged_frame_sent_again_stays_for_the_older_snapshots() {
    let world = World::new().await;
    let first = tree("will rot");
    let lease = world.open().await;
    let rotten = world.send(lease, &first.pack).await;
    let old = world.committed(lease, &first).await;
    let path = world.dir.path().join("bucket").join(ObjectKey::Pack(rotten).to_string());
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[first.pack.table[0].offset as usize + 2] ^= 0x10;
    std::fs::write(&path, bytes).expect("written");
    assert!(!world.is_whole(&old).await);
    // The host reads both frames; that one of them is lost is seen, not believed.
    let told = world.repository.report_lost(world.host, world.open().await, &first.frames).await;
    assert_eq!(told.expect("looked at"), 1);

    let second = tree_with(b"renamed", "will rot", true);
    let (job, generation) = world.job().await;
    let opened =
        world.repository.open_upload(world.host, job, generation, world.source).await.expect("opens");
    assert_eq!(opened.damaged.frames, first.frames[..1]);
    assert_eq!(world.have(opened.lease, &first).await, [false, true], "the damaged one is not offered");
    let sound = world.send(opened.lease, &second.pack).await;
    let new = world.committed(opened.lease, &second).await;
    assert!(world.is_whole(&old).await, "the older one reads the new copy");
    world.repository.forget(&new).await.expect("forgotten");
    world.pass(200).await;
    let done = world.collect().await;
    assert_eq!((done.snapshots_purged, done.packs_deleted), (1, 0));
    assert!(world.stored(sound).await && world.is_whole(&old).await);
}

#[tokio::test]
async fn a_pack_that_was_cut_short_has_lost_only_what_lay_beyond() {
    let world = World::on(|store| store.with_retry(quick())).await;
    let tree = tree("before the cut");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let id = world.committed(lease, &tree).await;
    let path = world.dir.path().join("bucket").join(ObjectKey::Pack(pack).to_string());
    let entries = &tree.pack.table;
    let file = std::fs::File::options().write(true).open(&path).expect("opened");
    file.set_len(entries[1].offset + 1).expect("cut");
    let locations = entries.iter().map(|entry| FrameLocation { pack, entry: entry.clone() }).collect();
    let read = world.repository.read_frames(locations).await.expect("an answer for each");
    assert_eq!(read.iter().map(|(_, raw)| raw.is_some()).collect::<Vec<_>>(), [true, false]);
    assert!(!world.is_whole(&id).await);
}

#[tokio::test]
async fn a_pack_that_only_comes_short_has_lost_nothing() {
    let plan = FaultPlan::new();
    let world = {
        let plan = plan.clone();
        World::on(|store| store.with_retry(quick()).faulty(plan)).await
    };
    let tree = tree("whole where it lies");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let id = world.committed(lease, &tree).await;
    let locations = || {
        let table = tree.pack.table.iter();
        table.map(|entry| FrameLocation { pack, entry: entry.clone() }).collect::<Vec<_>>()
    };
    plan.add(Rule::new(Verb::Get, Fault::Truncated(3)).on("packs/").times(2));
    assert!(world.is_whole(&id).await, "read again");
    plan.add(Rule::new(Verb::Get, Fault::Truncated(3)).on("packs/"));
    let short = world.repository.read_frames(locations()).await;
    assert!(matches!(short, Err(RepositoryError::Store(_))), "{short:?}");
}

#[tokio::test]
async fn p20_a_pack_stays_from_its_intent_to_the_snapshot_that_uses_it() {
    let world = World::new().await;
    let tree = tree("on its way");
    let lease = world.open().await;
    let pack = &tree.pack;
    let announced =
        world.repository.alloc_pack(world.host, lease, pack.bytes.len() as u64, pack.sha256).await;
    let (id, _) = announced.expect("announced");
    world.collect().await;
    let mut incoming = world.repository.begin_upload(world.host, lease, id).await.expect("begins");
    incoming.push(&pack.bytes).expect("fits");
    world.repository.finish_upload(incoming).await.expect("stored");
    assert_eq!(world.collect().await.packs_deleted, 0);
    world.repository.commit_pack(world.host, lease, id, &pack.table).await.expect("committed");
    assert_eq!(world.collect().await.packs_condemned, 0);
    let snapshot = world.committed(lease, &tree).await;
    world.collect().await;
    assert!(world.stored(id).await && world.is_whole(&snapshot).await);
    // One whose attempt is over goes, object and row.
    let dead = world.open().await;
    let late = tree_with(b"late", "never committed", true);
    let announced =
        world.repository.alloc_pack(world.host, dead, late.pack.bytes.len() as u64, late.pack.sha256);
    let (orphan, _) = announced.await.expect("announced");
    let mut incoming = world.repository.begin_upload(world.host, dead, orphan).await.expect("begins");
    incoming.push(&late.pack.bytes).expect("fits");
    world.repository.finish_upload(incoming).await.expect("stored");
    world.repository.close_lease(world.host, dead).await.expect("closed");
    world.pass(50).await;
    assert_eq!(world.collect().await.packs_deleted, 1);
    assert!(!world.stored(orphan).await);
}

#[tokio::test]
async fn a_commit_while_the_bucket_is_asked_for_its_number_suspends_nothing() {
    let plan = FaultPlan::new();
    let world = {
        let plan = plan.clone();
        World::on(|store| store.with_retry(quick()).faulty(plan)).await
    };
    world.backup(&tree("before")).await;
    plan.add(Rule::new(Verb::Get, Fault::Stall).on("state/head"));
    let repository = world.repository.clone();
    let checking = tokio::spawn(async move { repository.check().await });
    let hangs = async {
        while plan.hits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hangs).await.expect("the head is asked for");
    // By a way of its own to the bucket: a backup asks for the number as well.
    let other = World {
        dir: tempfile::tempdir().expect("temporary folder"),
        repository: Repository::new(
            world.repository.catalog().clone(),
            Store::create_directory(&world.dir.path().join("bucket")).expect("store"),
            world.repository.settings().clone(),
        ),
        host: world.host,
        source: world.source,
    };
    other.backup(&tree("meanwhile")).await;
    assert!(!checking.is_finished());
    plan.clear();
    let trust = checking.await.expect("no panic").expect("checked");
    assert_eq!(trust, crate::model::protocol::Trust::Whole);
    assert_eq!(world.repository.suspended().await.expect("asked"), None);
}
