//! A committed upgrade rolled back, within its grace period.
//!
//! 1. **Find** the upgrade on its host, which alone knows whether there is
//!    still a way back.
//! 2. **Snapshot** of what will be discarded, as a child, while it is in use:
//!    everything written since the upgrade. Left out on request, like step 4.
//! 3. **Quiesce**: the agent stops what uses the data and says so.
//! 4. **Snapshot at the stop**, again a child and short after the first: nothing is
//!    written between it and the end of what is discarded.
//! 5. **Roll back**: the agent returns to the old container and to the data as
//!    it was at the stop.
//!
//! Up to step 5 a request to cancel, or a snapshot that does not come about, ends
//! the job with everything running as before. Then it is awaited to its end: an agent
//! that goes back goes all the way.

use holdfast_archive::ids::HostId;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::agent::AgentJob;
use super::children::Children;
use super::host::connected;
use super::upgrade::at_stop::{AtStop, Stop};
use super::upgrade::report::{Report, downtime_line};
use super::upgrade::snapshots::{self, DISCARDED};
use super::{Failure, JobRun};
use crate::catalog::jobs::Ending;
use crate::fleet::answer::plain;
use crate::fleet::calls;
use crate::model::event::{AgentEvent, UpgradeEvent};
use crate::model::job::parameters::RollbackParameters;
use crate::model::job::state::State;
use crate::model::upgrade::{Upgrade, UpgradeFinished, UpgradePlan, UpgradeState};
use crate::model::work::{RollBackWork, Work};
use crate::policy::Consistency;
use holdfast_proto::{ErrorCode, Exit};

/// Times a host is asked for its upgrades before that is the job's failure.
const MAX_ASKED: u32 = 5;

/// Undoes an upgrade, from where a former driver was.
///
/// # Errors
/// The host does not come, has no way back or does not say how it ended, the
/// snapshot before fails, the job is cancelled or another's by now, or the
/// catalogue fails.
pub(crate) async fn run(run: &mut JobRun, rollback: &RollbackParameters) -> Result<Ending, Failure> {
    let host =
        run.job.host.ok_or_else(|| Failure::failed(ErrorCode::Internal, "a rollback job without a host"))?;
    let upgrade = find(run, host, &rollback.upgrade).await?;
    let mut report = Report::of(run);
    report.about(&upgrade);
    // A former driver of this job was that far: what it discards is gone.
    let under_way = run.taken_over
        && matches!(
            upgrade.state,
            UpgradeState::RollingBack | UpgradeState::RolledBack | UpgradeState::AwaitingRollbackSnapshot
        );
    if !under_way {
        if let Some(reason) = no_way_back(&upgrade) {
            return Err(Failure::failed(ErrorCode::UpgradeNotUndoable, reason));
        }
        if !rollback.without_snapshot {
            snapshot_discarded(run, host, &upgrade).await?;
        }
        run.cancelled()?;
    }
    run.step(&format!("going back to {}", upgrade.from_image)).await?;
    let wait = !rollback.without_snapshot && !upgrade.sources.is_empty();
    let Heard { finished, snapshot_failure } = follow(run, host, &upgrade, wait, &mut report).await?;
    if let Some(line) = downtime_line(&finished) {
        run.log_event(&line).await?;
    }
    Ok(report.rolled_back(&finished, snapshot_failure, run.cancel.is_cancelled()))
}

async fn find(run: &JobRun, host: HostId, upgrade: &str) -> Result<Upgrade, Failure> {
    let settings = run.jobs.settings();
    let mut failed_attempts = 0;
    loop {
        let channel = connected(run, host, settings.host_gone).await?;
        let status = match calls::upgrade(channel, upgrade, settings.call).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {
                let message = format!("the host does not remember upgrade {upgrade}: there is no way back");
                return Err(Failure::failed(ErrorCode::UpgradeUnknown, message));
            }
            Err(status) => status,
        };
        failed_attempts += 1;
        if failed_attempts >= MAX_ASKED {
            let message = format!("the host's upgrades could not be listed: {}", plain(&status));
            return Err(Failure::answered(&status, ErrorCode::AgentUnreachable, message));
        }
        tokio::select! {
            () = run.cancel.cancelled() => return Err(Failure::Cancelled),
            () = tokio::time::sleep(settings.retry_pause(failed_attempts)) => {}
        }
    }
}

/// Why an upgrade cannot be undone; `None`: it can.
pub(super) fn no_way_back(upgrade: &Upgrade) -> Option<String> {
    let (id, name) = (&upgrade.job_id, &upgrade.container_name);
    match upgrade.state {
        UpgradeState::Committed => None,
        UpgradeState::Finished => Some(format!(
            "the grace period of upgrade {id} of `{name}` is over: the old container and its data are gone; \
             the snapshots that were taken are not"
        )),
        UpgradeState::RolledBack => Some(format!("upgrade {id} of `{name}` was rolled back already")),
        UpgradeState::RollingBack | UpgradeState::AwaitingRollbackSnapshot => {
            Some(format!("upgrade {id} of `{name}` is being rolled back"))
        }
        UpgradeState::Unknown
        | UpgradeState::Preparing
        | UpgradeState::Stopping
        | UpgradeState::Stopped
        | UpgradeState::Switching
        | UpgradeState::Gating
        | UpgradeState::Committing => {
            Some(format!("upgrade {id} of `{name}` has not ended: to have it go back, cancel its job"))
        }
    }
}

