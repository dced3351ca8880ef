//! Why nothing was restored.

use holdfast_archive::fs as tree;
use holdfast_archive::ids::SnapshotId;
use holdfast_archive::manifest::ManifestError;
use holdfast_archive::pack_io::PackIoError;
use holdfast_archive::snapshot::SnapshotError;
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;
use rustix::io::Errno;

use crate::allow::NotAllowed;
use crate::cancel::Cancel;
use crate::session::code_of;

use super::super::event::Failure;
use super::super::stopped::Stopped;
use super::super::target::{RestoreTarget, TargetError};
use super::super::thread::ThreadError;

#[derive(Debug, thiserror::Error)]
pub(in crate::snapshot) enum RestoreError {
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(
        "what an earlier attempt of this restore left of {target} cannot be removed; \
         the agent's log says why: journalctl -u holdfast-agent"
    )]
    CleanupPending { target: RestoreTarget },
    #[error(transparent)]
    PackIo(#[from] PackIoError),
    #[error(transparent)]
    Object(#[from] SnapshotError),
    #[error("the repository holds snapshot {found} under the name of {wanted}")]
    OtherSnapshot { found: SnapshotId, wanted: SnapshotId },
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("the target's filesystem cannot be asked: {0}")]
    RoomUnknown(Errno),
    #[error(transparent)]
    NeedUnknown(ManifestError),
    /// A whole sentence.
    #[error("{0}")]
    NoRoom(String),
    #[error(transparent)]
    Tree(#[from] Box<tree::RestoreError>),
    #[error("what was restored cannot be synced: {0}")]
    Sync(Errno),
    #[error(transparent)]
    Thread(#[from] ThreadError),
}

impl RestoreError {
    /// Error code for events.
    pub(in crate::snapshot) fn code(&self) -> ErrorCode {
        match self {
            Self::NotAllowed(_) => ErrorCode::NotAllowed,
            Self::Stopped(stopped) => stopped.code(),
            Self::CleanupPending { .. } => ErrorCode::CleanupPending,
            Self::PackIo(error) => code_of(error),
            Self::Object(_) | Self::OtherSnapshot { .. } => ErrorCode::Corrupt,
            Self::Target(error) => error.code(),
            Self::RoomUnknown(_) => ErrorCode::Unreadable,
            Self::NeedUnknown(error) if error.is_loss() => ErrorCode::Damaged,
            Self::NeedUnknown(_) => ErrorCode::Unreachable,
            Self::NoRoom(_) => ErrorCode::NoSpace,
            Self::Tree(error) => tree_code(error),
            Self::Sync(_) => ErrorCode::WriteFailed,
            Self::Thread(error) => error.code(),
        }
    }

    /// What is cancelled says so, instead of the error that came of it.
    pub(in crate::snapshot) fn unless_stopped(self, cancel: &Cancel) -> Self {
        Stopped::of(cancel).map_or(self, Self::Stopped)
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        Self { code: error.code(), message: causes(&error) }
    }
}

/// The error code for a tree that could not be restored or compared.
fn tree_code(error: &tree::RestoreError) -> ErrorCode {
    use tree::RestoreError as E;
    match error {
        E::Target { .. } | E::NoProc { .. } => ErrorCode::Unreadable,
        E::NotEmpty => ErrorCode::TargetNotEmpty,
        lost if lost.is_loss() => ErrorCode::Damaged,
        E::Manifest { .. } | E::Content { .. } => ErrorCode::Unreachable,
        E::NotFound { .. } => ErrorCode::NotFound,
        E::Refused { .. } => ErrorCode::RefusedEntry,
        E::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorCode::NoSpace,
        E::Io { source, .. } if source.kind() == std::io::ErrorKind::QuotaExceeded => ErrorCode::NoSpace,
        E::Io { .. } => ErrorCode::WriteFailed,
        E::Strict { .. } => ErrorCode::NotRepresentable,
        E::Cancelled => ErrorCode::Cancelled,
    }
}
