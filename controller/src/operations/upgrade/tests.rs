//! Upgrades against an agent over real gRPC, the loops running.

use holdfast_proto::v1::upgrade_service_server::UpgradeService as _;
use holdfast_proto::v1::{
    Consistency, Job, JobKind, JobState, PlanFleetUpgradeRequest, PlanUpgradeRequest, StartUpgradeRequest,
    UpgradeState,
};
use tonic::{Code, Request, Status};

use crate::api::upgrades::UpgradeApi;
use crate::catalog::jobs::JobFilter;
use crate::catalog::upgrades::PlanRecord;
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::jobs::testing::{BackupEnd, Bench, FakeAgent, driver, ended, eventually};

/// A host with one container that writes to one volume.
async fn bench() -> (Bench, FakeAgent) {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data", "other"]).await;
    agent.container("db", &[], &["db_data"]);
    agent.finish();
    (bench, agent)
}

fn to_two(container: &str) -> PlanUpgradeRequest {
    PlanUpgradeRequest { container: container.into(), image: "app:2".into(), ..PlanUpgradeRequest::default() }
}

async fn try_start(jobs: &Jobs, container: &str) -> Result<Job, Status> {
    let request = StartUpgradeRequest {
        host: "web-1".into(),
        upgrade: Some(to_two(container)),
        ..StartUpgradeRequest::default()
    };
    let answer = UpgradeApi::new(jobs.clone()).start_upgrade(Request::new(request)).await?.into_inner();
    Ok(answer.job.expect("a job"))
}

async fn start(jobs: &Jobs) -> String {
    try_start(jobs, "db").await.expect("starts").id
}

fn image(agent: &FakeAgent) -> String {
    agent.images()["db"].clone()
}

async fn until_state(agent: &FakeAgent, state: UpgradeState) {
    eventually(state.as_str_name(), || agent.upgrade_states() == [state]).await;
}

#[tokio::test]
async fn an_upgrade_takes_both_snapshots_and_proceeds_between() {
    let (bench, agent) = bench().await;
    // One place for jobs: the children need none.
    let jobs = bench.jobs_at_most(1);
    let driver = driver(&jobs).await;
    let job = ended(&jobs, &start(&jobs).await).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Succeeded, ""), "{job:#?}");
    assert_eq!((image(&agent).as_str(), agent.begun(), agent.proceeds()), ("app:2", 1, 1));
    let report = job.upgrade.clone().expect("a report");
    assert_eq!((report.snapshots_before.len(), report.snapshots_at_stop.len()), (1, 1), "{report:#?}");
    assert_eq!((report.state(), report.downtime_ms), (UpgradeState::Committed, 1234));
    assert_eq!((report.from_image.as_str(), report.to_image.as_str()), ("app:1", "app:2"));
    let taken: Vec<_> = agent
        .backups()
        .iter()
        .map(|backup| {
            let names: Vec<String> = backup.sources.iter().map(|source| source.name.clone()).collect();
            (names, backup.consistency(), backup.allow_empty)
        })
        .collect();
    let only = || vec!["db_data".to_owned()];
    assert_eq!(taken, [(only(), Consistency::Pause, false), (only(), Consistency::None, true)]);
    let kinds: Vec<_> = job.children.iter().map(|child| (child.kind(), child.state())).collect();
    assert_eq!(kinds, [(JobKind::Backup, JobState::Succeeded); 2]);
    let all = jobs.catalog().jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.expect("listed");
    assert_eq!(all.len(), 3);
    let child = all.iter().find(|record| record.role == "before").expect("the child");
    assert_eq!(Job::from(jobs.view(child.clone()).await.expect("shown")).parent_id, job.id);
    driver.stop().await;
}

#[tokio::test]
async fn a_container_without_data_needs_no_snapshots() {
    let (bench, agent) = bench().await;
    agent.container("db", &[], &[]);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let job = ended(&jobs, &start(&jobs).await).await;
    assert_eq!((job.state(), agent.backups().len(), agent.proceeds()), (JobState::Succeeded, 0, 1));
    driver.stop().await;
}

