//! How far a restore is, and how it ended on its host.

use serde::{Deserialize, Serialize};

/// How a restore ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreFinished {
    pub ok: bool,
    pub cancelled: bool,
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    pub duration_ms: u64,
    /// What differs from the manifest, found by walking the target again.
    pub differences: u64,
    pub difference_list: Vec<String>,
    /// Left out on purpose: devices, setuid bits, what the target cannot hold.
    pub left_out: u64,
    pub left_out_list: Vec<String>,
    pub error_code: String,
    pub error: String,
    /// When salvaging: what the repository has lost and the target therefore
    /// has not.
    pub lost: u64,
    pub lost_list: Vec<String>,
}

/// Totals of a restore that runs; in memory alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    pub phase: Option<RestorePhase>,
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    pub total_entries: u64,
    pub total_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePhase {
    Preparing,
    Writing,
    Verifying,
}
