//! Turns fire times that have come into runs and jobs.
//!
//! Knows nothing but the catalogue and the wall clock, so it may die at any
//! point: a fire is either recorded with all its jobs or will be found due
//! again. Which sources a job has is not asked here; hosts may be away.

use chrono::{DateTime, Utc};
use holdfast_archive::ids::HostId;
use holdfast_proto::ids::JobId;

use super::driver::{LoopError, Pass};
use crate::catalog::CatalogError;
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::NewJob;
use crate::catalog::policies::PolicyRecord;
use crate::catalog::runs::{MadeJob, RunJob};
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::jobs::Jobs;
use crate::model::job::parameters::{BackupParameters, Parameters};
use crate::policy::{Policy, Timing};
use crate::schedule::due::{Due, Timed, due};
use crate::schedule::jitter::jitter;

/// Who a scheduled job says it was started by.
pub(crate) const ACTOR: &str = "schedule";

/// One pass, as of now.
///
/// # Errors
/// The catalogue fails.
pub(crate) async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    let fired = fire_due(&jobs, now_ms()).await?;
    if fired > 0 {
        jobs.nudges().dispatcher.notify_one();
    }
    Ok(Pass::done(format!("{fired} policies fired")))
}

/// Fires what is due at `now_ms`; gives the number of policies that did.
///
/// # Errors
/// The catalogue fails; policies that fired before that have their runs.
pub(crate) async fn fire_due(jobs: &Jobs, now_ms: i64) -> Result<usize, CatalogError> {
    let catalog = jobs.catalog();
    let policies: Vec<PolicyRecord> = catalog
        .policies()
        .await?
        .into_iter()
        .filter(|record| record.policy.enabled && record.policy.timing.is_some())
        .collect();
    let mut last = Vec::new();
    for record in &policies {
        last.push(catalog.last_fire(&record.policy.name, now_ms).await?);
    }
    let timed: Vec<Timed<'_>> =
        policies.iter().zip(&last).filter_map(|(record, last)| timed(record, *last)).collect();
    let due_now = due(instant(now_ms), &timed);
    if due_now.is_empty() {
        return Ok(0);
    }
    let hosts = catalog.hosts().await?;
    for due in &due_now {
        let Some(record) = policies.iter().find(|record| record.policy.name == due.policy) else { continue };
        fire(jobs, &record.policy, due, &hosts, now_ms).await?;
    }
    Ok(due_now.len())
}

fn timed(record: &PolicyRecord, last_ms: Option<i64>) -> Option<Timed<'_>> {
    let timing = record.policy.timing.as_ref()?;
    Some(Timed {
        policy: &record.policy.name,
        schedule: &timing.schedule,
        since: instant(record.since_ms),
        last: last_ms.map(instant),
        catch_up: timing.catch_up,
    })
}

fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

async fn fire(
    jobs: &Jobs,
    policy: &Policy,
    due: &Due,
    hosts: &[HostRecord],
    now_ms: i64,
) -> Result<(), CatalogError> {
    // Before the run: the newest fire that is on record is where the next pass begins, and
    // what was missed before it would not be found again.
    record_missed(jobs, policy, due, now_ms).await?;
    let (Some(at), Some(timing)) = (due.run, &policy.timing) else { return Ok(()) };
    let fire_ms = at.timestamp_millis();
    // Hosts that are away too: their jobs wait for them.
    let run_jobs: Vec<RunJob> = hosts
        .iter()
        .filter(|host| host.revoked_ms.is_none() && policy.hosts.matches(&host.name, &host.labels))
        .map(|host| run_job(policy, timing, host.id, fire_ms))
        .collect();
    failpoint("controller.fire.before-row");
    let made = jobs.catalog().create_run(Some(&policy.name), Some(fire_ms), &run_jobs, now_ms).await?;
    failpoint("controller.fire.after-row");
    // `None`: this time is on record, of a pass whose controller died before it was told.
    let Some(made) = made else { return Ok(()) };
    tell_made(jobs, policy, made).await
}

async fn record_missed(jobs: &Jobs, policy: &Policy, due: &Due, now_ms: i64) -> Result<(), CatalogError> {
    if due.missed.is_empty() {
        return Ok(());
    }
    let missed: Vec<i64> = due.missed.iter().map(DateTime::timestamp_millis).collect();
    let detail = if due.more_missed { "not served in time; earlier ones too" } else { "not served in time" };
    jobs.catalog().record_missed(&policy.name, &missed, detail, now_ms).await?;
    tracing::warn!(policy.name = policy.name, count = missed.len(), "fire times were missed");
    Ok(())
}

/// Begins the event logs of the jobs of a run.
async fn tell_made(jobs: &Jobs, policy: &Policy, made: Vec<MadeJob>) -> Result<(), CatalogError> {
    if made.is_empty() {
        tracing::warn!(policy.name = policy.name, "the policy fired and matches no host");
    }
    for job in made {
        match job.skipped_for {
            Some(other) => {
                tracing::warn!(policy.name = policy.name, job.id = %job.id, other = %other, "skipped: the last job has not ended");
                jobs.log_event(job.id, &format!("skipped: job {other} has not ended")).await?;
            }
            None => jobs.log_event(job.id, &format!("policy {} fired", policy.name)).await?,
        }
    }
    Ok(())
}

fn run_job(policy: &Policy, timing: &Timing, host: HostId, fire_ms: i64) -> RunJob {
    let delay = jitter(&policy.name, host, timing.jitter);
    let job = NewJob {
        id: JobId::generate(),
        policy: policy.name.clone(),
        host: Some(host),
        actor: ACTOR.to_owned(),
        parameters: Parameters::Backup(BackupParameters::of_policy(policy)),
        not_before_ms: fire_ms + i64::try_from(delay.as_millis()).unwrap_or(0),
    };
    RunJob { job, overlap: Some(policy.overlap) }
}
