//! Containers that a backup had quiesced.

use serde::{Deserialize, Serialize};

/// A container that was paused or stopped for a backup, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerQuiesced {
    pub container_id: String,
    pub container_name: String,
    /// "paused" or "stopped".
    pub how: String,
    pub downtime_ms: u64,
    /// It runs again. False: it does not, and `problem` says why; what the
    /// agent has to resume is still in its journal.
    pub resumed: bool,
    pub problem: String,
}
