//! Upgrades of many containers, a batch at a time, each a child.
//!
//! The targets are resolved once, when the rollout is started. Everything
//! after that is decided from the rows of the children alone, see [`course`]:
//! a controller that takes the rollout over looks at them and goes on. A child
//! that failed went back by itself, on its own agent; the rollout only counts
//! it, stops beyond the limit, and if asked to undoes what went well before.

mod course;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::select_all;
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;

use super::children::Children;
use super::{Failure, JobRun};
use crate::catalog::jobs::{Ending, JobRecord};
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::model::job::parameters::{
    Parameters, RollbackParameters, RolloutParameters, RolloutPlace, UpgradeParameters,
};
use crate::model::job::result::JobResult;
use crate::model::job::state::State;
use crate::model::upgrade::UpgradeReport;
use course::{Course, Next, undo_role, upgrade_role};

/// Does one move after the other until the children's rows say that it is done.
///
/// # Errors
/// The job is cancelled or another's by now, or the catalogue fails.
pub(crate) async fn run(run: &mut JobRun, rollout: &RolloutParameters) -> Result<Ending, Failure> {
    let children = Children::of(run);
    let mut told: Option<HashSet<JobId>> = None;
    loop {
        let rows = run.jobs.catalog().child_jobs(run.job.id).await?;
        let course = Course::of(&rows, rollout.targets.len());
        // Told and recorded before the next move, so that a move that takes hours, or a
        // controller that ends in it, hides nothing.
        tell_ends(run, &rows, &mut told).await?;
        run.record(&result(&course)).await?;
        if run.cancel.is_cancelled() {
            return Err(call_off(&children, &course).await?);
        }
        match course.next(rollout, now_ms()) {
            Next::Upgrade(index) => begin(run, &children, rollout, index).await?,
            Next::Undo(index) => undo(run, &children, rollout, &course, index).await?,
            Next::Await(ids) => await_any(run, &ids).await?,
            Next::Pause(until_ms) => pause(run, until_ms).await?,
            Next::Done => return Ok(ending(rollout, &course, &rows)),
        }
    }
}

async fn begin(
    run: &JobRun,
    children: &Children,
    rollout: &RolloutParameters,
    index: usize,
) -> Result<(), Failure> {
    let Some(place) = rollout.targets.get(index) else { return Ok(()) };
    let text = format!("upgrading {}, {} of {}", named(run, place).await?, index + 1, rollout.targets.len());
    run.step(&text).await?;
    let upgrade = UpgradeParameters { container: place.container.clone(), ..rollout.upgrade.clone() };
    children.make(&upgrade_role(index), place.host, Parameters::Upgrade(upgrade)).await?;
    failpoint("controller.rollout.after-child");
    Ok(())
}

async fn undo(
    run: &JobRun,
    children: &Children,
    rollout: &RolloutParameters,
    course: &Course,
    index: usize,
) -> Result<(), Failure> {
    let (Some(place), Some(upgrade)) = (rollout.targets.get(index), course.upgrade(index)) else {
        return Ok(());
    };
    run.step(&format!("rolling back {}", named(run, place).await?)).await?;
    let rollback = RollbackParameters {
        upgrade: upgrade.to_string(),
        container: place.container.clone(),
        without_snapshot: false,
    };
    children.make(&undo_role(index), place.host, Parameters::Rollback(rollback)).await?;
    failpoint("controller.rollout.after-child");
    Ok(())
}

async fn named(run: &JobRun, place: &RolloutPlace) -> Result<String, Failure> {
    Ok(format!("{} on {}", place.container, run.jobs.host_name(place.host).await?))
}

async fn await_any(run: &JobRun, ids: &[JobId]) -> Result<(), Failure> {
    let ends = ids.iter().map(|id| Box::pin(run.jobs.ended(*id)));
    tokio::select! {
        () = run.cancel.cancelled() => Ok(()),
        (ended, _, _) = select_all(ends) => Ok(ended.map(drop)?),
    }
}

