//! Rollouts and rollbacks against agents over real gRPC, the loops running.

use holdfast_proto::v1::upgrade_service_server::UpgradeService as _;
use holdfast_proto::v1::{
    Consistency, JobKind, JobState, PlanUpgradeRequest, StartRollbackRequest, StartRolloutRequest,
    StartRolloutResponse, UpgradeState,
};
use tonic::{Code, Request, Status};

use super::*;
use crate::api::upgrades::UpgradeApi;
use crate::catalog::Catalog;
use crate::catalog::jobs::NewJob;
use crate::jobs::Jobs;
use crate::jobs::testing::{BackupEnd, Bench, FakeAgent, driver, ended, eventually};
use crate::model::upgrade::UpgradeStep;

const WEB: &[(&str, &str)] = &[("app", "web")];

/// A host with three containers that bear the label, and one that does not.
async fn bench() -> (Bench, FakeAgent) {
    let bench = Bench::new().await;
    let agent = bench.agent(&["a", "b", "c"]).await;
    for (name, volume) in [("web-a", "a"), ("web-b", "b"), ("web-c", "c")] {
        agent.container(name, WEB, &[volume]);
    }
    agent.container("other", &[("app", "other")], &[]);
    agent.finish();
    (bench, agent)
}

fn request() -> StartRolloutRequest {
    let upgrade = PlanUpgradeRequest { image: "app:2".into(), ..PlanUpgradeRequest::default() };
    StartRolloutRequest {
        selectors: vec!["app=web".into()],
        upgrade: Some(upgrade),
        ..StartRolloutRequest::default()
    }
}

async fn try_start(jobs: &Jobs, request: StartRolloutRequest) -> Result<StartRolloutResponse, Status> {
    UpgradeApi::new(jobs.clone()).start_rollout(Request::new(request)).await.map(tonic::Response::into_inner)
}

async fn start(jobs: &Jobs, request: StartRolloutRequest) -> String {
    try_start(jobs, request).await.expect("starts").job.expect("a job").id
}

fn images(agent: &FakeAgent) -> Vec<String> {
    agent.images().into_iter().filter(|(name, _)| name != "other").map(|(_, image)| image).collect()
}

#[tokio::test]
async fn every_container_that_matches_is_upgraded_on_every_host() {
    let (bench, agent) = bench().await;
    let second = bench.another("web-2", &["d"]).await;
    second.container("web-d", WEB, &["d"]);
    second.finish();
    let jobs = bench.jobs_at_most(1);
    let driver = driver(&jobs).await;
    let id = start(&jobs, StartRolloutRequest { batch: 3, ..request() }).await;
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Succeeded, ""), "{job:#?}");
    let report = job.upgrade.expect("a report");
    assert_eq!((report.upgraded, report.failed, report.not_begun), (4, 0, 0));
    assert_eq!((images(&agent), images(&second)), (vec!["app:2".to_owned(); 3], vec!["app:2".to_owned()]));
    assert_eq!(agent.images()["other"], "app:1");
    assert_eq!((job.children[0].kind(), job.children[0].container.as_str()), (JobKind::Upgrade, "web-a"));
    // Once more: there is nothing left to do, and that is said.
    let refused = try_start(&jobs, request()).await.expect_err("nothing to do");
    assert!(refused.message().contains("run this image already"), "{}", refused.message());
    driver.stop().await;
}

#[tokio::test]
async fn a_rollout_stops_at_the_first_failure_beyond_the_limit_and_undoes_the_rest() {
    for undo in [false, true] {
        let (bench, agent) = bench().await;
        agent.unwell("web-b");
        let jobs = bench.jobs();
        let driver = driver(&jobs).await;
        let id = start(&jobs, StartRolloutRequest { undo, ..request() }).await;
        let job = ended(&jobs, &id).await;
        assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "rollout-stopped"), "{job:#?}");
        assert!(job.error.contains("web-b: rolled back: it did not become well"), "{}", job.error);
        let report = job.upgrade.expect("a report");
        let counts = (report.upgraded, report.failed, report.undone, report.not_begun);
        let first = if undo { "app:1" } else { "app:2" };
        assert_eq!(counts, if undo { (0, 1, 1, 1) } else { (1, 1, 0, 1) });
        assert_eq!((images(&agent), agent.begun()), (vec![first.into(), "app:1".into(), "app:1".into()], 2));
        // What is undone is snapshotted before: in use, and quiesced.
        let upgrades = 2 * 2;
        assert_eq!(agent.backups().len(), upgrades + if undo { 2 } else { 0 });
        driver.stop().await;
    }
}

