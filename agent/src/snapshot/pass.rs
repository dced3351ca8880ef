//! One capture of one source, on a thread of its own.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use holdfast_archive::fs::{
    self, CaptureBase, CaptureError, CaptureOptions, CaptureProgress, CaptureRequest, Captured,
};
use holdfast_archive::ids::FrameId;
use holdfast_archive::manifest::ManifestError;
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;
use holdfast_proto::v1;

use crate::cancel::{Cancel, CancelReason};
use crate::session::{Session, code_of};

/// Lower than what containers run at, so that a backup takes what they leave.
const NICE: i32 = 10;

/// A failure as events tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: ErrorCode,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// With every cause in one sentence.
    pub(super) fn of(code: ErrorCode, error: &dyn std::error::Error) -> Self {
        Self { code, message: causes(error) }
    }

    /// What a cancelled job says instead of the error it caused.
    pub(super) fn cancelled(cancel: &Cancel) -> Option<Self> {
        Some(match cancel.reason()? {
            CancelReason::Asked => Self::new(ErrorCode::Cancelled, "the job was cancelled"),
            CancelReason::MaxDowntime => Self::new(
                ErrorCode::MaxDowntime,
                "the containers were quiesced for as long as they may be, and resumed before the data was read; \
                 allow more downtime, or back up less at once",
            ),
            CancelReason::Shutdown => {
                Self::new(ErrorCode::Shutdown, "the agent was stopped; the next run goes on from here")
            }
        })
    }
}

/// What one pass reads and how.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) base: Option<CaptureBase>,
    pub(super) damaged: Arc<HashSet<FrameId>>,
    pub(super) options: CaptureOptions,
    pub(super) progress: Arc<CaptureProgress>,
}

/// Captures one tree.
pub(super) async fn capture(
    root: OwnedFd,
    pass: Pass,
    session: &Session,
    cancel: &Cancel,
) -> Result<Captured, Failure> {
    let pack_io = Arc::new(session.clone());
    let flag = cancel.flag();
    let captured = on_thread("capture", move || {
        fs::capture(CaptureRequest {
            root,
            base: pass.base,
            damaged: &pass.damaged,
            options: pass.options,
            sink: pack_io.clone(),
            source: pack_io,
            progress: pass.progress,
            cancel: flag,
        })
    })
    .await?;
    captured.map_err(|error| Failure::cancelled(cancel).unwrap_or_else(|| capture_failure(&error)))
}

fn capture_failure(error: &CaptureError) -> Failure {
    let code = match error {
        CaptureError::Root { .. } => ErrorCode::Unreadable,
        CaptureError::NoProc { .. } => ErrorCode::Unreadable,
        CaptureError::Sink { source } => code_of(source),
        CaptureError::Source { source } => base_failure(source),
        CaptureError::Manifest { .. } => ErrorCode::Manifest,
        CaptureError::Torn { .. } => ErrorCode::Torn,
        CaptureError::Cancelled => ErrorCode::Cancelled,
    };
    Failure::of(code, error)
}

/// A base is unreadable unless what hinders it hinders storing as well: then
/// nothing can be done with a base or without.
fn base_failure(error: &ManifestError) -> ErrorCode {
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

/// Runs blocking work on a thread of low priority. A panic there is a failure
/// of the one job, not of the agent.
pub(super) async fn on_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("holdfast-{name}")).spawn(move || {
        // On Linux this is the thread's own priority, and its children's.
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = sender.send(work());
    });
    if let Err(error) = thread {
        return Err(Failure::new(ErrorCode::Resources, format!("no thread can be started: {error}")));
    }
    receiver
        .await
        .map_err(|_| Failure::new(ErrorCode::Panic, format!("the agent failed inside ({name}); see its log")))
}

/// The settings the controller and this host give.
pub(super) fn options(
    parameters: &v1::UploadParameters,
    workers: usize,
    memory_bytes: usize,
) -> CaptureOptions {
    let defaults = CaptureOptions::default();
    let or = |given: u32, default: usize| match usize::try_from(given) {
        Ok(given) if given > 0 => given,
        _ => default,
    };
    CaptureOptions {
        level: match parameters.compression_level {
            0 => defaults.level,
            level => i32::try_from(level.min(19)).unwrap_or(defaults.level),
        },
        pack_bytes: or(parameters.pack_bytes, defaults.pack_bytes).min(64 << 20),
        upload_concurrency: or(parameters.upload_concurrency, defaults.upload_concurrency).min(16),
        workers,
        memory_bytes,
        ..defaults
    }
}
