//! Planning and starting upgrades by hand: everything that can be refused is
//! refused before a job exists.

use holdfast_archive::text::did_you_mean;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{
    PlanFleetUpgradeRequest, PlanFleetUpgradeResponse, PlanUpgradeRequest, StartUpgradeRequest,
    StartUpgradeResponse,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::plan::{self, Refusal, VALID_MS};
use super::powers;
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::NewJob;
use crate::catalog::upgrades::PlanRecord;
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::jobs::wire::upgrade_parameters;
use crate::model::caller::Caller;
use crate::model::job::parameters::Parameters;
use crate::operations::host::containers_on_agent;
use crate::operations::start::{begun, known_consistency, not_connected};
use crate::operations::{RequestError, names};
use holdfast_proto::ErrorCode;

/// Makes a plan and keeps it.
pub async fn plan(
    jobs: &Jobs,
    request: PlanFleetUpgradeRequest,
    actor: &str,
) -> Result<PlanFleetUpgradeResponse, RequestError> {
    let PlanFleetUpgradeRequest { host, upgrade } = request;
    let host = names::host(jobs.catalog(), &host).await?;
    let record = make(jobs, &host, upgrade, actor).await?;
    Ok(PlanFleetUpgradeResponse {
        plan_id: record.id,
        host: host.name,
        valid_until_unix_ms: record.created_ms + VALID_MS,
        plan: Some(record.plan),
    })
}

/// Starts an upgrade, of a plan that was shown or as it is planned now.
pub async fn upgrade(
    jobs: &Jobs,
    request: StartUpgradeRequest,
    caller: &Caller,
) -> Result<StartUpgradeResponse, RequestError> {
    let actor = &caller.actor();
    let StartUpgradeRequest { plan_id, host, upgrade, consistency } = request;
    let consistency = known_consistency(consistency)?;
    let record = if plan_id.is_empty() {
        let host = names::host(jobs.catalog(), &host).await?;
        make(jobs, &host, upgrade, actor).await?
    } else {
        if !host.is_empty() || upgrade.is_some() {
            return Err(RequestError::new(
                ErrorCode::InvalidRequest,
                "a plan and a host or upgrade exclude each other",
            ));
        }
        shown(jobs, &plan_id).await?
    };
    if let Some(refused) = plan::refusal(&record.plan) {
        return Err(refused.refused());
    }
    if let Some(why) = powers::beyond(caller, &record.plan) {
        return Err(RequestError::new(ErrorCode::RoleTooLow, why));
    }
    let job = NewJob {
        id: JobId::generate(),
        policy: String::new(),
        host: Some(record.host),
        actor: actor.to_owned(),
        parameters: Parameters::Upgrade(upgrade_parameters(&record.request, &record.id, consistency)),
        not_before_ms: 0,
    };
    jobs.catalog().create_job(&job, now_ms()).await?;
    let job = begun(jobs, job.id, &format!("started by {actor}")).await?;
    jobs.nudges().dispatcher.notify_one();
    Ok(StartUpgradeResponse { job: Some(job), plan: Some(record.plan) })
}

impl Refusal {
    /// For the caller, before there is a job.
    pub(in crate::operations) fn refused(&self) -> RequestError {
        RequestError::with_hint(self.code, &*self.message, &*self.hint)
    }
}

/// The channel to a host that may be upgraded on.
pub(in crate::operations) fn channel(jobs: &Jobs, host: &HostRecord) -> Result<Channel, RequestError> {
    if host.revoked_ms.is_some() {
        return Err(RequestError::new(ErrorCode::HostRevoked, format!("host `{}` is revoked", host.name)));
    }
    jobs.fleet().channel(host.id).ok_or_else(|| not_connected(host))
}

async fn make(
    jobs: &Jobs,
    host: &HostRecord,
    upgrade: Option<PlanUpgradeRequest>,
    actor: &str,
) -> Result<PlanRecord, RequestError> {
    let request = upgrade.unwrap_or_default();
    if request.container.is_empty() {
        return Err(RequestError::new(ErrorCode::InvalidRequest, "no container is named"));
    }
    let channel = channel(jobs, host)?;
    let plan = match plan::ask(channel.clone(), request.clone(), jobs.settings().fetch).await {
        Ok(plan) => plan,
        Err(status) if status.code() == Code::NotFound => {
            return Err(not_found(jobs, host, channel, &request.container, status).await);
        }
        Err(status) => return Err(status.into()),
    };
    let record = PlanRecord {
        id: JobId::generate().to_string(),
        host: host.id,
        request,
        plan,
        created_ms: now_ms(),
        actor: actor.to_owned(),
    };
    jobs.catalog().put_upgrade_plan(&record).await?;
    Ok(record)
}

/// Offers the nearest names, if it is the container that is not there: it may
/// be the image as well.
async fn not_found(
    jobs: &Jobs,
    host: &HostRecord,
    channel: Channel,
    container: &str,
    status: Status,
) -> RequestError {
    let Ok(listed) = containers_on_agent(channel, &[], jobs.settings().call).await else {
        return status.into();
    };
    if listed.iter().any(|found| found.name == container || found.id.starts_with(container)) {
        return status.into();
    }
    let near = did_you_mean(container, listed.iter().map(|found| found.name.as_str()));
    let message = format!("container `{container}` is not on host `{}`{near}", host.name);
    RequestError::with_hint(
        ErrorCode::ContainerUnknown,
        message,
        format!("holdfast container ls --host {}", host.name),
    )
}

/// A plan that was shown, if it may still be run; whether the world is still
/// the same, the job finds out first.
async fn shown(jobs: &Jobs, id: &str) -> Result<PlanRecord, RequestError> {
    let unknown = || RequestError::new(ErrorCode::PlanUnknown, format!("plan `{id}` is not known"));
    let kept = jobs.catalog().upgrade_plan(id).await?;
    let record = kept.ok_or_else(unknown)?;
    // Kept for a job is not shown to anybody: a job's plan has its job's id.
    let parsed: Option<JobId> = id.parse().ok();
    if let Some(job) = parsed
        && jobs.catalog().job(job).await?.is_some()
    {
        return Err(unknown());
    }
    if now_ms().saturating_sub(record.created_ms) > VALID_MS {
        let hint = format!("holdfast upgrade plan {}", record.plan.container_name);
        let message = format!("plan `{id}` is more than 24 hours old");
        return Err(RequestError::with_hint(ErrorCode::PlanExpired, message, hint));
    }
    let host = jobs.catalog().host(record.host).await?;
    let host = host
        .ok_or_else(|| RequestError::new(ErrorCode::HostUnknown, "the plan's host is not known any more"))?;
    let channel = channel(jobs, &host)?;
    let request = PlanUpgradeRequest { pull: false, ..record.request.clone() };
    let now = plan::ask(channel, request, jobs.settings().fetch).await?;
    match plan::changed(&record.plan, &now) {
        Some(refused) => Err(refused.refused()),
        None => Ok(record),
    }
}
