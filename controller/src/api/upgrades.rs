//! `UpgradeService`: plan, start, undo, roll out.

use holdfast_proto::v1::upgrade_service_server::UpgradeService;
use holdfast_proto::v1::{
    PlanFleetUpgradeRequest, PlanFleetUpgradeResponse, StartRollbackRequest, StartRollbackResponse,
    StartRolloutRequest, StartRolloutResponse, StartUpgradeRequest, StartUpgradeResponse,
};
use tonic::{Request, Response, Status};

use crate::jobs::Jobs;
use crate::model::caller::Caller;
use crate::operations::{rollback, rollout, upgrade};

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
        Ok(Response::new(upgrade::start::plan(&self.jobs, request.into_inner(), &actor).await?))
    }

    async fn start_upgrade(
        &self,
        request: Request<StartUpgradeRequest>,
    ) -> Result<Response<StartUpgradeResponse>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(upgrade::start::upgrade(&self.jobs, request.into_inner(), &caller).await?))
    }

    async fn start_rollback(
        &self,
        request: Request<StartRollbackRequest>,
    ) -> Result<Response<StartRollbackResponse>, Status> {
        let actor = Caller::of(&request).actor();
        Ok(Response::new(rollback::start(&self.jobs, request.into_inner(), &actor).await?))
    }

    async fn start_rollout(
        &self,
        request: Request<StartRolloutRequest>,
    ) -> Result<Response<StartRolloutResponse>, Status> {
        let caller = Caller::of(&request);
        Ok(Response::new(rollout::start::rollout(&self.jobs, request.into_inner(), &caller).await?))
    }
}
