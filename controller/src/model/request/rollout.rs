//! Which rollout is asked for.

use crate::model::upgrade::UpgradeRequest;
use crate::policy::Consistency;

/// Which containers get which image, and at what pace.
#[derive(Debug, Clone)]
pub struct RolloutRequest {
    /// Labels of containers, "key" or "key=value"; all must match.
    pub selectors: Vec<String>,
    /// Labels of hosts; empty: every host.
    pub host_labels: Vec<String>,
    /// As for one upgrade; the container is left out.
    pub upgrade: UpgradeRequest,
    pub consistency: Option<Consistency>,
    /// Containers at once; 0: one.
    pub batch: u32,
    /// Failures beyond this stop the rollout.
    pub max_failures: u32,
    pub pause_seconds: u32,
    /// After a stop, roll back what was upgraded before.
    pub undo: bool,
    /// Resolve and say, start nothing.
    pub plan_only: bool,
}
