//! Planning and starting upgrades by hand.

use holdfast_archive::text::did_you_mean;
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{channel, start_job};
use crate::catalog::hosts::HostRecord;
use crate::catalog::upgrades::PlanRecord;
use crate::clock::now_ms;
use crate::fleet::calls;
use crate::jobs::Jobs;
use crate::jobs::view::JobView;
use crate::model::caller::Caller;
use crate::model::job::parameters::{Parameters, UpgradeParameters};
use crate::model::request::{UpgradeChoice, UpgradeStartRequest};
use crate::model::upgrade::{UpgradePlan, UpgradeRequest};
use crate::operations::upgrade::plan::{self, Refusal, VALID_MS};
use crate::operations::upgrade::powers;
use crate::operations::{RequestError, names};

/// A plan that was made and is kept.
#[derive(Debug, Clone)]
pub(crate) struct PlannedUpgrade {
    pub plan_id: String,
    /// Name.
    pub host: String,
    pub plan: UpgradePlan,
    pub valid_until_ms: i64,
}

/// An upgrade that was started.
#[derive(Debug, Clone)]
pub(crate) struct UpgradeStart {
    pub job: JobView,
    pub plan: UpgradePlan,
}

/// Makes a plan and keeps it.
///
/// # Errors
/// The host or the container is not known, the host is not connected or does
/// not answer, or the catalogue fails.
pub(crate) async fn plan(
    jobs: &Jobs,
    host: &str,
    request: UpgradeRequest,
    actor: &str,
) -> Result<PlannedUpgrade, RequestError> {
    let host = names::host(jobs.catalog(), host).await?;
    let record = make(jobs, &host, request, actor).await?;
    Ok(PlannedUpgrade {
        plan_id: record.id,
        host: host.name,
        valid_until_ms: record.created_ms + VALID_MS,
        plan: record.plan,
    })
}

/// Starts an upgrade, of a plan that was shown or as it is planned now.
///
/// # Errors
/// No plan can be made, the one that was shown is too old or does not hold any
/// more, it forbids itself, its image is not the caller's to choose, or the
/// catalogue fails.
pub(crate) async fn upgrade(
    jobs: &Jobs,
    request: UpgradeStartRequest,
    caller: &Caller,
) -> Result<UpgradeStart, RequestError> {
    let actor = &caller.actor();
    let record = match request.choice {
        UpgradeChoice::Now { host, request } => {
            let host = names::host(jobs.catalog(), &host).await?;
            make(jobs, &host, request, actor).await?
        }
        UpgradeChoice::Shown { plan_id } => shown(jobs, &plan_id).await?,
    };
    // The plan's own refusals first: who could not choose the image hears the reason
    // that counts for everybody.
    if let Some(refused) = plan::refusal(&record.plan) {
        return Err(refused.refused());
    }
    if let Some(why) = powers::beyond(caller, &record.plan) {
        return Err(RequestError::new(ErrorCode::RoleTooLow, why));
    }
    let parameters = UpgradeParameters::of(&record.request, &record.id, request.consistency);
    let job = start_job(jobs, Some(record.host), Parameters::Upgrade(parameters), actor).await?;
    Ok(UpgradeStart { job, plan: record.plan })
}

impl Refusal {
    /// For the caller, before there is a job.
    fn refused(&self) -> RequestError {
        RequestError::with_hint(self.code, &*self.message, &*self.hint)
    }
}

async fn make(
    jobs: &Jobs,
    host: &HostRecord,
    request: UpgradeRequest,
    actor: &str,
) -> Result<PlanRecord, RequestError> {
    if request.container.is_empty() {
        return Err(RequestError::new(ErrorCode::InvalidRequest, "no container is named"));
    }
    let channel = channel(jobs, host)?;
    let plan = match calls::plan_upgrade(channel.clone(), request.clone(), jobs.settings().fetch).await {
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
    let Ok(listed) = calls::list_containers(channel, &[], jobs.settings().call).await else {
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
    // Planned once more without fetching: what was shown was fetched then, and a newer
    // image of that name would be another plan.
    let channel = channel(jobs, &host)?;
    let request = UpgradeRequest { pull: false, ..record.request.clone() };
    let now = calls::plan_upgrade(channel, request, jobs.settings().fetch).await?;
    match plan::changed(&record.plan, &now) {
        Some(refused) => Err(refused.refused()),
        None => Ok(record),
    }
}