#[tokio::test]
async fn a_failure_within_the_limit_is_told_and_passed_over() {
    let (bench, agent) = bench().await;
    agent.unwell("web-b");
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let id = start(&jobs, StartRolloutRequest { max_failures: 1, ..request() }).await;
    let job = ended(&jobs, &id).await;
    assert_eq!(job.state(), JobState::Partial);
    assert!(job.error.starts_with("1 of 3 containers failed and run as before"), "{}", job.error);
    assert_eq!((images(&agent), agent.begun()), (vec!["app:2".into(), "app:1".into(), "app:2".into()], 3));
    driver.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_goes_on_where_the_children_say() {
    let (bench, agent) = bench().await;
    agent.hold_at(Some(UpgradeState::Gating));
    let first = bench.jobs();
    let first_driver = driver(&first).await;
    let id = start(&first, request()).await;
    eventually("the gate", || agent.upgrade_states() == [UpgradeState::Gating]).await;
    first_driver.stop().await;
    let second = bench.jobs();
    let second_driver = driver(&second).await;
    agent.hold_at(None);
    let job = ended(&second, &id).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:#?}");
    assert_eq!((images(&agent), agent.begun()), (vec!["app:2".to_owned(); 3], 3));
    assert_eq!(job.children.len(), 3);
    second_driver.stop().await;
}

#[tokio::test]
async fn cancelled_its_child_goes_back_and_no_other_is_begun() {
    let (bench, agent) = bench().await;
    agent.hold_at(Some(UpgradeState::Gating));
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let id = start(&jobs, request()).await;
    eventually("the gate", || agent.upgrade_states() == [UpgradeState::Gating]).await;
    jobs.cancel(id.parse().expect("an id"), "anna").await.expect("asked");
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), job.children.len()), (JobState::Cancelled, 1));
    assert_eq!(job.children[0].state(), JobState::Cancelled);
    assert_eq!((images(&agent), agent.begun()), (vec!["app:1".to_owned(); 3], 1));
    driver.stop().await;
}

#[tokio::test]
async fn the_plan_names_each_target_and_too_many_refusals_start_nothing() {
    let (bench, agent) = bench().await;
    agent.refuse("web-b", "it is a swarm task");
    let jobs = bench.jobs();
    let planned =
        try_start(&jobs, StartRolloutRequest { plan_only: true, ..request() }).await.expect("planned");
    assert!(planned.job.is_none());
    let shown: Vec<_> =
        planned.targets.iter().map(|t| (t.container.as_str(), t.refusal.contains("swarm"))).collect();
    assert_eq!(shown, [("web-a", false), ("web-b", true), ("web-c", false)]);
    let refused = try_start(&jobs, request()).await.expect_err("refused");
    assert!(refused.message().starts_with("1 of 3 containers cannot be upgraded"), "{}", refused.message());
    for (bad, code) in [
        (StartRolloutRequest { selectors: Vec::new(), ..request() }, Code::InvalidArgument),
        (StartRolloutRequest { selectors: vec!["=x".into()], ..request() }, Code::InvalidArgument),
        (StartRolloutRequest { selectors: vec!["app=db".into()], ..request() }, Code::NotFound),
        (StartRolloutRequest { host_labels: vec!["eu".into()], ..request() }, Code::NotFound),
    ] {
        assert_eq!(try_start(&jobs, bad).await.expect_err("refused").code(), code);
    }
    assert_eq!(agent.begun(), 0);
}

async fn upgraded(jobs: &Jobs) -> String {
    let id = start(jobs, StartRolloutRequest { selectors: vec!["app=other".into()], ..request() }).await;
    let job = ended(jobs, &id).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:#?}");
    job.children[0].id.clone()
}

async fn roll_back(jobs: &Jobs, upgrade: &str, without_snapshot: bool) -> Result<String, Status> {
    let request = StartRollbackRequest { host: "web-1".into(), upgrade: upgrade.into(), without_snapshot };
    let answer = UpgradeApi::new(jobs.clone()).start_rollback(Request::new(request)).await?;
    Ok(answer.into_inner().job.expect("a job").id)
}

