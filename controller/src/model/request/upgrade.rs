//! Which upgrade is asked for.

use crate::model::upgrade::UpgradeRequest;
use crate::policy::Consistency;

/// What is to be run, and how containers are quiesced for the snapshot before.
#[derive(Debug, Clone)]
pub struct UpgradeStartRequest {
    pub choice: UpgradeChoice,
    /// `None`: they are paused.
    pub consistency: Option<Consistency>,
}

/// Which plan is run.
#[derive(Debug, Clone)]
pub enum UpgradeChoice {
    /// Exactly the plan that was shown under this id, or nothing.
    Shown { plan_id: String },
    /// As it is planned now. `host`: name or id.
    Now { host: String, request: UpgradeRequest },
}
