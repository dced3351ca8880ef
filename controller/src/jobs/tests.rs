//! Jobs against an agent over real gRPC, the loops running.

use std::time::Duration;

use futures_util::StreamExt as _;
use holdfast_proto::v1::job_service_server::JobService as _;
use holdfast_proto::v1::{self, JobServiceCancelJobRequest, StartBackupRequest, TornPolicy, WatchJobRequest};
use tonic::{Code, Request};

use super::testing::{Bench, FakeAgent, WAIT_LIMIT, driver};
use super::*;
use crate::api::jobs::JobApi;
use crate::catalog::Catalog;
use crate::catalog::jobs::JobFilter;
use crate::loops::scheduler;
use crate::model::job::source::JobSource;
use crate::policy;

/// Waits until the only job is as wanted.
async fn until(jobs: &Jobs, wanted: impl Fn(&JobRecord) -> bool) -> JobRecord {
    let mut last = None;
    let found = tokio::time::timeout(WAIT_LIMIT, async {
        loop {
            let all =
                jobs.catalog().jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.expect("lists");
            if let [job] = all.as_slice()
                && wanted(job)
            {
                return job.clone();
            }
            last = Some(all);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    match found.await {
        Ok(job) => job,
        Err(_) => panic!("not in time: {last:#?}"),
    }
}

async fn until_started(agent: &FakeAgent, count: usize) {
    let calls = async {
        while agent.calls().len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, calls).await.expect("the agent is called");
}

async fn start(jobs: &Jobs) -> v1::Job {
    let request = StartBackupRequest {
        host: "web-1".into(),
        volumes: vec!["db_*".into()],
        ..StartBackupRequest::default()
    };
    let answer = JobApi::new(jobs.clone()).start_backup(Request::new(request)).await.expect("starts");
    answer.into_inner().jobs.remove(0)
}

#[tokio::test]
async fn p08_a_fire_finds_the_hosts_volumes_and_a_restart_does_not_fire_again() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data", "cache_web"]).await;
    agent.finish();
    let text = "name = 'p'\nvolumes = { include = ['*'], exclude = ['cache_*'] }\ntorn = 'fail'\n\
                [schedule]\ncron = '0 2 * * *'\n";
    let mut policy = policy::parse(text).expect("right");
    bench.catalog.put_policies(&[(policy.clone(), true)], 0).await.expect("applied");
    // 1970-01-02 02:00:00, after the fire of the day before.
    let now = 26 * 3_600_000;
    let jobs = bench.jobs();
    assert_eq!(scheduler::fire_due(&jobs, now).await.expect("fires"), 1);
    assert_eq!(scheduler::fire_due(&bench.jobs(), now).await.expect("fires"), 0);
    // The loop below goes by the real clock.
    policy.enabled = false;
    bench.catalog.put_policies(&[(policy, false)], 1).await.expect("applied");
    let driver = driver(&jobs).await;
    let job = until(&jobs, |job| job.state == State::Succeeded).await;
    assert_eq!((job.fire_ms, job.attempt), (Some(now), 1));
    assert_eq!(bench.catalog.missed_count("p", 0).await.expect("counts"), 1);
    let request = agent.requests().remove(0);
    let names: Vec<&str> = request.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!((names, request.torn()), (vec!["db_data"], TornPolicy::Fail));
    driver.stop().await;
}

/// One pass under a clock 30 days ahead, which is then set right.
#[tokio::test]
async fn h07_a_clock_that_was_ahead_silences_no_night() {
    const DAY: i64 = 24 * 3_600_000;
    let bench = Bench::new().await;
    let _agent = bench.agent(&["db_data"]).await;
    let text = "name = 'p'\nvolumes = ['*']\n[schedule]\ncron = '0 2 * * *'\ncatch_up = true\n";
    let policy = policy::parse(text).expect("right");
    bench.catalog.put_policies(&[(policy, true)], 0).await.expect("applied");
    let (jobs, catalog) = (bench.jobs(), &bench.catalog);
    let fires_at = |now: i64| scheduler::fire_due(&jobs, now);
    // 1970-01-10 02:00:00; the first night is due.
    let now = 9 * DAY + 2 * 3_600_000;
    assert_eq!(fires_at(now).await.expect("fires"), 1);
    end_all(catalog).await;

    assert_eq!(fires_at(now + 30 * DAY + 60_000).await.expect("fires"), 1);
    // Set right: what the wrong clock queued does not wait for its time.
    let queued = catalog.claimable_jobs(now + 60_000, 10, 0).await.expect("read");
    assert_eq!(queued.len(), 1, "{queued:?}");
    end_all(catalog).await;
    for night in 1..=31 {
        let fire = now + night * DAY;
        assert_eq!(fires_at(fire).await.expect("fires"), 1, "night {night}");
        assert_eq!(fires_at(fire + 60_000).await.expect("fires"), 0, "night {night} again");
        let queued = catalog.claimable_jobs(fire + 60_000, 10, 0).await.expect("read");
        let fired: Vec<Option<i64>> = queued.iter().map(|job| job.fire_ms).collect();
        assert_eq!(fired, [Some(fire)], "night {night}");
        end_all(catalog).await;
    }
}

async fn end_all(catalog: &Catalog) {
    let end = "update jobs set state = 'succeeded' where state = 'queued'";
    sqlx::query(end).execute(catalog.pool()).await.expect("ended");
}

#[tokio::test]
async fn an_end_the_catalogue_did_not_take_is_written_once_it_does() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let full = "create trigger full before update of state on jobs when new.state = 'succeeded'
                begin select raise(abort, 'database or disk is full'); end";
    sqlx::query(full).execute(bench.catalog.pool()).await.expect("made");
    let id = start(&jobs).await.id.parse().expect("an id");
    agent.finish();
    let heard = async {
        let finished = |source: &JobSource| source.finished.is_some();
        while !bench.catalog.job_sources(id).await.expect("read").iter().all(finished) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, heard).await.expect("the agent's end is heard");
    tokio::time::sleep(Duration::from_millis(300)).await;
    until(&jobs, |job| job.state == State::Running).await;
    sqlx::query("drop trigger full").execute(bench.catalog.pool()).await.expect("dropped");
    until(&jobs, |job| job.state == State::Succeeded).await;
    driver.stop().await;
}

#[tokio::test]
async fn a_lost_stream_is_attached_again_under_the_same_generation() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    agent.cut_streams(2);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    start(&jobs).await;
    until_started(&agent, 3).await;
    agent.finish();
    let job = until(&jobs, |job| job.state.ended()).await;
    assert_eq!((job.state, job.attempt), (State::Succeeded, 1));
    assert_eq!((agent.calls(), agent.started()), (vec![1, 1, 1], 1));
    driver.stop().await;
}