#[tokio::test]
async fn u02_a_partial_or_failed_snapshot_before_means_no_upgrade() {
    for end in [BackupEnd::Partial, BackupEnd::Failed] {
        let (bench, agent) = bench().await;
        agent.backup_ends(0, end);
        let jobs = bench.jobs();
        let driver = driver(&jobs).await;
        let job = ended(&jobs, &start(&jobs).await).await;
        assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "snapshot-before-failed"));
        assert!(job.error.starts_with("nothing was changed: the snapshot before"), "{}", job.error);
        assert_eq!((image(&agent).as_str(), agent.begun()), ("app:1", 0));
        driver.stop().await;
    }
}

#[tokio::test]
async fn an_upgrade_whose_repository_is_away_ends_with_the_code_for_that() {
    for (nth, begun) in [(0, 0), (1, 1)] {
        let (bench, agent) = bench().await;
        agent.backup_ends(nth, BackupEnd::StoreAway);
        let jobs = bench.jobs();
        let driver = driver(&jobs).await;
        let job = ended(&jobs, &start(&jobs).await).await;
        assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "store-unreachable"));
        assert!(job.error.contains("the snapshot"), "{}", job.error);
        assert_eq!((image(&agent).as_str(), agent.begun()), ("app:1", begun));
        driver.stop().await;
    }
}

#[tokio::test]
async fn without_a_good_snapshot_at_the_stop_the_upgrade_goes_back() {
    for end in [BackupEnd::Partial, BackupEnd::Failed] {
        let (bench, agent) = bench().await;
        agent.backup_ends(1, end);
        let jobs = bench.jobs();
        let driver = driver(&jobs).await;
        let job = ended(&jobs, &start(&jobs).await).await;
        assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "snapshot-at-stop-failed"));
        assert!(job.error.starts_with("rolled back: the snapshot at the stop"), "{}", job.error);
        assert!(job.upgrade.expect("a report").rolled_back);
        assert_eq!((image(&agent).as_str(), agent.begun(), agent.proceeds()), ("app:1", 1, 0));
        driver.stop().await;
    }
}

#[tokio::test]
async fn u03_a_new_container_that_is_not_well_is_a_failed_job_that_says_so() {
    let (bench, agent) = bench().await;
    agent.unwell("db");
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let job = ended(&jobs, &start(&jobs).await).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Failed, "rolled back: it did not become well"));
    driver.stop().await;
}

/// Brings an upgrade to a phase, stops the controller there, starts another
/// one, lets the agent go on.
async fn restarted(
    hold: impl Fn(&FakeAgent),
    there: impl Fn(&FakeAgent) -> bool,
    go_on: impl Fn(&FakeAgent),
) {
    let (bench, agent) = bench().await;
    hold(&agent);
    let first = bench.jobs();
    let first_driver = driver(&first).await;
    let id = start(&first).await;
    eventually("the phase", || there(&agent)).await;
    first_driver.stop().await;
    let second = bench.jobs();
    let second_driver = driver(&second).await;
    go_on(&agent);
    let job = ended(&second, &id).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Succeeded, ""), "{job:#?}");
    assert_eq!((image(&agent).as_str(), agent.begun(), agent.backups().len()), ("app:2", 1, 2));
    let report = job.upgrade.expect("a report");
    assert_eq!((report.snapshots_before.len(), report.snapshots_at_stop.len()), (1, 1), "{report:#?}");
    assert_eq!(job.children.len(), 2);
    second_driver.stop().await;
}

#[tokio::test]
async fn p02_a_restarted_controller_goes_on_with_the_snapshot_before() {
    let hold = |agent: &FakeAgent| agent.backup_ends(0, BackupEnd::FencingToken);
    restarted(hold, |agent| agent.backups().len() == 1, FakeAgent::release).await;
}

#[tokio::test]
async fn p02_a_restarted_controller_goes_on_with_the_snapshot_at_the_stop() {
    let hold = |agent: &FakeAgent| agent.backup_ends(1, BackupEnd::FencingToken);
    restarted(hold, |agent| agent.backups().len() == 2, FakeAgent::release).await;
}

#[tokio::test]
async fn p02_a_restarted_controller_attaches_in_every_state_of_the_upgrade() {
    for state in [
        UpgradeState::Preparing,
        UpgradeState::Stopping,
        UpgradeState::Stopped,
        UpgradeState::Switching,
        UpgradeState::Gating,
    ] {
        let hold = |agent: &FakeAgent| agent.hold_at(Some(state));
        let there = |agent: &FakeAgent| agent.upgrade_states() == [state];
        restarted(hold, there, |agent| agent.hold_at(None)).await;
    }
}

