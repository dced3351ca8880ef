//! Why a helper container does not go on with an upgrade.

use std::io;

use holdfast_proto::ErrorCode;

use super::UpgradeError;

#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    #[error("the agent's program cannot be found: {0}")]
    NoProgram(#[source] io::Error),
    #[error("the upgrade has no helper")]
    NoHelper,
    #[error("the helper container could not be started: {0}")]
    NotStarted(#[source] Box<UpgradeError>),
    #[error("the helper container ended before it began")]
    EndedEarly,
    #[error("another helper is at work on the upgrade")]
    Busy,
}

impl HandOverError {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoProgram(_) | Self::NoHelper | Self::NotStarted(_) | Self::EndedEarly => ErrorCode::Helper,
            Self::Busy => ErrorCode::Busy,
        }
    }
}
