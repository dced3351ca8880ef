//! Every error a caller of the agent can meet, in one table: the error code,
//! the gRPC code, and what to try next.
//!
//! The code and the hint travel as metadata, so that a caller need not read
//! sentences. A message is the error with its causes: what the Engine said is
//! in them, and it names the object.

use holdfast_archive::text::causes;
use holdfast_proto::{ERROR_CODE_METADATA, HINT_METADATA};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

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

/// What an error is called for programs. Codes are never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    NotFound,
    Conflict,
    InvalidName,
    InvalidRequest,
    NotAllowed,
    VolumeNotReachable,
    VolumeReplaced,
    EnginePermission,
    EngineUnreachable,
    EngineTimeout,
    EngineUnsupported,
    EngineFailed,
    JournalFailed,
    ReadFailed,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::InvalidName => "invalid-name",
            Self::InvalidRequest => "invalid-request",
            Self::NotAllowed => "not-allowed",
            Self::VolumeNotReachable => "volume-not-reachable",
            Self::VolumeReplaced => "volume-replaced",
            Self::EnginePermission => "engine-permission",
            Self::EngineUnreachable => "engine-unreachable",
            Self::EngineTimeout => "engine-timeout",
            Self::EngineUnsupported => "engine-unsupported",
            Self::EngineFailed => "engine-failed",
            Self::JournalFailed => "journal-failed",
            Self::ReadFailed => "read-failed",
        }
    }

    pub fn code(self) -> Code {
        match self {
            Self::NotFound => Code::NotFound,
            Self::Conflict | Self::VolumeNotReachable | Self::EngineUnsupported => Code::FailedPrecondition,
            Self::InvalidName | Self::InvalidRequest => Code::InvalidArgument,
            Self::NotAllowed => Code::PermissionDenied,
            Self::VolumeReplaced => Code::Aborted,
            Self::EngineUnreachable => Code::Unavailable,
            Self::EngineTimeout => Code::DeadlineExceeded,
            Self::EnginePermission | Self::EngineFailed | Self::JournalFailed | Self::ReadFailed => {
                Code::Internal
            }
        }
    }

    /// What to try next; empty where only the message can say it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::NotAllowed => {
                "the host's own settings decide: add it to `allow` in the agent's config.toml and restart the agent"
            }
            Self::EnginePermission => {
                "run the agent as root or as a member of the group that owns the Engine's socket"
            }
            Self::EngineUnreachable => "on the host: systemctl status docker",
            Self::EngineTimeout => "on the host: docker info; an Engine that hangs has to be restarted",
            Self::EngineUnsupported => "upgrade Docker or the agent, whichever is older",
            Self::JournalFailed => {
                "on the host: check that the agent's state directory is writable and not full"
            }
            Self::NotFound
            | Self::Conflict
            | Self::InvalidName
            | Self::InvalidRequest
            | Self::VolumeNotReachable
            | Self::VolumeReplaced
            | Self::EngineFailed
            | Self::ReadFailed => "",
        }
    }

    /// A status with this code and its hint.
    pub fn status(self, message: impl Into<String>) -> Status {
        self.with_code(self.code(), message)
    }

    fn with_code(self, code: Code, message: impl Into<String>) -> Status {
        let mut status = Status::new(code, message);
        status.metadata_mut().insert(ERROR_CODE_METADATA, MetadataValue::from_static(self.as_str()));
        if !self.hint().is_empty() {
            status.metadata_mut().insert(HINT_METADATA, MetadataValue::from_static(self.hint()));
        }
        status
    }
}

/// A name that is taken is its own code where something was to be made.
pub(crate) fn creating(error: EngineError) -> Status {
    match error.kind() {
        EngineErrorKind::Conflict => ErrorCode::Conflict.with_code(Code::AlreadyExists, error.to_string()),
        _ => error.into(),
    }
}

fn engine_code(error: &EngineError) -> ErrorCode {
    match error.kind() {
        EngineErrorKind::NotFound => ErrorCode::NotFound,
        EngineErrorKind::Conflict => ErrorCode::Conflict,
        EngineErrorKind::Invalid => ErrorCode::InvalidRequest,
        EngineErrorKind::Permission => ErrorCode::EnginePermission,
        EngineErrorKind::Unreachable => ErrorCode::EngineUnreachable,
        EngineErrorKind::Timeout => ErrorCode::EngineTimeout,
        EngineErrorKind::Unsupported => ErrorCode::EngineUnsupported,
        EngineErrorKind::Failed => ErrorCode::EngineFailed,
    }
}

fn holder_code(error: &HolderError) -> ErrorCode {
    match error {
        HolderError::Engine { source, .. } | HolderError::Remove { source, .. } => engine_code(source),
        HolderError::Journal(_) => ErrorCode::JournalFailed,
        HolderError::Invisible { .. } | HolderError::NotCompared { .. } | HolderError::Architecture(_) => {
            ErrorCode::VolumeNotReachable
        }
    }
}

fn reach_code(error: &ReachError) -> ErrorCode {
    match error {
        ReachError::Engine(error) => engine_code(error),
        ReachError::Holder(error) => holder_code(error),
        ReachError::Refused { .. } => ErrorCode::VolumeNotReachable,
        ReachError::Open { .. } => ErrorCode::ReadFailed,
        ReachError::Replaced { .. } => ErrorCode::VolumeReplaced,
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        engine_code(&error).status(causes(&error))
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
            SpecError::Engine(error) => engine_code(error),
            SpecError::ImageGone { .. } => ErrorCode::Conflict,
            SpecError::Odd { .. } => ErrorCode::EngineFailed,
        };
        code.status(causes(&error))
    }
}

impl From<RecreateError> for Status {
    fn from(error: RecreateError) -> Self {
        let code = match &error {
            RecreateError::Engine(error) => engine_code(error),
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
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(status.metadata().get(ERROR_CODE_METADATA).unwrap(), "not-allowed");
        assert!(status.metadata().get(HINT_METADATA).is_some());
    }
}
