//! One restore job: a new volume or directory filled, proved and only then
//! given its name.
//!
//! What exists is never written into. A new volume is in the journal as
//! half-made before it is made, and is removed if the restore does not end
//! well, be it by a failure, a cancel or the agent's death; a directory is
//! filled beside its place and renamed. What was written is read again and
//! compared before the job calls itself done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_archive::fs::{
    self as tree, CompareReport, RestoreError, RestoreOptions, RestoreProgress, RestoreReport,
};
use holdfast_archive::ids::SnapshotId;
use holdfast_archive::snapshot::{SnapshotBody, decode_object};
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, restore_event::Event};
use tokio_util::task::AbortOnDropHandle;

use crate::allow::Right;
use crate::failpoint::failpoint;
use crate::resume::blocking;
use crate::session::{Session, code_of};

use super::Context;
use super::job::Job;
use super::pass::{Failure, on_thread};
use super::space;
use super::target::{RestoreTarget, Target, withheld};

const TICK: Duration = Duration::from_millis(300);

/// How long the removal of what an earlier attempt left may take: it may be a
/// directory with millions of files.
const REMOVAL_LIMIT: Duration = Duration::from_mins(30);

/// What a restore job is to do.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    pub job: JobId,
    pub generation: u64,
    pub snapshot: SnapshotId,
    pub target: RestoreTarget,
    pub devices: bool,
    pub setuid: bool,
    pub strict: bool,
    /// Leave out, and list, what the repository has lost.
    pub salvage: bool,
    /// Of entries to restore with all below them; empty: everything.
    pub paths: Vec<Vec<u8>>,
}

struct Restore<'a> {
    context: &'a Context,
    job: &'a Job<v1::RestoreEvent>,
    request: &'a RestoreRequest,
    progress: Arc<RestoreProgress>,
}

/// Runs the job to its end. A target it could not finish is gone, or its removal
/// is left to the recovery worker.
pub(super) async fn run(
    context: &Context,
    job: &Job<v1::RestoreEvent>,
    request: &RestoreRequest,
) -> v1::RestoreFinished {
    let begun = Instant::now();
    let restore = Restore { context, job, request, progress: Arc::default() };
    let mut finished = match restore.run().await {
        Ok(finished) => finished,
        Err(failure) => {
            let failure = Failure::cancelled(&job.cancel).unwrap_or(failure);
            tracing::warn!(job.id = %job.id, code = failure.code.as_str(), error = failure.message, "nothing was restored");
            v1::RestoreFinished {
                cancelled: failure.code == ErrorCode::Cancelled,
                error_code: failure.code.as_str().to_owned(),
                error: failure.message,
                ..Default::default()
            }
        }
    };
    finished.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    finished
}

