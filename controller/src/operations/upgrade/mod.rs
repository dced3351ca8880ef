//! An upgrade of one container: the new image over the same data.
//!
//! 1. **Plan.** The host says what the upgrade would do, now. It has to be
//!    runnable, and what was shown when the upgrade was asked for. The plan is
//!    written down: from here on it is the plan of this job.
//! 2. **Snapshot before.** A backup of every writable source, as a child. It
//!    has to be complete; until then nothing has been touched.
//! 3. **Run.** The agent makes the new container beside the old one, stops the
//!    old one and says so. It owns the upgrade: without us it goes back.
//! 4. **Snapshot at the stop**, again a child, of the very moment to which a
//!    rollback returns; then the agent may **proceed**. See [`at_stop`].
//! 5. **Finished.** The agent switched, saw the new container well and
//!    committed, or went back to the old one and its data.
//!
//! Up to step 3 a request to cancel, or a failure, ends the job with nothing
//! changed. From then on the job ends only by what the agent says.

pub(super) mod at_stop;
pub(crate) mod plan;
pub(super) mod powers;
pub(super) mod report;
pub(super) mod snapshots;

use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::agent::AgentJob;
use super::children::Children;
use super::{Failure, JobRun};
use crate::catalog::jobs::Ending;
use crate::failpoint::failpoint;
use crate::model::event::{AgentEvent, UpgradeEvent};
use crate::model::job::parameters::UpgradeParameters;
use crate::model::upgrade::{UpgradeFinished, UpgradePlan};
use crate::model::work::{UpgradeWork, Work};
use at_stop::{AtStop, Stop};
use report::Report;
use snapshots::{AT_STOP, BEFORE};

/// Upgrades a container, from where a former driver was.
///
/// # Errors
/// The host makes no plan or another one than was shown, the snapshot before
/// fails, the agent does not say how it ended, the job is cancelled or
/// another's by now, or the catalogue fails.
pub(crate) async fn run(run: &mut JobRun, upgrade: &UpgradeParameters) -> Result<Ending, Failure> {
    let host =
        run.job.host.ok_or_else(|| Failure::failed(ErrorCode::Internal, "an upgrade job without a host"))?;
    // Nothing is changed on the host until `follow`; each step before finds what a
    // former driver did, and goes on from there.
    let plan = plan::of_job(run, host, upgrade).await?;
    let mut report = Report::of(run);
    report.planned(&plan);
    snapshot_before(run, host, upgrade, &plan, &mut report).await?;
    failpoint("controller.upgrade.after-before-snapshot");
    let finished = follow(run, host, upgrade, &plan, &mut report).await?;
    let snapshot_failure = after_stop(run, &plan, &mut report).await?;
    if let Some(line) = report::downtime_line(&finished) {
        run.log_event(&line).await?;
    }
    Ok(report.ending(&finished, snapshot_failure, run.cancel.is_cancelled()))
}

async fn snapshot_before(
    run: &JobRun,
    host: HostId,
    upgrade: &UpgradeParameters,
    plan: &UpgradePlan,
    report: &mut Report,
) -> Result<(), Failure> {
    if plan.sources.is_empty() {
        return run.log_event("the plan has no volume or directory to snapshot").await;
    }
    let children = Children::of(run);
    if children.find(BEFORE).await?.is_none() {
        run.cancelled()?;
        let what = super::backup::counted(plan.sources.len(), "source");
        run.step(&format!("snapshot of {what} before anything stops")).await?;
    }
    let parameters = snapshots::parameters(plan, upgrade.consistency, false);
    let id = children.make(BEFORE, host, parameters).await?;
    let child = children.await_or_cancel(run, id).await?;
    match snapshots::judge(&run.jobs, &child, &plan.sources).await? {
        Ok(taken) => report.before(run, taken).await,
        Err(unfit) => {
            let message = format!("nothing was changed: the snapshot before the upgrade {}", unfit.why);
            Err(Failure::failed(unfit.code_or(ErrorCode::SnapshotBeforeFailed), message))
        }
    }
}

/// Has the agent run the upgrade, or finds it at work on it, and awaits its end.
async fn follow(
    run: &mut JobRun,
    host: HostId,
    upgrade: &UpgradeParameters,
    plan: &UpgradePlan,
    report: &mut Report,
) -> Result<UpgradeFinished, Failure> {
    let work = UpgradeWork {
        container: upgrade.container.clone(),
        image: upgrade.image.clone(),
        fingerprint: plan.fingerprint.clone(),
        options: upgrade.options.clone(),
    };
    // Made before the agent is called: it holds what the stop needs, and `run` is the stream's.
    let at_stop = AtStop::new(Children::of(run), host, plan.clone(), Stop::Upgrade);
    // Beside the stream: the agent may go back while the snapshot is taken.
    // Dropped with the job, never detached.
    let mut beside = JoinSet::new();
    let mut agent = AgentJob::new(run, host, Work::Upgrade(work));
    let finished = loop {
        let AgentEvent::Upgrade(event) = agent.next().await? else { continue };
        failpoint("controller.upgrade.after-run");
        match event {
            UpgradeEvent::Step(step) => report.step(agent.run(), step).await?,
            // Told again after a break; done once.
            UpgradeEvent::Stopped { .. } if beside.is_empty() => {
                beside.spawn(at_stop.clone().run().in_current_span());
            }
            UpgradeEvent::Stopped { .. } | UpgradeEvent::Unknown => {}
            UpgradeEvent::Finished(finished) => break finished,
        }
    };
    // The agent is done: a call to proceed or to go back would be about nothing.
    beside.shutdown().await;
    Ok(finished)
}

/// The snapshot at the stop as it is when the agent is done. Gives why it did
/// not do, if so. One that is still being taken is of no moment any more.
async fn after_stop(
    run: &JobRun,
    plan: &UpgradePlan,
    report: &mut Report,
) -> Result<Option<(ErrorCode, String)>, Failure> {
    let children = Children::of(run);
    let Some(child) = children.find(AT_STOP).await? else { return Ok(None) };
    if !child.state.ended() {
        children.cancel(child.id).await?;
        return Ok(None);
    }
    match snapshots::judge(&run.jobs, &child, &plan.sources).await? {
        Ok(taken) => {
            report.at_stop(taken);
            Ok(None)
        }
        Err(unfit) => Ok(Some((
            unfit.code_or(ErrorCode::SnapshotAtStopFailed),
            format!("the snapshot at the stop {}", unfit.why),
        ))),
    }
}

#[cfg(test)]
mod tests;
