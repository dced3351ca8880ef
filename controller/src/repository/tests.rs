//! The repository over a real store and a real catalogue.

mod faults;
mod healing;
mod info;
mod leases;
mod medium;
mod names;
mod races;
mod reconcile;
mod truth;
mod wire;

use holdfast_archive::entry::{Entry, EntryFlags, EntryKind, Extent, FileData};
use holdfast_archive::frame::{DEFAULT_LEVEL, encode};
use holdfast_archive::ids::{FrameId, PackId, SourceId};
use holdfast_archive::manifest::ManifestWriter;
use holdfast_archive::pack::PackBuilder;
use holdfast_archive::pack_io::{FrameKind, SealedPack};
use holdfast_archive::repository::{CryptoMode, InitOptions, Repository as Bucket};
use holdfast_archive::snapshot::{SourceFacts, Stats, encode_body};
use holdfast_proto::ids::{JobId, LeaseId};

use super::*;
use crate::catalog::jobs::NewJob;
use crate::catalog::sources::add_host;
use crate::model::job::parameters::{BackupParameters, Parameters};
use crate::model::job::source::JobSource;
use crate::model::protocol::SnapshotState;
use crate::model::source::SourceKind;

struct World {
    dir: tempfile::TempDir,
    repository: Repository,
    host: HostId,
    source: SourceId,
}

/// One file whose content is `text`, as a pack and the account of a snapshot.
struct Tree {
    pack: SealedPack,
    frames: Vec<FrameId>,
    body: Vec<u8>,
}

fn tree(text: &str) -> Tree {
    tree_with(b"file", text, true)
}

/// With the file under this name; its content is in the pack or left to others.
fn tree_with(name: &[u8], text: &str, content: bool) -> Tree {
    let data = encode(FrameKind::Data, text.as_bytes(), DEFAULT_LEVEL);
    let mut pack = PackBuilder::new();
    let mut frames = vec![data.id];
    if content {
        pack.push(data.clone());
    }
    let entry = |path: &[u8], kind| Entry {
        path: path.to_vec(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_ns: 0,
        ctime_ns: 0,
        inode: 1,
        xattrs: Vec::new(),
        flags: EntryFlags::default(),
    };
    let extent = Extent { file_offset: 0, frame: data.id, frame_offset: 0, len: data.raw_len };
    let file = FileData { size: text.len() as u64, extents: vec![extent], hash: None };
    let mut emit = |raw: Vec<u8>| -> Result<FrameId, std::io::Error> {
        let page = encode(FrameKind::Page, &raw, DEFAULT_LEVEL);
        let id = page.id;
        if !frames.contains(&id) {
            pack.push(page);
            frames.push(id);
        }
        Ok(id)
    };
    let mut writer = ManifestWriter::new(&mut emit);
    writer.push(entry(b"", EntryKind::Directory)).expect("root");
    writer.push(entry(name, EntryKind::File(file))).expect("file");
    let root = writer.finish().expect("finished");
    let body = SnapshotBody {
        root,
        started_unix_ns: 1,
        stats: Stats { entries: 2, files: 1, size_bytes: text.len() as u64, ..Stats::default() },
        source: SourceFacts { kind: "directory".into(), name: "/data".into(), ..SourceFacts::default() },
        consistency: "none".into(),
        host_name: "web-1".into(),
        partial: false,
        problems: Vec::new(),
        downtime_ms: 0,
        agent_version: "test".into(),
        containers: Vec::new(),
    };
    Tree { pack: pack.finish(), frames, body: encode_body(&body) }
}

impl World {
    async fn new() -> Self {
        Self::on(|store| store).await
    }

    /// On a store that is altered once the repository is there.
    async fn on(altered: impl FnOnce(Store) -> Store) -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create_directory(&dir.path().join("bucket")).expect("store");
        let options = InitOptions { owner: "me".into(), created_unix_ms: 1, crypto: CryptoMode::None };
        Bucket::init(store.clone(), options).await.expect("made");
        let catalog =
            Catalog::open(&format!("sqlite://{}/catalog.db", dir.path().display())).await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let source = catalog.directory_source(host, "/data", 1).await.expect("source").id;
        let settings = Settings {
            grace: Duration::ZERO,
            orphan_ticks: 0,
            second_look: Duration::from_millis(1),
            leases: LeaseLimits { silent: 100, open: 1000, resume: 5 },
            ..Settings::default()
        };
        let repository = Repository::new(catalog, altered(store), settings);
        repository.check().await.expect("checked");
        Self { dir, repository, host, source }
    }

    async fn job(&self) -> (JobId, u64) {
        let catalog = self.repository.catalog();
        end_jobs(catalog).await;
        let job = NewJob {
            id: JobId::generate(),
            policy: String::new(),
            host: Some(self.host),
            actor: "test".into(),
            parameters: Parameters::Backup(BackupParameters::default()),
            not_before_ms: 0,
        };
        catalog.create_job(&job, 1).await.expect("made");
        let source = JobSource {
            source_id: self.source.to_string(),
            name: "/data".into(),
            kind: SourceKind::Directory,
            ..JobSource::default()
        };
        catalog.put_job_sources(job.id, &[source]).await.expect("sources");
        let generation =
            catalog.claim_job(job.id, "me", 2).await.expect("asked").expect("claimed").generation;
        (job.id, generation)
    }

    async fn open(&self) -> LeaseId {
        let (job, generation) = self.job().await;
        self.repository.open_upload(self.host, job, generation, self.source).await.expect("opens").lease
    }

    async fn send(&self, lease: LeaseId, pack: &SealedPack) -> PackId {
        let (id, _) = self
            .repository
            .alloc_pack(self.host, lease, pack.bytes.len() as u64, pack.sha256)
            .await
            .expect("allocated");
        let mut incoming = self.repository.begin_upload(self.host, lease, id).await.expect("begins");
        incoming.push(&pack.bytes).expect("fits");
        self.repository.finish_upload(incoming).await.expect("stored");
        self.repository.commit_pack(self.host, lease, id, &pack.table).await.expect("committed");
        id
    }

    async fn commit(&self, lease: LeaseId, tree: &Tree) -> Committed {
        self.repository.commit_snapshot(self.host, lease, &tree.body).await.expect("answers")
    }

    async fn backup(&self, tree: &Tree) -> SnapshotId {
        let lease = self.open().await;
        self.send(lease, &tree.pack).await;
        match self.commit(lease, tree).await {
            Committed::Snapshot(record) => record.id,
            Committed::Missing(frames) => panic!("missing {frames:?}"),
        }
    }

    async fn stored(&self, pack: PackId) -> bool {
        self.repository.store().head(&ObjectKey::Pack(pack)).await.expect("asked").is_some()
    }

    async fn have(&self, lease: LeaseId, tree: &Tree) -> Vec<bool> {
        self.repository.have(self.host, lease, &tree.frames).await.expect("asked")
    }
}

