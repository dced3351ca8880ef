//! Containers that no Engine has, for tests of plans.

use crate::engine::{Container, Mount, MountKind, fake};

/// A running one.
pub(super) fn container(name: &str, mounts: Vec<Mount>, needs: &[&str]) -> Container {
    let needs = needs.iter().map(|&need| need.to_owned()).collect();
    Container { mounts, needs, ..fake::container(name) }
}

pub(super) fn mount(kind: MountKind, source: &str, host_path: &str, read_only: bool) -> Mount {
    Mount { read_only, ..fake::mount(kind, source, host_path, "/data") }
}
