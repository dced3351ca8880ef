//! Quiesce the users of data, and back, whatever happens between.
//!
//! One group of places after another, see [`groups()`]. All users of a group or
//! none: if one refuses, those that are quiesced already resume and the group fails.
//! Each is written into the journal before it is touched. They resume in one
//! of three ways, whichever is first: the group is read, the watchdog's
//! deadline passes, or the [`Quiesced`] is dropped (a panic, a runtime that
//! ends); and what a dead agent left is resumed by the next one.
//!
//! Called by backups; upgrades take its lock and stop containers themselves. It
//! touches containers and the journal, never data.
//!
//! One at a time on a host: two jobs that share a container would otherwise
//! each resume it under the other's read. Nothing is quiesced while a job waits for
//! its turn.

mod container;
mod groups;
mod plan;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::cancel::{Cancel, CancelReason};
use crate::engine::{Container, ContainerState, Engine, EngineError, HealthState, HealthWait};
use crate::journal::{ActionId, CleanupAction, JournalError};
use crate::resume::{Act, Attempt, RecoveryWorker};
use crate::watchdog::Watchdog;

use self::groups::groups;

pub(crate) use self::plan::{
    NotToStop, Place, QuiesceMode, depends_on, is_own, is_swarm, live_users, lives_in, mounts_place,
    plan_quiesce, quiesce_order,
};

/// How long a resumed container's health is waited for.
const HEALTH_LIMIT: Duration = Duration::from_secs(60);

/// How many containers are quiesced at the same time.
const AT_ONCE: usize = 8;

/// How long a job itself tries to resume a container before it leaves that to
/// the recovery worker, which never gives up.
const RESUME_LIMIT: Duration = Duration::from_secs(30);

/// Quiesce containers of one Engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Quiescer {
    engine: Engine,
    recovery: RecoveryWorker,
    own: Option<Arc<str>>,
    lock: Arc<tokio::sync::Mutex<()>>,
}

/// What is asked of a [`Quiescer`].
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub job: JobId,
    /// What is still to be read; there is at least one.
    pub places: Vec<Place>,
    pub mode: QuiesceMode,
    /// Counted from the first container that is touched.
    pub max_downtime: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum QuiesceError {
    #[error("the containers that use the data cannot be found out: {0}")]
    Engine(#[from] EngineError),
    #[error(transparent)]
    NotToStop(#[from] NotToStop),
    #[error("container `{name}` could not be {how}; those that were, resume: {cause}")]
    Refused { name: String, how: &'static str, cause: String },
    #[error("nothing was quiesced, because the journal cannot be written: {0}")]
    Journal(#[from] JournalError),
    #[error("containers that an earlier job left quiesced have not resumed yet; see the agent's log")]
    CleanupPending,
    #[error("the job was cancelled")]
    Cancelled,
}

impl QuiesceError {
    /// Error code for events.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Engine(error) => error.kind().code(),
            Self::NotToStop(refusal) => refusal.code(),
            Self::Refused { .. } => ErrorCode::QuiesceFailed,
            Self::Journal(_) => ErrorCode::JournalFailed,
            Self::CleanupPending => ErrorCode::CleanupPending,
            Self::Cancelled => ErrorCode::Cancelled,
        }
    }
}

/// How one container was quiesced and resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuiesceReport {
    pub container_id: String,
    pub container_name: String,
    pub mode: QuiesceMode,
    pub downtime_ms: u64,
    /// It runs again. False: it does not, and `problem` says why; what is to be
    /// resumed is still in the journal.
    pub resumed: bool,
    pub problem: String,
}

/// Nothing is quiesced, or the recovery worker will resume it.
#[derive(Debug)]
pub(crate) struct QuiesceFailure {
    pub error: QuiesceError,
    /// Indexes of the places this is said of. Before it is known which are of
    /// one group it is all of them: then the reason is the host's, not theirs.
    pub group: Vec<usize>,
    /// What was touched.
    pub reports: Vec<QuiesceReport>,
}

/// Quiesced containers. They resume when it is dropped, but only
/// [`Quiesced::resume`] waits for them and tells how it went.
#[derive(Debug)]
pub(crate) struct Quiesced {
    shared: Arc<Shared>,
    group: Vec<usize>,
    places: Vec<Place>,
    watchdog: Option<Watchdog>,
    _lock: OwnedMutexGuard<()>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    recovery: RecoveryWorker,
    own: Option<Arc<str>>,
    mode: QuiesceMode,
    held: Mutex<Vec<Held>>,
    /// Held while containers resume, so that the job and its watchdog do not both.
    resumed: tokio::sync::Mutex<Vec<QuiesceReport>>,
}

#[derive(Debug, Clone)]
struct Held {
    id: ActionId,
    action: CleanupAction,
    /// As it was before the act, but for its start time once that was seen after it.
    container: Container,
    since: Instant,
    act: Act,
}

impl Quiescer {
    /// `own`: the id of the container the agent itself runs in, if any.
    pub(crate) fn new(engine: Engine, recovery: RecoveryWorker, own: Option<String>) -> Self {
        Self { engine, recovery, own: own.map(Arc::from), lock: Arc::default() }
    }

    /// Held by whoever has quiesced containers, backups and upgrades alike.
    pub(crate) fn lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.lock.clone()
    }

    /// Quiesces every user of the first group of the places; the result
    /// says which places those are, the others are for further calls. The
    /// groups are made of the containers that run now: those of an earlier
    /// call may be long gone. When it fails, the containers that were touched
    /// are resumed already or left to the recovery worker.
    ///
    /// # Errors
    /// When one of them cannot be quiesced, or the job is cancelled.
    pub(crate) async fn quiesce(
        &self,
        request: &Request,
        cancel: &Cancel,
    ) -> Result<Quiesced, QuiesceFailure> {
        let all = |error: QuiesceError| QuiesceFailure {
            error,
            group: (0..request.places.len()).collect(),
            reports: Vec::new(),
        };
        let lock = tokio::select! {
            lock = self.lock.clone().lock_owned() => lock,
            () = cancel.cancelled() => return Err(all(QuiesceError::Cancelled)),
        };
        // A cleanup action carried out during the read would start what must stay quiesced.
        if !self.recovery.resumed(RESUME_LIMIT).await {
            return Err(all(QuiesceError::CleanupPending));
        }
        let containers = inspect_all(&self.engine).await.map_err(|error| all(error.into()))?;
        let own = self.own.as_deref();
        let groups = groups(&containers, &request.places, request.mode, own);
        let group = groups.into_iter().next().unwrap_or_default();
        let places: Vec<Place> = group.iter().map(|&i| request.places[i].clone()).collect();
        let plan = match plan_quiesce(&containers, &places, request.mode, own) {
            Ok(plan) => plan,
            Err(error) => return Err(QuiesceFailure { error: error.into(), group, reports: Vec::new() }),
        };
        let shared = Arc::new(Shared {
            engine: self.engine.clone(),
            recovery: self.recovery.clone(),
            own: self.own.clone(),
            mode: request.mode,
            held: Mutex::default(),
            resumed: tokio::sync::Mutex::default(),
        });
        // Armed before the first act, so that no container is quiesced unwatched.
        let deadline = Instant::now() + request.max_downtime;
        let watchdog = (!plan.containers.is_empty()).then(|| watch(&shared, deadline, cancel));
        let quiesced = Quiesced { shared: shared.clone(), group, places, watchdog, _lock: lock };
        // Those that need others stop first, a wave at a time. From here on a panic
        // or a job that is dropped resumes them: `quiesced` is what is dropped.
        for wave in plan.waves() {
            if let Err(error) = shared.quiesce_all(wave, request, cancel).await {
                let group = quiesced.group.clone();
                return Err(QuiesceFailure { error, group, reports: quiesced.resume().await });
            }
        }
        Ok(quiesced)
    }
}