#[tokio::test]
async fn a_lost_stream_is_attached_again_and_nothing_is_begun_or_recorded_twice() {
    let (bench, agent) = bench().await;
    agent.cut_upgrades(2);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let job = ended(&jobs, &start(&jobs).await).await;
    assert_eq!((job.state(), job.attempt, agent.begun()), (JobState::Succeeded, 1, 1));
    assert_eq!(job.upgrade.expect("a report").steps.len(), 6);
    driver.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_its_agent_forgot_is_not_begun_again() {
    let (bench, agent) = bench().await;
    agent.hold_at(Some(UpgradeState::Gating));
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let id = start(&jobs).await;
    until_state(&agent, UpgradeState::Gating).await;
    agent.forget_upgrades();
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "upgrade-lost"));
    assert_eq!(agent.begun(), 1);
    driver.stop().await;
}

async fn cancel(jobs: &Jobs, id: &str) {
    jobs.cancel(id.parse().expect("an id"), "anna").await.expect("asked");
}

#[tokio::test]
async fn cancelled_before_the_stop_nothing_is_changed_and_the_child_ends_too() {
    let (bench, agent) = bench().await;
    agent.backup_ends(0, BackupEnd::FencingToken);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let id = start(&jobs).await;
    eventually("a backup", || agent.backups().len() == 1).await;
    cancel(&jobs, &id).await;
    let job = ended(&jobs, &id).await;
    assert_eq!((job.state(), agent.begun()), (JobState::Cancelled, 0));
    assert_eq!(job.children[0].state(), JobState::Cancelled);
    driver.stop().await;
}

#[tokio::test]
async fn cancelled_at_the_stop_or_later_it_goes_back_and_its_outcome_is_awaited() {
    for state in [UpgradeState::Preparing, UpgradeState::Stopped, UpgradeState::Gating] {
        let (bench, agent) = bench().await;
        agent.hold_at(Some(state));
        if state == UpgradeState::Stopped {
            agent.backup_ends(1, BackupEnd::FencingToken);
        }
        let jobs = bench.jobs();
        let driver = driver(&jobs).await;
        let id = start(&jobs).await;
        until_state(&agent, state).await;
        cancel(&jobs, &id).await;
        let job = ended(&jobs, &id).await;
        assert_eq!(
            (job.state(), job.error.as_str()),
            (JobState::Cancelled, "rolled back: cancelled on request")
        );
        assert_eq!((image(&agent).as_str(), agent.begun()), ("app:1", 1));
        driver.stop().await;
    }
}

#[tokio::test]
async fn a_wish_to_cancel_survives_the_controller_and_reaches_the_agent() {
    let (bench, agent) = bench().await;
    agent.hold_at(Some(UpgradeState::Gating));
    let first = bench.jobs();
    let first_driver = driver(&first).await;
    let id = start(&first).await;
    until_state(&agent, UpgradeState::Gating).await;
    first_driver.stop().await;
    let second = bench.jobs();
    cancel(&second, &id).await;
    let second_driver = driver(&second).await;
    let job = ended(&second, &id).await;
    assert_eq!((job.state(), job.error.as_str()), (JobState::Cancelled, "rolled back: cancelled on request"));
    assert_eq!((image(&agent).as_str(), agent.upgrade_states()), ("app:1", vec![UpgradeState::RolledBack]));
    second_driver.stop().await;
}

#[tokio::test]
async fn a_stop_that_was_over_before_it_was_heard_of_is_not_snapshotted() {
    let (bench, agent) = bench().await;
    agent.hold_at(Some(UpgradeState::Stopping));
    let first = bench.jobs();
    let first_driver = driver(&first).await;
    let id = start(&first).await;
    until_state(&agent, UpgradeState::Stopping).await;
    first_driver.stop().await;
    // The agent stops, waits in vain and goes back, all unheard.
    agent.hold_at(None);
    until_state(&agent, UpgradeState::Stopped).await;
    agent.give_up(&id);
    until_state(&agent, UpgradeState::RolledBack).await;
    let second = bench.jobs();
    let second_driver = driver(&second).await;
    let job = ended(&second, &id).await;
    assert_eq!((job.state(), job.children.len()), (JobState::Failed, 1), "{job:#?}");
    assert!(job.error.starts_with("rolled back: "), "{}", job.error);
    assert_eq!((agent.begun(), agent.backups().len(), agent.proceeds()), (1, 1, 0));
    second_driver.stop().await;
}

