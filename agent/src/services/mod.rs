//! The agent's gRPC services: parse, one call, encode.

mod agent;
mod containers;
mod convert;
mod mounts;
mod run_request;
mod snapshots;
pub mod status;
mod upgrades;
mod volumes;

pub(crate) use self::agent::AgentApi;
pub(crate) use self::containers::ContainerApi;
pub(crate) use self::mounts::MountApi;
pub(crate) use self::snapshots::SnapshotApi;
pub(crate) use self::volumes::VolumeApi;
