//! Whole jobs: this machine's Engine, a repository in memory.

mod elsewhere;
mod groups;
mod restores;

use std::fs;
use std::path::PathBuf;

use futures_util::StreamExt;
use holdfast_archive::fs::{NestedMounts, TornPolicy};
use holdfast_archive::ids::{SnapshotId, SourceId};
use holdfast_proto::ids::InstanceId;
use holdfast_proto::v1::{self, restore_event, snapshot_event};
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::Status;

use super::testing::{Repository, store};
use super::*;
use crate::engine::testing::Scene;
use crate::engine::{ContainerState, VolumeName};
use crate::journal::Journal;
use crate::quiesce::QuiesceMode;
use crate::services::{backup_event, restore_event};
use crate::session::Line;
use crate::spec::Specs;
use crate::store_pin::StorePin;

struct Bench {
    scene: Scene,
    repository: Repository,
    snapshots: Snapshots,
    recovery: RecoveryWorker,
    _state: TempDir,
    channel: watch::Sender<Option<Line>>,
}

impl Bench {
    async fn open() -> Option<Self> {
        let scene = Scene::open().await?;
        let state = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(state.path(), Duration::ZERO).unwrap());
        let recovery = RecoveryWorker::new(journal.clone(), scene.engine.clone(), InstanceId::generate());
        let repository = Repository::default();
        let (plane, channel) = repository.plane().await;
        let snapshots = Snapshots::new(Parts {
            engine: scene.engine.clone(),
            holders: Holders::new(scene.engine.clone(), journal, InstanceId::generate()),
            recovery: recovery.clone(),
            specs: Specs::new(state.path(), scene.engine.clone()),
            plane,
            allow: Allow::parse(["backup", "restore", scene.directory("allowed").to_str().unwrap()]).unwrap(),
            memory_bytes: 192 << 20,
            workers: 1,
            max_downtime: Duration::from_secs(120),
            controller: Controller::default(),
            own: Own::new(scene.engine.clone(), None, state.path().to_owned(), Controller::default()),
        });
        Some(Self { scene, repository, snapshots, recovery, _state: state, channel })
    }

    /// A volume with a little in it, and its path.
    async fn volume(&self, suffix: &str) -> (VolumeName, PathBuf) {
        let name = self.scene.volume_name(suffix);
        self.scene.docker(&["volume", "create", name.as_str()]);
        let path = self.scene.engine.inspect_volume(&name).await.unwrap().mountpoint;
        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/small"), "small").unwrap();
        fs::write(path.join("large"), vec![7; 3 << 20]).unwrap();
        (name, path)
    }

    /// Waits until a call of this name has come to the repository.
    async fn called(&self, name: &str) {
        let called = tokio::time::timeout(Duration::from_secs(120), async {
            while self.repository.calls(name) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        called.await.unwrap_or_else(|_| panic!("{name} was not called"));
    }

    /// Lets the host send packs to this place by itself.
    fn pin(&self, place: &str) {
        let pin = Arc::new(StorePin::new(place, "").unwrap());
        self.channel.send_modify(|line| {
            if let Some(line) = line {
                line.store = Some(pin);
            }
        });
    }

    async fn run(&self, request: BackupRequest) -> Outcome {
        let job = request.job;
        let events = self.snapshots.back_up(request).unwrap().expect("it was not cancelled before");
        Outcome::of(events.map(|event| backup_event(job, event)).collect().await)
    }
}

fn request(source: SourceId, name: &VolumeName, mode: Option<QuiesceMode>) -> BackupRequest {
    BackupRequest {
        job: JobId::generate(),
        generation: 1,
        sources: vec![SourceRequest { id: source, name: SourceName::Volume(name.to_string()) }],
        mode,
        torn: TornPolicy::Accept,
        nested_mounts: NestedMounts::Partial,
        max_downtime: None,
        allow_empty: false,
    }
}

#[derive(Debug)]
struct Outcome {
    sources: Vec<v1::SourceFinished>,
    quiesced: Vec<v1::ContainerQuiesced>,
    ended: v1::JobEnded,
}

impl Outcome {
    fn of(events: Vec<v1::SnapshotEvent>) -> Self {
        let (mut sources, mut quiesced, mut ended) = (Vec::new(), Vec::new(), None);
        for event in events {
            match event.event.unwrap() {
                snapshot_event::Event::Progress(_) => {}
                snapshot_event::Event::Source(source) => sources.push(source),
                snapshot_event::Event::Quiesced(container) => quiesced.push(container),
                snapshot_event::Event::Ended(end) => assert!(ended.replace(end).is_none()),
            }
        }
        Self { sources, quiesced, ended: ended.expect("a job ends") }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_committed_and_the_next_run_reads_only_changes() {
    let Some(bench) = Bench::open().await else { return };
    let (name, path) = bench.volume("data").await;
    let source = SourceId::generate();
    let first = bench.run(request(source, &name, None)).await;
    assert!(first.ended.ok && first.sources[0].ok, "{first:?}");
    let stats = first.sources[0].stats.unwrap();
    assert_eq!((stats.files, stats.size_bytes), (2, (3 << 20) + 5));
    let (id, body) = bench.repository.snapshots(source).remove(0);
    assert_eq!(id.to_string(), first.sources[0].snapshot_id);
    assert_eq!((body.consistency.as_str(), body.source.name.as_str()), ("none", name.as_str()));
    assert!(bench.repository.frames().contains(&body.root));

    fs::write(path.join("sub/small"), "other").unwrap();
    let second = bench.run(request(source, &name, None)).await;
    assert!(second.ended.ok, "{second:?}");
    assert!(second.sources[0].stats.unwrap().new_bytes < 100_000, "{second:?}");
    assert_eq!(bench.repository.snapshots(source).len(), 2);
    assert_eq!(bench.repository.open_leases(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_quiesced_for_the_second_pass_only_and_resume() {
    for (mode, quiesced) in
        [(QuiesceMode::Pause, ContainerState::Paused), (QuiesceMode::Stop, ContainerState::Exited)]
    {
        let Some(bench) = Bench::open().await else { return };
        let (name, _) = bench.volume("data").await;
        let mount = format!("{name}:/data");
        let user = bench.scene.run_sleeper("user", &["-v", &mount, "--stop-timeout", "1"]).await;
        let look = || async { bench.scene.engine.inspect_container(&user).await.unwrap() };
        let before = look().await;
        // The first pass is stuck in what it sends, the second in the pages of
        // the first that it reads.
        bench.repository.lock().stuck = Some("upload_pack");
        let looking = async {
            bench.called("upload_pack").await;
            assert_eq!(look().await, before, "{mode:?}: not touched in the first pass");
            bench.repository.lock().stuck = Some("locate");
            bench.called("locate").await;
            assert_eq!(look().await.state, quiesced, "in the second pass");
            bench.repository.lock().stuck = None;
        };
        let asked = request(SourceId::generate(), &name, Some(mode));
        let (outcome, ()) = tokio::join!(bench.run(asked), looking);
        assert!(outcome.ended.ok && !outcome.sources[0].partial, "{outcome:?}");
        assert_eq!(outcome.quiesced.len(), 1);
        assert!(outcome.quiesced[0].resumed && outcome.quiesced[0].problem.is_empty(), "{outcome:?}");
        assert_eq!(look().await.state, ContainerState::Running);
        assert!(bench.recovery.journal().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_went_missing_are_read_and_sent_again() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    for mode in [None, Some(QuiesceMode::Pause)] {
        let source = SourceId::generate();
        bench.repository.lock().lose_frames = 1;
        let outcome = bench.run(request(source, &name, mode)).await;
        assert!(outcome.ended.ok, "{outcome:?}");
        assert_eq!(bench.repository.snapshots(source).len(), 1);
    }
    bench.repository.lock().lose_frames = 99;
    let outcome = bench.run(request(SourceId::generate(), &name, None)).await;
    assert_eq!(outcome.ended.error_code, "frames-missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_empty_all_at_once_is_refused_unless_allowed() {
    let Some(bench) = Bench::open().await else { return };
    let (name, path) = bench.volume("data").await;
    let source = SourceId::generate();
    assert!(bench.run(request(source, &name, None)).await.ended.ok);
    fs::remove_dir_all(path.join("sub")).unwrap();
    fs::remove_file(path.join("large")).unwrap();
    for mode in [None, Some(QuiesceMode::Pause)] {
        let outcome = bench.run(request(source, &name, mode)).await;
        assert_eq!(outcome.ended.error_code, "source-empty", "{outcome:?}");
    }
    let allowed = BackupRequest { allow_empty: true, ..request(source, &name, None) };
    assert!(bench.run(allowed).await.ended.ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn h06_a_source_with_less_than_a_tenth_left_is_taken_and_said_to_have_shrunk() {
    let Some(bench) = Bench::open().await else { return };
    for (suffix, mode) in [("running", None), ("quiesced", Some(QuiesceMode::Pause))] {
        let (name, path) = bench.volume(suffix).await;
        fs::create_dir(path.join("many")).unwrap();
        (0..40).for_each(|number| fs::write(path.join(format!("many/{number}")), "x").unwrap());
        let source = SourceId::generate();
        let first = bench.run(request(source, &name, mode)).await;
        assert!(first.ended.ok && !first.sources[0].shrunk, "{first:?}");

        // The bytes stay, most of the entries go.
        fs::remove_dir_all(path.join("many")).unwrap();
        fs::remove_dir_all(path.join("sub")).unwrap();
        let outcome = bench.run(request(source, &name, mode)).await;
        let taken = &outcome.sources[0];
        assert!(outcome.ended.ok && taken.ok && taken.shrunk && !taken.partial, "{outcome:?}");
        assert!(taken.problems[0].contains("less than a tenth is left"), "{outcome:?}");
        let (_, body) = bench.repository.snapshots(source).pop().unwrap();
        assert_eq!(body.problems, taken.problems);

        // The entries stay, most of the bytes go.
        fs::write(path.join("large"), "little").unwrap();
        assert!(bench.run(request(source, &name, mode)).await.sources[0].shrunk);
        // It is as it was last.
        let same = bench.run(request(source, &name, mode)).await;
        assert!(!same.sources[0].shrunk && same.sources[0].problems.is_empty(), "{same:?}");
        fs::write(path.join("large"), vec![7; 1 << 20]).unwrap();
        assert!(!bench.run(request(source, &name, mode)).await.sources[0].shrunk);
        // And where it is told to accept that, it does.
        fs::write(path.join("large"), "little").unwrap();
        let allowed = BackupRequest { allow_empty: true, ..request(source, &name, mode) };
        let allowed = bench.run(allowed).await;
        assert!(allowed.ended.ok && !allowed.sources[0].shrunk, "{allowed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_fails_alone_and_the_job_says_so() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let mut asked = request(SourceId::generate(), &name, None);
    for name in ["no-such-volume", "../etc"] {
        asked
            .sources
            .push(SourceRequest { id: SourceId::generate(), name: SourceName::Volume(name.to_owned()) });
    }
    asked
        .sources
        .push(SourceRequest { id: SourceId::generate(), name: SourceName::Directory("/etc".into()) });
    let outcome = bench.run(asked).await;
    assert!(!outcome.ended.ok);
    let mut codes: Vec<_> = outcome.sources.iter().map(|source| source.error_code.as_str()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["", "invalid-name", "not-allowed", "not-found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn h04_a_base_that_cannot_be_read_costs_a_full_read_and_no_backup() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let source = SourceId::generate();
    assert!(bench.run(request(source, &name, None)).await.ended.ok);
    // As a store answers that has lost an object and does not know it.
    let mut broken = Status::failed_precondition("packs/1: 500 InternalError");
    broken.metadata_mut().insert(holdfast_proto::ERROR_CODE_METADATA, "store-failed".parse().unwrap());
    bench.repository.lock().failures.insert("read_pack", vec![broken; 64]);
    let outcome = bench.run(request(source, &name, None)).await;
    assert!(outcome.ended.ok, "{outcome:?}");
    let snapshots = bench.repository.snapshots(source);
    assert_eq!(snapshots.len(), 2);
    let [before, after] = [&snapshots[0].1, &snapshots[1].1];
    assert_eq!(before.root, after.root);
    assert_eq!(before.stats.read_bytes, after.stats.read_bytes, "all was read again");
    assert!(!after.partial && after.problems.iter().any(|problem| problem.contains("500 InternalError")));
    // And where nothing can be stored either, it fails by that name.
    let mut gone = Status::failed_precondition("/backup holds no repository");
    gone.metadata_mut().insert(holdfast_proto::ERROR_CODE_METADATA, "store-no-bucket".parse().unwrap());
    bench.repository.lock().failures.insert("read_pack", vec![gone; 64]);
    let outcome = bench.run(request(source, &name, None)).await;
    assert_eq!(outcome.ended.error_code, "store-no-bucket", "{outcome:?}");
    assert_eq!(bench.repository.snapshots(source).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn s01_a_connection_that_comes_and_goes_costs_only_retries() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    {
        let mut state = bench.repository.lock();
        for call in ["open_upload", "have", "alloc_pack", "upload_pack", "commit_pack", "commit_snapshot"] {
            let failures = vec![Status::unavailable("gone"), Status::unknown("transport error")];
            state.failures.insert(call, failures);
        }
    }
    let channel = bench.channel.send_replace(None);
    let back = bench.channel.clone();
    tokio::spawn(async move {
        tokio::task::yield_now().await;
        back.send_replace(channel);
    });
    let outcome = bench.run(request(SourceId::generate(), &name, None)).await;
    assert!(outcome.ended.ok, "{outcome:?}");
    assert!(outcome.sources[0].stats.unwrap().retries >= 8, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_controller_refuses_is_not_repeated() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let refusals = vec![Status::permission_denied("the lease is another host's")];
    bench.repository.lock().failures.insert("alloc_pack", refusals);
    let outcome = bench.run(request(SourceId::generate(), &name, None)).await;
    assert_eq!(outcome.ended.error_code, "auth");
    assert!(outcome.ended.error.contains("another host's"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_the_same_job_twice_runs_once_and_tells_both() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let asked = request(SourceId::generate(), &name, None);
    let (first, second) = tokio::join!(bench.run(asked.clone()), bench.run(asked.clone()));
    let third = bench.run(asked).await;
    assert_eq!(first.sources, second.sources);
    assert_eq!((first.sources, first.ended), (third.sources, third.ended));
    assert_eq!(bench.repository.calls("commit_snapshot"), 1);
}

// The second pass reads the pages of the first, which is where it is stuck.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_stuck_with_quiesced_containers_is_cancelled_and_they_resume() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let user = bench.scene.run_sleeper("user", &["-v", &format!("{name}:/data")]).await;
    bench.repository.lock().stuck = Some("locate");
    let source = SourceId::generate();
    let asked = request(source, &name, Some(QuiesceMode::Pause));
    let job = asked.job;
    let cancelling = async {
        while bench.repository.calls("locate") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let container = bench.scene.engine.inspect_container(&user).await.unwrap();
        assert_eq!(container.state, ContainerState::Paused);
        assert!(bench.snapshots.cancel(job));
    };
    let (outcome, ()) = tokio::join!(bench.run(asked), cancelling);
    assert!(outcome.ended.cancelled && outcome.quiesced[0].resumed, "{outcome:?}");
    let container = bench.scene.engine.inspect_container(&user).await.unwrap();
    assert_eq!(container.state, ContainerState::Running);
    assert!(bench.recovery.journal().is_empty());
    assert!(bench.snapshots.known().iter().all(|job| job.ended));
    assert!(bench.repository.snapshots(source).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_resume_at_the_deadline_and_the_job_fails() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let user = bench.scene.run_sleeper("user", &["-v", &format!("{name}:/data")]).await;
    bench.repository.lock().stuck = Some("locate");
    let asked = BackupRequest {
        max_downtime: Some(Duration::from_secs(2)),
        ..request(SourceId::generate(), &name, Some(QuiesceMode::Pause))
    };
    let outcome = bench.run(asked).await;
    assert_eq!(outcome.ended.error_code, "max-downtime", "{outcome:?}");
    let container = bench.scene.engine.inspect_container(&user).await.unwrap();
    assert_eq!(container.state, ContainerState::Running);
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn d05_a_volume_recreated_meanwhile_is_not_committed() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    bench.repository.lock().stuck = Some("upload_pack");
    let source = SourceId::generate();
    let replacing = async {
        while bench.repository.calls("upload_pack") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bench.scene.docker(&["volume", "rm", name.as_str()]);
        bench.scene.docker(&["volume", "create", name.as_str()]);
        bench.repository.lock().stuck = None;
    };
    let (outcome, ()) = tokio::join!(bench.run(request(source, &name, None)), replacing);
    assert!(!outcome.ended.ok, "{outcome:?}");
    assert!(bench.repository.snapshots(source).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_goes_straight_to_the_store_or_through_the_controller() {
    let Some(bench) = Bench::open().await else { return };
    let (name, path) = bench.volume("data").await;
    let source = SourceId::generate();
    let store = store(bench.repository.clone()).await;
    bench.repository.lock().presigned = Some(store.clone());
    bench.pin(&store);
    assert!(bench.run(request(source, &name, None)).await.ended.ok);
    assert!(bench.repository.packs() > 0);
    assert_eq!(bench.repository.calls("upload_pack"), 0);
    // Nothing listens on the discard port.
    let nobody = "http://127.0.0.1:9/bucket";
    bench.repository.lock().presigned = Some(nobody.to_owned());
    bench.pin(nobody);
    fs::write(path.join("more"), vec![3; 1 << 20]).unwrap();
    assert!(bench.run(request(source, &name, None)).await.ended.ok);
    assert!(bench.repository.calls("upload_pack") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_damaged_frames_listed_in_pages_are_all_sent_again_and_nobody_is_quiesced_for_it() {
    let Some(bench) = Bench::open().await else { return };
    let (name, path) = bench.volume("data").await;
    for n in 0..4 {
        fs::write(path.join(format!("more-{n}")), vec![n; 2 << 20]).unwrap();
    }
    bench.scene.run_sleeper("user", &["-v", &format!("{name}:/data")]).await;
    let source = SourceId::generate();
    assert!(bench.run(request(source, &name, Some(QuiesceMode::Pause))).await.ended.ok);
    // What is younger than this proves nothing to the second pass.
    while path.join("more-3").metadata().unwrap().modified().unwrap().elapsed().unwrap().as_secs() < 6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    {
        let mut state = bench.repository.lock();
        state.damaged = state.data_frames();
        state.damaged_page = 2;
        assert!(state.damaged.len() > 4, "{:?}", state.damaged);
    }
    let healed = bench.run(request(source, &name, Some(QuiesceMode::Pause))).await;
    assert!(healed.ended.ok, "{healed:?}");
    assert!(bench.repository.calls("list_damaged") > 1);
    assert_eq!(bench.repository.lock().damaged, Vec::new(), "all were sent again");
    let stats = healed.sources[0].stats.unwrap();
    assert_eq!(stats.read_bytes, stats.size_bytes, "the second pass reads none of it again: {stats:?}");
}

/// An earlier attempt of the job committed, and died before the job ended.
#[tokio::test(flavor = "multi_thread")]
async fn h11_what_an_attempt_before_committed_is_reported_as_it_is_there() {
    let Some(bench) = Bench::open().await else { return };
    let (name, _) = bench.volume("data").await;
    let before = v1::CommittedSnapshot {
        snapshot_id: "of-the-attempt-before".to_owned(),
        number: 1,
        created_unix_ms: 1,
        partial: true,
        stats: Some(v1::SnapshotStats { entries: 77, torn_files: 3, ..Default::default() }),
        problems: vec!["file: changed while it was read".to_owned()],
    };
    bench.repository.lock().committed_before = Some(before.clone());
    let outcome = bench.run(request(SourceId::generate(), &name, None)).await;
    let [finished] = &outcome.sources[..] else { panic!("{outcome:?}") };
    assert!(finished.ok && finished.partial && !finished.shrunk, "{finished:?}");
    let stats = finished.stats.unwrap();
    assert_eq!((stats.entries, stats.torn_files), (77, 3));
    assert_eq!((&finished.snapshot_id, &finished.problems), (&before.snapshot_id, &before.problems));
    // A controller that does not tell leaves what was read.
    let untold = v1::CommittedSnapshot { stats: None, partial: false, problems: Vec::new(), ..before };
    bench.repository.lock().committed_before = Some(untold);
    let outcome = bench.run(request(SourceId::generate(), &name, None)).await;
    assert_eq!(outcome.sources[0].stats.unwrap().files, 2, "{outcome:?}");
}

fn restore_request(snapshot: SnapshotId, target: RestoreTarget) -> RestoreRequest {
    RestoreRequest {
        job: JobId::generate(),
        generation: 1,
        snapshot,
        target,
        devices: true,
        setuid: true,
        strict: false,
        salvage: false,
        paths: Vec::new(),
    }
}

fn into_volume(name: &VolumeName) -> RestoreTarget {
    let none = std::collections::BTreeMap::new;
    RestoreTarget::Volume(VolumeTarget {
        name: name.clone(),
        driver: String::new(),
        options: none(),
        labels: none(),
    })
}

impl Bench {
    async fn restore(&self, request: RestoreRequest) -> v1::RestoreFinished {
        let job = request.job;
        let events = self.snapshots.restore(request).unwrap().expect("it was not cancelled before");
        let last = events.collect::<Vec<_>>().await.pop().expect("a job ends");
        match restore_event(job, last).event.unwrap() {
            restore_event::Event::Finished(finished) => finished,
            restore_event::Event::Progress(_) => panic!("it ended with progress"),
        }
    }

    /// A volume and its snapshot.
    async fn snapshot(&self) -> (PathBuf, SnapshotId) {
        let (name, path) = self.volume("data").await;
        let source = SourceId::generate();
        assert!(self.run(request(source, &name, None)).await.ended.ok);
        (path, self.repository.snapshots(source)[0].0)
    }

    fn volumes(&self) -> Vec<String> {
        let filter = format!("name={}", self.scene.name(""));
        let listed = self.scene.docker(&["volume", "ls", "-q", "--filter", &filter]);
        listed.lines().map(str::to_owned).collect()
    }
}

fn same_trees(left: &std::path::Path, right: &std::path::Path) {
    let output = std::process::Command::new("rsync")
        .args(["-naHAXS", "--checksum", "--modify-window=-1", "--delete", "--itemize-changes"])
        .arg(format!("{}/", left.display()))
        .arg(format!("{}/", right.display()))
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
}