fn watch(shared: &Arc<Shared>, deadline: Instant, cancel: &Cancel) -> Watchdog {
    let (shared, cancel) = (shared.clone(), cancel.clone());
    Watchdog::arm(deadline, async move {
        tracing::error!(
            "containers were quiesced for as long as they may be; they resume and their data is not saved"
        );
        // First: a job that has read all by now must not commit what it read while
        // containers wrote again.
        cancel.cancel(CancelReason::MaxDowntime);
        shared.resume(false).await;
    })
}

impl Quiesced {
    /// Indexes of the places, as they were asked for, whose users are quiesced.
    pub(crate) fn group(&self) -> &[usize] {
        &self.group
    }

    /// What may have written to the data although all its users were to be quiesced.
    ///
    /// # Errors
    /// When the Engine cannot be asked, which is a reason for doubt too.
    pub(crate) async fn disturbances(&self) -> Result<Vec<String>, EngineError> {
        let containers = inspect_all(&self.shared.engine).await?;
        let running = live_users(&containers, &self.places, self.shared.own.as_deref());
        let mut problems: Vec<String> = running
            .iter()
            .map(|container| format!("container `{}` ran while its data was read", container.name))
            .collect();
        let held = self.shared.held().clone();
        let known: HashSet<&str> = running.iter().map(|container| container.id.as_str()).collect();
        for held in held.iter().filter(|held| !known.contains(held.container.id.as_str())) {
            // The start time is that of after the act: a restart before it is none of ours.
            let restarted = containers.iter().any(|container| {
                container.id == held.container.id && container.started_at != held.container.started_at
            });
            if restarted {
                problems
                    .push(format!("container `{}` was started while its data was read", held.container.name));
            }
        }
        Ok(problems)
    }

