//! The new container has to show that it is well: see [`gate`].

use std::time::Duration;

use tokio::time::Instant;

use crate::upgrade::record::State;
use crate::upgrade::run::UpgradeRun;
use crate::upgrade::{UpgradeError, gate};

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    run.enter(State::Gating, "the new container runs; waiting until it is well").await?;
    let cancel = run.cancel();
    let passed = tokio::select! {
        passed = is_well(run) => passed,
        () = cancel.cancelled() => Err(UpgradeError::Cancelled),
    };
    let well = passed?;
    run.record.downtime_ms = run.record.since_stop_ms();
    run.note(well).await
}

async fn is_well(run: &UpgradeRun<'_>) -> Result<String, UpgradeError> {
    let (engine, options) = (&run.context.engine, &run.record.options);
    let id = run.record.target().recreation.as_ref().map(|new| new.new_id.as_str()).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(options.health_timeout_seconds.into());
    let well = gate::pass(engine, id, options).await?;
    if !run.record.is_handed_over() {
        return Ok(well);
    }
    gate::has_state(engine, id, &run.context.state_dir, deadline).await?;
    Ok(format!("{well}, and it has taken over the agent's state"))
}