#[tokio::test]
async fn p01_an_agent_that_was_killed_runs_the_job_anew_under_a_higher_generation() {
    let bench = Bench::new().await;
    let first = bench.agent(&["db_data"]).await;
    first.kill(1);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    start(&jobs).await;
    let job = until(&jobs, |job| job.attempt > 1 || job.state.ended()).await;
    assert_eq!(job.state, State::Running);
    first.finish();
    let job = until(&jobs, |job| job.state.ended()).await;
    assert_eq!((job.state, job.attempt, job.generation), (State::Succeeded, 2, 2));
    driver.stop().await;
}

#[tokio::test]
async fn attempts_are_bounded() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    agent.kill(u32::MAX);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    start(&jobs).await;
    let job = until(&jobs, |job| job.state.ended()).await;
    assert_eq!((job.state, job.error_code.as_str(), job.attempt), (State::Failed, "attempts", 3));
    driver.stop().await;
}

#[tokio::test]
async fn p02_a_restarted_controller_takes_the_job_over_and_it_runs_once() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    let before = bench.jobs();
    let driver_before = driver(&before).await;
    start(&before).await;
    until_started(&agent, 1).await;
    driver_before.stop().await;
    let after = bench.jobs();
    assert_eq!(until(&after, |_| true).await.state, State::Running);
    let driver_after = driver(&after).await;
    until_started(&agent, 2).await;
    agent.finish();
    let job = until(&after, |job| job.state.ended()).await;
    assert_eq!((job.state, job.attempt, job.generation), (State::Succeeded, 1, 2));
    assert_eq!((agent.calls(), agent.started()), (vec![1, 2], 1));
    driver_after.stop().await;
}

