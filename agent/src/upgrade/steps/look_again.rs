//! What may have changed between the plan and the stop: hours may lie between
//! them, and a job that had the lock.

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::engine::Container;
use crate::quiesce::inspect_all;
use crate::upgrade::UpgradeError;
use crate::upgrade::error::ChangedMeanwhile;
use crate::upgrade::guards::writable_layer;
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    // Kept by the run also while it is rolled back: a backup that quiesces the same
    // containers would resume what has to stay stopped.
    run.quiesce_lock = Some(take_quiesce_lock(run).await?);
    run.await_cleanup().await?;
    look_again(run).await
}

async fn take_quiesce_lock(run: &UpgradeRun<'_>) -> Result<OwnedMutexGuard<()>, UpgradeError> {
    let cancel = run.cancel();
    tokio::select! {
        lock = run.context.quiesce_lock.clone().lock_owned() => Ok(lock),
        () = cancel.cancelled() => Err(UpgradeError::Cancelled),
    }
}

/// What was stopped by its owner meanwhile stays stopped, and somebody new on
/// the data is a reason not to begin.
async fn look_again(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for index in 0..run.record.members.len() {
        let id = run.record.members[index].id.clone();
        let inspected = run.context.engine.inspect_container_json(&id).await?;
        let container = run.context.engine.inspect_container(&id).await?;
        let member = &mut run.record.members[index];
        member.restart_policy = inspected["HostConfig"]["RestartPolicy"].clone();
        member.was_running = container.state.is_live();
        if member.recreation.is_some() {
            refuse_written(run, index, &container, &inspected).await?;
        }
    }
    refuse_new_dependents(run).await?;
    run.refuse_external_writers().await
}

/// What was written to a layer since the plan would go with it, unnamed.
async fn refuse_written(
    run: &UpgradeRun<'_>,
    index: usize,
    container: &Container,
    inspected: &Value,
) -> Result<(), UpgradeError> {
    let layer = writable_layer::look(&run.context.engine, container, inspected).await?;
    let is_target = index + 1 == run.record.members.len();
    let of = (!is_target).then_some(container.name.as_str());
    match writable_layer::loss_of(&layer, of) {
        Some(loss) if !loss.is_allowed(&run.record.options.allow_loss) => {
            Err(ChangedMeanwhile::Written { container: container.name.clone(), loss }.into())
        }
        _ => Ok(()),
    }
}

/// Who lives in the old container's namespaces and was not there when the
/// plan was made would be left in dead ones.
async fn refuse_new_dependents(run: &UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let containers = inspect_all(&run.context.engine).await?;
    let members = &run.record.members;
    let Some(old) = containers.iter().find(|one| one.id == run.record.target().id) else {
        return Ok(());
    };
    let is_new = |one: &&Container| {
        one.state.is_live() && old.is_needed_by(one) && !members.iter().any(|member| member.id == one.id)
    };
    match containers.iter().find(is_new) {
        Some(one) => {
            let (container, needed) = (one.name.clone(), old.name.clone());
            Err(ChangedMeanwhile::NewDependent { container, needed }.into())
        }
        None => Ok(()),
    }
}