async fn snapshot_discarded(run: &JobRun, host: HostId, upgrade: &Upgrade) -> Result<(), Failure> {
    if upgrade.sources.is_empty() {
        return Ok(());
    }
    let children = Children::of(run);
    // A driver that took the job over finds the child and does not log the step again.
    if children.find(DISCARDED).await?.is_none() {
        run.cancelled()?;
        run.step("snapshot of what will be discarded").await?;
    }
    let parameters = snapshots::parameters(&plan(upgrade), Consistency::None, true);
    let id = children.make(DISCARDED, host, parameters).await?;
    let child = children.await_or_cancel(run, id).await?;
    // Files torn in use are read again quiesced; what fails here would fail there,
    // with everything stopped for it.
    if matches!(child.state, State::Succeeded | State::Partial) {
        return Ok(());
    }
    let unfit = match snapshots::judge(&run.jobs, &child, &upgrade.sources).await? {
        Ok(_) => return Ok(()),
        Err(unfit) => unfit,
    };
    let code = unfit.code_or(ErrorCode::SnapshotBeforeFailed);
    // To go on without the snapshot would not help: going back needs the host as well.
    let message = match code.exit() == Exit::Unreachable && !is_of_the_store(code) {
        true => format!("nothing was changed: the snapshot of what would be discarded {}", unfit.why),
        false => snapshot_failure_text(&unfit.why),
    };
    Err(Failure::failed(code, message))
}

/// Whether it is the repository that is out of reach, which a rollback does
/// without.
fn is_of_the_store(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::StoreUnreachable
            | ErrorCode::StoreNoBucket
            | ErrorCode::StoreThrottled
            | ErrorCode::StoreClockSkew
            | ErrorCode::StoreFailed
    )
}

fn snapshot_failure_text(problem: &str) -> String {
    format!(
        "nothing was changed: the snapshot of what would be discarded {problem}; \
         to do without it: --without-snapshot"
    )
}

/// The part of a plan that snapshots go by.
fn plan(upgrade: &Upgrade) -> UpgradePlan {
    UpgradePlan { sources: upgrade.sources.clone(), ..UpgradePlan::default() }
}

/// How an agent's part ended. `snapshot_failure`: why the snapshot at the stop did not do,
/// and its error code.
struct Heard {
    finished: UpgradeFinished,
    snapshot_failure: Option<(ErrorCode, String)>,
}

async fn follow(
    run: &mut JobRun,
    host: HostId,
    upgrade: &Upgrade,
    wait: bool,
    report: &mut Report,
) -> Result<Heard, Failure> {
    let children = Children::of(run);
    // Beside the stream: the agent may end the wait while the snapshot is taken.
    // Dropped with the job, never detached.
    let mut beside = JoinSet::new();
    let mut last = None;
    let work = RollBackWork { upgrade: upgrade.job_id.clone(), wait };
    let mut agent = AgentJob::new(run, host, Work::RollBack(work));
    let finished = loop {
        let AgentEvent::Upgrade(event) = agent.next().await? else { continue };
        match event {
            UpgradeEvent::Step(step) => report.step(agent.run(), step).await?,
            UpgradeEvent::Finished(finished) => break finished,
            UpgradeEvent::Stopped { until_unix_ms } => {
                // Sent again after a break; a stop is known by its end.
                let stop = Stop::Rollback { upgrade: upgrade.job_id.clone(), until_unix_ms };
                let role = stop.role();
                if last.as_ref() == Some(&role) {
                    continue;
                }
                // What was begun for an earlier stop must not speak for this one,
                // neither to go on nor to go back.
                beside.shutdown().await;
                if let Some(earlier) = last.replace(role)
                    && let Some(child) = children.find(&earlier).await?
                    && !child.state.ended()
                {
                    children.cancel(child.id).await?;
                }
                let at_stop = AtStop::new(children.clone(), host, plan(upgrade), stop);
                beside.spawn(at_stop.run().in_current_span());
            }
            UpgradeEvent::Unknown => {}
        }
    };
    // The agent has ended: a task beside it must not go on for a stop that is over.
    beside.shutdown().await;
    let snapshot_failure = match last {
        Some(role) => taken_quiesced(run, upgrade, &role, report).await?,
        None => None,
    };
    Ok(Heard { finished, snapshot_failure })
}

/// Takes the snapshot at the stop into the report. Gives why it did not do, if so;
/// one that is still being taken is of no moment any more.
async fn taken_quiesced(
    run: &JobRun,
    upgrade: &Upgrade,
    role: &str,
    report: &mut Report,
) -> Result<Option<(ErrorCode, String)>, Failure> {
    let children = Children::of(run);
    let Some(child) = children.find(role).await? else { return Ok(None) };
    // The wait was over before the snapshot: what it reads now is not the state of the stop.
    if !child.state.ended() {
        children.cancel(child.id).await?;
        return Ok(None);
    }
    match snapshots::judge(&run.jobs, &child, &upgrade.sources).await? {
        Ok(taken) => report.before(run, taken).await.map(|()| None),
        Err(unfit) => {
            Ok(Some((unfit.code_or(ErrorCode::SnapshotBeforeFailed), snapshot_failure_text(&unfit.why))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_committed_upgrade_has_a_way_back_by_this() {
        let upgrade = |id: &str, state: UpgradeState| Upgrade {
            job_id: id.into(),
            container_name: "db".into(),
            state,
            ..Upgrade::default()
        };
        assert_eq!(no_way_back(&upgrade("a", UpgradeState::Committed)), None);
        for state in [UpgradeState::Finished, UpgradeState::RolledBack, UpgradeState::Gating] {
            assert!(no_way_back(&upgrade("a", state)).is_some(), "{state:?}");
        }
    }
}
