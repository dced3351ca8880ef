//! Claims queued jobs whose host is here, and gives up on those whose host
//! never comes.

use std::sync::Arc;

use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;

use super::driver::{LoopError, Pass};
use crate::catalog::CatalogError;
use crate::catalog::jobs::JobRecord;
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::jobs::Jobs;
use crate::model::job::state::State;
use crate::operations::runner::Runner;

/// Jobs read at once.
const PAGE: u32 = 1000;

/// Drives the running jobs that nobody drives; gives why some still are not, empty if none.
/// There is one controller on a catalogue at a time, so whoever drove them is gone: a
/// former controller, or a claim or driver of this one that the catalogue cut off.
///
/// # Errors
/// The catalogue does not say which jobs run.
pub(crate) async fn take_over(jobs: &Jobs, runner: &Runner) -> Result<String, CatalogError> {
    let mut failures = Vec::new();
    for (id, owner) in jobs.catalog().running_jobs().await? {
        // Before the row is looked at again: a driver drops its guard after the end is
        // on record, so a row that still runs then has none.
        let Some(guard) = jobs.begin_driving(id) else { continue };
        match drive_on(jobs, id, owner.as_deref()).await {
            Ok(Some(record)) => runner.start(guard, record, true),
            Ok(None) => {}
            // It is in nobody's way but its own host's: the others are taken over.
            Err(error) => failures.push(format!("job {id} is not taken over: {}", causes(&error))),
        }
    }
    Ok(failures.join("; "))
}

async fn drive_on(
    jobs: &Jobs,
    id: JobId,
    seen_owner: Option<&str>,
) -> Result<Option<JobRecord>, CatalogError> {
    let line = match seen_owner == Some(jobs.owner()) {
        true => "the controller goes on with the job, which it had lost hold of",
        false => "a restarted controller takes the job over",
    };
    // By compare-and-set from the owner that was read.
    let taken = jobs.catalog().take_over_job(id, seen_owner, jobs.owner(), line, now_ms()).await?;
    if taken.is_some() {
        tracing::info!(job.id = %id, "taking over a running job");
        jobs.progress().notify(id);
    }
    Ok(taken)
}

/// One pass: jobs that run without a driver get one, those whose host is here are claimed,
/// those of hosts that never came ended.
///
/// # Errors
/// The catalogue fails.
pub(crate) async fn pass(jobs: Jobs, runner: Arc<Runner>) -> Result<Pass, LoopError> {
    let undone = take_over(&jobs, &runner).await?;
    let now = now_ms();
    let (mut started, mut waiting) = (0, 0);
    loop {
        // Those that go on waiting are passed over: a page full of jobs whose hosts are away
        // must not hide one whose host is here.
        let queued = jobs.catalog().claimable_jobs(now, PAGE, waiting).await?;
        let mut more = queued.len() >= PAGE as usize;
        for record in queued {
            match dispatch(&jobs, &runner, &record, now).await? {
                Dispatched::Started => started += 1,
                Dispatched::Waits => waiting += 1,
                Dispatched::GivenUp => {}
                Dispatched::NoPlace => {
                    (waiting, more) = (waiting + 1, false);
                    break;
                }
            }
        }
        if !more {
            break;
        }
    }
    Ok(Pass { undone, ..Pass::done(format!("{started} jobs started, {waiting} waiting")) })
}

/// What became of a queued job in a pass.
enum Dispatched {
    Started,
    Waits,
    /// Its host has not come for too long.
    GivenUp,
    /// As many run as may: those behind it wait as well.
    NoPlace,
}

async fn dispatch(
    jobs: &Jobs,
    runner: &Runner,
    record: &JobRecord,
    now: i64,
) -> Result<Dispatched, LoopError> {
    if expired(jobs, record, now).await? {
        return Ok(Dispatched::GivenUp);
    }
    // It stays queued, and the coming of its host starts the next pass at once.
    if record.host.is_some_and(|host| !jobs.fleet().is_connected(host)) {
        return Ok(Dispatched::Waits);
    }
    // A child is never held back: its parent has the place it needs, and
    // waits for it.
    if record.parent.is_none() && jobs.catalog().running_count().await? >= jobs.settings().running_most {
        return Ok(Dispatched::NoPlace);
    }
    Ok(if claim(jobs, runner, record.id, now).await? { Dispatched::Started } else { Dispatched::Waits })
}

async fn claim(jobs: &Jobs, runner: &Runner, id: JobId, now: i64) -> Result<bool, LoopError> {
    let Some(guard) = jobs.begin_driving(id) else { return Ok(false) };
    // By compare-and-set: what else has to end first is asked in the same statement. Where
    // the answer is lost the row may run all the same; the next pass finds it without a driver.
    let Some(record) = jobs.catalog().claim_job(id, jobs.owner(), now).await? else { return Ok(false) };
    failpoint("controller.dispatch.after-claim");
    tracing::info!(job.id = %id, job.policy = record.policy, "the job starts");
    jobs.progress().notify(id);
    runner.start(guard, record, false);
    Ok(true)
}

