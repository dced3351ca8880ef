//! Why an upgrade does not go on: what each operation may fail with, and all of
//! it as one type.

mod begin;
mod changed_meanwhile;
mod data;
mod disturbed;
mod hand_over;
mod no_way_back;
mod not_well;
mod request;
mod stand_in;

use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

use crate::cancel::{Cancel, CancelReason};
use crate::engine::EngineError;
use crate::recreate::RecreateError;

use super::record::{RecordedFailure, StoreError};

pub(crate) use self::begin::BeginError;
pub(crate) use self::changed_meanwhile::ChangedMeanwhile;
pub(crate) use self::data::DataError;
pub(crate) use self::disturbed::Disturbed;
pub(crate) use self::hand_over::HandOverError;
pub(crate) use self::no_way_back::NoWayBack;
pub(crate) use self::not_well::NotWell;
pub(crate) use self::request::{NotCommitted, RequestError};
pub(crate) use self::stand_in::StandInError;

/// Why an upgrade, or its rollback, does not go on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Begin(#[from] BeginError),
    #[error(transparent)]
    ChangedMeanwhile(#[from] ChangedMeanwhile),
    #[error(transparent)]
    Disturbed(#[from] Disturbed),
    #[error(transparent)]
    Data(#[from] DataError),
    /// Of a new container: whatever the reason, the upgrade goes back.
    #[error("{0}")]
    NewNotMade(RecreateError),
    /// Of an old container or its stand-in: an Engine that is away is waited for.
    #[error("{0}")]
    OldNotMade(RecreateError),
    #[error(transparent)]
    NotWell(#[from] NotWell),
    #[error(transparent)]
    StandIn(#[from] StandInError),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error(transparent)]
    NoWayBack(#[from] NoWayBack),
    #[error(transparent)]
    NotCommitted(#[from] NotCommitted),
    #[error("nobody said within {seconds} s that the snapshots are taken")]
    Abandoned { seconds: u64 },
    #[error("nobody said within {seconds} s that the snapshot is taken")]
    RollbackAbandoned { seconds: u64 },
    #[error("nothing went back and everything runs as before: {0}")]
    NothingWentBack(#[source] Box<UpgradeError>),
    #[error(
        "the grace period has ended and there is no way back any more; what was kept for it is not all removed yet, which is tried again by itself: {0}"
    )]
    NotAllRemoved(#[source] Box<UpgradeError>),
    #[error("rolled back on request")]
    Asked,
    #[error("cancelled on request")]
    Cancelled,
    #[error("the job was cancelled before it was started here")]
    CancelledBefore,
    #[error("the agent was stopped in the middle of the upgrade")]
    Shutdown,
    #[error("the agent was cut off in the middle of the upgrade")]
    Interrupted,
    #[error("the agent failed inside this upgrade and takes it back; see its log")]
    Panicked,
    #[error("the agent failed; see its log")]
    CommitPanicked,
    /// What could not be done for single containers.
    #[error("{problems}")]
    Unsettled { problems: String },
    #[error("the upgrade is being worked on")]
    Busy,
    #[error("the upgrade has changed meanwhile: look at it again")]
    Changed,
    #[error("the upgrade is not known here any more")]
    Forgotten,
}

impl UpgradeError {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Engine(error) => error.kind().code(),
            Self::Store(_) => ErrorCode::Record,
            Self::Begin(error) => error.code(),
            Self::ChangedMeanwhile(error) => error.code(),
            Self::Disturbed(error) => error.code(),
            Self::Data(error) => error.code(),
            Self::NewNotMade(_) => ErrorCode::CreateFailed,
            Self::OldNotMade(RecreateError::Engine(error)) => error.kind().code(),
            Self::OldNotMade(RecreateError::ImageMoved { .. } | RecreateError::Left { .. }) => {
                ErrorCode::CreateFailed
            }
            Self::NotWell(error) => error.code(),
            Self::StandIn(error) => error.code(),
            Self::HandOver(error) => error.code(),
            Self::NoWayBack(error) => error.code(),
            // Of a rollback that is over before it began.
            Self::NotCommitted(_) | Self::Forgotten => ErrorCode::NotFound,
            Self::Abandoned { .. } | Self::RollbackAbandoned { .. } => ErrorCode::Abandoned,
            Self::NothingWentBack(error) | Self::NotAllRemoved(error) => error.code(),
            Self::Asked => ErrorCode::Asked,
            Self::Cancelled | Self::CancelledBefore => ErrorCode::Cancelled,
            Self::Shutdown => ErrorCode::Shutdown,
            Self::Interrupted => ErrorCode::Interrupted,
            Self::Panicked | Self::CommitPanicked => ErrorCode::Panic,
            Self::Unsettled { .. } => ErrorCode::Unsettled,
            Self::Busy => ErrorCode::Busy,
            Self::Changed => ErrorCode::Changed,
        }
    }

    /// Nobody answers on the Engine's socket.
    pub(super) fn is_engine_away(&self) -> bool {
        self.code() == ErrorCode::EngineUnreachable
    }

    /// A cancelled job fails with whatever it was doing; the order is the reason.
    pub(super) fn unless_cancelled(self, cancel: &Cancel) -> Self {
        match cancel.reason() {
            Some(CancelReason::Asked) => Self::Cancelled,
            Some(CancelReason::Shutdown) => Self::Shutdown,
            Some(CancelReason::MaxDowntime) | None => self,
        }
    }
}

impl From<&UpgradeError> for RecordedFailure {
    fn from(error: &UpgradeError) -> Self {
        Self { code: error.code(), message: causes(error) }
    }
}

#[cfg(test)]
mod tests;
