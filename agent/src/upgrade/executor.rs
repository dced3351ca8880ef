//! Carries out the steps of an upgrade, and brings what was begun to an end:
//! forward once it has begun to commit, else back.
//!
//! A step that fails, or an agent that dies in it, leads to the same place: the
//! record says how far it came, and everything that may have been done is
//! undone. An undo looks at what is there and does what is missing, so that it
//! can be entered at any time and any number of times; the steps from the commit
//! on are as patient.

use std::time::Duration;

use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;
use tokio::time::Instant;

use crate::failpoint::failpoint;

use super::UpgradeError;
use super::record::{RecordedFailure, Rollback, State};
use super::run::UpgradeRun;
use super::steps::Step;
use super::{PAUSES, RECOVERY};

/// Attempts to bring something to its end, after which it is said that they
/// fail: some 15 seconds.
const TOLD_AFTER: u32 = 5;

/// How often what the Engine refuses is tried: a name or a port that is taken
/// may be free a minute later. With the pauses between, some three minutes.
const TRIES: u32 = 10;

/// The ways in which what is under way comes to an end.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    Commit,
    RollBack,
    /// Of a rollback that did not begin: everything runs again.
    Resume,
}

/// What could not be done for single containers.
#[derive(Debug, Default)]
pub(super) struct Problems {
    texts: Vec<String>,
    /// Nothing is known to be impossible: the Engine is away.
    away: Option<UpgradeError>,
    /// Members whose new container could not be removed: its name is not free.
    not_removed: Vec<usize>,
}

impl UpgradeRun<'_> {
    /// Carries out steps in their order, but for those that are done already.
    pub(super) async fn execute(&mut self, steps: &[Step]) -> Result<(), UpgradeError> {
        for step in steps {
            if !step.is_done(self) {
                step.run(self).await?;
                failpoint(step.fail_point());
            }
        }
        Ok(())
    }

    /// Brings to an end what was cut off.
    pub(super) async fn go_on(&mut self, within: Option<Duration>) {
        match self.record.state() {
            State::Committing => return self.until_done(Ending::Commit, within).await,
            State::AwaitingRollbackSnapshot(_) => return self.until_done(Ending::Resume, within).await,
            State::RollingBack(_) => {}
            _ => {
                let interrupted = || RecordedFailure::from(&UpgradeError::Interrupted);
                let failure = self.record.failure().unwrap_or_else(interrupted);
                self.begin_rollback(&failure).await;
            }
        }
        self.until_done(Ending::RollBack, within).await;
    }

    /// Committing only goes forward, here as after a crash.
    pub(super) async fn end_otherwise(&mut self, error: &UpgradeError) {
        if *self.record.state() == State::Committing {
            return self.until_done(Ending::Commit, None).await;
        }
        self.begin_rollback(&RecordedFailure::from(error)).await;
        self.until_done(Ending::RollBack, None).await;
    }

    /// Repeats an idempotent act until it succeeds: an Engine that restarts
    /// answers again. `within`: gives up after so long; the record stays.
    pub(super) async fn until_done(&mut self, ending: Ending, within: Option<Duration>) {
        let begun = Instant::now();
        let mut attempts = 0;
        loop {
            let tried = match ending {
                Ending::Commit => self.execute(Step::after_commit()).await,
                Ending::RollBack => self.roll_back().await,
                Ending::Resume => self.resume().await,
            };
            let Err(error) = tried.map_err(|error| causes(&error)) else { return };
            attempts += 1;
            let pause = PAUSES.pause(attempts);
            if attempts == TOLD_AFTER {
                // Heard by who watches the job, and seen in `upgrade status`.
                let text = format!("this does not come to its end and is tried on: {error}");
                if self.record.steps.last().is_none_or(|last| last.text != text) {
                    drop(self.note(text).await);
                }
            }
            tracing::error!(job.id = %self.record.job, container.name = self.record.target().name,
                %error, retry_in = ?pause, "an upgrade could not be brought to its end");
            let next = Instant::now() + pause;
            if within.is_some_and(|within| next > begun + within) {
                return;
            }
            // What cannot be ended must not keep every other job of this host
            // from quiescing its containers.
            if next > begun + RECOVERY {
                self.quiesce_lock = None;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Written down before the first act: a crash from here on goes back too.
    pub(super) async fn begin_rollback(&mut self, failure: &RecordedFailure) {
        if let Err(error) = self.note_rollback(failure, false).await {
            // The state before it is on disk, and leads back as well.
            tracing::error!(job.id = %self.record.job, error = %causes(&error), "that an upgrade goes back could not be written down");
        }
    }

    /// `requested`: of a committed upgrade; see [`Rollback`].
    pub(super) async fn note_rollback(
        &mut self,
        failure: &RecordedFailure,
        requested: bool,
    ) -> Result<(), UpgradeError> {
        self.record.set_failure(failure);
        let rollback = Rollback { requested, data_is_back: false };
        self.enter(State::RollingBack(rollback), format!("going back: {}", failure.message)).await?;
        failpoint("agent.upgrade.rollback-begun");
        Ok(())
    }

    /// Undoes every step, in the order of [`Step::UNDO`]. Entered again after a
    /// crash, or an Engine that went away: what fails for one container does not
    /// keep the others stopped.
    async fn roll_back(&mut self) -> Result<(), UpgradeError> {
        self.problems = Problems::default();
        for (step, undone) in Step::UNDO {
            step.undo(self).await?;
            failpoint(undone);
        }
        self.record.set_ended(self.context.clocks.now());
        self.tell_of_kept_volumes().await?;
        let text = if self.record.stopped_unix_ms.is_some() {
            format!("`{}` is as it was when it was stopped", self.record.target().name)
        } else {
            format!("nothing was stopped; `{}` was never touched", self.record.target().name)
        };
        self.enter(State::RolledBack, text).await
    }

    /// With problems it is tried again; if that is no use, they are what is
    /// said in the end. An Engine that is away is waited for without end: given
    /// up, everything would stay stopped.
    pub(super) fn settle(&mut self) -> Result<(), UpgradeError> {
        let Problems { texts, away, .. } = std::mem::take(&mut self.problems);
        if let Some(error) = away {
            return Err(error);
        }
        if texts.is_empty() {
            return Ok(());
        }
        let text = texts.join("; ");
        self.tries += 1;
        if self.tries < TRIES {
            return Err(UpgradeError::Unsettled { problems: text });
        }
        tracing::error!(job.id = %self.record.job, problems = text, "an upgrade ends with what could not be done");
        if self.record.error_code.is_empty() {
            self.record.error_code = ErrorCode::Unsettled.as_str().to_owned();
        }
        if !self.record.error.contains(&text) {
            let separator = if self.record.error.is_empty() { "" } else { "; " };
            self.record.error.push_str(&format!("{separator}{text}"));
        }
        Ok(())
    }
}

impl Problems {
    pub(super) fn note(&mut self, name: &str, result: Result<(), UpgradeError>) {
        let Err(error) = result else { return };
        self.texts.push(format!("`{name}`: {}", causes(&error)));
        if error.is_engine_away() {
            self.away.get_or_insert(error);
        }
    }

    /// Of the removal of a member's new container.
    pub(super) fn note_removal(&mut self, index: usize, name: &str, result: Result<(), UpgradeError>) {
        if result.is_err() {
            self.not_removed.push(index);
        }
        self.note(name, result);
    }

    pub(super) fn is_removed(&self, index: usize) -> bool {
        !self.not_removed.contains(&index)
    }
}
