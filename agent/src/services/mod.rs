//! The agent's gRPC services: parse, one call, encode.
//!
//! Messages of the wire become types of this crate here, in `session` and in
//! `link`; of the parts below only upgrades name them. Called by the router of `app` alone,
//! for the local socket and for the controller. Holds no state of its own. What
//! changes the host is checked against [`crate::allow`] here, or by what is
//! called.

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
