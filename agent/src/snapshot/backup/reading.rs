//! The sources of a job: opened on both sides, and read.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use holdfast_archive::fs::{CaptureBase, CaptureOptions, Captured, TornPolicy};
use holdfast_archive::ids::{FrameId, SourceId};
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

use crate::cancel::Cancel;
use crate::session::{BaseSnapshot, Damaged, Session, UploadParameters};

use super::super::event::SourcePhase;
use super::super::pass::{self, Pass};
use super::super::progress::SourceProgress;
use super::super::source::Source;
use super::super::stopped::Stopped;
use super::{Backup, BackupError, SourceRequest, TRIES};

/// A source that is open on both sides.
pub(super) struct Target {
    pub(super) id: SourceId,
    pub(super) source: Source,
    pub(super) session: Session,
    pub(super) base: Option<BaseSnapshot>,
    pub(super) damaged: Arc<HashSet<FrameId>>,
    /// So much of the base is damaged that all is read.
    reads_all: bool,
    parameters: UploadParameters,
    pub(super) row: Arc<SourceProgress>,
    pub(super) begun: Instant,
    /// Cancelled with the job, or with the group when its time quiesced is over.
    pub(super) cancel: Cancel,
}

impl Target {
    /// What a pass follows. After a second failure the base itself is in doubt, and
    /// one of which too much is damaged is followed by none.
    pub(super) fn base(&self, attempt: usize) -> Option<CaptureBase> {
        let base = self.base.as_ref().filter(|_| attempt < TRIES && !self.reads_all)?;
        Some(CaptureBase { root: base.root?, started_unix_ns: base.started_unix_ns })
    }
}

impl Backup<'_> {
    /// Opens a source here and at the controller. If this fails, neither has it
    /// open.
    pub(super) async fn open(&self, request: &SourceRequest) -> Result<Target, BackupError> {
        let context = self.context;
        let begun = Instant::now();
        Stopped::check(&self.job.cancel)?;
        let source = Source::open(context, &request.name).await?;
        // Its own: a group that was quiesced too long ends without the other sources.
        let cancel = self.job.cancel.part();
        let upload = match context.plane.open_upload(self.job.run(), request.id, &cancel).await {
            Ok(upload) => upload,
            Err(error) => {
                // A volume may be held mounted by a container, which nobody else would remove.
                source.release().await;
                return Err(BackupError::from(error).unless_stopped(&cancel));
            }
        };
        let (damaged, reads_all) = match upload.damaged {
            Damaged::Frames(frames) => (Arc::new(frames), false),
            Damaged::TooMany => {
                tracing::warn!(job.id = %self.job.id, source.id = %request.id,
                    "most of the last snapshot is damaged: all is read, and what the repository lacks is sent");
                (Arc::default(), true)
            }
        };
        let expected = upload.base.as_ref().map(|base| base.extent.size_bytes);
        let row = self.progress.add(request.id, expected);
        Ok(Target {
            id: request.id,
            source,
            session: upload.session,
            base: upload.base,
            damaged,
            reads_all,
            parameters: upload.parameters,
            row,
            begun,
            cancel,
        })
    }

    /// Reads the source once, and sends what the repository lacks.
    pub(super) async fn pass(
        &self,
        target: &Target,
        base: Option<CaptureBase>,
        damaged: &Arc<HashSet<FrameId>>,
        phase: SourcePhase,
    ) -> Result<Captured, BackupError> {
        Stopped::check(&target.cancel)?;
        // What is torn while containers run is read again quiesced.
        let preliminary = self.request.mode.is_some() && phase == SourcePhase::FirstPass;
        let torn = if preliminary { TornPolicy::Accept } else { self.request.torn };
        let (workers, memory) = (self.context.workers, self.context.memory_per_capture());
        let pass = Pass {
            base,
            damaged: Arc::clone(damaged),
            options: CaptureOptions {
                torn,
                nested_mounts: self.request.nested_mounts,
                ..pass::options(&target.parameters, workers, memory)
            },
            progress: target.row.begin(phase),
        };
        let captured = match self.capture(target, pass.clone()).await {
            // The base only saves reading. While containers are quiesced there is no time for that.
            Err(error) if error.code() == ErrorCode::BaseUnreadable && phase == SourcePhase::FirstPass => {
                let cause = causes(&error);
                tracing::warn!(job.id = %self.job.id, source.id = %target.id, error = cause, "all is read again");
                let pass = Pass { base: None, progress: target.row.begin(phase), ..pass };
                let mut captured = self.capture(target, pass).await?;
                captured.warnings.push(format!(
                    "the base snapshot could not be read, all was read again; run `holdfast repo verify`: {cause}"
                ));
                captured
            }
            // The root of a volume that was removed meanwhile cannot be read either.
            Err(error) if error.code() == ErrorCode::Unreadable => {
                self.refuse_another(target).await?;
                return Err(error);
            }
            captured => captured?,
        };
        self.refuse_sudden_emptiness(target, captured.stats.entries).await?;
        Ok(captured)
    }

    async fn capture(&self, target: &Target, pass: Pass) -> Result<Captured, BackupError> {
        pass::capture(target.source.root()?, pass, &target.session, &target.cancel).await
    }

    /// An empty tree where there was none before is more likely a mount that
    /// is not there than the truth.
    async fn refuse_sudden_emptiness(&self, target: &Target, entries: u64) -> Result<(), BackupError> {
        let held_something = target.base.as_ref().is_some_and(|base| base.extent.entries > 1);
        if self.request.allow_empty || !held_something || entries > 1 {
            return Ok(());
        }
        // One that was removed meanwhile is empty as well.
        self.refuse_another(target).await?;
        Err(BackupError::SuddenlyEmpty)
    }

    /// Refuses a source whose name means other data by now, or nothing.
    pub(super) async fn refuse_another(&self, target: &Target) -> Result<(), BackupError> {
        Ok(target.source.check_identity(&self.context.engine).await?)
    }
}
