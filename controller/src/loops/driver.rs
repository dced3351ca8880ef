//! Runs the loops: each on a timer and when nudged, one pass at a time.
//!
//! A loop takes no input. It reads what is intended and what is, does a
//! bounded piece of work, and says whether more remains. So a lost nudge
//! costs one period and nothing else, and the next tick is the retry after an
//! error.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::statuses::{Cause, Statuses};
use super::{dispatcher, export, gc, history, inventory, retention, scheduler};
use crate::catalog::CatalogError;
use crate::jobs::Jobs;
use crate::operations::runner::Runner;
use crate::repository::{RepositoryError, TICK};
use holdfast_archive::text::causes;

/// What one pass did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pass {
    pub summary: String,
    /// Run again at once.
    pub more: bool,
    /// A part of the work that failed and is tried again by the next pass;
    /// empty: none.
    pub undone: String,
}

impl Pass {
    pub(crate) fn done(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), more: false, undone: String::new() }
    }
}

/// Why a pass ended early; the next tick tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoopError {
    #[error("the catalogue failed")]
    Catalog(#[from] CatalogError),
    #[error("the repository failed")]
    Repository(#[from] RepositoryError),
}

/// How often each loop runs when nobody nudges it.
#[derive(Debug, Clone)]
pub(crate) struct Periods {
    pub scheduler: Duration,
    pub dispatcher: Duration,
    pub retention: Duration,
    pub gc: Duration,
    pub inventory: Duration,
    pub export: Duration,
    pub history: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            scheduler: Duration::from_secs(1),
            dispatcher: Duration::from_secs(2),
            retention: Duration::from_mins(10),
            gc: Duration::from_mins(15),
            inventory: Duration::from_secs(30),
            export: Duration::from_mins(5),
            history: Duration::from_hours(1),
        }
    }
}

/// Owns the loops and the jobs they drive.
#[derive(Debug)]
pub(crate) struct Driver {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    runner: Arc<Runner>,
    statuses: Statuses,
}

impl Driver {
    /// Starts the loops. Jobs that a former controller drove are taken over
    /// first, so that nothing new is started beside them. One that cannot be is
    /// left to the passes of the dispatcher, which names it.
    ///
    /// # Errors
    /// The catalogue does not say what a former controller left running.
    pub(crate) async fn start(
        jobs: Jobs,
        periods: Periods,
        statuses: Statuses,
    ) -> Result<Self, CatalogError> {
        let runner = Arc::new(Runner::new(jobs.clone()));
        let undone = dispatcher::take_over(&jobs, &runner).await?;
        if !undone.is_empty() {
            tracing::error!(undone, "not every running job is taken over; trying again");
        }
        let mut driver = Self { tasks: JoinSet::new(), stop: CancellationToken::new(), runner, statuses };
        let Periods { scheduler, dispatcher, retention, gc, inventory, export, history } = periods;
        driver.run("scheduler", scheduler, &jobs, |jobs| jobs.nudges().scheduler.notified(), scheduler::pass);
        let runner = driver.runner.clone();
        driver.run(
            "dispatcher",
            dispatcher,
            &jobs,
            |jobs| jobs.nudges().dispatcher.notified(),
            move |jobs| dispatcher::pass(jobs, runner.clone()),
        );
        driver.run("retention", retention, &jobs, |jobs| jobs.nudges().retention.notified(), retention::pass);
        driver.run("repository", TICK, &jobs, |jobs| jobs.nudges().repository.notified(), gc::tick);
        driver.run("gc", gc, &jobs, |jobs| jobs.nudges().gc.notified(), gc::pass);
        driver.run("inventory", inventory, &jobs, |jobs| jobs.nudges().inventory.notified(), inventory::pass);
        driver.run("export", export, &jobs, |jobs| jobs.nudges().export.notified(), export::pass);
        driver.run("history", history, &jobs, |jobs| jobs.nudges().history.notified(), history::pass);
        driver.watch_fleet(&jobs);
        Ok(driver)
    }

    /// Stops the loops and lets go of the jobs; agents go on with theirs.
    pub(crate) async fn stop(mut self) {
        // The loops end first: none may start a job once the runner has stopped.
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.runner.stop().await;
    }

    fn run<P, F>(
        &mut self,
        name: &'static str,
        period: Duration,
        jobs: &Jobs,
        nudge: for<'j> fn(&'j Jobs) -> tokio::sync::futures::Notified<'j>,
        pass: P,
    ) where
        P: Fn(Jobs) -> F + Send + 'static,
        F: Future<Output = Result<Pass, LoopError>> + Send + 'static,
    {
        let (jobs, stop, statuses) = (jobs.clone(), self.stop.clone(), self.statuses.clone());
        self.tasks.spawn(async move {
            let mut timer = tokio::time::interval(period);
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut more = false;
            while !stop.is_cancelled() {
                if !more {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        _ = timer.tick() => {}
                        () = nudge(&jobs) => {}
                    }
                }
                more = one_pass(name, &stop, &statuses, pass(jobs.clone())).await;
            }
        });
    }

    /// A host that comes is looked at, and its waiting jobs are started.
    fn watch_fleet(&mut self, jobs: &Jobs) {
        let (jobs, stop) = (jobs.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let mut changes = jobs.fleet().changes();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
                jobs.nudges().inventory.notify_one();
                jobs.nudges().dispatcher.notify_one();
            }
        });
    }
}

/// Gives whether another pass should follow at once. A panic inside is an
/// error of this pass, not the end of the loop.
async fn one_pass(
    name: &'static str,
    stop: &CancellationToken,
    statuses: &Statuses,
    pass: impl Future<Output = Result<Pass, LoopError>> + Send + 'static,
) -> bool {
    let begun = Instant::now();
    let mut task = JoinSet::new();
    task.spawn(pass);
    let result = tokio::select! {
        // Passes are safe to be cut off anywhere: that is what a crash does.
        () = stop.cancelled() => return false,
        result = task.join_next() => result,
    };
    match result {
        Some(Ok(result)) => note_pass(name, statuses, begun, result),
        Some(Err(error)) => {
            tracing::error!(name, %error, "a loop's pass panicked");
            statuses.failed(name, Cause::Other, "a panic; the log has the place".to_owned());
            false
        }
        None => false,
    }
}

/// Notes how a pass ended; gives whether another one should follow at once.
fn note_pass(
    name: &'static str,
    statuses: &Statuses,
    begun: Instant,
    result: Result<Pass, LoopError>,
) -> bool {
    match result {
        Ok(pass) => {
            tracing::trace!(name, summary = pass.summary, elapsed = ?begun.elapsed(), "a pass is done");
            match pass.undone.is_empty() {
                true => statuses.succeeded(name, pass.summary),
                false => statuses.failed(name, Cause::Other, pass.undone),
            }
            pass.more
        }
        Err(error) => {
            tracing::error!(name, error = causes(&error), "a loop's pass failed");
            // Not at once again: what fails now most likely fails in a moment too.
            statuses.failed(name, Cause::of(&error), causes(&error));
            false
        }
    }
}