async fn pause(run: &JobRun, until_ms: i64) -> Result<(), Failure> {
    run.step("pausing before the next batch").await?;
    let left = Duration::from_millis(until_ms.saturating_sub(now_ms()).max(0).unsigned_abs());
    tokio::select! {
        () = run.cancel.cancelled() => {}
        () = tokio::time::sleep(left) => {}
    }
    Ok(())
}

/// Has the children stop, and awaits their end: each goes back by itself.
async fn call_off(children: &Children, course: &Course) -> Result<Failure, Failure> {
    for id in course.under_way() {
        children.cancel(id).await?;
    }
    for id in course.under_way() {
        children.jobs.ended(id).await?;
    }
    Ok(Failure::Cancelled)
}

/// A line for each child that has ended since the last look.
async fn tell_ends(
    run: &JobRun,
    rows: &[JobRecord],
    told: &mut Option<HashSet<JobId>>,
) -> Result<(), Failure> {
    let ended: Vec<&JobRecord> = rows.iter().filter(|row| row.state.ended()).collect();
    // Those from before a restart were told then.
    let Some(told) = told else {
        *told = Some(ended.iter().map(|row| row.id).collect());
        return Ok(());
    };
    for row in ended {
        if !told.insert(row.id) {
            continue;
        }
        let host = match row.host {
            Some(host) => run.jobs.host_name(host).await?,
            None => String::new(),
        };
        let mut line = format!("{} on {host}: {}", row.parameters.container(), row.state.as_str());
        if !row.error.is_empty() {
            line.push_str(&format!(": {}", row.error));
        }
        run.log_event(&line).await?;
    }
    Ok(())
}

fn result(course: &Course) -> JobResult {
    let counts = course.counts();
    JobResult::from(UpgradeReport {
        upgraded: counts.upgraded,
        failed: counts.failed,
        undone: counts.undone,
        not_begun: counts.not_begun,
        ..UpgradeReport::default()
    })
}

fn ending(rollout: &RolloutParameters, course: &Course, rows: &[JobRecord]) -> Ending {
    let counts = course.counts();
    let end = |state, code: Option<ErrorCode>, error| Ending {
        state,
        error_code: code.map_or("", ErrorCode::as_str).to_owned(),
        error,
        result: result(course),
    };
    // What was left out because its host could not be asked was not upgraded.
    let left_out = rollout.left_out.join("; ");
    if counts.failed == 0 {
        let state = if left_out.is_empty() { State::Succeeded } else { State::Partial };
        return end(state, None, left_out);
    }
    let left_out = if left_out.is_empty() { left_out } else { format!("; {left_out}") };
    let first = rows.iter().find(|row| row.state.ended() && row.state != State::Succeeded);
    let first = first
        .map(|row| format!("; the first: {}: {}", row.parameters.container(), row.error))
        .unwrap_or_default();
    let failed =
        format!("{} of {} containers failed{}", counts.failed, rollout.targets.len(), how_they_run(rows));
    if counts.failed <= rollout.max_failures {
        return end(State::Partial, None, format!("{failed}{first}{left_out}"));
    }
    let mut error =
        format!("stopped: {failed}, {} not begun, {} upgraded", counts.not_begun, counts.upgraded);
    if rollout.undo {
        error.push_str(&format!(", {} undone", counts.undone));
        if counts.upgraded > 0 {
            error.push_str(" (the rest could not be)");
        }
    }
    end(State::Failed, Some(ErrorCode::RolloutStopped), format!("{error}{first}{left_out}"))
}

/// Of those that failed: each went back or was never touched, or it is not known
/// here what runs.
fn how_they_run(rows: &[JobRecord]) -> String {
    let failed = rows.iter().filter(|row| {
        row.state.ended() && row.state != State::Succeeded && matches!(row.parameters, Parameters::Upgrade(_))
    });
    let is_known = |row: &&JobRecord| {
        let report = row.result.upgrade.as_ref();
        !ErrorCode::Unsettled.is(&row.error_code)
            && report.is_none_or(|report| report.rolled_back || report.steps.is_empty())
    };
    match failed.filter(|row| !is_known(row)).count() {
        0 => " and run as before".to_owned(),
        unknown => format!(", of {unknown} of which it is not known that they run as before"),
    }
}

#[cfg(test)]
mod tests;
