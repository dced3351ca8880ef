//! `ContainerService`: containers of this host's Engine.
//!
//! Looking is always allowed, but for the values of environment variables;
//! whoever may change something is root on the host, so all that does needs
//! the right to it. Containers the agent made for itself are not shown and
//! not touched.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use holdfast_archive::text::{causes, did_you_mean};
use holdfast_proto::ErrorCode;
use holdfast_proto::v1::container_service_server::ContainerService;
use holdfast_proto::{FULL_ROLE, ROLE_METADATA, v1};
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use super::status::creating;
use super::volumes::globs;
use super::{convert, run_request, upgrades};
use crate::allow::Right;
use crate::config::Config;
use crate::container_run;
use crate::engine::{Container, Engine, EngineError};
use crate::own::Own;
use crate::prune::LabelFilter;
use crate::spec::{Defaults, Specs};
use crate::state::AgentState;
use crate::upgrade::Upgrades;

/// The longest stop timeout that can be asked for, in seconds: a call ends
/// after a quarter of an hour.
const MAX_STOP_SECONDS: u32 = 14 * 60;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug, Clone)]
pub(crate) struct ContainerApi {
    config: Arc<Config>,
    engine: Engine,
    specs: Specs,
    upgrades: Upgrades,
    own: Own,
}

impl ContainerApi {
    pub(crate) fn new(state: &AgentState) -> Self {
        Self {
            config: state.config.clone(),
            engine: state.engine.clone(),
            specs: state.specs.clone(),
            upgrades: state.upgrades.clone(),
            own: state.own.clone(),
        }
    }

    /// A container that the agent did not make for itself.
    async fn find(&self, id: &str) -> Result<Container, Status> {
        match self.engine.inspect_container(id).await {
            Ok(container) if container.is_holder() => {
                Err(ErrorCode::Conflict
                    .status(format!("container `{id}` is the agent's own: it goes by itself")))
            }
            Ok(container) => Ok(container),
            Err(error) => Err(self.unknown(id, error).await),
        }
    }

    async fn inspect(&self, id: &str) -> Result<Value, Status> {
        match self.engine.inspect_container_json(id).await {
            Ok(inspect) => Ok(inspect),
            Err(error) => Err(self.unknown(id, error).await),
        }
    }

    /// Says which containers have names near to one that is not there.
    async fn unknown(&self, id: &str, error: EngineError) -> Status {
        if !error.is_not_found() {
            return error.into();
        }
        let containers = self.engine.list_containers().await.unwrap_or_default();
        let names = containers.iter().filter(|other| !other.is_holder()).map(|other| other.name.as_str());
        ErrorCode::NotFound.status(format!("container `{id}` is not there{}", did_you_mean(id, names)))
    }
}

/// What a person set may hold secrets that no rule knows as such. It is told at
/// the host's own socket and to the highest role.
fn may_know_settings<T>(request: &Request<T>) -> bool {
    let is_full = |role: &MetadataValue<Ascii>| role.as_bytes() == FULL_ROLE.as_bytes();
    request.extensions().get::<UdsConnectInfo>().is_some()
        || request.metadata().get(ROLE_METADATA).is_some_and(is_full)
}

