//! One upgrade in the hands of a task: what is written before it is done, what
//! is told of it, and how it is brought to its end.

use std::time::Duration;

use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, upgrade_event::Event};

use crate::resume::blocking;
use crate::snapshot::Job;

use super::context::Context;
use super::record::{Record, State};
use super::{FIRST_PAUSE, Failure, LONGEST_PAUSE};

/// Attempts to bring something to its end, after which it is said that they
/// fail: some 15 seconds.
const TOLD_AFTER: u32 = 5;

pub(super) type UpgradeJob = Job<v1::UpgradeEvent>;

/// An upgrade in the hands of whoever drives it.
pub(super) struct UpgradeRun<'a> {
    pub(super) context: &'a Context,
    pub(super) record: Record,
    pub(super) job: Option<&'a UpgradeJob>,
    /// How often its end could not be reached because something was refused.
    pub(super) tries: u32,
}

/// The ways in which what is under way comes to an end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Commit,
    RollBack,
    /// Of a rollback that did not begin: everything runs again.
    Resume,
}

impl UpgradeRun<'_> {
    /// On disk, and in what is listed, when it returns.
    pub(super) async fn save(&mut self) -> Result<(), Failure> {
        let (store, record) = (self.context.store.clone(), self.record.clone());
        blocking(move || store.save(&record)).await?;
        self.context.records().insert(self.record.job, self.record.clone());
        Ok(())
    }

    /// Enters a state: written first, told afterwards.
    pub(super) async fn step(&mut self, state: State, text: impl Into<String>) -> Result<(), Failure> {
        self.record.set_state(state);
        self.note(text).await
    }

    /// A line within a state.
    pub(super) async fn note(&mut self, text: impl Into<String>) -> Result<(), Failure> {
        let step = self.record.add_step(text);
        self.save().await?;
        tracing::info!(job.id = %self.record.job, container.name = self.record.target().name,
            state = ?self.record.state(), "{}", step.text);
        self.push(Event::Step(step.wire()));
        Ok(())
    }

    pub(super) fn push(&self, happened: Event) {
        if let Some(job) = self.job {
            job.feed.push(event(job.id, happened));
        }
    }

    pub(super) fn finished(&self) -> v1::UpgradeFinished {
        finished(&self.record)
    }

    /// Repeats an idempotent act until it succeeds: an Engine that restarts
    /// answers again. `within`: gives up after so long; the record stays.
    pub(super) async fn until_done(&mut self, ending: Ending, within: Option<Duration>) {
        let deadline = within.map(|within| tokio::time::Instant::now() + within);
        let (mut pause, mut attempts) = (FIRST_PAUSE, 0);
        loop {
            let tried = match ending {
                Ending::Commit => self.finish_commit().await,
                Ending::RollBack => self.roll_back().await,
                Ending::Resume => self.resume().await,
            };
            let Err(failure) = tried else { return };
            attempts += 1;
            if attempts == TOLD_AFTER {
                // Heard by who watches the job, and seen in `upgrade status`.
                let text = format!("this does not come to its end and is tried on: {failure}");
                if self.record.steps.last().is_none_or(|last| last.text != text) {
                    drop(self.note(text).await);
                }
            }
            tracing::error!(job.id = %self.record.job, container.name = self.record.target().name,
                error = %failure, retry_in = ?pause, "an upgrade could not be brought to its end");
            let next = tokio::time::Instant::now() + pause;
            if deadline.is_some_and(|deadline| next > deadline) {
                return;
            }
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Brings to an end what was cut off.
    pub(super) async fn go_on(&mut self, within: Option<Duration>) {
        if self.record.state() == State::Committing {
            return self.until_done(Ending::Commit, within).await;
        }
        if self.record.state() == State::AwaitingRollbackSnapshot {
            return self.until_done(Ending::Resume, within).await;
        }
        let failure = match self.record.error_code() {
            None => {
                Failure::new(ErrorCode::Interrupted, "the agent was cut off in the middle of the upgrade")
            }
            Some(code) => Failure::new(code, self.record.error.clone()),
        };
        if self.record.state() != State::RollingBack {
            self.begin_rollback(&failure).await;
        }
        self.until_done(Ending::RollBack, within).await;
    }

    /// Committing only goes forward, here as after a crash.
    pub(super) async fn end_otherwise(&mut self, failure: &Failure) {
        if self.record.state() == State::Committing {
            self.until_done(Ending::Commit, None).await;
        } else {
            self.end_rolled_back(failure).await;
        }
    }

    pub(super) async fn end_rolled_back(&mut self, failure: &Failure) {
        self.begin_rollback(failure).await;
        self.until_done(Ending::RollBack, None).await;
    }
}

/// The last word about an upgrade; None: it is said by the agent that comes.
pub(super) fn end(job: &UpgradeJob, finished: Option<v1::UpgradeFinished>) {
    let Some(finished) = finished else {
        tracing::info!(job.id = %job.id, "the agent stops; the upgrade goes on without it");
        return job.feed.abandon();
    };
    tracing::info!(job.id = %job.id, ok = finished.ok, code = finished.error_code, "upgrade ended");
    job.feed.end(event(job.id, Event::Finished(finished)));
}

pub(super) fn event(job: JobId, event: Event) -> v1::UpgradeEvent {
    v1::UpgradeEvent { job_id: job.to_string(), event: Some(event) }
}

pub(super) fn failed(failure: &Failure) -> v1::UpgradeFinished {
    v1::UpgradeFinished {
        cancelled: failure.code == ErrorCode::Cancelled,
        error_code: failure.code.as_str().to_owned(),
        error: failure.message.clone(),
        ..Default::default()
    }
}

/// How an upgrade that is not under way any more ended.
pub(super) fn finished(record: &Record) -> v1::UpgradeFinished {
    let ok = matches!(record.state(), State::Committed | State::Finished);
    v1::UpgradeFinished {
        ok,
        rolled_back: record.state() == State::RolledBack && record.stopped_unix_ms > 0,
        cancelled: record.error_code() == Some(ErrorCode::Cancelled),
        downtime_ms: record.downtime_ms,
        error_code: record.error_code.clone(),
        error: record.error.clone(),
        upgrade: Some(record.wire()),
    }
}
