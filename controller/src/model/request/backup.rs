//! Which backup is asked for.

use crate::policy::{Consistency, NestedMounts};

/// What is asked for: a policy, or sources by hand.
#[derive(Debug, Clone, Default)]
pub struct BackupRequest {
    /// A policy's name; empty: the sources are named here.
    pub policy: String,
    /// Name or id; empty with a policy: every host it selects.
    pub host: String,
    /// Volume globs, when not by policy.
    pub volumes: Vec<String>,
    pub directories: Vec<String>,
    /// `None`: as the policy says, or while the data is in use.
    pub consistency: Option<Consistency>,
    /// `None`: as the policy says, or partial.
    pub nested_mounts: Option<NestedMounts>,
    /// 0: as the policy says, or the agent's default.
    pub max_downtime_seconds: u32,
    pub allow_empty: bool,
    /// Resolve and say, start nothing.
    pub plan_only: bool,
}
