//! Jobs that a job makes, and waits for.

use holdfast_archive::ids::HostId;
use holdfast_proto::ids::JobId;

use super::{Failure, FencingToken, JobRun};
use crate::catalog::jobs::{JobRecord, NewJob};
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::model::job::parameters::Parameters;

/// Who cancels the children of a job that ends without them.
const ACTOR: &str = "the job that started it";

/// The children of one job, for its driver and the tasks of that.
#[derive(Debug, Clone)]
pub(super) struct Children {
    pub(super) jobs: Jobs,
    pub(super) parent: JobId,
    pub(super) token: FencingToken,
    actor: String,
}

impl Children {
    pub(super) fn of(run: &JobRun) -> Self {
        Self { jobs: run.jobs.clone(), parent: run.job.id, token: run.token(), actor: run.job.actor.clone() }
    }

    /// The child in a role: found, or made now.
    pub(super) async fn make(
        &self,
        role: &str,
        host: HostId,
        parameters: Parameters,
    ) -> Result<JobId, Failure> {
        let job = NewJob {
            id: JobId::generate(),
            policy: String::new(),
            host: Some(host),
            actor: self.actor.clone(),
            parameters,
            not_before_ms: 0,
        };
        let catalog = self.jobs.catalog();
        // The parent's generation is compared there: a superseded driver makes no child.
        let made = catalog.create_child(self.parent, self.token.get(), role, &job, now_ms()).await?;
        let id = made.ok_or(Failure::Superseded)?;
        if id == job.id {
            self.jobs.log_event(id, &format!("started by job {}", self.parent)).await?;
            self.jobs.nudges().dispatcher.notify_one();
        }
        Ok(id)
    }

    pub(super) async fn find(&self, role: &str) -> Result<Option<JobRecord>, Failure> {
        Ok(self.jobs.catalog().child_job(self.parent, role).await?)
    }

    /// Waits for a child that nothing may be done without. A request to cancel
    /// is passed on to it; one that has ended has ended, requested or not.
    pub(super) async fn await_or_cancel(&self, run: &JobRun, id: JobId) -> Result<JobRecord, Failure> {
        // Before the signal: a child that has ended counts, even if the parent is cancelled.
        if let Some(record) = self.jobs.catalog().job(id).await?.filter(|record| record.state.ended()) {
            return Ok(record);
        }
        tokio::select! {
            record = self.jobs.ended(id) => return Ok(record?),
            () = run.cancel.cancelled() => {}
        }
        self.cancel(id).await?;
        // The host may be at work for the child: the parent must not act before its end.
        self.jobs.ended(id).await?;
        Err(Failure::Cancelled)
    }

    /// Asks a child to stop; one that has ended stays as it is.
    pub(super) async fn cancel(&self, id: JobId) -> Result<(), Failure> {
        self.jobs.cancel(id, ACTOR).await?;
        Ok(())
    }
}
