//! The agent's gRPC services: parse, one call, encode.

mod agent;
mod containers;
mod convert;
mod job_events;
mod mounts;
mod run_request;
mod snapshots;
pub mod status;
mod upgrades;
mod volumes;

pub(crate) use self::agent::AgentApi;
pub(crate) use self::containers::ContainerApi;
#[cfg(test)]
pub(crate) use self::job_events::{backup_event, restore_event, snapshot_stats};
pub(crate) use self::mounts::MountApi;
pub(crate) use self::snapshots::SnapshotApi;
pub(crate) use self::volumes::VolumeApi;
