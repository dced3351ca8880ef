//! Why a source has no snapshot, or a job did not end well.

use holdfast_archive::fs::CaptureError;
use holdfast_archive::manifest::ManifestError;
use holdfast_archive::pack_io::PackIoError;
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

use crate::allow::NotAllowed;
use crate::cancel::Cancel;
use crate::quiesce::QuiesceError;
use crate::session::code_of;

use super::super::event::Failure;
use super::super::source::SourceError;
use super::super::stopped::Stopped;
use super::super::thread::ThreadError;

#[derive(Debug, thiserror::Error)]
pub(in crate::snapshot) enum BackupError {
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Quiesce(#[from] QuiesceError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Thread(#[from] ThreadError),
    #[error(transparent)]
    PackIo(#[from] PackIoError),
    #[error(
        "the source is empty now and was not in its last snapshot: is a filesystem not mounted? If that is meant: \
         holdfast backup run --allow-empty"
    )]
    SuddenlyEmpty,
    #[error(
        "the repository lacks frames of this snapshot although they were sent {} times; run `holdfast repo verify`",
        super::TRIES
    )]
    FramesMissing,
    #[error("container `{name}` has not resumed: {problem}")]
    NotResumed { name: String, problem: String },
}

impl BackupError {
    /// Error code for events.
    pub(in crate::snapshot) fn code(&self) -> ErrorCode {
        match self {
            Self::NotAllowed(_) => ErrorCode::NotAllowed,
            Self::Stopped(stopped) => stopped.code(),
            Self::Source(error) => error.code(),
            Self::Quiesce(error) => error.code(),
            Self::Capture(error) => capture_code(error),
            Self::Thread(error) => error.code(),
            Self::PackIo(error) => code_of(error),
            Self::SuddenlyEmpty => ErrorCode::SourceEmpty,
            Self::FramesMissing => ErrorCode::FramesMissing,
            Self::NotResumed { .. } => ErrorCode::NotResumed,
        }
    }

    /// What is cancelled says so, instead of the error that came of it.
    pub(in crate::snapshot) fn unless_stopped(self, cancel: &Cancel) -> Self {
        Stopped::of(cancel).map_or(self, Self::Stopped)
    }
}

impl From<&BackupError> for Failure {
    fn from(error: &BackupError) -> Self {
        Self { code: error.code(), message: causes(error) }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self::from(&error)
    }
}

fn capture_code(error: &CaptureError) -> ErrorCode {
    match error {
        CaptureError::Root { .. } => ErrorCode::Unreadable,
        CaptureError::NoProc { .. } => ErrorCode::Unreadable,
        CaptureError::Sink { source } => code_of(source),
        CaptureError::Source { source } => base_code(source),
        CaptureError::Manifest { .. } => ErrorCode::Manifest,
        CaptureError::Torn { .. } => ErrorCode::Torn,
        CaptureError::Cancelled => ErrorCode::Cancelled,
    }
}

/// A base is unreadable unless what hinders it hinders storing as well: then
/// nothing can be done with a base or without.
fn base_code(error: &ManifestError) -> ErrorCode {
    let source = match error {
        ManifestError::Fetch(error) => error.source_error(),
        ManifestError::Page { .. } => None,
    };
    match source.map(code_of) {
        Some(
            code @ (ErrorCode::Auth
            | ErrorCode::LeaseLost
            | ErrorCode::RepositorySuspended
            | ErrorCode::StaleGeneration
            | ErrorCode::StoreAuth
            | ErrorCode::StoreNoBucket
            | ErrorCode::StoreUnreachable
            | ErrorCode::Unreachable),
        ) => code,
        _ => ErrorCode::BaseUnreadable,
    }
}
