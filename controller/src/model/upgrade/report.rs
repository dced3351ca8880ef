//! What an upgrade, rollback or rollout came to, as its job keeps it.

use serde::{Deserialize, Serialize};

use super::{UpgradeState, UpgradeStep};

/// Of one container; of a rollout only the counts are filled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeReport {
    pub container: String,
    pub from_image: String,
    pub to_image: String,
    pub state: UpgradeState,
    pub rolled_back: bool,
    pub downtime_ms: u64,
    pub grace_until_unix_ms: i64,
    /// Taken before anything stopped.
    pub snapshots_before: Vec<String>,
    /// Of the moment of the stop.
    pub snapshots_at_stop: Vec<String>,
    pub steps: Vec<UpgradeStep>,
    /// Of a rollout: containers by what became of them.
    pub upgraded: u32,
    pub failed: u32,
    pub undone: u32,
    pub not_begun: u32,
}