/// Ends a job whose host has not come for too long.
async fn expired(jobs: &Jobs, record: &JobRecord, now: i64) -> Result<bool, LoopError> {
    let Some(host) = record.host else { return Ok(false) };
    let most = i64::try_from(jobs.settings().host_never.as_millis()).unwrap_or(i64::MAX);
    // By the later of both: a clock set forward must not expire what was just made.
    let since = record.not_before_ms.max(record.created_ms);
    if now.saturating_sub(since) < most || jobs.fleet().is_connected(host) {
        return Ok(false);
    }
    let name = jobs.host_name(host).await?;
    let error = format!("host `{name}` did not connect within {} hours", most / 3_600_000);
    if jobs
        .catalog()
        // Only while it is queued: a cancel may have come since the row was read.
        .end_queued_job(record.id, State::Failed, ErrorCode::HostUnreachable.as_str(), &error, now)
        .await?
    {
        tracing::warn!(job.id = %record.id, error, "a queued job was given up");
        jobs.progress().remove(record.id);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::testing::{Bench, WAIT_LIMIT};
    use crate::operations::start::prune::{PruneStart, prune};

    /// Of a kind that needs no host; there is no repository, so it ends at once.
    async fn prune_job(jobs: &Jobs) -> JobId {
        match prune(jobs, false, "op").await.expect("starts") {
            PruneStart::Started(job) => job.record.id,
            PruneStart::Planned(_) => panic!("only planned"),
        }
    }

    async fn until_ended(jobs: &Jobs, id: JobId) {
        let ended = tokio::time::timeout(WAIT_LIMIT, jobs.ended(id)).await;
        assert!(ended.expect("in time").expect("there").state.ended());
    }

    #[tokio::test]
    async fn a_job_that_was_claimed_and_not_started_is_started_by_the_next_pass() {
        let bench = Bench::new().await;
        let jobs = bench.jobs();
        let runner = Arc::new(Runner::new(jobs.clone()));
        let id = prune_job(&jobs).await;
        // As a catalogue leaves it that commits the claim and fails before it says so.
        jobs.catalog().claim_job(id, jobs.owner(), now_ms()).await.expect("asked").expect("claimed");
        let next = prune_job(&jobs).await;
        assert_eq!(pass(jobs.clone(), runner.clone()).await.expect("a pass").undone, "");
        until_ended(&jobs, id).await;
        // One at a time: the next could not start beside it.
        pass(jobs.clone(), runner.clone()).await.expect("a pass");
        until_ended(&jobs, next).await;
        runner.stop().await;
    }

    #[tokio::test]
    async fn a_job_that_is_driven_is_not_started_beside_its_driver() {
        let bench = Bench::new().await;
        let jobs = bench.jobs();
        let runner = Arc::new(Runner::new(jobs.clone()));
        let id = prune_job(&jobs).await;
        let guard = jobs.begin_driving(id).expect("nobody drives it");
        jobs.catalog().claim_job(id, jobs.owner(), now_ms()).await.expect("asked").expect("claimed");
        pass(jobs.clone(), runner.clone()).await.expect("a pass");
        let lines = jobs.catalog().job_events(id, 0).await.expect("read");
        assert_eq!(lines.last().map(|line| line.message.as_str()), Some("started"));
        drop(guard);
        pass(jobs.clone(), runner.clone()).await.expect("a pass");
        until_ended(&jobs, id).await;
        runner.stop().await;
    }

    #[tokio::test]
    async fn many_jobs_of_a_host_that_is_away_keep_no_other_from_starting() {
        let bench = Bench::new().await;
        let jobs = bench.jobs();
        let copies: Vec<String> = (0..=PAGE).map(|_| format!("('{}')", JobId::generate())).collect();
        let away = format!(
            "insert into jobs (id, kind, host_id, state, actor, parameters, created_ms)
             select column1, 'prune', '{}', 'queued', 'op', '{{\"kind\":\"prune\"}}', {} from (values {})",
            bench.host,
            now_ms() - 1000,
            copies.join(",")
        );
        sqlx::query(sqlx::AssertSqlSafe(away)).execute(bench.catalog.pool()).await.expect("rows");
        let id = prune_job(&jobs).await;
        let runner = Arc::new(Runner::new(jobs.clone()));
        let done = pass(jobs.clone(), runner.clone()).await.expect("a pass");
        assert_eq!(done.summary, format!("1 jobs started, {} waiting", PAGE + 1));
        until_ended(&jobs, id).await;
        runner.stop().await;
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_keeps_no_other_from_being_taken_over() {
        let bench = Bench::new().await;
        let former = bench.jobs();
        let (unreadable, sound) = (prune_job(&former).await, prune_job(&former).await);
        let change = format!(
            "update jobs set state = 'running', owner = 'former', generation = 1, started_ms = 1,
                 parameters = case id when '{unreadable}' then '?' else parameters end"
        );
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(bench.catalog.pool()).await.expect("changed");
        let jobs = bench.jobs();
        let runner = Runner::new(jobs.clone());
        let failures = take_over(&jobs, &runner).await.expect("a look");
        assert!(failures.contains(&unreadable.to_string()), "{failures}");
        until_ended(&jobs, sound).await;
        runner.stop().await;
    }
}