#[tokio::test]
async fn a_job_waits_for_its_host_and_a_watcher_sees_it_through() {
    let bench = Bench::new().await;
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    bench.catalog.directory_source(bench.host, "/srv", 1).await.expect("known");
    let request = StartBackupRequest {
        host: "web-1".into(),
        directories: vec!["/srv".into()],
        ..StartBackupRequest::default()
    };
    let api = JobApi::new(jobs.clone());
    let answer = api.start_backup(Request::new(request)).await.expect("starts").into_inner();
    assert!(answer.warnings[0].contains("not connected"), "{:?}", answer.warnings);
    let id = answer.jobs[0].id.clone();
    let watched = api.watch_job(Request::new(WatchJobRequest { id, after: 0 })).await.expect("watches");
    let watching =
        tokio::spawn(watched.into_inner().map(|event| event.expect("an event")).collect::<Vec<_>>());
    let agent = bench.agent(&[]).await;
    agent.finish();
    let events = tokio::time::timeout(WAIT_LIMIT, watching).await.expect("ends").expect("no panic");
    let sequences: Vec<u64> = events.iter().filter(|e| !e.message.is_empty()).map(|e| e.sequence).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>(), "{events:#?}");
    let last = events.last().and_then(|event| event.job.clone()).expect("a job");
    assert_eq!(last.state(), v1::JobState::Succeeded);
    assert!(last.sources[0].finished.as_ref().is_some_and(|finished| finished.ok));
    assert!(events.iter().any(|event| event.message == "succeeded"));
    driver.stop().await;
}

/// It once read the catalogue and told the watcher of it as fast as both could.
#[tokio::test]
async fn a_watcher_of_a_job_without_news_is_left_alone() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let started = start(&jobs).await;
    until_started(&agent, 1).await;
    let api = JobApi::new(jobs.clone());
    let request = WatchJobRequest { id: started.id.clone(), after: 0 };
    let mut watched = api.watch_job(Request::new(request)).await.expect("watches").into_inner();
    tokio::time::timeout(WAIT_LIMIT, watched.next())
        .await
        .expect("in time")
        .expect("something")
        .expect("an event");
    let second = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
    let heard = watched.take_until(second).count().await;
    assert!(heard < 20, "{heard} events in a second");
    agent.finish();
    driver.stop().await;
}

#[tokio::test]
async fn cancelling_reaches_the_agent_and_a_waiting_job_never_runs() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    let started = start(&jobs).await;
    until_started(&agent, 1).await;
    let second = start(&jobs).await;
    let api = JobApi::new(jobs.clone());
    let cancel =
        async |id: &str| api.cancel_job(Request::new(JobServiceCancelJobRequest { id: id.to_owned() })).await;
    let waiting = cancel(&second.id).await.expect("cancels").into_inner().job.expect("a job");
    assert_eq!(waiting.state(), v1::JobState::Cancelled);
    cancel(&started.id).await.expect("asks");
    let id: JobId = started.id.parse().expect("an id");
    let ended = async {
        loop {
            let job = jobs.catalog().job(id).await.expect("asked").expect("there");
            if job.state.ended() {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let job = tokio::time::timeout(WAIT_LIMIT, ended).await.expect("ends");
    assert_eq!((job.state, job.error_code.as_str()), (State::Cancelled, "cancelled"));
    assert_eq!(cancel(&started.id).await.expect_err("ended").code(), Code::FailedPrecondition);
    assert_eq!(cancel("nonsense").await.expect_err("no id").code(), Code::InvalidArgument);
    let unknown = JobId::generate().to_string();
    assert_eq!(cancel(&unknown).await.expect_err("unknown").code(), Code::NotFound);
    driver.stop().await;
}

#[tokio::test]
async fn o02_an_unknown_volume_is_refused_with_the_nearest_name() {
    let bench = Bench::new().await;
    let _agent = bench.agent(&["db_data"]).await;
    let jobs = bench.jobs();
    let api = JobApi::new(jobs.clone());
    let request = StartBackupRequest {
        host: "web-1".into(),
        volumes: vec!["db_dta".into()],
        ..StartBackupRequest::default()
    };
    let refused = api.start_backup(Request::new(request)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("did you mean `db_data`?"), "{}", refused.message());
    let request =
        StartBackupRequest { host: "web-2".into(), volumes: vec!["*".into()], ..Default::default() };
    let refused = api.start_backup(Request::new(request)).await.expect_err("refused");
    assert!(refused.message().contains("did you mean `web-1`?"), "{}", refused.message());
    let all = jobs.catalog().jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.expect("lists");
    assert!(all.is_empty());
}

/// As a commit leaves it whose answer was lost.
async fn commit_behind_its_back(bench: &Bench, job: &JobRecord, partial: bool) -> String {
    let source = bench.catalog.job_sources(job.id).await.expect("asked").remove(0);
    sqlx::query(
        "insert into snapshots (commit_number, host_id, source_id, number, state, job_id, created_ms, root,
             host_name, source_kind, source_name, partial)
         values (7, $1, $2, 1, 'committed', $3, 1, $4, 'web-1', 'volume', 'db_data', $5)",
    )
    .bind(bench.host.to_string())
    .bind(&source.source_id)
    .bind(job.id.to_string())
    .bind(vec![1_u8; 32])
    .bind(partial)
    .execute(bench.catalog.pool())
    .await
    .expect("a row");
    format!("{}/{}/1", bench.host, source.source_id)
}

#[tokio::test]
async fn a_job_whose_snapshot_was_committed_unheard_ends_as_the_catalogue_says() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    agent.backup_ends(0, super::testing::BackupEnd::Failed);
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    start(&jobs).await;
    until_started(&agent, 1).await;
    let running = until(&jobs, |job| job.state == State::Running).await;
    let snapshot = commit_behind_its_back(&bench, &running, false).await;
    agent.finish();
    let job = until(&jobs, |job| job.state.ended()).await;
    assert_eq!((job.state, job.error.as_str()), (State::Succeeded, ""), "{job:?}");
    let source = bench.catalog.job_sources(job.id).await.expect("asked").remove(0);
    let finished = source.finished.expect("it has ended");
    assert!(finished.ok && finished.snapshot_id == snapshot, "{finished:?}");
    driver.stop().await;
}

