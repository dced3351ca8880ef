//! Containers that no Engine has, for tests that ask none.

use std::collections::BTreeMap;

use super::{Container, ContainerState, HealthState, Mount, MountKind};

/// A running container with nothing in particular.
pub(crate) fn container(name: &str) -> Container {
    Container {
        id: hex::encode(name) + &"0".repeat(40),
        name: name.to_owned(),
        image: "app:1".to_owned(),
        image_id: "sha256:1".to_owned(),
        state: ContainerState::Running,
        labels: BTreeMap::new(),
        mounts: Vec::new(),
        health: HealthState::NoCheck,
        started_at: "2026-11-24T09:56:00Z".to_owned(),
        finished_at: String::new(),
        exit_code: 0,
        pid: 1,
        stop_timeout_seconds: None,
        auto_remove: false,
        restart_policy: "no".to_owned(),
        needs: Vec::new(),
        network_of: None,
    }
}

/// A writable mount whose data is at `host_path` on the host.
pub(crate) fn mount(kind: MountKind, source: &str, host_path: &str, target: &str) -> Mount {
    Mount {
        kind,
        source: source.to_owned(),
        target: target.to_owned(),
        host_path: host_path.to_owned(),
        read_only: false,
        propagation: String::new(),
        driver: String::new(),
        size_bytes: None,
    }
}
