//! `UpgradeService`: plan, start, undo, roll out.

use holdfast_proto::v1::upgrade_service_server::UpgradeService;
use holdfast_proto::v1::{
    Job, PlanFleetUpgradeRequest, PlanFleetUpgradeResponse, RolloutTarget, StartRollbackRequest,
    StartRollbackResponse, StartRolloutRequest, StartRolloutResponse, StartUpgradeRequest,
    StartUpgradeResponse,
};
use tonic::{Request, Response, Status};

use crate::jobs::Jobs;
use crate::model::caller::Caller;
use crate::operations::start;
use crate::operations::start::rollout::RolloutStart;
use crate::operations::start::upgrade::{PlannedUpgrade, UpgradeStart};

/// Answers for upgrades.
#[derive(Debug, Clone)]
pub struct UpgradeApi {
    jobs: Jobs,
}

impl UpgradeApi {
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }
}

#[tonic::async_trait]
impl UpgradeService for UpgradeApi {
    async fn plan_upgrade(
        &self,
        request: Request<PlanFleetUpgradeRequest>,
    ) -> Result<Response<PlanFleetUpgradeResponse>, Status> {
        let actor = Caller::of(&request).actor();
        let PlanFleetUpgradeRequest { host, upgrade } = request.into_inner();
        let PlannedUpgrade { plan_id, host, plan, valid_until_ms } =
            start::upgrade::plan(&self.jobs, &host, upgrade.unwrap_or_default().into(), &actor).await?;
        Ok(Response::new(PlanFleetUpgradeResponse {
            plan_id,
            host,
            plan: Some(plan.into()),
            valid_until_unix_ms: valid_until_ms,
        }))
    }

    async fn start_upgrade(
        &self,
        request: Request<StartUpgradeRequest>,
    ) -> Result<Response<StartUpgradeResponse>, Status> {
        let caller = Caller::of(&request);
        let UpgradeStart { job, plan } =
            start::upgrade::upgrade(&self.jobs, request.into_inner().try_into()?, &caller).await?;
        Ok(Response::new(StartUpgradeResponse { job: Some(job.into()), plan: Some(plan.into()) }))
    }

    async fn start_rollback(
        &self,
        request: Request<StartRollbackRequest>,
    ) -> Result<Response<StartRollbackResponse>, Status> {
        let actor = Caller::of(&request).actor();
        let job = start::rollback::rollback(&self.jobs, request.into_inner().into(), &actor).await?;
        Ok(Response::new(StartRollbackResponse { job: Some(job.into()) }))
    }

    async fn start_rollout(
        &self,
        request: Request<StartRolloutRequest>,
    ) -> Result<Response<StartRolloutResponse>, Status> {
        let caller = Caller::of(&request);
        let RolloutStart { job, targets, warnings } =
            start::rollout::rollout(&self.jobs, request.into_inner().try_into()?, &caller).await?;
        Ok(Response::new(StartRolloutResponse {
            job: job.map(Job::from),
            targets: targets.into_iter().map(RolloutTarget::from).collect(),
            warnings,
        }))
    }
}
