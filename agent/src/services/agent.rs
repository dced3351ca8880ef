//! `AgentService`: what this agent is and what its host allows.

use std::time::Duration;

use holdfast_archive::text::causes;
use holdfast_proto::v1;
use holdfast_proto::v1::agent_service_server::AgentService;
use tonic::{Request, Response, Status};

use super::convert;
use crate::clocks::now_unix_ms;
use crate::controller::{Greeting, OwnDirectory};
use crate::state::AgentState;

/// How long the Engine may take to describe itself. A controller waits little
/// longer for its greeting to be answered: an Engine that hangs must not keep
/// its host out of the fleet.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct AgentApi {
    state: AgentState,
}

impl AgentApi {
    pub(crate) fn new(state: AgentState) -> Self {
        Self { state }
    }

    /// An Engine that does not answer is a fact about the host, not an error.
    async fn describe(&self) -> v1::Agent {
        // Bounded: a host whose Engine hangs still has to answer its controller.
        let asked = tokio::time::timeout(ENGINE_TIMEOUT, self.state.engine.info()).await;
        let (engine, engine_problem) = match asked {
            Ok(Ok(info)) => (Some(convert::engine(info)), String::new()),
            Ok(Err(error)) => (None, causes(&error)),
            Err(_) => (None, "the Docker Engine does not answer".to_owned()),
        };
        v1::Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: self.state.instance.to_string(),
            engine,
            engine_problem,
            allow: self.state.config.allow.words(),
            now_unix_ms: now_unix_ms(),
        }
    }
}

#[tonic::async_trait]
impl AgentService for AgentApi {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        let v1::HelloRequest { controller_version, host_id, host_name, now_unix_ms: theirs, boot_id, own } =
            request.into_inner();
        let skew_ms = now_unix_ms().saturating_sub(theirs);
        let own = own_directories(&boot_id, own);
        self.state.controller.greeted(Greeting { controller_version, host_id, host_name, skew_ms, own });
        Ok(Response::new(v1::HelloResponse { agent: Some(self.describe().await) }))
    }

    async fn get_agent(&self, _request: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        Ok(Response::new(self.describe().await))
    }
}

/// Directories of a controller on this machine. Device and inode numbers of
/// another one mean nothing here.
fn own_directories(boot_id: &str, told: Vec<v1::OwnDirectory>) -> Vec<OwnDirectory> {
    let here = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if boot_id.is_empty() || boot_id != here.trim() {
        return Vec::new();
    }
    let own = told.into_iter().map(|directory| {
        let v1::OwnDirectory { what, path, device, inode } = directory;
        OwnDirectory { what, path: path.into(), device, inode }
    });
    own.collect()
}
