//! What a lease is still good for when that for which it was granted is over.

use holdfast_archive::pack_io::FrameLocation;
use holdfast_proto::v1;
use tonic::{Code, Status};

use super::*;
use crate::catalog::jobs::Ending;
use crate::model::job::parameters::{RestoreParameters, RestoreTarget};
use crate::model::job::state::State;

impl World {
    /// A running job that restores this snapshot on this world's host.
    async fn restore_job(&self, snapshot: &SnapshotId) -> (JobId, u64) {
        let restore = RestoreParameters {
            snapshot: snapshot.to_string(),
            target: RestoreTarget::Directory("/srv/restored".into()),
            devices: false,
            setuid: false,
            strict: false,
            salvage: false,
            paths: Vec::new(),
        };
        let job = NewJob {
            id: JobId::generate(),
            policy: String::new(),
            host: Some(self.host),
            actor: "test".into(),
            parameters: Parameters::Restore(restore),
            not_before_ms: 0,
        };
        let catalog = self.repository.catalog();
        catalog.create_job(&job, 1).await.expect("made");
        let generation =
            catalog.claim_job(job.id, "me", 2).await.expect("asked").expect("claimed").generation;
        (job.id, generation)
    }

    async fn end(&self, job: JobId, generation: u64, state: State) {
        let ending =
            Ending { state, error_code: String::new(), error: String::new(), result: Default::default() };
        let ended = self.repository.catalog().finish_job(job, generation, &ending, "over", 3).await;
        assert!(ended.expect("asked"), "it was running");
    }

    async fn is_open(&self, lease: LeaseId) -> bool {
        let record = self.repository.catalog().lease(lease).await.expect("asked").expect("known");
        record.facts.ended_tick.is_none()
    }
}

/// How an open job ends here.
#[derive(Debug, Clone, Copy)]
enum Over {
    Succeeded,
    Cancelled,
    Failed,
    Revoked,
}

const ALL: [Over; 4] = [Over::Succeeded, Over::Cancelled, Over::Failed, Over::Revoked];

