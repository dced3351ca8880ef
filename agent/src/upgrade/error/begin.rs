//! Why nothing was begun.

use holdfast_proto::ErrorCode;

use crate::spec::SpecError;
use crate::upgrade::plan::PlanError;

#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(
        "container `{container}`, its image or what uses its data has changed since the plan was made; nothing was stopped: plan again"
    )]
    PlanChanged { container: String },
    /// A sentence each.
    #[error("{}", problems.join("; "))]
    NotRunnable { problems: Vec<String> },
    #[error("`{container}` has to be recreated with it: {source}")]
    Dependent { container: String, source: SpecError },
}

impl BeginError {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Plan(error) => error.code(),
            Self::PlanChanged { .. } => ErrorCode::PlanChanged,
            Self::NotRunnable { .. } => ErrorCode::NotRunnable,
            Self::Dependent { .. } => ErrorCode::Dependent,
        }
    }
}
