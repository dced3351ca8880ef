//! One capture of one source, on a thread of its own.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use holdfast_archive::fs::{self, CaptureBase, CaptureOptions, CaptureProgress, CaptureRequest, Captured};
use holdfast_archive::ids::FrameId;

use crate::cancel::Cancel;
use crate::session::{Session, UploadParameters};

use super::backup::BackupError;
use super::thread::on_thread;

/// What one pass reads and how.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    pub(super) base: Option<CaptureBase>,
    pub(super) damaged: Arc<HashSet<FrameId>>,
    pub(super) options: CaptureOptions,
    pub(super) progress: Arc<CaptureProgress>,
}

/// Captures one tree.
///
/// # Errors
/// When the tree cannot be read, its frames cannot be stored, or the work is to
/// end.
pub(super) async fn capture(
    root: OwnedFd,
    pass: Pass,
    session: &Session,
    cancel: &Cancel,
) -> Result<Captured, BackupError> {
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
    captured.map_err(|error| BackupError::from(error).unless_stopped(cancel))
}

/// The settings the controller and this host give.
pub(super) fn options(parameters: &UploadParameters, workers: usize, memory_bytes: usize) -> CaptureOptions {
    let defaults = CaptureOptions::default();
    let or = |given: Option<u32>, default: usize| {
        given.and_then(|given| usize::try_from(given).ok()).unwrap_or(default)
    };
    // The controller's words are bounded: what it asks for costs this host's
    // memory and time.
    CaptureOptions {
        level: parameters
            .compression_level
            .and_then(|level| i32::try_from(level.min(19)).ok())
            .unwrap_or(defaults.level),
        pack_bytes: or(parameters.pack_bytes, defaults.pack_bytes).min(64 << 20),
        upload_concurrency: or(parameters.upload_concurrency, defaults.upload_concurrency).min(16),
        workers,
        memory_bytes,
        ..defaults
    }
}
