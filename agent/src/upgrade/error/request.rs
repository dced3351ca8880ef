//! Why what is asked about upgrades is not done.

use holdfast_proto::ErrorCode;

use crate::allow::NotAllowed;
use crate::snapshot::AdmissionError;
use crate::upgrade::plan::PlanError;

use super::{BeginError, UpgradeError};

/// Why a request is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    NotCommitted(#[from] NotCommitted),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Failed(#[from] UpgradeError),
}

/// An upgrade that is not there, or not in its grace period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCommitted {
    #[error("no upgrade `{name}` is known here: holdfast upgrade status lists them")]
    Unknown { name: String },
    #[error("the upgrade of `{name}` is under way")]
    UnderWay { name: String },
    #[error("the upgrade of `{name}` is ending its grace period: there is no way back any more")]
    Finishing { name: String },
    #[error("the upgrade of `{name}` has ended its grace period: the old container and the clone are gone")]
    Finished { name: String },
    #[error("the upgrade of `{name}` was rolled back already")]
    RolledBack { name: String },
}

impl NotCommitted {
    /// Error code for statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown { .. } => ErrorCode::NotFound,
            Self::UnderWay { .. }
            | Self::Finishing { .. }
            | Self::Finished { .. }
            | Self::RolledBack { .. } => ErrorCode::Conflict,
        }
    }
}

impl From<PlanError> for RequestError {
    fn from(error: PlanError) -> Self {
        Self::Failed(BeginError::Plan(error).into())
    }
}
