//! What jobs do, as lists of visible steps.
//!
//! An operation may be entered again at any time with the same row: by a
//! controller that took the job over, or after the agent lost it. Each step
//! therefore looks first at what is recorded.
//!
//! Run by [`runner`] for the loops that claim jobs; [`start`] is called by `api`.
//! They call agents through `fleet` and ask the repository, and write what they
//! learn under the job's generation before they tell it.

pub(crate) mod agent;
pub(crate) mod backup;
mod children;
mod committed;
pub(crate) mod host;
mod missing;
pub(crate) mod names;
pub(crate) mod prune;
mod request_error;
pub(crate) mod restore;
pub(crate) mod rollback;
pub(crate) mod rollout;
pub(crate) mod runner;
pub(crate) mod start;
pub(crate) mod upgrade;

pub(crate) use request_error::RequestError;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_proto::ErrorCode;
use holdfast_proto::error_code::error_code_text;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::catalog::CatalogError;
use crate::catalog::jobs::JobRecord;
use crate::jobs::Jobs;
use crate::model::job::result::JobResult;

/// Why an operation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cancelled on request")]
    Cancelled,
    #[error("the job is driven by somebody else")]
    Superseded,
    /// An error code and a sentence for people.
    #[error("{message}")]
    Failed { code: String, message: String },
    #[error("the catalogue failed")]
    Catalog(#[from] CatalogError),
}

impl Failure {
    pub(crate) fn failed(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Failed { code: code.as_str().to_owned(), message: message.into() }
    }

    /// Under the code that a host's answer came with, of whatever version the
    /// host is; `otherwise` where it came with none.
    pub(crate) fn answered(status: &Status, otherwise: ErrorCode, message: impl Into<String>) -> Self {
        let code = error_code_text(status).unwrap_or(otherwise.as_str());
        Self::Failed { code: code.to_owned(), message: message.into() }
    }
}

/// The generation a driver holds its job under, seen from outside its task
/// too: a panic must not keep its end from being recorded.
#[derive(Debug, Clone)]
pub(crate) struct FencingToken(Arc<AtomicU64>);

impl FencingToken {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn set(&self, generation: u64) {
        self.0.store(generation, Ordering::SeqCst);
    }
}

/// A job in the hands of its driver.
#[derive(Debug)]
pub(crate) struct JobRun {
    pub jobs: Jobs,
    pub job: JobRecord,
    pub cancel: CancellationToken,
    /// Somebody drove it before: an agent may be at work on it.
    pub taken_over: bool,
    pub attempt: u32,
    token: FencingToken,
}

impl JobRun {
    pub(crate) fn new(jobs: Jobs, job: JobRecord, cancel: CancellationToken, taken_over: bool) -> Self {
        let token = FencingToken(Arc::new(AtomicU64::new(job.generation)));
        let attempt = job.attempt;
        Self { jobs, job, cancel, taken_over, attempt, token }
    }

    pub(crate) fn token(&self) -> FencingToken {
        self.token.clone()
    }

    /// Records what the job does now; also a line of its event log.
    ///
    /// # Errors
    /// The job is another's by now, or the catalogue fails.
    pub(crate) async fn step(&self, text: &str) -> Result<(), Failure> {
        let catalog = self.jobs.catalog();
        // The generation is compared first: a driver that was superseded adds no line to the log.
        if !catalog.set_job_step(self.job.id, self.token.get(), text).await? {
            return Err(Failure::Superseded);
        }
        self.jobs.log_event(self.job.id, text).await?;
        Ok(())
    }

    /// A line of the job's event log.
    ///
    /// # Errors
    /// The catalogue fails.
    pub(crate) async fn log_event(&self, text: &str) -> Result<(), Failure> {
        Ok(self.jobs.log_event(self.job.id, text).await?)
    }

    /// Records what is known of the result so far.
    ///
    /// # Errors
    /// The job is another's by now, or the catalogue fails.
    pub(crate) async fn record(&self, result: &JobResult) -> Result<(), Failure> {
        if !self.jobs.catalog().set_job_result(self.job.id, self.token.get(), result).await? {
            return Err(Failure::Superseded);
        }
        Ok(())
    }

    /// Holds the job under a higher generation from now on; `again` counts an
    /// attempt.
    ///
    /// # Errors
    /// The job is another's by now, or the catalogue fails.
    pub(crate) async fn bump(&mut self, next: u64, again: bool) -> Result<(), Failure> {
        let token = self.token.get();
        // The row before the token: after a failed write this driver holds the old generation.
        if !self.jobs.catalog().raise_generation(self.job.id, token, next, again).await? {
            return Err(Failure::Superseded);
        }
        self.token.set(next);
        self.attempt += u32::from(again);
        Ok(())
    }

    /// Between two steps: whether to go on.
    ///
    /// # Errors
    /// Somebody asked to cancel the job.
    pub(crate) fn cancelled(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Failure::Cancelled) } else { Ok(()) }
    }
}
