//! What agents say of themselves, their containers, and what they are told of
//! the controller.

use holdfast_proto::v1;

use crate::model::agent::{Agent, Engine};
use crate::model::container::Container;
use crate::model::own_directory::OwnDirectory;

impl From<v1::Agent> for Agent {
    fn from(agent: v1::Agent) -> Self {
        let v1::Agent { version, instance_id, engine, engine_problem, allow, now_unix_ms } = agent;
        Self { version, instance_id, engine: engine.map(Engine::from), engine_problem, allow, now_unix_ms }
    }
}

impl From<v1::Engine> for Engine {
    fn from(engine: v1::Engine) -> Self {
        let v1::Engine {
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

impl From<v1::Container> for Container {
    fn from(container: v1::Container) -> Self {
        // Its state and its mounts are looked at where it is upgraded.
        let v1::Container { id, name, image, labels, .. } = container;
        Self { id, name, image, labels: labels.into_iter().collect() }
    }
}

impl From<OwnDirectory> for v1::OwnDirectory {
    fn from(own: OwnDirectory) -> Self {
        let OwnDirectory { what, path, device, inode } = own;
        Self { what, path, device, inode }
    }
}
