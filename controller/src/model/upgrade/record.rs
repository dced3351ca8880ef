//! Upgrades as their host remembers them, and how it says that one ended.

use super::{UpgradeSource, UpgradeState, UpgradeStep};

/// An upgrade in the memory of its host, as far as jobs go by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrade {
    pub job_id: String,
    pub state: UpgradeState,
    pub container_name: String,
    pub from_image: String,
    pub to_image: String,
    pub grace_until_unix_ms: i64,
    pub sources: Vec<UpgradeSource>,
    pub steps: Vec<UpgradeStep>,
}

/// How an upgrade or a rollback ended on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpgradeFinished {
    /// The new container runs and is committed.
    pub ok: bool,
    pub rolled_back: bool,
    pub cancelled: bool,
    /// From the stop of the old container until one of the two was well again.
    pub downtime_ms: u64,
    pub error_code: String,
    pub error: String,
    pub upgrade: Option<Upgrade>,
}