#[tonic::async_trait]
impl ContainerService for ContainerApi {
    type ListContainersStream = Answers<v1::Container>;
    type RunUpgradeStream = Answers<v1::UpgradeEvent>;
    type ListUpgradesStream = Answers<v1::Upgrade>;
    type RollBackUpgradeStream = Answers<v1::UpgradeEvent>;

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<Self::ListContainersStream>, Status> {
        let v1::ListContainersRequest { names, labels, running_only } = request.into_inner();
        let names = globs(&names)?;
        let labels: Vec<_> = labels.iter().map(|label| LabelFilter::parse(label)).collect();
        let mut containers = self.engine.list_containers().await?;
        containers.retain(|container| {
            !container.is_holder()
                && names.as_ref().is_none_or(|names| names.is_match(&container.name))
                && labels.iter().all(|label| label.matches(&container.labels))
                && (!running_only || container.state.is_live())
        });
        let engine = self.engine.clone();
        let answers = futures_util::stream::iter(containers).filter_map(move |container| {
            let engine = engine.clone();
            async move {
                match engine.inspect_container_json(&container.id).await {
                    Ok(inspect) => Some(Ok(convert::container(&inspect))),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => Some(Err(error.into())),
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn inspect_container(
        &self,
        request: Request<v1::InspectContainerRequest>,
    ) -> Result<Response<v1::ContainerDetails>, Status> {
        let may_know = may_know_settings(&request);
        let inspect = self.inspect(&request.into_inner().container).await?;
        if !may_know {
            return Ok(Response::new(convert::container_details(&inspect, None)));
        }
        // A container whose image is gone can still be looked at.
        let spec = self.specs.read_inspected(&inspect).await;
        if let Err(error) = &spec {
            tracing::warn!(error = %causes(error), "the settings of a container cannot be told");
        }
        let defaults = Defaults::of(&self.engine).await?;
        let spec = spec.ok().map(|spec| spec.without_defaults(&defaults));
        Ok(Response::new(convert::container_details(&inspect, spec.as_ref())))
    }

    async fn get_container_spec(
        &self,
        request: Request<v1::GetContainerSpecRequest>,
    ) -> Result<Response<v1::ContainerSpec>, Status> {
        self.config.allow.check(Right::Container)?;
        let v1::GetContainerSpecRequest { container, clean } = request.into_inner();
        let inspect = self.inspect(&container).await?;
        let (spec, dropped) = match clean {
            true => self.specs.read_clean(&inspect).await?,
            false => (self.specs.read_inspected(&inspect).await?, Vec::new()),
        };
        let json = convert::spec_json(&spec.without_defaults(&Defaults::of(&self.engine).await?));
        Ok(Response::new(v1::ContainerSpec { json, notes: spec.notes, dropped }))
    }

    async fn run_container(
        &self,
        request: Request<v1::RunContainerRequest>,
    ) -> Result<Response<v1::RunContainerResponse>, Status> {
        self.config.allow.check(Right::Container)?;
        let wanted = run_request::parse(request.into_inner())?;
        let made = container_run::run(&self.engine, &wanted).await.map_err(creating)?;
        tracing::info!(container.id = %made.id, container.name = %wanted.name, image = %wanted.image, "container made");
        let container = Some(convert::container(&self.inspect(&made.id).await?));
        Ok(Response::new(v1::RunContainerResponse { container, warnings: made.warnings }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::Container>, Status> {
        self.config.allow.check(Right::Container)?;
        let container = self.find(&request.into_inner().container).await?;
        self.engine.start_found(&container).await?;
        tracing::info!(container.name = %container.name, "container started");
        Ok(Response::new(convert::container(&self.inspect(&container.id).await?)))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::Container>, Status> {
        self.config.allow.check(Right::Container)?;
        let v1::StopContainerRequest { container, timeout_seconds } = request.into_inner();
        if let Some(seconds) = timeout_seconds.filter(|&seconds| seconds > MAX_STOP_SECONDS) {
            let message = format!("a stop timeout of {seconds} s is too long: {MAX_STOP_SECONDS} s at most");
            return Err(ErrorCode::InvalidRequest.status(message));
        }
        let container = self.find(&container).await?;
        self.own.refuse_container(&container)?;
        // Afterwards there may be nothing left to describe.
        let before = self.inspect(&container.id).await?;
        match timeout_seconds {
            None => self.engine.stop_container(&container, None).await?,
            Some(seconds) => {
                let timeout = Duration::from_secs(u64::from(seconds));
                self.engine.stop_container_after(&container, timeout).await?;
            }
        }
        tracing::info!(container.name = %container.name, "container stopped");
        match self.engine.inspect_container_json(&container.id).await {
            Ok(inspect) => Ok(Response::new(convert::container(&inspect))),
            // The Engine removes some when they stop.
            Err(error) if error.is_not_found() => {
                let state = "removed".to_owned();
                Ok(Response::new(v1::Container { state, ..convert::container(&before) }))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        self.config.allow.check(Right::Container)?;
        let v1::RemoveContainerRequest { container, force, volumes } = request.into_inner();
        let container = self.find(&container).await?;
        self.own.refuse_container(&container)?;
        self.engine.remove_found(&container, force, volumes).await?;
        tracing::info!(container.name = %container.name, volumes, "container removed");
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn plan_upgrade(
        &self,
        request: Request<v1::PlanUpgradeRequest>,
    ) -> Result<Response<v1::UpgradePlan>, Status> {
        upgrades::plan(&self.upgrades, request.into_inner()).await.map(Response::new)
    }

    async fn run_upgrade(
        &self,
        request: Request<v1::RunUpgradeRequest>,
    ) -> Result<Response<Self::RunUpgradeStream>, Status> {
        upgrades::run(&self.upgrades, request.into_inner()).map(Response::new)
    }

    async fn proceed_upgrade(
        &self,
        request: Request<v1::ProceedUpgradeRequest>,
    ) -> Result<Response<v1::ProceedUpgradeResponse>, Status> {
        upgrades::proceed(&self.upgrades, &request.into_inner()).map(Response::new)
    }

    async fn list_upgrades(
        &self,
        request: Request<v1::ListUpgradesRequest>,
    ) -> Result<Response<Self::ListUpgradesStream>, Status> {
        let listed = upgrades::list(&self.upgrades, &request.into_inner())?;
        Ok(Response::new(Box::pin(futures_util::stream::iter(listed.into_iter().map(Ok)))))
    }

    async fn commit_upgrade(
        &self,
        request: Request<v1::CommitUpgradeRequest>,
    ) -> Result<Response<v1::Upgrade>, Status> {
        upgrades::commit(&self.upgrades, &request.into_inner()).await.map(Response::new)
    }

    async fn roll_back_upgrade(
        &self,
        request: Request<v1::RollBackUpgradeRequest>,
    ) -> Result<Response<Self::RollBackUpgradeStream>, Status> {
        upgrades::roll_back(&self.upgrades, &request.into_inner()).map(Response::new)
    }
}
