//! What a prune deleted, or would.

use serde::{Deserialize, Serialize};

/// Counts of one prune, or of one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PruneReport {
    pub packs_deleted: u64,
    pub bytes_deleted: u64,
    pub packs_kept: u64,
    pub bytes_kept: u64,
    pub snapshots_purged: u64,
    /// Condemned, and not deleted before the leases of that time have ended.
    pub packs_condemned: u64,
    /// Condemned once, and found to be used again.
    pub packs_revived: u64,
    /// A sentence each.
    pub notes: Vec<String>,
}
