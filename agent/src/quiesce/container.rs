//! Quiesce one container.
//!
//! 1. Inspect it: minutes may lie between the plan and its turn, and a restart
//!    policy may have started it anew. One that does not run any more is left
//!    alone: nothing of it would be ours to start.
//! 2. Write into the journal what is to be undone, with the start time just seen.
//! 3. Pause or stop it.
//! 4. Inspect it again and write down what was seen. From here on it is known
//!    that the act took effect, and of which run of the container it is.
//!
//! Steps 3 and 4 run to their end even where the job is cancelled: the Engine
//! carries on with a stop, and only its answer tells when the container can be
//! started again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};

use crate::cancel::Cancel;
use crate::clocks::now_unix_ms;
use crate::engine::{Container, ContainerState, EngineError, EngineErrorKind};
use crate::failpoint::failpoint;
use crate::journal::{CleanupAction, QuiescedContainer};
use crate::resume::{Act, Outcome, blocking};

use super::{AT_ONCE, Held, QuiesceError, QuiesceMode, Request, Shared};

/// The longest an Engine is told to wait before it kills what it stops.
const LONGEST_STOP: Duration = Duration::from_secs(300);

impl Shared {
    /// Quiesces containers that do not depend on each other, some at the same
    /// time; each is in the journal before it is touched. Once one fails no
    /// other is begun, and those under way are waited for: what is written down
    /// is in `held` when this returns.
    pub(super) async fn quiesce_all(
        self: &Arc<Self>,
        planned: &[Container],
        request: &Request,
        cancel: &Cancel,
    ) -> Result<(), QuiesceError> {
        let failed = &AtomicBool::new(false);
        let mut acts: Vec<BoxFuture<'_, Result<(), QuiesceError>>> = Vec::with_capacity(planned.len());
        for container in planned {
            acts.push(Box::pin(async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let outcome = self.quiesce_one(container, request, cancel).await;
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                outcome
            }));
        }
        let outcomes: Vec<_> = stream::iter(acts).buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().collect()
    }

    /// Returns once the container is quiesced, or does not run for reasons of
    /// its own. After an error it is in `held` if it was touched.
    pub(super) async fn quiesce_one(
        self: &Arc<Self>,
        planned: &Container,
        request: &Request,
        cancel: &Cancel,
    ) -> Result<(), QuiesceError> {
        if cancel.is_cancelled() {
            return Err(QuiesceError::Cancelled);
        }
        let container = match self.engine.inspect_container(&planned.id).await {
            Ok(container) => container,
            // It has ended since and was removed, as with `--rm`: it writes nothing.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(refused(planned, request.mode, &error)),
        };
        if !may_run(container.state) {
            return Ok(());
        }
        let stop_limit = stop_limit(&container, request.max_downtime);
        // On disk before the act: dying in between, the next agent finds a container
        // that runs and has nothing to do, never one that is stopped and unknown.
        let held = self.write_down(container, request, stop_limit).await?;
        failpoint("agent.quiesce.before-act");
        let name = held.container.name.clone();
        // A task of its own: the Engine carries on with a stop whose caller has gone, so
        // its answer has to be noted even when the job is cancelled.
        let acting = tokio::spawn(self.clone().act(held, request.mode, stop_limit));
        tokio::select! {
            acted = acting => acted.unwrap_or_else(|error| Err(QuiesceError::Refused {
                name,
                how: request.mode.as_str(),
                cause: error.to_string(),
            })),
            () = cancel.cancelled() => Err(QuiesceError::Cancelled),
        }
    }

    async fn write_down(
        &self,
        container: Container,
        request: &Request,
        stop_limit: Duration,
    ) -> Result<Held, QuiesceError> {
        let entry = QuiescedContainer {
            job: request.job,
            container: container.id.clone(),
            name: container.name.clone(),
            started_at: container.started_at.clone(),
            stop_timeout_seconds: u32::try_from(stop_limit.as_secs()).unwrap_or(u32::MAX),
            written_unix_ms: now_unix_ms(),
            confirmed: false,
        };
        let action = match request.mode {
            QuiesceMode::Pause => CleanupAction::Unpause(entry),
            QuiesceMode::Stop => CleanupAction::Start(entry),
        };
        let (recovery, written) = (self.recovery.clone(), action.clone());
        let id = blocking(move || recovery.journal().record(written)).await?;
        // From here on a job that is dropped hands it over.
        let held = Held { id, action, container, act: Act::begin(), since: tokio::time::Instant::now() };
        self.held().push(held.clone());
        Ok(held)
    }

    async fn act(
        self: Arc<Self>,
        held: Held,
        mode: QuiesceMode,
        stop_limit: Duration,
    ) -> Result<(), QuiesceError> {
        let container = &held.container;
        let answer = match mode {
            QuiesceMode::Pause => self.engine.pause_container(&container.id).await,
            QuiesceMode::Stop => self.engine.stop_container(container, Some(stop_limit)).await,
        };
        match &answer {
            Ok(()) => held.act.answered(Outcome::Confirmed),
            Err(error) if is_refusal(mode, error) => held.act.answered(Outcome::Over),
            // The Engine may still be at it.
            Err(_) => {}
        }
        match answer {
            Ok(()) => {}
            // Removed between the look and the act.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(refused(container, mode, &error)),
        }
        failpoint(match mode {
            QuiesceMode::Pause => "agent.quiesce.after-pause",
            QuiesceMode::Stop => "agent.quiesce.after-stop",
        });
        self.look_after(held, mode).await
    }

    async fn look_after(&self, held: Held, mode: QuiesceMode) -> Result<(), QuiesceError> {
        let Held { id, action, container, .. } = held;
        let seen = match self.engine.inspect_container(&container.id).await {
            Ok(seen) => seen,
            // Whoever removed it did not wait for us.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(refused(&container, mode, &error)),
        };
        let action = confirmed(action, &seen.started_at);
        if let Some(held) = self.held().iter_mut().find(|held| held.id == id) {
            held.action = action.clone();
            held.container.started_at = seen.started_at;
        }
        // Without it the next agent still knows what was seen before the act.
        if let Err(error) = self.recovery.amend(id, action).await {
            tracing::warn!(%error, container.name, "the journal does not say that a container is quiesced");
        }
        Ok(())
    }
}

