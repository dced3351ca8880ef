//! Every error a caller of the agent can meet, in one table: the stable word,
//! the gRPC code, and what to try next.
//!
//! The word and the hint travel as metadata, so that a caller need not read
//! sentences. A message is the error with its causes: what the Engine said is
//! in them, and it names the object.

pub use holdfast_archive::text::causes;
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

/// The stable word of an error. Words are never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
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

impl Word {
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

    /// A status with this word and its hint.
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

/// Names near to one that is not there, as the end of a sentence.
pub(crate) fn did_you_mean<'a>(name: &str, others: impl Iterator<Item = &'a str>) -> String {
    let near = |other: &&str| strsim::damerau_levenshtein(name, other) <= 1 + other.len() / 4;
    let near: Vec<String> = others.filter(near).take(3).map(|other| format!("`{other}`")).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) }
}

/// A name that is taken is its own code where something was to be made.
pub(crate) fn creating(error: EngineError) -> Status {
    match error.kind() {
        EngineErrorKind::Conflict => Word::Conflict.with_code(Code::AlreadyExists, error.to_string()),
        _ => error.into(),
    }
}

fn engine_word(error: &EngineError) -> Word {
    match error.kind() {
        EngineErrorKind::NotFound => Word::NotFound,
        EngineErrorKind::Conflict => Word::Conflict,
        EngineErrorKind::Invalid => Word::InvalidRequest,
        EngineErrorKind::Permission => Word::EnginePermission,
        EngineErrorKind::Unreachable => Word::EngineUnreachable,
        EngineErrorKind::Timeout => Word::EngineTimeout,
        EngineErrorKind::Unsupported => Word::EngineUnsupported,
        EngineErrorKind::Failed => Word::EngineFailed,
    }
}

fn holder_word(error: &HolderError) -> Word {
    match error {
        HolderError::Engine { source, .. } | HolderError::Remove { source, .. } => engine_word(source),
        HolderError::Journal(_) => Word::JournalFailed,
        HolderError::Invisible { .. } | HolderError::NotCompared { .. } | HolderError::Architecture(_) => {
            Word::VolumeNotReachable
        }
    }
}

fn reach_word(error: &ReachError) -> Word {
    match error {
        ReachError::Engine(error) => engine_word(error),
        ReachError::Holder(error) => holder_word(error),
        ReachError::Refused { .. } => Word::VolumeNotReachable,
        ReachError::Open { .. } => Word::ReadFailed,
        ReachError::Replaced { .. } => Word::VolumeReplaced,
    }
}

impl From<EngineError> for Status {
    fn from(error: EngineError) -> Self {
        engine_word(&error).status(causes(&error))
    }
}

impl From<HolderError> for Status {
    fn from(error: HolderError) -> Self {
        holder_word(&error).status(causes(&error))
    }
}

impl From<ReachError> for Status {
    fn from(error: ReachError) -> Self {
        reach_word(&error).status(causes(&error))
    }
}

impl From<InvalidVolumeName> for Status {
    fn from(error: InvalidVolumeName) -> Self {
        Word::InvalidName.status(error.to_string())
    }
}

impl From<NotAllowed> for Status {
    fn from(error: NotAllowed) -> Self {
        Word::NotAllowed.status(error.to_string())
    }
}

impl From<VolumeNotAllowed> for Status {
    fn from(error: VolumeNotAllowed) -> Self {
        Word::NotAllowed.status(error.to_string())
    }
}

impl From<OwnRefused> for Status {
    fn from(refused: OwnRefused) -> Self {
        Word::Conflict.status(refused.to_string())
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
            PruneError::NothingNamed => Word::InvalidRequest.status(error.to_string()),
            PruneError::Engine(error) => error.into(),
        }
    }
}

impl From<SpecError> for Status {
    fn from(error: SpecError) -> Self {
        let word = match &error {
            SpecError::Engine(error) => engine_word(error),
            SpecError::ImageGone { .. } => Word::Conflict,
            SpecError::Odd { .. } => Word::EngineFailed,
        };
        word.status(causes(&error))
    }
}

impl From<RecreateError> for Status {
    fn from(error: RecreateError) -> Self {
        let word = match &error {
            RecreateError::Engine(error) => engine_word(error),
            RecreateError::ImageMoved { .. } => Word::Conflict,
            RecreateError::Left { .. } => Word::EngineFailed,
        };
        word.status(causes(&error))
    }
}

impl From<InvalidRun> for Status {
    fn from(error: InvalidRun) -> Self {
        Word::InvalidRequest.status(error.to_string())
    }
}

impl From<UsageError> for Status {
    fn from(error: UsageError) -> Self {
        let word = match &error {
            UsageError::Reach(error) => reach_word(error),
            UsageError::Walk { .. } | UsageError::Moved { .. } => Word::ReadFailed,
            UsageError::Abandoned => Word::EngineTimeout,
        };
        word.status(causes(&error))
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