async fn end_jobs(catalog: &Catalog) {
    sqlx::query("update jobs set state = 'succeeded'").execute(catalog.pool()).await.expect("ended");
}

#[tokio::test]
async fn x10_a_host_at_its_quota_adds_nothing_and_is_named() {
    let quotas = Quotas { packs_per_day: 1, leases_per_day: 2, ..Quotas::default() };
    let mut world = World::new().await;
    let settings = Settings { quotas, ..world.repository.settings().clone() };
    let (catalog, store) = (world.repository.catalog().clone(), world.repository.store().clone());
    world.repository = Repository::new(catalog, store, settings);
    let tree = tree("some content");
    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    let again = world
        .repository
        .alloc_pack(world.host, lease, tree.pack.bytes.len() as u64, tree.pack.sha256)
        .await
        .expect_err("over its quota");
    assert!(matches!(&again, RepositoryError::Quota(text) if text.contains("packs_per_day = 1")), "{again}");
    // What it has stored it may still commit.
    assert!(matches!(world.commit(lease, &tree).await, Committed::Snapshot(_)));
    world.open().await;
    let (job, generation) = world.job().await;
    let third = world.repository.open_upload(world.host, job, generation, world.source).await;
    assert!(matches!(&third, Err(RepositoryError::Quota(text)) if text.contains("leases_per_day = 2")));
    let alarms = world.repository.catalog().alarms(0).await.expect("told");
    assert_eq!((alarms.len(), alarms[0].host, alarms[0].times), (1, world.host, 2));
}