async fn plan(jobs: &Jobs) -> String {
    let request = PlanFleetUpgradeRequest { host: "web-1".into(), upgrade: Some(to_two("db")) };
    let answer = UpgradeApi::new(jobs.clone()).plan_upgrade(Request::new(request)).await.expect("planned");
    let answer = answer.into_inner();
    assert!(answer.valid_until_unix_ms > now_ms());
    answer.plan_id
}

async fn run_plan(jobs: &Jobs, plan_id: &str) -> Result<Job, Status> {
    let request = StartUpgradeRequest { plan_id: plan_id.into(), ..StartUpgradeRequest::default() };
    let answer = UpgradeApi::new(jobs.clone()).start_upgrade(Request::new(request)).await?.into_inner();
    Ok(answer.job.expect("a job"))
}

#[tokio::test]
async fn exactly_the_plan_that_was_shown_is_run_or_nothing() {
    let (bench, agent) = bench().await;
    let jobs = bench.jobs();
    let shown = plan(&jobs).await;
    agent.change_world();
    let refused = run_plan(&jobs, &shown).await.expect_err("the world has changed");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("the world has changed since the plan"), "{}", refused.message());
    // It may change between the start of the job and its turn as well.
    let job = run_plan(&jobs, &plan(&jobs).await).await.expect("starts");
    agent.change_world();
    let driver = driver(&jobs).await;
    let job = ended(&jobs, &job.id).await;
    assert_eq!((job.state(), job.error_code.as_str()), (JobState::Failed, "plan-changed"));
    assert_eq!((agent.begun(), agent.backups().len()), (0, 0));
    let job = run_plan(&jobs, &plan(&jobs).await).await.expect("starts");
    assert_eq!(ended(&jobs, &job.id).await.state(), JobState::Succeeded);
    // What is kept for a job is no plan for another.
    assert_eq!(run_plan(&jobs, &job.id).await.expect_err("unknown").code(), Code::NotFound);
    driver.stop().await;
}

#[tokio::test]
async fn a_plan_is_good_for_a_day() {
    let (bench, _agent) = bench().await;
    let jobs = bench.jobs();
    let fresh = plan(&jobs).await;
    let record = jobs.catalog().upgrade_plan(&fresh).await.expect("asked").expect("kept");
    let old = PlanRecord { id: "old".into(), created_ms: record.created_ms - 25 * 3_600_000, ..record };
    jobs.catalog().put_upgrade_plan(&old).await.expect("kept");
    let refused = run_plan(&jobs, "old").await.expect_err("too old");
    assert!(refused.message().contains("more than 24 hours old"), "{}", refused.message());
    assert!(run_plan(&jobs, &fresh).await.is_ok());
}

#[tokio::test]
async fn what_can_be_refused_is_refused_before_there_is_a_job() {
    let (bench, agent) = bench().await;
    let jobs = bench.jobs();
    let refused = try_start(&jobs, "dv").await.expect_err("unknown");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("did you mean `db`?"), "{}", refused.message());
    agent.refuse("db", "it is a swarm task");
    let refused = try_start(&jobs, "db").await.expect_err("refused");
    assert_eq!(refused.message(), "container `db` cannot be upgraded: it is a swarm task");
    let api = UpgradeApi::new(jobs.clone());
    for (request, code) in [
        (
            StartUpgradeRequest { host: "web-2".into(), upgrade: Some(to_two("db")), ..Default::default() },
            Code::NotFound,
        ),
        (StartUpgradeRequest { host: "web-1".into(), ..Default::default() }, Code::InvalidArgument),
        (
            StartUpgradeRequest { plan_id: "x".into(), host: "web-1".into(), ..Default::default() },
            Code::InvalidArgument,
        ),
        (StartUpgradeRequest { plan_id: "x".into(), ..Default::default() }, Code::NotFound),
    ] {
        assert_eq!(api.start_upgrade(Request::new(request)).await.expect_err("refused").code(), code);
    }
    let all = jobs.catalog().jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.expect("listed");
    assert!(all.is_empty());
}