    /// Resumes everything, in the reverse order, and says how it went.
    pub(crate) async fn resume(mut self) -> Vec<QuiesceReport> {
        let mut reports = self.shared.resume(true).await;
        // Nothing is quiesced any more. How long they take to be healthy is no
        // time quiesced, and no reason to give up what was read.
        drop(self.watchdog.take());
        if self.shared.mode == QuiesceMode::Stop {
            self.shared.note_health(&mut reports).await;
        }
        reports
    }
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        self.shared.hand_over();
    }
}

impl Shared {
    /// `patient`: also waits for the health of what others need to start.
    async fn resume(&self, patient: bool) -> Vec<QuiesceReport> {
        // The watchdog and the job may both come here. The second waits, finds nothing
        // held, and gets the reports of the first.
        let mut resumed = self.resumed.lock().await;
        // Each stays in `held` until it is resumed: if this is cut off, the others are
        // handed over.
        loop {
            let Some(held) = self.held().last().cloned() else { break };
            let report = self.resume_one(&held).await;
            if patient && report.problem.is_empty() && self.mode == QuiesceMode::Stop && self.is_needed(&held)
            {
                self.await_health(&held.container).await;
            }
            resumed.push(report);
        }
        resumed.clone()
    }

    /// Whether one that is still quiesced needs this one.
    fn is_needed(&self, held: &Held) -> bool {
        self.held().iter().any(|other| depends_on(&other.container, &held.container))
    }

    async fn resume_one(&self, held: &Held) -> QuiesceReport {
        let deadline = Instant::now() + RESUME_LIMIT;
        let outcome = loop {
            // What is known of it may grow while the act runs to its end.
            let known = self.held().iter().find(|known| known.id == held.id).cloned();
            let Held { id, action, act, .. } = known.as_ref().unwrap_or(held);
            match self.recovery.carry_out(*id, action, act.outcome(action)).await {
                Ok(Attempt::Done) => break Ok((true, "")),
                Ok(Attempt::Void(reason)) => break Ok((true, reason)),
                Ok(Attempt::Left(reason)) => break Ok((false, reason)),
                Ok(Attempt::NotYet) if Instant::now() > deadline => {
                    break Err("the Engine has not finished quiescing it".to_owned());
                }
                // The Engine may be restarting. The recovery worker goes on from here.
                Err(error) if Instant::now() > deadline => break Err(error.to_string()),
                Ok(Attempt::NotYet) | Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let last = self.let_go(held);
        let (resumed, problem) = match outcome {
            Ok((runs, note)) => (runs, note.to_owned()),
            Err(problem) => {
                // It is out of `held`, and in the journal: nobody else would come back to it.
                self.recovery.hand_over([(last.id, last.action, last.act)]);
                (false, format!("{problem}; the agent goes on trying"))
            }
        };
        QuiesceReport {
            container_id: held.container.id.clone(),
            container_name: held.container.name.clone(),
            mode: self.mode,
            downtime_ms: u64::try_from(held.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            resumed,
            problem,
        }
    }

    /// Takes it out of `held`, with the last that is known of it.
    fn let_go(&self, held: &Held) -> Held {
        let mut all = self.held();
        let at = all.iter().position(|other| other.id == held.id);
        at.map_or_else(|| held.clone(), |at| all.remove(at))
    }

    async fn await_health(&self, container: &Container) {
        if container.health != HealthState::NoCheck {
            let _ = self.engine.wait_healthy(&container.id, HEALTH_LIMIT).await;
        }
    }

    /// Adds to the reports which containers did not come back well.
    async fn note_health(&self, reports: &mut [QuiesceReport]) {
        let deadline = Instant::now() + HEALTH_LIMIT;
        for report in reports.iter_mut().filter(|report| report.resumed && report.problem.is_empty()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let health = self.engine.wait_healthy(&report.container_id, left).await;
            report.problem = match health {
                Ok(HealthWait::Healthy | HealthWait::NoCheck) => continue,
                Ok(HealthWait::Unhealthy) => "it is unhealthy since it was started again".to_owned(),
                Ok(HealthWait::Ended { exit_code }) => {
                    format!("it was started again and ended with exit code {exit_code}")
                }
                Ok(HealthWait::TimedOut) => {
                    format!("it was started again and is not healthy after {} s", HEALTH_LIMIT.as_secs())
                }
                Err(error) => format!("its health is not known: {error}"),
            };
        }
    }

    fn hand_over(&self) {
        let left = std::mem::take(&mut *self.held());
        if !left.is_empty() {
            self.recovery.hand_over(left.into_iter().map(|held| (held.id, held.action, held.act)));
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every container in full. One that goes away meanwhile uses nothing.
pub(crate) async fn inspect_all(engine: &Engine) -> Result<Vec<Container>, EngineError> {
    let mut containers = Vec::new();
    for summary in engine.list_containers().await? {
        if summary.is_holder()
            || !matches!(
                summary.state,
                ContainerState::Running
                    | ContainerState::Restarting
                    | ContainerState::Paused
                    | ContainerState::Exited
            )
        {
            continue;
        }
        match engine.inspect_container(&summary.id).await {
            Ok(container) => containers.push(container),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(containers)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
