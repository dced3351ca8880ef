//! Claims queued jobs whose host is here, and gives up on those whose host
//! never comes.

use std::sync::Arc;

use holdfast_proto::ErrorCode;

use super::driver::{LoopError, Pass};
use crate::catalog::CatalogError;
use crate::catalog::jobs::JobRecord;
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::jobs::Jobs;
use crate::model::job::state::State;
use crate::operations::runner::Runner;

/// Jobs looked at in one pass.
const PAGE: u32 = 1000;

/// Takes over what another controller left running. There is one controller
/// on a catalogue at a time, so whoever drove these is gone.
///
/// # Errors
/// The catalogue fails; what is not taken over yet is left for the next start.
pub async fn take_over(jobs: &Jobs, runner: &Runner) -> Result<(), CatalogError> {
    for record in jobs.catalog().orphaned_jobs(jobs.owner()).await? {
        // By compare-and-set from the owner that was read.
        if jobs.catalog().take_over_job(record.id, record.owner.as_deref(), jobs.owner()).await? {
            tracing::info!(job.id = %record.id, "taking over a running job");
            jobs.log_event(record.id, "a restarted controller takes the job over").await?;
            runner.start(record, true);
        }
    }
    Ok(())
}

/// One pass: jobs whose host is here are claimed, those of hosts that never
/// came ended.
///
/// # Errors
/// The catalogue fails.
pub async fn pass(jobs: Jobs, runner: Arc<Runner>) -> Result<Pass, LoopError> {
    let now = now_ms();
    let queued = jobs.catalog().claimable_jobs(now, PAGE).await?;
    let (mut started, waiting) = (0, queued.len());
    for record in queued {
        if expired(&jobs, &record, now).await? {
            continue;
        }
        // It stays queued, and the coming of its host rings this loop's bell.
        if record.host.is_some_and(|host| !jobs.fleet().is_connected(host)) {
            continue;
        }
        // A child is never held back: its parent has the place it needs, and
        // waits for it.
        if record.parent.is_none() && jobs.catalog().running_count().await? >= jobs.settings().running_most {
            break;
        }
        started += usize::from(claim(&jobs, &runner, record, now).await?);
    }
    Ok(Pass::done(format!("{started} jobs started, {} waiting", waiting - started)))
}

async fn claim(jobs: &Jobs, runner: &Runner, record: JobRecord, now: i64) -> Result<bool, LoopError> {
    // By compare-and-set: what else has to end first is asked in the same statement.
    if jobs.catalog().claim_job(record.id, jobs.owner(), now).await?.is_none() {
        return Ok(false);
    }
    failpoint("controller.dispatch.after-claim");
    // Read again: the claim has raised its generation. A request to cancel that comes after
    // this is found by the driver, which looks once more when its token is registered.
    let Some(record) = jobs.catalog().job(record.id).await? else { return Ok(false) };
    tracing::info!(job.id = %record.id, job.policy = record.policy, "the job starts");
    jobs.log_event(record.id, "started").await?;
    runner.start(record, false);
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
