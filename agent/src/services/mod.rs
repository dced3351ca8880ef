//! The agent's gRPC services: parse, one call, encode.
//!
//! Messages of the wire become types of this crate here, in `session` and in
//! `link`; of the parts below only upgrades name them. `app` serves [`router()`] at
//! the local socket and to the controller. Holds no state of its own. What changes
//! the host is checked against [`crate::allow`] here, or by what is called.

mod agent;
mod containers;
mod convert;
mod job_events;
mod mounts;
mod router;
mod run_request;
mod snapshots;
pub(crate) mod status;
mod upgrade_wire;
mod upgrades;
mod volumes;

use self::agent::AgentApi;
use self::containers::ContainerApi;
#[cfg(test)]
pub(crate) use self::job_events::{backup_event, restore_event, snapshot_stats};
use self::mounts::MountApi;
pub(crate) use self::router::{router, set_serving};
use self::snapshots::SnapshotApi;
use self::volumes::VolumeApi;
