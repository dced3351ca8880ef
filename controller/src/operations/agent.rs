//! Follows a job at work on an agent, through broken streams and restarts.
//!
//! The agent owns the work; a stream is only a view of it. So a lost stream
//! costs nothing: the same call with the same job id attaches again and tells
//! everything from the beginning. If the agent does not know the job any more
//! it was restarted, the same call runs it anew, and that is what counts as an
//! attempt.
//!
//! Generations: a first start uses the one the claim gave. Attaching again
//! from the same process keeps it; a new process and a new attempt raise it.
//! The catalogue is raised before the agent hears of it: the agent's own calls
//! to the repository carry the generation, and one that is behind is accepted
//! there until a newer attempt has begun, one that is ahead is not.
//!
//! Upgrades and rollbacks are *awaited to their end*: once the agent may have begun one,
//! only the agent knows how it ends, so neither a request to cancel nor a lost
//! stream ends the job here; the request is passed on and the end awaited. An
//! upgrade is never begun a second time either: an agent that lost the stream
//! still remembers the upgrade and repeats how it ended.

use std::time::Duration;

use futures_util::StreamExt as _;
use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::host::awaited;
use super::{Failure, JobRun};
use crate::fleet::answer::{plain, unanswered};
use crate::fleet::calls;
use crate::fleet::streams::{self, Events};
use crate::limits::EVENTS_PER_SECOND;
use crate::model::event::{AgentEvent, UpgradeEvent};
use crate::model::upgrade::{UpgradeFinished, UpgradeState};
use crate::model::work::Work;

/// An agent that said it stops is gone after this, or is a new one by now.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(60);

/// What must be awaited to its end is given up after so many failures in a row: an
/// hour, with the pauses between them.
const MAX_FAILED_ATTEMPTS: u32 = 60;

/// A job on an agent.
pub(super) struct AgentJob<'d> {
    run: &'d mut JobRun,
    host: HostId,
    work: Work,
    events: Option<Events>,
    attached_before: bool,
    /// An upgrade was heard of: it must not be begun again.
    begun: bool,
    failed_attempts: u32,
    pace: Pace,
    /// Set once the agent was asked to cancel: it has until then to end.
    cancel_deadline: Option<Instant>,
}

impl<'d> AgentJob<'d> {
    pub(super) fn new(run: &'d mut JobRun, host: HostId, work: Work) -> Self {
        let attached_before = run.taken_over;
        let begun = run.job.result.upgrade.as_ref().is_some_and(|report| !report.steps.is_empty());
        Self {
            run,
            host,
            work,
            events: None,
            attached_before,
            begun,
            failed_attempts: 0,
            pace: Pace::new(Instant::now()),
            cancel_deadline: None,
        }
    }

    pub(super) fn run(&self) -> &JobRun {
        self.run
    }

    /// The next thing that happens; attaches, waits and tries again as
    /// needed. After a break everything is told again from the beginning.
    pub(super) async fn next(&mut self) -> Result<AgentEvent, Failure> {
        loop {
            if self.events.is_none() {
                self.events = Some(self.attach().await?);
            }
            match self.listen().await? {
                Some(Ok(event)) => {
                    // What is over waits at the agent: the stream is not read meanwhile.
                    if let Some(rest) = self.pace.take(Instant::now()) {
                        tokio::time::sleep(rest).await;
                    }
                    self.failed_attempts = 0;
                    self.begun |= matches!(event, AgentEvent::Upgrade(_));
                    return Ok(event);
                }
                Some(Err(status)) => self.broken(status).await?,
                None => self.broken(Status::unavailable("the stream ended before the job did")).await?,
            }
        }
    }

    /// One item of the stream; silence for too long is an error of it.
    async fn listen(&mut self) -> Result<Option<Result<AgentEvent, Status>>, Failure> {
        let Some(events) = self.events.as_mut() else { return Ok(None) };
        let idle = self.run.jobs.settings().stream_idle;
        let quiet = Instant::now() + idle;
        let deadline = self.cancel_deadline.filter(|_| !self.work.must_await_outcome()).unwrap_or(quiet);
        if self.cancel_deadline.is_none() {
            tokio::select! {
                biased;
                () = self.run.cancel.cancelled() => {}
                item = timeout_at(deadline, events.next()) => {
                    return Ok(item.unwrap_or_else(|_| Some(Err(silent()))));
                }
            }
            self.ask_to_cancel().await;
            return Box::pin(self.listen()).await;
        }
        match timeout_at(deadline, events.next()).await {
            Ok(item) => Ok(item),
            Err(_) if self.work.must_await_outcome() => Ok(Some(Err(silent()))),
            Err(_) => Err(Failure::Cancelled),
        }
    }