#[tokio::test]
async fn a_rollback_snapshots_what_it_discards_and_is_done_once() {
    let (bench, agent) = bench().await;
    agent.container("other", &[("app", "other")], &["a"]);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    upgraded(&jobs).await;
    let id = roll_back(&jobs, "other", false).await.expect("starts");
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Succeeded, ""), "{job:#?}");
    assert_eq!(agent.images()["other"], "app:1");
    let report = job.upgrade.expect("a report");
    assert_eq!((report.snapshots_before.len(), report.rolled_back), (1, true));
    // The upgrade's two, then one in use and, everything quiesced, the one that counts.
    let asked: Vec<Consistency> = agent.backups().iter().map(|backup| backup.consistency()).collect();
    assert_eq!(asked[2..], [Consistency::None, Consistency::None], "{asked:?}");
    assert_eq!(job.children.len(), 2, "{:#?}", job.children);
    let refused = roll_back(&jobs, "other", false).await.expect_err("done already");
    assert!(refused.message().ends_with("was rolled back already"), "{}", refused.message());
    let refused = roll_back(&jobs, "othr", false).await.expect_err("unknown");
    assert!(refused.message().contains("did you mean `other`?"), "{}", refused.message());
    driver.stop().await;
}

/// An agent that was restarted while everything was stopped resumed it and stopped it again:
/// what was written in between is in no snapshot of the first stop.
#[tokio::test]
async fn a_second_stop_has_a_snapshot_of_its_own() {
    let (bench, agent) = bench().await;
    agent.container("other", &[("app", "other")], &["a"]);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    upgraded(&jobs).await;
    agent.stop_twice();
    // After the upgrade's two and the one in use.
    agent.backup_ends(3, BackupEnd::FencingToken);
    let id = roll_back(&jobs, "other", false).await.expect("starts");
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Succeeded, ""), "{job:#?}");
    let states: Vec<JobState> = job.children.iter().map(|child| child.state()).collect();
    assert_eq!(states, [JobState::Succeeded, JobState::Cancelled, JobState::Succeeded]);
    assert_eq!((agent.backups().len(), agent.images()["other"].as_str()), (5, "app:1"));
    driver.stop().await;
}

#[tokio::test]
async fn without_a_good_snapshot_nothing_is_discarded_unless_that_is_wanted() {
    let (bench, agent) = bench().await;
    agent.container("other", &[("app", "other")], &["a"]);
    // Partial in use is no reason; quiesced it is.
    agent.backup_ends(2, BackupEnd::Partial);
    agent.backup_ends(3, BackupEnd::Partial);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let upgrade = upgraded(&jobs).await;
    let id = roll_back(&jobs, &upgrade, false).await.expect("starts");
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "snapshot-before-failed"));
    assert!(job.error.contains("would be discarded is partial"), "{}", job.error);
    assert_eq!(agent.images()["other"], "app:2");
    let id = roll_back(&jobs, &upgrade, true).await.expect("starts");
    assert_eq!(ended(&jobs, &id).await.state(), JobState::Succeeded);
    assert_eq!((agent.images()["other"].as_str(), agent.backups().len()), ("app:1", 4));
    driver.stop().await;
}

#[tokio::test]
async fn what_was_left_out_and_what_nobody_knows_is_said() {
    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let job = NewJob {
        id: JobId::generate(),
        policy: String::new(),
        host: None,
        actor: "op".to_owned(),
        parameters: Parameters::Upgrade(UpgradeParameters::default()),
        not_before_ms: 0,
    };
    catalog.create_job(&job, 1).await.expect("made");
    let mut row = catalog.job(job.id).await.expect("asked").expect("there");
    row.state = State::Failed;
    assert_eq!(how_they_run(&[row.clone()]), " and run as before");
    row.result.upgrade =
        Some(UpgradeReport { steps: vec![UpgradeStep::default()], ..UpgradeReport::default() });
    let unknown = ", of 1 of which it is not known that they run as before";
    assert_eq!(how_they_run(&[row.clone()]), unknown);
    let back = UpgradeReport { rolled_back: true, ..row.result.upgrade.clone().unwrap_or_default() };
    row.result.upgrade = Some(back);
    assert_eq!(how_they_run(&[row.clone()]), " and run as before");
    row.error_code = ErrorCode::Unsettled.as_str().to_owned();
    assert_eq!(how_they_run(&[row]), unknown);

    let rollout =
        RolloutParameters { left_out: vec!["host `b` is away".to_owned()], ..RolloutParameters::default() };
    let end = ending(&rollout, &Course::of(&[], 0), &[]);
    assert_eq!((end.state, end.error.as_str()), (State::Partial, "host `b` is away"));
}
