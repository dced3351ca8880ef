//! Why an old container has no stand-in.

use holdfast_proto::ErrorCode;

use crate::upgrade::guards::Loss;

#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    #[error("the old container was removed meanwhile")]
    OldGone,
    /// What it wrote outside its mounts has grown since the plan.
    #[error("{}", .0.text)]
    LayerTooLarge(Loss),
    #[error("it differs from `{container}` in {}", differences.join(", "))]
    Differs { container: String, differences: Vec<String> },
}

impl StandInError {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::OldGone => ErrorCode::OldGone,
            Self::LayerTooLarge(_) => ErrorCode::KeptLayer,
            Self::Differs { .. } => ErrorCode::Differs,
        }
    }
}
