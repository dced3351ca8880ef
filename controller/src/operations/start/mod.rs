//! Starting work by hand, a file for each kind of job: everything that can be
//! refused is refused before a job exists.
//!
//! Called by `api`, which makes the requests of messages and messages of the
//! answers. Each looks at the catalogue and asks hosts; the only row it writes is
//! the job, last.

pub(crate) mod backup;
pub(crate) mod prune;
pub(crate) mod restore;
pub(crate) mod rollback;
pub(crate) mod rollout;
pub(crate) mod upgrade;

use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use tonic::transport::Channel;

use super::RequestError;
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::NewJob;
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::job::parameters::Parameters;

/// Makes a job, writes its first line, and has the dispatcher look at once.
async fn start_job(
    jobs: &Jobs,
    host: Option<HostId>,
    parameters: Parameters,
    actor: &str,
) -> Result<JobView, RequestError> {
    let job = new_job(host, parameters, actor);
    jobs.catalog().create_job(&job, now_ms()).await?;
    let view = begun(jobs, job.id, actor).await?;
    jobs.nudges().dispatcher.notify_one();
    Ok(view)
}

fn new_job(host: Option<HostId>, parameters: Parameters, actor: &str) -> NewJob {
    NewJob {
        id: JobId::generate(),
        policy: String::new(),
        host,
        actor: actor.to_owned(),
        parameters,
        not_before_ms: 0,
    }
}

/// The first line of a job that was just made, and the job as it is shown.
async fn begun(jobs: &Jobs, id: JobId, actor: &str) -> Result<JobView, RequestError> {
    jobs.log_event(id, &format!("started by {actor}")).await?;
    let record = jobs.catalog().job(id).await?;
    let record =
        record.ok_or_else(|| RequestError::new(ErrorCode::Internal, "the job just made is not there"))?;
    Ok(jobs.view(record).await?)
}

/// The channel to a host that may be upgraded on.
fn channel(jobs: &Jobs, host: &HostRecord) -> Result<Channel, RequestError> {
    // Asked first, as the reason to give: a revoked host is never connected.
    if host.revoked_ms.is_some() {
        return Err(RequestError::new(ErrorCode::HostRevoked, format!("host `{}` is revoked", host.name)));
    }
    jobs.fleet().channel(host.id).ok_or_else(|| not_connected(host))
}

fn not_connected(host: &HostRecord) -> RequestError {
    RequestError::new(ErrorCode::HostNotConnected, format!("host `{}` is not connected", host.name))
}
