//! Every error a caller of the agent can meet, and its error code, in one place.
//!
//! A message is the error with its causes: what the Engine said is in them, and
//! it names the object.

use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;
use tonic::Status;

use crate::allow::NotAllowed;
use crate::container_run::InvalidRun;
use crate::engine::{EngineError, EngineErrorKind, InvalidVolumeName};
use crate::holder::HolderError;
use crate::own::{ChangeError, OwnRefused};
use crate::prune::PruneError;
use crate::recreate::RecreateError;
use crate::spec::SpecError;
use crate::usage::UsageError;
use crate::volume_path::ReachError;
use crate::volume_settings::VolumeNotAllowed;

/// A name that is taken is its own code where something was to be made.
pub(crate) fn creating(error: EngineError) -> Status {
    match error.kind() {
        EngineErrorKind::Conflict => ErrorCode::Conflict.tag(Status::already_exists(error.to_string()), ""),
        _ => error.into(),
    }
}

fn holder_code(error: &HolderError) -> ErrorCode {
    match error {
        HolderError::Engine { source, .. } | HolderError::Remove { source, .. } => source.kind().code(),
        HolderError::Journal(_) => ErrorCode::JournalFailed,
        HolderError::Invisible { .. } | HolderError::NotCompared { .. } | HolderError::Architecture(_) => {
            ErrorCode::VolumeNotReachable
        }
    }
}

fn reach_code(error: &ReachError) -> ErrorCode {
    match error {
        ReachError::Engine(error) => error.kind().code(),
        ReachError::Holder(error) => holder_code(error),
        ReachError::Refused { .. } => ErrorCode::VolumeNotReachable,
        ReachError::Open { .. } => ErrorCode::ReadFailed,
        ReachError::Replaced { .. } => ErrorCode::VolumeReplaced,
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        error.kind().code().status(causes(&error))
    }
}

impl From<HolderError> for Status {
    fn from(error: HolderError) -> Self {
        holder_code(&error).status(causes(&error))
    }
}

impl From<ReachError> for Status {
    fn from(error: ReachError) -> Self {
        reach_code(&error).status(causes(&error))
    }
}

impl From<InvalidVolumeName> for Status {
    fn from(error: InvalidVolumeName) -> Self {
        ErrorCode::InvalidName.status(error.to_string())
    }
}

impl From<NotAllowed> for Status {
    fn from(error: NotAllowed) -> Self {
        ErrorCode::NotAllowed.status(error.to_string())
    }
}

impl From<VolumeNotAllowed> for Status {
    fn from(error: VolumeNotAllowed) -> Self {
        ErrorCode::NotAllowed.status(error.to_string())
    }
}

impl From<OwnRefused> for Status {
    fn from(refused: OwnRefused) -> Self {
        ErrorCode::Conflict.status(refused.to_string())
    }
}

impl From<ChangeError> for Status {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Refused(refused) => refused.into(),
            ChangeError::Unknown(error) => error.into(),
        }
    }
}

impl From<PruneError> for Status {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::NothingNamed => ErrorCode::InvalidRequest.status(error.to_string()),
            PruneError::Engine(error) => error.into(),
        }
    }
}

impl From<SpecError> for Status {
    fn from(error: SpecError) -> Self {
        let code = match &error {
            SpecError::Engine(error) => error.kind().code(),
            SpecError::ImageGone { .. } => ErrorCode::Conflict,
            SpecError::Odd { .. } => ErrorCode::EngineFailed,
        };
        code.status(causes(&error))
    }
}

impl From<RecreateError> for Status {
    fn from(error: RecreateError) -> Self {
        let code = match &error {
            RecreateError::Engine(error) => error.kind().code(),
            RecreateError::ImageMoved { .. } => ErrorCode::Conflict,
            RecreateError::Left { .. } => ErrorCode::EngineFailed,
        };
        code.status(causes(&error))
    }
}

impl From<InvalidRun> for Status {
    fn from(error: InvalidRun) -> Self {
        ErrorCode::InvalidRequest.status(error.to_string())
    }
}

impl From<UsageError> for Status {
    fn from(error: UsageError) -> Self {
        let code = match &error {
            UsageError::Reach(error) => reach_code(error),
            UsageError::Walk { .. } | UsageError::Moved { .. } => ErrorCode::ReadFailed,
            UsageError::Abandoned => ErrorCode::EngineTimeout,
        };
        code.status(causes(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_the_word_and_the_hint() {
        let error = crate::allow::Allow::parse([]).unwrap().check(crate::allow::Right::Restore).unwrap_err();
        let status = Status::from(error);
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert_eq!(ErrorCode::of(&status), Some(ErrorCode::NotAllowed));
        assert!(status.metadata().get(holdfast_proto::HINT_METADATA).is_some());
    }
}
