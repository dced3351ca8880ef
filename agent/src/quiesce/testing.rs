//! Containers that no Engine has, for tests of plans.

use std::collections::BTreeMap;

use crate::engine::{Container, ContainerState, HealthState, Mount, MountKind};

/// A running one.
pub(super) fn container(name: &str, mounts: Vec<Mount>, needs: &[&str]) -> Container {
    Container {
        id: hex::encode(name) + &"0".repeat(40),
        name: name.to_owned(),
        image: String::new(),
        image_id: String::new(),
        state: ContainerState::Running,
        labels: BTreeMap::new(),
        mounts,
        health: HealthState::NoCheck,
        started_at: String::new(),
        finished_at: String::new(),
        exit_code: 0,
        pid: 1,
        stop_timeout_seconds: None,
        auto_remove: false,
        restart_policy: String::new(),
        needs: needs.iter().map(|&need| need.to_owned()).collect(),
        network_of: None,
    }
}

pub(super) fn mount(kind: MountKind, source: &str, host_path: &str, read_only: bool) -> Mount {
    Mount {
        kind,
        source: source.to_owned(),
        target: "/data".to_owned(),
        host_path: host_path.to_owned(),
        read_only,
        propagation: String::new(),
        driver: String::new(),
        size_bytes: None,
    }
}
