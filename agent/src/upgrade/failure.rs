//! Why an upgrade does not go on.

use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

use crate::cancel::{Cancel, CancelReason};
use crate::clone;
use crate::engine::EngineError;

use super::plan::PlanError;
use super::record::StoreError;

/// Why an upgrade does not go on: an error code and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
}

impl Failure {
    /// Nobody answers on the Engine's socket.
    pub(super) fn is_engine_away(&self) -> bool {
        self.code == ErrorCode::EngineUnreachable
    }

    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(error.kind().code(), error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(ErrorCode::Record, format!("{error}{cause}"))
    }
}

/// A plan that could not be made, for whoever asked to run it.
pub(super) fn plan_failure(error: &PlanError) -> Failure {
    let code = match error {
        PlanError::NotFound { .. } => ErrorCode::NotFound,
        PlanError::Engine(error) => error.kind().code(),
        PlanError::Image { .. } | PlanError::ImageById { .. } => ErrorCode::ImageNotThere,
        PlanError::Spec(_) => ErrorCode::Spec,
        PlanError::Measure { .. } => ErrorCode::Unreadable,
    };
    Failure::new(code, causes(error))
}

/// A cancelled job fails with whatever it was doing; the order is the reason.
pub(super) fn reason(cancel: &Cancel, failure: Failure) -> Failure {
    match cancel.reason() {
        Some(CancelReason::Asked) => Failure::new(ErrorCode::Cancelled, "cancelled on request"),
        Some(CancelReason::Shutdown) => {
            Failure::new(ErrorCode::Shutdown, "the agent was stopped in the middle of the upgrade")
        }
        Some(CancelReason::MaxDowntime) | None => failure,
    }
}

pub(super) fn cancelled() -> Failure {
    Failure::new(ErrorCode::Cancelled, "cancelled on request")
}

pub(super) fn clone_failed(error: &clone::CloneError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::new(ErrorCode::CloneFailed, format!("the data could not be cloned: {error}{cause}"))
}
