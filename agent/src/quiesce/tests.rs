//! Against the Engine of this machine.

use std::fs;
use std::path::Path;

use holdfast_proto::ids::InstanceId;
use tempfile::TempDir;

use super::*;
use crate::engine::testing::Scene;
use crate::journal::{Journal, QuiescedContainer};

mod restarts;

struct Bench {
    scene: Scene,
    state: TempDir,
    recovery: RecoveryWorker,
    quiescer: Quiescer,
}

impl Bench {
    async fn open() -> Option<Self> {
        let scene = Scene::open().await?;
        let state = tempfile::tempdir().unwrap();
        let journal = Arc::new(Journal::open(state.path(), Duration::ZERO).unwrap());
        let recovery = RecoveryWorker::new(journal, scene.engine.clone(), InstanceId::generate());
        let quiescer = Quiescer::new(scene.engine.clone(), recovery.clone(), None);
        Some(Self { scene, state, recovery, quiescer })
    }

    async fn sleeper(&self, suffix: &str, more: &[&str]) -> String {
        let volume = format!("{}:/data", self.scene.name("data"));
        let mut arguments = vec!["-v", volume.as_str(), "--stop-timeout", "1"];
        arguments.extend(more);
        self.scene.run_sleeper(suffix, &arguments).await
    }

    fn request(&self, mode: QuiesceMode) -> Request {
        Request {
            job: JobId::generate(),
            places: vec![Place::Volume { name: self.scene.name("data"), path: "/nonexistent".into() }],
            mode,
            max_downtime: Duration::from_secs(120),
        }
    }

    async fn quiesce(&self, mode: QuiesceMode) -> Quiesced {
        let quiesced = self.quiescer.quiesce(&self.request(mode), &Cancel::new()).await;
        quiesced.unwrap_or_else(|not| panic!("{}", not.error))
    }

    async fn look(&self, name: &str) -> Container {
        self.scene.engine.inspect_container(name).await.unwrap()
    }

    /// What the next agent finds when this one dies now.
    fn successor(&self) -> (TempDir, RecoveryWorker) {
        let state = tempfile::tempdir().unwrap();
        let (from, to) = (self.state.path().join("journal"), state.path().join("journal"));
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        let recovery = recovery(state.path(), &self.scene.engine);
        (state, recovery)
    }
}

fn recovery(state: &Path, engine: &Engine) -> RecoveryWorker {
    let journal = Arc::new(Journal::open(state, Duration::ZERO).unwrap());
    RecoveryWorker::new(journal, engine.clone(), InstanceId::generate())
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(120), async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.expect("it happens within two minutes");
}

#[tokio::test]
async fn a_paused_container_resumes_as_it_was() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("db", &[]).await;
    let reader =
        bench.scene.run_sleeper("reader", &["-v", &format!("{}:/d:ro", bench.scene.name("data"))]).await;
    let before = bench.look(&name).await;
    let quiesced = bench.quiesce(QuiesceMode::Pause).await;
    assert_eq!(bench.look(&name).await.state, ContainerState::Paused);
    assert_eq!(bench.look(&reader).await.state, ContainerState::Running, "it cannot write");
    assert_eq!(bench.recovery.journal().actions().len(), 1);
    assert_eq!(quiesced.disturbances().await.unwrap(), Vec::<String>::new());
    let reports = quiesced.resume().await;
    assert_eq!(reports.len(), 1);
    assert!(reports[0].resumed && reports[0].problem.is_empty(), "{reports:?}");
    assert_eq!(bench.look(&name).await, before);
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test]
async fn stopped_containers_start_again_in_the_reverse_order() {
    let Some(bench) = Bench::open().await else { return };
    let database = bench.sleeper("a-db", &[]).await;
    let web = bench.sleeper("b-web", &["--volumes-from", &database]).await;
    let quiesced = bench.quiesce(QuiesceMode::Stop).await;
    for name in [&database, &web] {
        assert_eq!(bench.look(name).await.state, ContainerState::Exited);
    }
    let order: Vec<_> = quiesced.resume().await.into_iter().map(|report| report.container_name).collect();
    assert_eq!(order, [database.clone(), web.clone()]);
    for name in [&database, &web] {
        assert_eq!(bench.look(name).await.state, ContainerState::Running);
    }
}

#[tokio::test]
async fn d02_the_next_agent_starts_what_a_dead_one_stopped_and_only_once() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("db", &[]).await;
    let before = bench.look(&name).await.started_at;
    let quiesced = bench.quiesce(QuiesceMode::Stop).await;
    let (_first, first) = bench.successor();
    let (_second, second) = bench.successor();
    std::mem::forget(quiesced);
    assert!(first.carry_out_all(Duration::from_secs(180)).await.is_empty());
    let started = bench.look(&name).await;
    assert_eq!(started.state, ContainerState::Running);
    assert_ne!(started.started_at, before);
    assert!(first.journal().is_empty());
    // As if the first had died before it could forget the action.
    assert!(second.carry_out_all(Duration::from_secs(180)).await.is_empty());
    assert_eq!(bench.look(&name).await.started_at, started.started_at);
}