    async fn ask_to_cancel(&mut self) {
        let settings = self.run.jobs.settings();
        self.cancel_deadline = Some(Instant::now() + settings.cancel_wait);
        let Some(channel) = self.run.jobs.fleet().channel(self.host) else { return };
        let answer = calls::cancel_job(channel, self.run.job.id, settings.call).await;
        let Err(status) = answer else { return };
        tracing::warn!(%status, "the agent could not be asked to cancel");
        if self.work.must_await_outcome() {
            // Asked again with the next stream.
            self.events = None;
        }
    }

    /// Takes in that the stream is lost; fails where trying again is no use.
    async fn broken(&mut self, status: Status) -> Result<(), Failure> {
        self.events = None;
        self.refuse_permanent(&status)?;
        if self.gives_up() {
            // It was asked to stop, or cannot be reached to be asked; without
            // a running job the repository takes nothing from it any more.
            return Err(Failure::Cancelled);
        }
        tracing::warn!(%status, "lost sight of the job on its agent");
        self.run.log_event(&format!("lost sight of the agent: {}", plain(&status))).await?;
        self.pause().await
    }

    /// The agent was stopped in the middle and said so: waits for it to go,
    /// so that the next thing that is attached to is a new start.
    pub(super) async fn again_after_shutdown(&mut self) -> Result<(), Failure> {
        self.events = None;
        self.run.log_event("the agent was stopped; the job goes on when it is back").await?;
        let fleet = self.run.jobs.fleet().clone();
        let mut changes = fleet.changes();
        let deadline = Instant::now() + SHUTDOWN_WAIT;
        while fleet.is_connected(self.host) {
            tokio::select! {
                () = self.run.cancel.cancelled() => return Err(Failure::Cancelled),
                changed = timeout_at(deadline, changes.changed()) => if !matches!(changed, Ok(Ok(()))) { break },
            }
        }
        Ok(())
    }

    /// Whether the request to cancel is reason enough to end the job here.
    fn gives_up(&self) -> bool {
        self.run.cancel.is_cancelled() && !self.must_hear()
    }

