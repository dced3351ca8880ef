//! Why there is no target to restore to, or none any more.

use std::io;
use std::path::PathBuf;

use holdfast_proto::ErrorCode;
use rustix::io::Errno;

use crate::allow::NotAllowed;
use crate::clone::CloneError;
use crate::contained::ContainedError;
use crate::engine::{EngineError, VolumeName};
use crate::journal::JournalError;
use crate::own::ChangeError;
use crate::volume_settings::VolumeNotAllowed;

use super::super::source::SourceError;

#[derive(Debug, thiserror::Error)]
pub(in crate::snapshot) enum TargetError {
    #[error(transparent)]
    Own(#[from] ChangeError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Contained(#[from] ContainedError),
    #[error("volume `{name}` exists; restore under another name, or remove it first")]
    VolumeExists { name: VolumeName },
    #[error(transparent)]
    VolumeNotAllowed(#[from] VolumeNotAllowed),
    #[error("the Engine mounts another directory than `{}`", .path.display())]
    OtherDirectory { path: PathBuf },
    #[error("the new volume already holds data, because its driver or options lead to a place in use")]
    NotEmpty,
    #[error(transparent)]
    Reach(#[from] SourceError),
    #[error("the target of the restore cannot be opened: {0}")]
    Unreadable(io::Error),
    #[error("the target of the restore is gone")]
    Gone,
    #[error(transparent)]
    PathNotAllowed(#[from] NotAllowed),
    #[error("{} cannot be restored into", .path.display())]
    NoDirectory { path: PathBuf },
    #[error("{}, which is to hold the target, cannot be used: {error}", .parent.display())]
    NoParent { parent: PathBuf, error: io::Error },
    #[error("{} is there and is not an empty directory; restore to another place", .path.display())]
    DirectoryExists { path: PathBuf },
    #[error(
        "{} cannot be put in place: {error}; it must be absent, or an empty directory that is no mount point",
        .path.display()
    )]
    NotInPlace { path: PathBuf, error: Errno },
    #[error("{} cannot be {action}: {error}", .path.display())]
    Write { path: PathBuf, action: &'static str, error: Errno },
    #[error(transparent)]
    Remove(#[from] CloneError),
    #[error(
        "{}, or the directory that holds it, was moved or replaced by somebody else meanwhile, and nothing was put there; \
         let nobody but root write to that directory, and restore again",
        .path.display()
    )]
    Moved { path: PathBuf },
}

impl TargetError {
    /// Error code for events.
    pub(in crate::snapshot) fn code(&self) -> ErrorCode {
        match self {
            Self::Own(ChangeError::Refused(_)) => ErrorCode::HoldfastOwn,
            Self::Own(ChangeError::Unknown(error)) | Self::Engine(error) => error.kind().code(),
            Self::Journal(_) => ErrorCode::JournalFailed,
            Self::Contained(error) => error.code(),
            Self::VolumeExists { .. } | Self::DirectoryExists { .. } | Self::NotInPlace { .. } => {
                ErrorCode::TargetExists
            }
            Self::VolumeNotAllowed(_) | Self::OtherDirectory { .. } | Self::PathNotAllowed(_) => {
                ErrorCode::NotAllowed
            }
            Self::NotEmpty => ErrorCode::TargetNotEmpty,
            Self::Reach(error) => error.code(),
            Self::Unreadable(_) => ErrorCode::Unreadable,
            Self::Gone | Self::Moved { .. } => ErrorCode::TargetLost,
            Self::NoDirectory { .. } => ErrorCode::InvalidRequest,
            Self::NoParent { .. } => ErrorCode::NotFound,
            Self::Write { .. } | Self::Remove(_) => ErrorCode::WriteFailed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineErrorKind;

    #[test]
    fn what_the_engine_did_not_do_has_the_same_code_for_restore_and_backup() {
        let contained = || ContainedError::Engine(EngineError::new(EngineErrorKind::Unreachable, "is down"));
        assert_eq!(TargetError::from(contained()).code(), ErrorCode::EngineUnreachable);
        assert_eq!(SourceError::from(contained()).code(), ErrorCode::EngineUnreachable);
    }
}