// The Engine carries on with a stop whose caller died.
#[tokio::test]
async fn d02_a_stop_still_under_way_is_waited_for() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("db", &[]).await;
    let container = bench.look(&name).await;
    let action = CleanupAction::Start(QuiescedContainer {
        job: JobId::generate(),
        container: container.id.clone(),
        name: container.name.clone(),
        started_at: container.started_at.clone(),
        stop_timeout_seconds: 60,
        written_unix_ms: 0,
        confirmed: false,
    });
    bench.recovery.journal().record(action).unwrap();
    let (_state, recovery) = bench.successor();
    let stopping = tokio::spawn({
        let (engine, container) = (bench.scene.engine.clone(), container.clone());
        async move { engine.stop_container(&container, Some(Duration::from_secs(3))).await }
    });
    assert!(recovery.carry_out_all(Duration::from_secs(180)).await.is_empty());
    stopping.await.unwrap().unwrap();
    let after = bench.look(&name).await;
    assert_eq!(after.state, ContainerState::Running);
    assert_ne!(after.started_at, container.started_at);
}

#[tokio::test]
async fn d03_what_the_user_stopped_or_removed_meanwhile_stays_so() {
    let Some(bench) = Bench::open().await else { return };
    let (killed, removed, started) =
        (bench.sleeper("a", &[]).await, bench.sleeper("b", &[]).await, bench.sleeper("c", &[]).await);
    let quiesced = bench.quiesce(QuiesceMode::Pause).await;
    bench.scene.docker(&["unpause", &killed]);
    bench.scene.docker(&["kill", &killed]);
    bench.scene.docker(&["rm", "-f", &removed]);
    bench.scene.docker(&["unpause", &started]);
    bench.scene.docker(&["restart", "-t", "0", &started]);
    bench.scene.docker(&["pause", &started]);
    let disturbed = quiesced.disturbances().await.unwrap();
    assert!(disturbed.iter().any(|problem| problem.contains(&started)), "{disturbed:?}");
    let reports = quiesced.resume().await;
    // None of them runs now, and that is not called resumed; nor is any still to be resumed.
    assert!(reports.iter().all(|report| !report.resumed && !report.problem.is_empty()), "{reports:?}");
    assert!(!bench.recovery.is_to_resume(&reports[0].container_id));
    assert_eq!(bench.look(&killed).await.state, ContainerState::Exited);
    assert!(bench.scene.engine.inspect_container(&removed).await.unwrap_err().is_not_found());
    assert_eq!(bench.look(&started).await.state, ContainerState::Paused, "that pause is the user's own");
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test]
async fn the_watchdog_resumes_while_the_job_is_stuck() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("db", &[]).await;
    let cancel = Cancel::new();
    let request = Request { max_downtime: Duration::from_secs(15), ..bench.request(QuiesceMode::Pause) };
    let quiesced = bench.quiescer.quiesce(&request, &cancel).await.unwrap();
    cancel.cancelled().await;
    assert_eq!(cancel.reason(), Some(CancelReason::MaxDowntime));
    until(async || bench.look(&name).await.state == ContainerState::Running).await;
    let reports = quiesced.resume().await;
    assert!(reports.len() == 1 && reports[0].resumed, "{reports:?}");
}

#[tokio::test]
async fn what_is_dropped_is_resumed_by_the_recovery_worker() {
    let Some(bench) = Bench::open().await else { return };
    let name = bench.sleeper("db", &[]).await;
    let quiesced = bench.quiesce(QuiesceMode::Stop).await;
    let working = tokio::spawn(bench.recovery.clone().run());
    drop(quiesced);
    until(async || bench.look(&name).await.state == ContainerState::Running).await;
    until(async || bench.recovery.journal().is_empty()).await;
    working.abort();
}

#[tokio::test]
async fn d13_if_one_cannot_be_quiesced_the_others_resume() {
    let Some(bench) = Bench::open().await else { return };
    let first = bench.sleeper("a", &[]).await;
    let quiesced = bench.quiesce(QuiesceMode::Stop).await;
    // No Engine knows a container by such an id, and it is not asked.
    let refused = Container { id: "no/id".to_owned(), ..bench.look(&first).await };
    let request = bench.request(QuiesceMode::Stop);
    let error = quiesced.shared.quiesce_one(&refused, &request, &Cancel::new()).await.unwrap_err();
    assert_eq!(error.code(), holdfast_proto::ErrorCode::QuiesceFailed);
    assert!(error.to_string().contains(&refused.name), "{error}");
    quiesced.resume().await;
    assert_eq!(bench.look(&first).await.state, ContainerState::Running);
    assert!(bench.recovery.journal().is_empty());
}

#[tokio::test]
async fn a_half_restored_volume_is_removed_and_another_one_is_not() {
    let Some(bench) = Bench::open().await else { return };
    let job = JobId::generate();
    let label = format!("{}={job}", crate::resume::RESTORE_LABEL);
    let (ours, other) = (bench.scene.name("half"), bench.scene.name("other"));
    bench.scene.docker(&["volume", "create", "--label", &label, &ours]);
    bench.scene.docker(&["volume", "create", &other]);
    for name in [&ours, &other, &bench.scene.name("never-made")] {
        bench
            .recovery
            .journal()
            .record(CleanupAction::RemoveVolume { job, name: name.clone(), seen_empty: None })
            .unwrap();
    }
    let (_state, recovery) = bench.successor();
    assert!(recovery.carry_out_all(Duration::from_secs(180)).await.is_empty());
    assert!(recovery.journal().is_empty());
    let left =
        bench.scene.docker(&["volume", "ls", "-q", "--filter", &format!("name={}", bench.scene.name(""))]);
    assert_eq!(left, other);
}