fn confirmed(mut action: CleanupAction, seen_started_at: &str) -> CleanupAction {
    if let CleanupAction::Start(entry) | CleanupAction::Unpause(entry) = &mut action {
        entry.started_at = seen_started_at.to_owned();
        entry.confirmed = true;
    }
    action
}

fn refused(container: &Container, mode: QuiesceMode, error: &EngineError) -> QuiesceError {
    QuiesceError::Refused { name: container.name.clone(), how: mode.as_str(), cause: error.to_string() }
}

/// Whether its processes may write now or without anybody's doing.
fn may_run(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Restarting | ContainerState::Unknown)
}

/// Whether an error says that the Engine does not go on with it. A stop that
/// failed may have sent its signal.
fn is_refusal(mode: QuiesceMode, error: &EngineError) -> bool {
    match error.kind() {
        EngineErrorKind::NotFound
        | EngineErrorKind::Conflict
        | EngineErrorKind::Invalid
        | EngineErrorKind::Permission
        | EngineErrorKind::Unsupported => true,
        EngineErrorKind::Failed => mode == QuiesceMode::Pause,
        EngineErrorKind::Unreachable | EngineErrorKind::Timeout => false,
    }
}

/// Its own timeout, but never so long that the deadline passes before the
/// Engine would even kill it.
fn stop_limit(container: &Container, max_downtime: Duration) -> Duration {
    let own = match container.stop_timeout_seconds {
        None => Duration::from_secs(10),
        Some(seconds) => u64::try_from(seconds).map_or(LONGEST_STOP, Duration::from_secs),
    };
    own.min(LONGEST_STOP).min((max_downtime / 2).max(Duration::from_secs(1)))
}
