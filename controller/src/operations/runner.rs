//! Drives claimed jobs, each on a task of its own.
//!
//! A job that panics takes only its own task along: the panic is caught at
//! the task's edge and recorded as the job's failure. When the controller
//! stops, the tasks are dropped and the rows stay `running`: the agent goes on
//! with its work, and the next controller takes the jobs over by their ids.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::{Failure, JobRun};
use crate::catalog::jobs::{Ending, JobRecord};
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::jobs::{DriverGuard, Jobs};
use crate::model::job::parameters::Parameters;
use crate::model::job::result::JobResult;
use crate::model::job::state::State;

/// Between two attempts to write down how a job ended.
const PAUSE: Duration = Duration::from_secs(1);

/// Owns the tasks.
#[derive(Debug)]
pub(crate) struct Runner {
    jobs: Jobs,
    tasks: Mutex<JoinSet<()>>,
}

impl Runner {
    pub(crate) fn new(jobs: Jobs) -> Self {
        Self { jobs, tasks: Mutex::default() }
    }

    /// Runs a job that was claimed, or taken over, under this guard. `taken_over`: an
    /// agent may be at work on it already.
    pub(crate) fn start(&self, guard: DriverGuard, record: JobRecord, taken_over: bool) {
        let (jobs, id) = (self.jobs.clone(), record.id);
        let span = tracing::info_span!("job", job.id = %id, job.kind = ?record.parameters.kind());
        let run = JobRun::new(jobs.clone(), record, guard.token(), taken_over);
        let task = async move {
            drive(run).await;
            // After the end is on record: whoever looks for the job before finds it driven.
            drop(guard);
            jobs.progress().remove(id);
            // Its host, or its place among those that run, is free for the next.
            jobs.nudges().dispatcher.notify_one();
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are let go of here, or the set would only grow.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task.instrument(span));
    }

    /// Drops all tasks; the jobs stay as their rows say.
    pub(crate) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }
}

async fn drive(run: JobRun) {
    let (jobs, id, token) = (run.jobs.clone(), run.job.id, run.token());
    // Above `caught` nothing may panic: it is what records the end.
    let outcome = match caught(execute(run)).await {
        Ok(outcome) => outcome,
        Err(cause) => {
            tracing::error!(job.id = %id, cause, "a job panicked");
            Err(Failure::failed(ErrorCode::Panic, format!("the controller failed inside this job: {cause}")))
        }
    };
    let ending = match outcome {
        Ok(ending) => ending,
        Err(failure) => match ending_of(&jobs, id, failure).await {
            Some(ending) => ending,
            None => return,
        },
    };
    finish(&jobs, id, token.get(), &ending).await;
}

/// Runs a future on a task of its own, which goes when this one does; gives
/// the words of a panic inside it.
async fn caught<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    let mut task = JoinSet::new();
    task.spawn(future.in_current_span());
    match task.join_next().await {
        Some(Ok(output)) => Ok(output),
        Some(Err(error)) if error.is_panic() => Err(panic_text(error.into_panic())),
        Some(Err(_)) | None => Err("the task was cut off".to_owned()),
    }
}

async fn execute(mut run: JobRun) -> Result<Ending, Failure> {
    heed_earlier_cancel(&run).await?;
    let parameters = run.job.parameters.clone();
    match &parameters {
        Parameters::Backup(backup) => super::backup::run(&mut run, backup).await,
        Parameters::Restore(restore) => super::restore::run(&mut run, restore).await,
        Parameters::Prune {} => super::prune::run(&mut run).await,
        Parameters::Upgrade(upgrade) => super::upgrade::run(&mut run, upgrade).await,
        Parameters::Rollback(rollback) => super::rollback::run(&mut run, rollback).await,
        Parameters::Rollout(rollout) => super::rollout::run(&mut run, rollout).await,
    }
}