#[tokio::test]
async fn v04_a_pack_longer_than_writers_make_is_refused_before_it_is_sent() {
    let world = World::new().await;
    let lease = world.open().await;
    let most = u64::from(world.repository.settings().pack_bytes) / 4 * 5 + (8 << 20);
    let announced = world.repository.alloc_pack(world.host, lease, most, [1; 32]).await;
    assert!(announced.is_ok(), "{announced:?}");
    let refused = world.repository.alloc_pack(world.host, lease, most + 1, [2; 32]).await;
    assert!(matches!(refused, Err(RepositoryError::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn a_snapshot_is_committed_listed_read_and_found_by_the_next_backup() {
    let world = World::new().await;
    let tree = tree("some content");
    let lease = world.open().await;
    assert_eq!(world.have(lease, &tree).await, [false, false]);
    assert!(matches!(world.commit(lease, &tree).await, Committed::Missing(frames) if frames.len() == 1));
    world.send(lease, &tree.pack).await;
    assert_eq!(world.have(lease, &tree).await, [true, true]);
    let Committed::Snapshot(first) = world.commit(lease, &tree).await else { panic!("missing") };
    assert_eq!((first.id.number, first.state), (1, SnapshotState::Committed));
    // The answer was lost: the same one comes again, and no second snapshot.
    assert_eq!(world.commit(lease, &tree).await, Committed::Snapshot(first.clone()));
    assert_eq!(world.repository.list(&SnapshotFilter::default()).await.expect("list").len(), 1);
    assert_eq!(world.repository.resolve("/data@latest").await.expect("found").id, first.id);
    let (job, generation) = world.job().await;
    let next = world.repository.open_upload(world.host, job, generation, world.source).await.expect("opens");
    assert_eq!(next.base.expect("a base").0.id, first.id);
}

#[tokio::test]
async fn what_nothing_needs_is_removed_and_what_is_undeleted_stays() {
    let world = World::new().await;
    let (old, new) = (tree("old"), tree("new"));
    let lease = world.open().await;
    let old_pack = world.send(lease, &old.pack).await;
    let Committed::Snapshot(first) = world.commit(lease, &old).await else { panic!("missing") };
    world.backup(&new).await;
    // Forgotten, then taken back.
    world.repository.forget(&first.id).await.expect("forgotten");
    world.repository.undelete(&first.id).await.expect("taken back");
    gc::round(&world.repository).await.expect("a round");
    assert!(world.stored(old_pack).await);
    world.repository.forget(&first.id).await.expect("forgotten");
    let plan = gc::plan(&world.repository).await.expect("a plan");
    assert_eq!((plan.snapshots_purged, plan.packs_deleted), (1, 1));
    let done = gc::round(&world.repository).await.expect("a round");
    assert_eq!((done.snapshots_purged, done.packs_deleted, done.packs_kept), (1, 1, 1));
    assert!(!world.stored(old_pack).await);
    assert!(world.repository.get(&first.id).await.is_err());
    // Its content comes again: nothing is offered, and numbers go on.
    assert_eq!(world.backup(&old).await.number, 3);
}

#[tokio::test]
async fn p18_a_pack_condemned_while_a_backup_builds_on_it_survives() {
    let world = World::new().await;
    let tree = tree("shared");
    let lease = world.open().await;
    let pack = world.send(lease, &tree.pack).await;
    let Committed::Snapshot(first) = world.commit(lease, &tree).await else { panic!("missing") };
    let lease = world.open().await;
    assert_eq!(world.have(lease, &tree).await, [true, true]);
    world.repository.forget(&first.id).await.expect("forgotten");
    // The base of an open lease is not purged; cut the lease off first.
    let kept = gc::round(&world.repository).await.expect("a round");
    assert_eq!(kept.snapshots_purged, 0);
    world.repository.catalog().advance_ticks(200).await.expect("time passes");
    let number = world.repository.catalog().pack(&pack).await.expect("asked").expect("there").number;
    world.repository.catalog().condemn(&RoaringTreemap::from_iter([number])).await.expect("condemned");
    assert_eq!(world.have(lease, &tree).await, [false, false], "no longer offered");
    // The commit makes it live again.
    let Committed::Snapshot(_) = world.commit(lease, &tree).await else { panic!("missing") };
    gc::round(&world.repository).await.expect("a round");
    assert!(world.stored(pack).await);
}

#[tokio::test]
async fn r03_p11_what_a_dead_attempt_left_goes_and_an_equal_pack_stays() {
    let world = World::new().await;
    let tree = tree("same bytes");
    let dead = world.open().await;
    let orphan = world.send(dead, &tree.pack).await;
    let lease = world.open().await;
    let late = world.repository.have(world.host, dead, &tree.frames).await;
    assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{late:?}");
    let late = world.repository.commit_snapshot(world.host, dead, &tree.body).await;
    assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{late:?}");
    let pack = world.send(lease, &tree.pack).await;
    assert_ne!(orphan, pack);
    let Committed::Snapshot(_) = world.commit(lease, &tree).await else { panic!("missing") };
    world.repository.catalog().advance_ticks(50).await.expect("time passes");
    gc::round(&world.repository).await.expect("a round");
    // The frames lie where they were first; the other copy is what goes.
    assert!(world.stored(orphan).await);
    assert!(!world.stored(pack).await);
}

#[tokio::test]
async fn x11_a_pack_whose_table_lies_is_refused() {
    let world = World::new().await;
    let tree = tree("honest");
    let lease = world.open().await;
    let pack = &tree.pack;
    let allocated =
        world.repository.alloc_pack(world.host, lease, pack.bytes.len() as u64, pack.sha256).await;
    let (id, _) = allocated.expect("allocated");
    let early = world.repository.commit_pack(world.host, lease, id, &pack.table).await;
    assert!(matches!(early, Err(RepositoryError::UploadFailed(_))), "{early:?}");
    let mut incoming = world.repository.begin_upload(world.host, lease, id).await.expect("begins");
    incoming.push(&vec![0; pack.bytes.len()]).expect("fits");
    let wrong = world.repository.finish_upload(incoming).await;
    assert!(matches!(wrong, Err(RepositoryError::UploadFailed(_))), "{wrong:?}");
    let mut incoming = world.repository.begin_upload(world.host, lease, id).await.expect("begins");
    incoming.push(&pack.bytes).expect("fits");
    world.repository.finish_upload(incoming).await.expect("stored");
    let mut lie = pack.table.clone();
    lie[0].id = FrameId([9; 32]);
    let lied = world.repository.commit_pack(world.host, lease, id, &lie).await;
    assert!(matches!(lied, Err(RepositoryError::Invalid(_))), "{lied:?}");
    world.repository.commit_pack(world.host, lease, id, &pack.table).await.expect("the truth is taken");
}

#[tokio::test]
async fn x01_x08_nobody_refers_to_another_hosts_frames_or_uses_its_lease() {
    let world = World::new().await;
    let tree = tree("secret");
    world.backup(&tree).await;
    let other = add_host(world.repository.catalog(), "web-2").await;
    let source = world.repository.catalog().directory_source(other, "/data", 1).await.expect("source").id;
    let lease = world.open().await;
    let denied = world.repository.have(other, lease, &tree.frames).await;
    assert!(matches!(denied, Err(RepositoryError::Denied(_))), "{denied:?}");
    let other_world = World {
        dir: tempfile::tempdir().expect("dir"),
        repository: world.repository.clone(),
        host: other,
        source,
    };
    let lease = other_world.open().await;
    assert_eq!(other_world.have(lease, &tree).await, [false, false]);
    let theirs = SnapshotBody { host_name: "web-2".into(), ..decode_body(&tree.body).expect("a body") };
    let tree = Tree { body: encode_body(&theirs), ..tree };
    assert!(matches!(other_world.commit(lease, &tree).await, Committed::Missing(_)));
    assert!(matches!(
        other_world.repository.locate(other, lease, &tree.frames).await.expect("asked")[..],
        [None, None]
    ));
}

#[tokio::test]
async fn p02_a_commit_that_was_cut_off_is_finished_once() {
    let world = World::new().await;
    let tree = tree("cut off");
    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    let Committed::Snapshot(record) = world.commit(lease, &tree).await else { panic!("missing") };
    // As a crash between the transactions leaves it.
    let key = ObjectKey::Snapshot(record.id);
    world.repository.store().delete(std::slice::from_ref(&key)).await.expect("deleted");
    sqlx::query("update snapshots set state = 'committing'")
        .execute(world.repository.catalog().pool())
        .await
        .expect("set back");
    assert_eq!(world.repository.finish_committing().await.expect("finished"), 1);
    assert!(world.repository.store().head(&key).await.expect("asked").is_some());
    assert_eq!(world.repository.get(&record.id).await.expect("there").state, SnapshotState::Committed);
    assert_eq!(world.repository.finish_committing().await.expect("nothing left"), 0);
}

#[tokio::test]
async fn r07_an_old_catalogue_suspends_itself_until_it_is_reconciled() {
    let world = World::new().await;
    let (first, second) = (tree("before"), tree("after"));
    world.backup(&first).await;
    let copy = world.dir.path().join("copy.db");
    sqlx::query(sqlx::AssertSqlSafe(format!("vacuum into '{}'", copy.display())))
        .execute(world.repository.catalog().pool())
        .await
        .expect("copied");
    let newer = world.backup(&second).await;
    let catalog = Catalog::open(&format!("sqlite://{}", copy.display())).await.expect("opens");
    let old = Repository::new(catalog, world.repository.store().clone(), world.repository.settings().clone());
    assert_eq!(old.check().await.expect("checked"), protocol::Trust::Behind);
    assert!(matches!(gc::round(&old).await, Err(RepositoryError::Suspended(_))));
    let old = World {
        dir: tempfile::tempdir().expect("dir"),
        repository: old,
        host: world.host,
        source: world.source,
    };
    let lease = old.open().await;
    assert_eq!(old.have(lease, &first).await, [false, false], "nothing it knew is built upon");
    let rebuilt = old.repository.reconcile(None, false).await.expect("reconciled");
    assert_eq!((rebuilt.snapshots, rebuilt.notes), (2, Vec::<String>::new()));
    assert_eq!(old.repository.get(&newer).await.expect("known again").state, SnapshotState::Committed);
    let done = gc::round(&old.repository).await.expect("a round");
    assert_eq!(done.packs_kept, 2);
}

#[tokio::test]
async fn s21_a_bucket_put_back_to_an_older_copy_is_noticed_before_it_is_built_upon() {
    let world = World::new().await;
    let (bucket, copy) = (world.dir.path().join("bucket"), world.dir.path().join("copy"));
    let (first, second) = (tree("before"), tree("after"));
    world.backup(&first).await;
    let copied = std::process::Command::new("cp").arg("-a").args([&bucket, &copy]).status().expect("cp runs");
    assert!(copied.success());
    let newer = world.backup(&second).await;
    assert_eq!(world.repository.check().await.expect("checked"), protocol::Trust::Whole);
    std::fs::remove_dir_all(&bucket).expect("removed");
    std::fs::rename(&copy, &bucket).expect("put back");

    // Whichever comes first: an upload, or a round of deletion.
    let lease = world.open().await;
    assert_eq!(world.have(lease, &second).await, [false, false], "believed to be there, and is not");
    let reason = world.repository.suspended().await.expect("asked").expect("suspended");
    assert!(reason.contains("put back to an older copy"), "{reason}");
    assert!(matches!(gc::round(&world.repository).await, Err(RepositoryError::Suspended(_))));
    world.send(lease, &second.pack).await;
    assert!(matches!(world.commit(lease, &second).await, Committed::Snapshot(_)));

    // What was lost has been sent again, so nothing is missing.
    let settled = world.repository.reconcile(None, false).await.expect("reconciled");
    assert_eq!((settled.snapshots, settled.losses), (3, Vec::<String>::new()));
    assert_eq!(world.repository.check().await.expect("checked"), protocol::Trust::Whole);
    assert!(world.repository.store().head(&ObjectKey::Snapshot(newer)).await.expect("asked").is_some());
    gc::round(&world.repository).await.expect("a round");
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

#[tokio::test]
async fn s21_an_upload_under_way_when_its_bucket_is_put_back_sends_again_what_it_counted_on() {
    let world = World::new().await;
    let (bucket, copy) = (world.dir.path().join("bucket"), world.dir.path().join("copy"));
    world.backup(&tree("before")).await;
    let copied = std::process::Command::new("cp").arg("-a").args([&bucket, &copy]).status().expect("cp runs");
    assert!(copied.success());
    let shared = tree("after");
    world.backup(&shared).await;
    let lease = world.open().await;
    assert_eq!(world.have(lease, &shared).await, [true, true]);
    std::fs::remove_dir_all(&bucket).expect("removed");
    std::fs::rename(&copy, &bucket).expect("put back");
    assert!(matches!(world.commit(lease, &shared).await, Committed::Missing(frames) if !frames.is_empty()));
    world.send(lease, &shared.pack).await;
    assert!(matches!(world.commit(lease, &shared).await, Committed::Snapshot(_)));
    world.repository.reconcile(None, false).await.expect("reconciled");
    assert!(world.repository.verify(false).await.expect("verified").report.is_clean());
}

#[tokio::test]
async fn p21_s21_the_bucket_rebuilds_the_catalogue_and_the_old_owner_stops() {
    let world = World::new().await;
    let tree = tree("kept in the bucket");
    let id = world.backup(&tree).await;
    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let rebuilt =
        Repository::new(catalog, world.repository.store().clone(), world.repository.settings().clone());
    rebuilt.reconcile(Some("another"), false).await.expect("rebuilt");
    let record = rebuilt.get(&id).await.expect("there");
    assert_eq!(record.root, world.repository.get(&id).await.expect("there").root);
    let done = gc::round(&rebuilt).await.expect("a round");
    assert_eq!((done.packs_deleted, done.packs_kept), (0, 1));
    // The controller that had it notices, and stops.
    assert_eq!(world.repository.check().await.expect("checked"), protocol::Trust::Foreign);
    assert!(gc::round(&world.repository).await.is_err());
}
