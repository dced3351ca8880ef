//! Starting a prune by hand.

use super::start_job;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::job::parameters::Parameters;
use crate::model::job::prune::PruneReport;
use crate::operations::RequestError;
use crate::repository::gc;

/// What was started, or would be deleted.
#[derive(Debug, Clone)]
pub(crate) enum PruneStart {
    Planned(PruneReport),
    Started(Box<JobView>),
}

/// Starts a prune, or with `plan_only` says what it would delete.
///
/// # Errors
/// The repository is suspended or its store out of reach, for a plan; or the
/// catalogue fails.
pub(crate) async fn prune(jobs: &Jobs, plan_only: bool, actor: &str) -> Result<PruneStart, RequestError> {
    if plan_only {
        return Ok(PruneStart::Planned(gc::plan(jobs.repository()).await?));
    }
    Ok(PruneStart::Started(Box::new(start_job(jobs, None, Parameters::Prune {}, actor).await?)))
}