/// The agent tells what it has read itself; what is there is the snapshot of an
/// attempt before.
#[tokio::test]
async fn h11_a_snapshot_is_partial_where_the_catalogue_says_so_whatever_the_agent_tells() {
    let bench = Bench::new().await;
    let agent = bench.agent(&["db_data"]).await;
    let jobs = bench.jobs();
    let driver = driver(&jobs).await;
    start(&jobs).await;
    until_started(&agent, 1).await;
    let running = until(&jobs, |job| job.state == State::Running).await;
    agent.ends_with(commit_behind_its_back(&bench, &running, true).await);
    agent.finish();
    let job = until(&jobs, |job| job.state.ended()).await;
    assert_eq!(job.state, State::Partial, "{job:?}");
    let source = bench.catalog.job_sources(job.id).await.expect("asked").remove(0);
    let finished = source.finished.expect("it has ended");
    assert!(finished.ok && finished.partial, "{finished:?}");
    driver.stop().await;
}

#[tokio::test]
async fn a_backup_that_matches_nothing_is_refused_and_says_what_there_is() {
    let bench = Bench::new().await;
    let _agent = bench.agent(&["db_data", "cache"]).await;
    let jobs = bench.jobs();
    let asked = async |request| {
        JobApi::new(jobs.clone()).start_backup(Request::new(request)).await.expect_err("refused")
    };
    let by_hand = |volumes: &[&str], directories: &[&str]| StartBackupRequest {
        host: "web-1".into(),
        volumes: volumes.iter().map(|&volume| volume.to_owned()).collect(),
        directories: directories.iter().map(|&directory| directory.to_owned()).collect(),
        ..StartBackupRequest::default()
    };
    // One glob of several, and one beside a directory, as well.
    for request in
        [by_hand(&["web_*"], &[]), by_hand(&["db_*", "web_*"], &[]), by_hand(&["web_*"], &["/srv"])]
    {
        let refused = asked(request).await;
        let said = refused.message();
        assert!(said.contains("`web_*`") && said.contains("cache, db_data"), "{said}");
    }
    let policy = policy::parse("name = 'p'\nvolumes = ['web_*']\n").expect("right");
    bench.catalog.put_policies(&[(policy, true)], 0).await.expect("applied");
    let refused = asked(StartBackupRequest { policy: "p".into(), ..StartBackupRequest::default() }).await;
    let said = refused.message();
    assert!(said.contains("policy `p`") && said.contains("db_data"), "{said}");
    assert!(
        bench.catalog.jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.expect("lists").is_empty()
    );
}