/// Cancels the run of a job that somebody asked to cancel before it was driven: by
/// a former controller, or after `record` was read and before the token was there.
async fn heed_earlier_cancel(run: &JobRun) -> Result<(), Failure> {
    // Read once more and not from `run.job`. Whoever cancels writes the request and then looks
    // for a token; here the token is there first and the row is read after it. One of the
    // two comes second and sees what the other left, so no request is lost.
    let record = run.jobs.catalog().job(run.job.id).await?;
    if record.is_some_and(|record| record.cancel_requested) {
        run.cancel.cancel();
    }
    Ok(())
}

/// How a job ends that did not come to its own end; `None`: it is another's.
async fn ending_of(jobs: &Jobs, id: JobId, failure: Failure) -> Option<Ending> {
    // What was recorded so far stays with the job.
    let result = match jobs.catalog().job(id).await {
        Ok(record) => record.map(|record| record.result).unwrap_or_default(),
        Err(_) => JobResult::default(),
    };
    let (state, error_code, error) = match failure {
        Failure::Superseded => {
            tracing::warn!(job.id = %id, "the job is driven by somebody else by now");
            return None;
        }
        Failure::Cancelled => {
            (State::Cancelled, ErrorCode::Cancelled.as_str().to_owned(), "cancelled on request".to_owned())
        }
        Failure::Failed { code, message } => (State::Failed, code, message),
        Failure::Catalog(error) => {
            tracing::error!(job.id = %id, error = %holdfast_archive::text::causes(&error), "the catalogue failed inside a job");
            (
                State::Failed,
                ErrorCode::CatalogFailed.as_str().to_owned(),
                "the controller's catalogue failed; its log has the cause".to_owned(),
            )
        }
    };
    Some(Ending { state, error_code, error, result })
}

/// Writes down how a job ended, as often as it takes: a disk that is full or a
/// file that is busy passes, and a row that stays `running` would keep its host
/// from its next job. When the controller stops, the task is dropped here; the
/// next one takes the job over and hears the end from the agent again.
async fn finish(jobs: &Jobs, id: JobId, generation: u64, ending: &Ending) {
    let line = if ending.error.is_empty() {
        ending.state.as_str().to_owned()
    } else {
        format!("{}: {}", ending.state.as_str(), ending.error)
    };
    failpoint("controller.job.before-finish");
    let recorded = loop {
        match jobs.catalog().finish_job(id, generation, ending, &line, now_ms()).await {
            Ok(recorded) => break recorded,
            Err(error) => {
                let error = holdfast_archive::text::causes(&error);
                tracing::error!(job.id = %id, error, "a job's end was not recorded; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    if recorded {
        tracing::info!(job.id = %id, job.state = ending.state.as_str(), error = ending.error, "the job has ended");
    } else {
        tracing::warn!(job.id = %id, "the job's end was not recorded: it is driven by somebody else");
    }
}

fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::CancelOutcome;
    use crate::jobs::testing::{Bench, WAIT_LIMIT};
    use crate::operations::start::prune::{PruneStart, prune};

    /// Of a job that needs no host: it fails at once, for want of a repository, unless it hears of it.
    #[tokio::test]
    async fn a_cancel_between_the_claim_and_the_start_is_heard() {
        let bench = Bench::new().await;
        let jobs = bench.jobs();
        let PruneStart::Started(job) = prune(&jobs, false, "op").await.expect("starts") else {
            panic!("only planned")
        };
        let id = job.record.id;
        let claimed = jobs.catalog().claim_job(id, jobs.owner(), now_ms()).await.expect("asked");
        assert_eq!(jobs.cancel(id, "op").await.expect("asked"), CancelOutcome::Asked);
        let runner = Runner::new(jobs.clone());
        let guard = jobs.begin_driving(id).expect("nobody drives it");
        runner.start(guard, claimed.expect("claimed"), false);
        let ended = tokio::time::timeout(WAIT_LIMIT, jobs.ended(id)).await.expect("in time").expect("there");
        assert_eq!((ended.state, ended.error_code.as_str()), (State::Cancelled, "cancelled"));
        runner.stop().await;
    }

    #[tokio::test]
    async fn p25_a_panic_becomes_words_and_ends_nothing_else() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        assert_eq!(caught(async { panic!("no {}", "frames") }).await, Err::<(), _>("no frames".to_owned()));
    }
}
