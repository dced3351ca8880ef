//! Whether a new container is well enough to stay.
//!
//! Its health check decides; without one, that it runs for a while without a
//! restart. A start that returns no error says nothing: many programs die a
//! second later. The probe asks on top of that, again and again, until it
//! passes or the time is up.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::{ContainerState, Engine, HealthState, HealthWait};

use super::UpgradeError;
use super::error::NotWell;
use super::probe;
use super::record::Options;

const POLL: Duration = Duration::from_millis(250);
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Returns what showed that it is well, in words.
///
/// # Errors
/// With what it did instead.
pub(super) async fn pass(engine: &Engine, id: &str, options: &Options) -> Result<String, UpgradeError> {
    let limit = Duration::from_secs(options.health_timeout_seconds.into());
    let deadline = Instant::now() + limit;
    let mut well = match engine.wait_healthy(id, limit).await? {
        HealthWait::Healthy => "its health check passes".to_owned(),
        HealthWait::NoCheck => steady(engine, id, options.steady_seconds).await?,
        HealthWait::Unhealthy => {
            return Err(NotWell::Unhealthy { printed: tail(engine, id).await }.into());
        }
        HealthWait::Ended { exit_code } => return Err(NotWell::Exited { exit_code }.into()),
        HealthWait::TimedOut => {
            return Err(NotWell::NotInTime { seconds: limit.as_secs() }.into());
        }
    };
    if let Some(wanted) = &options.probe {
        let mut last = "it was never asked".to_owned();
        loop {
            // A health check that passed may have used up most of the time: one try is due.
            match probe::ask(engine, id, wanted).await {
                Ok(said) => {
                    well.push_str(&format!(", and {said}"));
                    return Ok(well);
                }
                Err(problem) => last.clone_from(&problem),
            }
            let container = engine.inspect_container(id).await?;
            if container.state != ContainerState::Running {
                return Err(NotWell::Exited { exit_code: container.exit_code }.into());
            }
            if Instant::now() + PROBE_PAUSE > deadline {
                return Err(NotWell::ProbeFailed { last }.into());
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
    Ok(well)
}

/// Runs without a restart for as long as asked.
async fn steady(engine: &Engine, id: &str, seconds: u32) -> Result<String, UpgradeError> {
    let started_at = engine.inspect_container(id).await?.started_at;
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        let container = engine.inspect_container(id).await?;
        if container.state != ContainerState::Running {
            return Err(NotWell::Exited { exit_code: container.exit_code }.into());
        }
        if container.started_at != started_at {
            return Err(NotWell::Restarted.into());
        }
        if container.health == HealthState::Unhealthy {
            return Err(NotWell::BecameUnhealthy.into());
        }
        if Instant::now() >= deadline {
            return Ok(format!("it ran for {seconds} s without a restart"));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// An agent that has come up has its journal open: nobody else can at the
/// time, the old one being quiesced.
pub(super) async fn has_state(
    engine: &Engine,
    id: &str,
    state_dir: &Path,
    deadline: Instant,
) -> Result<(), UpgradeError> {
    loop {
        // A few calls of the kernel on a file that is in its cache.
        if crate::journal::is_held(state_dir).unwrap_or(false) {
            return Ok(());
        }
        let container = engine.inspect_container(id).await?;
        if container.state != ContainerState::Running {
            return Err(NotWell::Exited { exit_code: container.exit_code }.into());
        }
        if Instant::now() >= deadline {
            return Err(NotWell::NoAgent.into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What its last health check printed, escaped.
async fn tail(engine: &Engine, id: &str) -> String {
    let Ok(inspected) = engine.inspect_container_json(id).await else { return String::new() };
    let last = inspected["State"]["Health"]["Log"].as_array().and_then(|log| log.last()).cloned();
    let output = last.as_ref().and_then(|last| last["Output"].as_str()).unwrap_or_default().trim();
    let output: String = output.chars().take(200).collect();
    output.escape_debug().to_string()
}