impl Restore<'_> {
    async fn run(&self) -> Result<v1::RestoreFinished, Failure> {
        let context = self.context;
        context.allow.check(Right::Restore).map_err(|error| Failure::of(ErrorCode::NotAllowed, &error))?;
        self.await_removal().await?;
        Target::refuse_existing(context, &self.request.target).await?;
        let _slot = tokio::select! {
            slot = context.slots.acquire() => slot,
            () = self.job.cancel.cancelled() => return Err(Failure::new(ErrorCode::Cancelled, "the job was cancelled")),
        };
        let open = v1::OpenRestoreRequest {
            job_id: self.job.id.to_string(),
            generation: self.job.generation(),
            snapshot_id: self.request.snapshot.to_string(),
        };
        let opened = context.plane.open_restore(open, &self.job.cancel).await;
        let opened = opened.map_err(|error| Failure::of(code_of(&error), &error))?;
        let result = self.in_session(&opened.session, &opened.snapshot_object).await;
        opened.session.close().await;
        result
    }

    /// What an earlier attempt of this job left goes first.
    async fn await_removal(&self) -> Result<(), Failure> {
        tokio::select! {
            removed = self.context.recovery.removed(self.job.id, REMOVAL_LIMIT) => match removed {
                true => Ok(()),
                false => Err(Failure::new(
                    ErrorCode::CleanupPending,
                    format!(
                        "what an earlier attempt of this restore left of {} cannot be removed; \
                         the agent's log says why: journalctl -u holdfast-agent",
                        self.request.target
                    ),
                )),
            },
            () = self.job.cancel.cancelled() => Err(Failure::new(ErrorCode::Cancelled, "the job was cancelled")),
        }
    }

    async fn in_session(&self, session: &Session, object: &[u8]) -> Result<v1::RestoreFinished, Failure> {
        let (header, body) =
            decode_object(object).map_err(|error| Failure::of(ErrorCode::Corrupt, &error))?;
        if header.id != self.request.snapshot {
            return Err(Failure::new(
                ErrorCode::Corrupt,
                format!(
                    "the repository holds snapshot {} under the name of {}",
                    header.id, self.request.snapshot
                ),
            ));
        }
        let target = Target::make(self.context, self.job.id, &self.request.target, &body.source).await?;
        match self.fill(session, &body, &target).await {
            Ok(mut finished) if finished.ok => {
                failpoint("agent.restore.verified");
                target.keep().await?;
                let withheld = withheld(&self.request.target, &body.source);
                finished.left_out += withheld.len() as u64;
                finished.left_out_list.splice(0..0, shortened(withheld));
                Ok(finished)
            }
            Ok(finished) => {
                target.discard().await;
                Ok(finished)
            }
            Err(failure) => {
                target.discard().await;
                Err(failure)
            }
        }
    }

    async fn fill(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
    ) -> Result<v1::RestoreFinished, Failure> {
        space::check(target, body, &self.options(), session).await?;
        failpoint("agent.restore.room-found");
        let written = {
            let _reporting = self.report_progress(v1::RestorePhase::Writing, body);
            self.write(session, body, target).await?
        };
        failpoint("agent.restore.written");
        let root = target.root()?;
        blocking(move || rustix::fs::syncfs(&root)).await.map_err(|error| {
            Failure::new(ErrorCode::WriteFailed, format!("what was restored cannot be synced: {error}"))
        })?;
        failpoint("agent.restore.before-verify");
        let compared = {
            let _reporting = self.report_progress(v1::RestorePhase::Verifying, body);
            self.compare(session, body, target).await?
        };
        let compared = compared.after(&written);
        Ok(finished(written, compared))
    }

    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            devices: self.request.devices,
            setuid: self.request.setuid,
            strict: self.request.strict,
            salvage: self.request.salvage,
            paths: self.request.paths.clone(),
            // Half of the time each of them waits for the store.
            workers: self.context.workers * 2,
            memory_bytes: self.context.memory_per_job(),
            ..RestoreOptions::default()
        }
    }

    async fn write(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
    ) -> Result<RestoreReport, Failure> {
        let request = tree::RestoreRequest {
            root: body.root,
            target: target.root()?,
            options: self.options(),
            source: Arc::new(session.clone()),
            progress: self.progress.clone(),
            cancel: self.job.cancel.flag(),
        };
        let written = on_thread("restore", move || tree::restore(request).map_err(Box::new)).await?;
        written.map_err(|error| Failure::of(tree_code(&error), &error))
    }

    async fn compare(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
    ) -> Result<CompareReport, Failure> {
        let request = tree::RestoreRequest {
            root: body.root,
            target: target.root()?,
            options: self.options(),
            source: Arc::new(session.clone()),
            progress: Arc::default(),
            cancel: self.job.cancel.flag(),
        };
        let compared = on_thread("compare", move || tree::compare(request).map_err(Box::new)).await?;
        compared.map_err(|error| Failure::of(tree_code(&error), &error))
    }

    /// Tells how far it is until the handle is dropped.
    fn report_progress(&self, phase: v1::RestorePhase, body: &SnapshotBody) -> AbortOnDropHandle<()> {
        let (feed, job, progress) = (self.job.feed.clone(), self.job.id.to_string(), self.progress.clone());
        let (total_entries, total_bytes) = (body.stats.entries, body.stats.size_bytes);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let event = v1::RestoreProgress {
                    phase: phase.into(),
                    entries: progress.entries(),
                    files: progress.files(),
                    bytes: progress.bytes(),
                    total_entries,
                    total_bytes,
                };
                let event = v1::RestoreEvent { job_id: job.clone(), event: Some(Event::Progress(event)) };
                feed.progress("", event);
            }
        }))
    }
}

/// Longest line of a list, bytes: names from a snapshot may be any length, and
/// all lists go in one message and one row.
const LINE_BYTES: usize = 1 << 10;

fn finished(written: RestoreReport, compared: CompareReport) -> v1::RestoreFinished {
    let differences = compared.differences_total;
    let (error_code, error) = match differences {
        0 => (String::new(), String::new()),
        count => (
            ErrorCode::Differs.as_str().to_owned(),
            format!("what was restored differs from the snapshot in {count} places and was removed"),
        ),
    };
    v1::RestoreFinished {
        ok: differences == 0,
        entries: written.entries,
        files: written.files,
        bytes: written.bytes,
        differences,
        difference_list: shortened(compared.differences),
        left_out: written.left_out_total,
        left_out_list: shortened(written.left_out),
        lost: written.lost_total,
        lost_list: shortened(written.lost),
        error_code,
        error,
        ..Default::default()
    }
}

/// The lines, each cut to what a list may carry.
fn shortened(mut lines: Vec<String>) -> Vec<String> {
    for line in &mut lines {
        if line.len() > LINE_BYTES {
            line.truncate(line.floor_char_boundary(LINE_BYTES));
            line.push('…');
        }
    }
    lines
}

/// The error code for a tree that could not be restored or compared.
fn tree_code(error: &RestoreError) -> ErrorCode {
    match error {
        RestoreError::Target { .. } | RestoreError::NoProc { .. } => ErrorCode::Unreadable,
        RestoreError::NotEmpty => ErrorCode::TargetNotEmpty,
        lost if lost.is_loss() => ErrorCode::Damaged,
        RestoreError::Manifest { .. } | RestoreError::Content { .. } => ErrorCode::Unreachable,
        RestoreError::NotFound { .. } => ErrorCode::NotFound,
        RestoreError::Refused { .. } => ErrorCode::RefusedEntry,
        RestoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            ErrorCode::NoSpace
        }
        RestoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::QuotaExceeded => {
            ErrorCode::NoSpace
        }
        RestoreError::Io { .. } => ErrorCode::WriteFailed,
        RestoreError::Strict { .. } => ErrorCode::NotRepresentable,
        RestoreError::Cancelled => ErrorCode::Cancelled,
    }
}
