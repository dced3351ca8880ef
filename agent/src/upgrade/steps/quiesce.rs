//! Everything that uses the data stops, and is started again where the upgrade
//! goes back.

use std::time::Duration;

use crate::clocks::now_unix_ms;
use crate::engine::{EngineErrorKind, HealthWait};
use crate::failpoint::failpoint;
use crate::spec::no_restart;
use crate::upgrade::UpgradeError;
use crate::upgrade::record::State;
use crate::upgrade::run::UpgradeRun;

/// How long the old container's health is waited for; it stays in any case.
const HEALTH_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    // On disk before the first of them is touched: who is to be started again.
    for member in &mut run.record.members {
        member.touched = true;
    }
    run.record.stopped_unix_ms = Some(now_unix_ms());
    let names: Vec<&str> = run.record.members.iter().map(|member| member.name.as_str()).collect();
    let text = format!("stopping {}", names.join(", "));
    run.enter(State::Stopping, text).await?;
    // All policies are off before the first stop: an Engine that restarts in the
    // middle starts nothing by itself.
    let (members, cancel) = (run.record.members.clone(), run.cancel());
    for member in &members {
        run.context.engine.set_restart_policy(&member.id, &no_restart()).await?;
    }
    failpoint("agent.upgrade.policy-set");
    for member in &members {
        if cancel.is_cancelled() {
            return Err(UpgradeError::Cancelled);
        }
        let container = run.context.engine.inspect_container(&member.id).await?;
        if container.state.is_live() {
            run.context.engine.stop_container(&container, None).await?;
        }
    }
    run.refuse_disturbed().await
}

/// The old containers run again; what could not be undone until here is settled.
pub(super) async fn undo(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    // The upgraded one first: the others may need it.
    for index in (0..run.record.members.len()).rev() {
        let started = start_old(run, index).await;
        let name = run.record.members[index].name.clone();
        run.problems.note(&name, started);
    }
    failpoint("agent.upgrade.old-started");
    run.settle()?;
    if run.record.stopped_unix_ms.is_some() {
        run.record.downtime_ms = run.record.since_stop_ms();
        await_old(run).await?;
    }
    Ok(())
}

/// As it was found: running if it ran, and its restart policy.
async fn start_old(run: &mut UpgradeRun<'_>, index: usize) -> Result<(), UpgradeError> {
    let member = &run.record.members[index];
    if !member.touched {
        return Ok(());
    }
    let started = if member.was_running { run.start(&member.id).await } else { Ok(()) };
    let policy = run.set_policy(&member.id, &member.restart_policy).await;
    started.and(policy)
}

/// It is the old one again, well or not: what is not is said. An Engine that
/// died meanwhile took down with it what has no restart policy, so that
/// everything is to be started once more.
async fn await_old(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let target = run.record.target().clone();
    if !target.was_running {
        return Ok(());
    }
    let health = run.context.engine.wait_healthy(&target.id, HEALTH_LIMIT).await;
    run.record.downtime_ms = run.record.since_stop_ms();
    let problem = match health {
        Ok(HealthWait::Healthy | HealthWait::NoCheck) => return Ok(()),
        Ok(HealthWait::Unhealthy) => "is unhealthy".to_owned(),
        Ok(HealthWait::Ended { exit_code }) => format!("ended with exit code {exit_code}"),
        Ok(HealthWait::TimedOut) => "is not healthy yet".to_owned(),
        Err(error) if error.kind() == EngineErrorKind::Unreachable => return Err(error.into()),
        Err(error) => format!("could not be looked at: {error}"),
    };
    run.record.error.push_str(&format!("; `{}` was started again and {problem}", target.name));
    Ok(())
}
