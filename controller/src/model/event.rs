//! What an agent reports of a job.

use crate::model::job::quiesced::ContainerQuiesced;
use crate::model::job::restore::{RestoreFinished, RestoreProgress};
use crate::model::job::source::{JobEnded, SourceFinished, SourceProgress};
use crate::model::upgrade::{UpgradeFinished, UpgradeStep};

/// By kind of work.
#[derive(Debug, Clone)]
pub enum AgentEvent {
    Snapshot(SnapshotEvent),
    Restore(RestoreEvent),
    Upgrade(UpgradeEvent),
}

#[derive(Debug, Clone)]
pub enum SnapshotEvent {
    Progress(SourceProgress),
    Source(SourceFinished),
    Quiesced(ContainerQuiesced),
    Ended(JobEnded),
    /// Of a kind that this version does not know.
    Unknown,
}

#[derive(Debug, Clone)]
pub enum RestoreEvent {
    Progress(RestoreProgress),
    Finished(RestoreFinished),
    /// Of a kind that this version does not know.
    Unknown,
}

#[derive(Debug, Clone)]
pub enum UpgradeEvent {
    Step(UpgradeStep),
    /// Everything is stopped until then, unless the agent is told to proceed.
    Stopped {
        until_unix_ms: i64,
    },
    Finished(UpgradeFinished),
    /// Of a kind that this version does not know.
    Unknown,
}