impl Over {
    async fn to(self, world: &World, job: JobId, generation: u64) {
        let state = match self {
            Self::Succeeded => State::Succeeded,
            Self::Cancelled => State::Cancelled,
            Self::Failed => State::Failed,
            Self::Revoked => {
                let revoked = world.repository.catalog().revoke_host(world.host, 3).await;
                assert!(revoked.expect("asked"));
                return;
            }
        };
        world.end(job, generation, state).await;
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, over: Over) {
    let status = answer.expect_err("refused");
    let word = status.metadata().get(holdfast_proto::ERROR_CODE_METADATA).expect("a word");
    let word = word.to_str().expect("ASCII");
    assert_eq!((status.code(), word), (Code::FailedPrecondition, "lease-lost"), "{over:?}");
}

#[tokio::test]
async fn v06_nothing_is_read_under_the_lease_of_a_restore_that_is_over() {
    for over in ALL {
        let world = World::new().await;
        let snapshot = world.backup(&tree("the books")).await;
        let (job, generation) = world.restore_job(&snapshot).await;
        let opened =
            world.repository.open_restore(world.host, job, generation, snapshot).await.expect("opens");
        let frames = tree("the books").frames;
        let located = world.repository.locate(world.host, opened.lease, &frames).await.expect("found");
        let Some(FrameLocation { pack, entry }) = &located[0] else { panic!("not there") };
        let mut client = world.client().await;
        let locate = || v1::LocateRequest {
            lease_id: opened.lease.to_string(),
            frames: frames.iter().map(|id| id.as_bytes().to_vec()).collect(),
        };
        let read = || v1::ReadPackRequest {
            lease_id: opened.lease.to_string(),
            pack_id: pack.to_string(),
            offset: entry.offset,
            length: entry.stored_len.into(),
        };
        let report = || v1::ReportLostRequest { lease_id: opened.lease.to_string(), frames: Vec::new() };
        client.locate(locate()).await.expect("while it runs");
        client.read_pack(read()).await.expect("while it runs");

        over.to(&world, job, generation).await;
        assert!(!world.is_open(opened.lease).await, "{over:?}: it ended with it");
        refused(client.locate(locate()).await, over);
        refused(client.read_pack(read()).await, over);
        refused(client.report_lost(report()).await, over);
        // Giving it back is no error, however late.
        let close = v1::CloseLeaseRequest { lease_id: opened.lease.to_string() };
        client.close_lease(close).await.expect("ended already");
    }
}

#[tokio::test]
async fn v06_nothing_is_sent_or_committed_under_the_lease_of_a_backup_that_is_over() {
    for over in ALL {
        let world = World::new().await;
        world.backup(&tree("before")).await;
        let tree = tree("after");
        let (job, generation) = world.job().await;
        let opened = world.repository.open_upload(world.host, job, generation, world.source).await;
        let lease = opened.expect("opens").lease;
        let (length, sha256) = (tree.pack.bytes.len() as u64, tree.pack.sha256);
        let (pack, _) =
            world.repository.alloc_pack(world.host, lease, length, sha256).await.expect("allocated");
        // On its way when the job ends.
        let mut incoming = world.repository.begin_upload(world.host, lease, pack).await.expect("begins");
        incoming.push(&tree.pack.bytes).expect("fits");

        over.to(&world, job, generation).await;
        assert!(!world.is_open(lease).await, "{over:?}: it ended with it");
        let late = world.repository.finish_upload(incoming).await;
        assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{over:?}: {late:?}");
        assert!(!world.stored(pack).await, "{over:?}: nothing reached the store");
        let mut client = world.client().await;
        let lease_id = lease.to_string();
        let frames: Vec<Vec<u8>> = tree.frames.iter().map(|id| id.as_bytes().to_vec()).collect();
        refused(client.have(v1::HaveRequest { lease_id: lease_id.clone(), frames }).await, over);
        let list = v1::ListDamagedRequest { lease_id: lease_id.clone(), from: 0 };
        refused(client.list_damaged(list).await, over);
        let alloc = v1::AllocPackRequest { lease_id: lease_id.clone(), length, sha256: sha256.to_vec() };
        refused(client.alloc_pack(alloc).await, over);
        let upload = v1::UploadPackRequest {
            lease_id: lease_id.clone(),
            pack_id: pack.to_string(),
            data: tree.pack.bytes.clone(),
        };
        refused(client.upload_pack(futures_util::stream::iter([upload])).await, over);
        let commit = v1::CommitPackRequest {
            lease_id: lease_id.clone(),
            pack_id: pack.to_string(),
            frames: Vec::new(),
        };
        refused(client.commit_pack(commit).await, over);
        let commit = v1::CommitSnapshotRequest { lease_id, body: tree.body.clone().into() };
        refused(client.commit_snapshot(commit).await, over);
        let snapshots = world.repository.list(&SnapshotFilter::default()).await.expect("listed");
        assert_eq!(snapshots.len(), 1, "{over:?}: no snapshot was added");
    }
}

/// A catalogue from before leases ended with their jobs has open ones.
#[tokio::test]
async fn v06_an_open_lease_is_worth_nothing_without_a_running_job() {
    let world = World::new().await;
    let tree = tree("left open");
    let lease = world.open().await;
    world.send(lease, &tree.pack).await;
    end_jobs(world.repository.catalog()).await;
    assert!(world.is_open(lease).await);
    let late = world.repository.have(world.host, lease, &tree.frames).await;
    assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{late:?}");
    let late = world.repository.locate(world.host, lease, &tree.frames).await;
    assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{late:?}");
    let late = world.repository.commit_snapshot(world.host, lease, &tree.body).await;
    assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{late:?}");
}

#[tokio::test]
async fn v06_a_newer_attempt_ends_the_lease_of_the_restore_before_it() {
    let world = World::new().await;
    let tree = tree("restored twice");
    let snapshot = world.backup(&tree).await;
    let (job, generation) = world.restore_job(&snapshot).await;
    let old = world.repository.open_restore(world.host, job, generation, snapshot).await.expect("opens");
    let again = world.repository.open_restore(world.host, job, generation, snapshot).await.expect("opens");
    assert_eq!(old.lease, again.lease, "the same attempt has the same lease");
    assert!(
        world
            .repository
            .catalog()
            .raise_generation(job, generation, generation + 1, true)
            .await
            .expect("asked")
    );
    let new = world.repository.open_restore(world.host, job, generation + 1, snapshot).await.expect("opens");
    let late = world.repository.locate(world.host, old.lease, &tree.frames).await;
    assert!(matches!(late, Err(RepositoryError::LeaseLost(_))), "{late:?}");
    world.repository.locate(world.host, new.lease, &tree.frames).await.expect("the newer one is good");
}

#[tokio::test]
async fn v06_the_end_of_one_job_leaves_the_leases_of_others_alone() {
    let world = World::new().await;
    let tree = tree("two at once");
    let snapshot = world.backup(&tree).await;
    let (first, generation) = world.restore_job(&snapshot).await;
    let (second, other) = world.restore_job(&snapshot).await;
    let one = world.repository.open_restore(world.host, first, generation, snapshot).await.expect("opens");
    let two = world.repository.open_restore(world.host, second, other, snapshot).await.expect("opens");
    world.end(first, generation, State::Succeeded).await;
    assert!(!world.is_open(one.lease).await && world.is_open(two.lease).await);
    world.repository.locate(world.host, two.lease, &tree.frames).await.expect("it still runs");
}

#[tokio::test]
async fn h15_packs_sent_again_over_a_bad_line_use_up_no_intents() {
    let world = World::new().await;
    let tree = tree("sent again and again");
    let lease = world.open().await;
    let (length, sha256) = (tree.pack.bytes.len() as u64, tree.pack.sha256);
    let alloc = async |sha256| world.repository.alloc_pack(world.host, lease, length, sha256).await;
    let (first, _) = alloc(sha256).await.expect("announced");
    for _ in 0..1000 {
        let (again, _) = alloc(sha256).await.expect("announced again");
        assert_eq!(again, first);
        // The line breaks half-way.
        let mut incoming = world.repository.begin_upload(world.host, lease, again).await.expect("begins");
        incoming.push(&tree.pack.bytes[..10]).expect("fits");
        world.repository.finish_upload(incoming).await.expect_err("cut off");
    }
    world.send(lease, &tree.pack).await;
    let (another, _) = alloc(sha256).await.expect("announced anew");
    assert_ne!(another, first, "what is live is not written again");
    // Different ones stay bounded, and other leases have intents of their own.
    for n in 0..63 {
        alloc([n; 32]).await.expect("announced");
    }
    let refused = alloc([99; 32]).await;
    assert!(matches!(refused, Err(RepositoryError::TooMuch(_))), "{refused:?}");
    let (known, _) = alloc([7; 32]).await.expect("known");
    let other = world.open().await;
    let (theirs, _) =
        world.repository.alloc_pack(world.host, other, length, [7; 32]).await.expect("announced");
    assert_ne!(theirs, known);
}
