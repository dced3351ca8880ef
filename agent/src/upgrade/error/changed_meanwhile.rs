//! What has changed between the plan and the stop.

use holdfast_proto::ErrorCode;

use crate::upgrade::guards::Loss;

#[derive(Debug, thiserror::Error)]
pub enum ChangedMeanwhile {
    #[error(
        "since the plan was made `{container}` wrote outside its mounts, and nothing was stopped: {} (allow it as `{}`)",
        .loss.text, .loss.name
    )]
    Written { container: String, loss: Loss },
    #[error(
        "`{container}` was started since the plan was made and needs `{needed}`; nothing was stopped: plan again"
    )]
    NewDependent { container: String, needed: String },
}

impl ChangedMeanwhile {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Written { .. } | Self::NewDependent { .. } => ErrorCode::PlanChanged,
        }
    }
}
