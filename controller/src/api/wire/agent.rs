//! Agents and their Engines as they are shown.

use holdfast_proto::v1;

use crate::model::agent::{Agent, Engine};

impl From<Agent> for v1::Agent {
    fn from(agent: Agent) -> Self {
        let Agent { version, instance_id, engine, engine_problem, allow, now_unix_ms } = agent;
        let engine = engine.map(v1::Engine::from);
        Self { version, instance_id, engine, engine_problem, allow, now_unix_ms }
    }
}

impl From<Engine> for v1::Engine {
    fn from(engine: Engine) -> Self {
        let Engine {
            id,
            name,
            version,
            api_version,
            api_version_used,
            operating_system,
            kernel_version,
            storage_driver,
            data_root,
            cgroup_version,
            rootless,
            userns_remap,
        } = engine;
        Self {
            id,
            name,
            version,
            api_version,
            api_version_used,
            operating_system,
            kernel_version,
            storage_driver,
            data_root,
            cgroup_version,
            rootless,
            userns_remap,
        }
    }
}
