//! Where an upgrade stands on its host.

use serde::{Deserialize, Serialize};

/// The state of an upgrade, as its agent has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeState {
    /// Not told, or told by an agent that knows more states than this.
    #[default]
    Unknown,
    /// The new container is made beside the old one, which runs.
    Preparing,
    Stopping,
    /// The old one is quiesced and its data cloned; waits for the call to
    /// proceed.
    Stopped,
    /// The new one takes the name and starts.
    Switching,
    /// It runs and has to show that it is well.
    Gating,
    /// From here on it only goes forward.
    Committing,
    /// Done; the old one and the clone are kept for the grace period.
    Committed,
    /// The grace period is over.
    Finished,
    RollingBack,
    RolledBack,
    /// To be undone: everything is quiesced, nothing went back yet; waits for
    /// the call to proceed.
    AwaitingRollbackSnapshot,
}

/// A line of an upgrade's own event log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeStep {
    pub state: UpgradeState,
    pub text: String,
    pub unix_ms: i64,
}