    fn must_hear(&self) -> bool {
        self.work.must_await_outcome() && self.attached_before
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        self.failed_attempts += 1;
        let pause = self.run.jobs.settings().retry_pause(self.failed_attempts);
        if self.must_hear() {
            if self.failed_attempts > MAX_FAILED_ATTEMPTS {
                let text = "the agent does not say how it ended; once it does: holdfast upgrade status";
                return Err(Failure::failed(ErrorCode::AgentUnreachable, text));
            }
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        tokio::select! {
            () = self.run.cancel.cancelled() => Err(Failure::Cancelled),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Opens the stream, for the first time or again.
    async fn attach(&mut self) -> Result<Events, Failure> {
        loop {
            let most = self.run.jobs.settings().host_gone;
            let channel = awaited(self.run, self.host, most, !self.must_hear()).await?;
            let attempt = self.try_attach(channel).await;
            match attempt {
                Ok(Ok(events)) => {
                    self.attached_before = true;
                    if self.work.must_await_outcome() {
                        self.cancel_deadline = None;
                    }
                    return Ok(events);
                }
                Ok(Err(status)) => {
                    self.refuse_permanent(&status)?;
                    tracing::warn!(%status, "could not reach the job's agent");
                    self.pause().await?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn try_attach(&mut self, channel: Channel) -> Result<Result<Events, Status>, Failure> {
        if self.gives_up() {
            return Err(Failure::Cancelled);
        }
        let token = self.run.token().get();
        if let Work::RollBack(rollback) = &self.work {
            let upgrade = rollback.upgrade.clone();
            return Ok(self.open_rollback(channel, &upgrade, token).await);
        }
        if !self.attached_before {
            return Ok(self.open_begun(channel, token).await);
        }
        let call = self.run.jobs.settings().call;
        let running = match calls::generation(channel.clone(), self.run.job.id, call).await {
            Ok(running) => running,
            Err(status) => return Ok(Err(status)),
        };
        match running {
            Some(seen) => self.attach_again(channel, token, seen).await,
            None if matches!(self.work, Work::Upgrade(_)) => self.recall(channel, token).await,
            None => self.start_again(channel, token).await,
        }
    }

    /// Opens the stream for what the agent may not know yet. Whatever comes
    /// back, even nothing: from here on it may have begun.
    async fn open_begun(&mut self, channel: Channel, generation: u64) -> Result<Events, Status> {
        let opened = self.open(channel, generation).await;
        self.attached_before |= self.work.must_await_outcome();
        opened
    }

    /// A rollback is the agent's own: the same call attaches to it. One that
    /// has ended is known by what became of its upgrade.
    async fn open_rollback(&mut self, channel: Channel, upgrade: &str, token: u64) -> Result<Events, Status> {
        if self.attached_before {
            let call = self.run.jobs.settings().call;
            let known = calls::upgrade(channel.clone(), upgrade, call).await?;
            if let Some(upgrade) = known.filter(|known| known.state == UpgradeState::RolledBack) {
                let finished = UpgradeFinished {
                    rolled_back: true,
                    upgrade: Some(upgrade),
                    ..UpgradeFinished::default()
                };
                let event = AgentEvent::Upgrade(UpgradeEvent::Finished(finished));
                return Ok(Box::pin(futures_util::stream::iter([Ok(event)])));
            }
        }
        self.open_begun(channel, token).await
    }

    /// An upgrade that is not at work on its agent: hears how it ended, or
    /// begins it if it never did.
    async fn recall(&mut self, channel: Channel, token: u64) -> Result<Result<Events, Status>, Failure> {
        let (id, call) = (self.run.job.id, self.run.jobs.settings().call);
        match calls::upgrade(channel.clone(), &id.to_string(), call).await {
            Ok(Some(_)) => self.attach_again(channel, token, token).await,
            Ok(None) if self.begun => {
                let text = "the host has no memory of this upgrade any more; look which container runs there, \
                            and at the agent's log";
                Err(Failure::failed(ErrorCode::UpgradeLost, text))
            }
            Ok(None) if self.run.cancel.is_cancelled() => {
                // Remembered there, should our first call still be on its way.
                match calls::cancel_job(channel, id, call).await {
                    Ok(()) => Err(Failure::Cancelled),
                    Err(status) => Ok(Err(status)),
                }
            }
            Ok(None) => self.start_again(channel, token).await,
            Err(status) => Ok(Err(status)),
        }
    }

    async fn attach_again(
        &mut self,
        channel: Channel,
        token: u64,
        seen: u64,
    ) -> Result<Result<Events, Status>, Failure> {
        let next = if self.run.taken_over { token.max(seen) + 1 } else { token.max(seen) };
        if next > token {
            self.run.bump(next, false).await?;
        }
        let opened = self.open(channel, next).await;
        if opened.is_ok() {
            self.run.taken_over = false;
            self.run.log_event("attached to the job on its agent again").await?;
        }
        Ok(opened)
    }

    async fn start_again(&mut self, channel: Channel, token: u64) -> Result<Result<Events, Status>, Failure> {
        let most = self.run.jobs.settings().attempts;
        if self.run.attempt >= most {
            return Err(Failure::failed(
                ErrorCode::Attempts,
                format!("given up after {most} attempts; the agent's log has the cause"),
            ));
        }
        self.run.bump(token + 1, true).await?;
        self.run.taken_over = false;
        self.run.jobs.progress().clear(self.run.job.id);
        self.run.log_event(&format!("attempt {} of {most}", self.run.attempt)).await?;
        Ok(self.open(channel, token + 1).await)
    }

    async fn open(&mut self, channel: Channel, generation: u64) -> Result<Events, Status> {
        let opening = streams::open(channel, self.work.clone(), self.run.job.id, generation);
        if self.work.must_await_outcome() {
            return begins(self.run, opening).await;
        }
        let call = self.run.jobs.settings().call;
        timeout(call, opening).await.map_err(|_| unanswered("to begin the job", call))?
    }

    /// Errors that the same call would meet again.
    fn refuse_permanent(&self, status: &Status) -> Result<(), Failure> {
        let is_stale = ErrorCode::of(status) == Some(ErrorCode::StaleGeneration);
        match status.code() {
            Code::Cancelled if self.gives_up() => Err(Failure::Cancelled),
            Code::FailedPrecondition | Code::Aborted if is_stale => Ok(()),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => {
                Err(Failure::answered(status, ErrorCode::AgentRefused, status.message()))
            }
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Ok(()),
        }
    }
}

/// Counts events a second.
#[derive(Debug)]
struct Pace {
    since: Instant,
    taken: u32,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, taken: 0 }
    }

    /// Takes one; gives how long to wait before the next where there were too
    /// many.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.since);
        if passed >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.taken += 1;
        (self.taken > EVENTS_PER_SECOND).then(|| Duration::from_secs(1).saturating_sub(passed))
    }
}

fn silent() -> Status {
    Status::deadline_exceeded("the agent said nothing for too long")
}

/// Waits for an agent that looks at everything again before it begins. A wish
/// to cancel ends the wait, not what may have begun by then.
async fn begins<T>(run: &JobRun, opening: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let settings = run.jobs.settings();
    let cancelled = run.cancel.is_cancelled();
    let most = if cancelled { settings.call } else { settings.fetch };
    tokio::select! {
        opened = timeout(most, opening) => opened.map_err(|_| unanswered("to begin the job", most))?,
        () = run.cancel.cancelled(), if !cancelled => {
            Err(Status::unavailable("the request to cancel came before an answer"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v04_events_are_taken_at_a_pace() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        let soon = begun + Duration::from_millis(100);
        assert!((0..EVENTS_PER_SECOND).all(|_| pace.take(soon).is_none()));
        assert_eq!(pace.take(soon), Some(Duration::from_millis(900)));
        assert_eq!(pace.take(begun + Duration::from_secs(1)), None);
    }
}
