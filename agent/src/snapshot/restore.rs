//! One restore job: a new volume or directory filled, proved and only then
//! given its name.
//!
//! What exists is never written into. A new volume is in the journal as
//! half-made before it is made, and is removed if the restore does not end
//! well, be it by a failure, a cancel or the agent's death; a directory is
//! filled beside its place and renamed. What was written is read again and
//! compared before the job calls itself done.

mod error;

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_archive::fs::{self as tree, CompareReport, RestoreOptions, RestoreReport};
use holdfast_archive::ids::SnapshotId;
use holdfast_archive::snapshot::{SnapshotBody, decode_object};
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use tokio_util::task::AbortOnDropHandle;

use crate::allow::Right;
use crate::failpoint::failpoint;
use crate::resume::blocking;
use crate::session::Session;

use super::Context;
use super::event::{Failure, RestoreEvent, RestoreFinished, RestorePhase, RestoreProgress, Restored};
use super::job::Job;
use super::space;
use super::stopped::Stopped;
use super::target::{RestoreTarget, Target, withheld};
use super::thread::on_thread;

pub(super) use self::error::RestoreError;

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
    job: &'a Job<RestoreEvent>,
    request: &'a RestoreRequest,
    progress: Arc<tree::RestoreProgress>,
}

/// Runs the job to its end. A target it could not finish is gone, or its removal
/// is left to the recovery worker.
pub(super) async fn run(
    context: &Context,
    job: &Job<RestoreEvent>,
    request: &RestoreRequest,
) -> RestoreFinished {
    let begun = Instant::now();
    let restore = Restore { context, job, request, progress: Arc::default() };
    let mut finished = match restore.run().await {
        Ok(finished) => finished,
        Err(error) => {
            let failure = Failure::from(error.unless_stopped(&job.cancel));
            tracing::warn!(job.id = %job.id, code = failure.code.as_str(), error = failure.message, "nothing was restored");
            RestoreFinished::failed(failure)
        }
    };
    finished.took = begun.elapsed();
    finished
}

impl Restore<'_> {
    async fn run(&self) -> Result<RestoreFinished, RestoreError> {
        let context = self.context;
        context.allow.check(Right::Restore)?;
        // In this order: what the earlier attempt left would be refused as existing.
        self.await_removal().await?;
        Target::refuse_existing(context, &self.request.target).await?;
        let _slot = tokio::select! {
            slot = context.slots.acquire() => slot,
            () = self.job.cancel.cancelled() => return Err(Stopped::surely(&self.job.cancel).into()),
        };
        let (run, snapshot) = (self.job.run(), self.request.snapshot);
        let opened = context.plane.open_restore(run, snapshot, &self.job.cancel).await?;
        let result = self.in_session(&opened.session, &opened.snapshot_object).await;
        // On both ways: an open lease would keep the snapshot from being purged.
        opened.session.close().await;
        result
    }

    /// What an earlier attempt of this job left goes first.
    async fn await_removal(&self) -> Result<(), RestoreError> {
        tokio::select! {
            removed = self.context.recovery.removed(self.job.id, REMOVAL_LIMIT) => match removed {
                true => Ok(()),
                false => Err(RestoreError::CleanupPending { target: self.request.target.clone() }),
            },
            () = self.job.cancel.cancelled() => Err(Stopped::surely(&self.job.cancel).into()),
        }
    }

    async fn in_session(&self, session: &Session, object: &[u8]) -> Result<RestoreFinished, RestoreError> {
        let (header, body) = decode_object(object)?;
        // Another snapshot must not be restored under the name of this one.
        if header.id != self.request.snapshot {
            return Err(RestoreError::OtherSnapshot { found: header.id, wanted: self.request.snapshot });
        }
        let target = Target::make(self.context, self.job.id, &self.request.target, &body.source).await?;
        match self.fill(session, &body, &target).await {
            Ok(mut finished) if finished.failure.is_none() => {
                failpoint("agent.restore.verified");
                target.keep().await?;
                let withheld = withheld(&self.request.target, &body.source);
                finished.restored.left_out += withheld.len() as u64;
                finished.restored.left_out_list.splice(0..0, shortened(withheld));
                Ok(finished)
            }
            // Also what was written whole and compares badly: nobody must take it for good.
            unfit => {
                target.discard().await;
                unfit
            }
        }
    }

    async fn fill(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
    ) -> Result<RestoreFinished, RestoreError> {
        space::check(target, body, &self.options(), session).await?;
        failpoint("agent.restore.room-found");
        let written = {
            let _reporting = self.report_progress(RestorePhase::Writing, body);
            self.write(session, body, target).await?
        };
        failpoint("agent.restore.written");
        let root = target.root()?;
        // Before it is read again: what is compared shall be what a crash leaves.
        blocking(move || rustix::fs::syncfs(&root)).await.map_err(RestoreError::Sync)?;
        failpoint("agent.restore.before-verify");
        let compared = {
            let _reporting = self.report_progress(RestorePhase::Verifying, body);
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

    /// For the whole snapshot, to write or to compare it.
    fn tree_request(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
        progress: Arc<tree::RestoreProgress>,
    ) -> Result<tree::RestoreRequest, RestoreError> {
        Ok(tree::RestoreRequest {
            root: body.root,
            target: target.root()?,
            options: self.options(),
            source: Arc::new(session.clone()),
            progress,
            cancel: self.job.cancel.flag(),
        })
    }

    async fn write(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
    ) -> Result<RestoreReport, RestoreError> {
        let request = self.tree_request(session, body, target, self.progress.clone())?;
        Ok(on_thread("restore", move || tree::restore(request).map_err(Box::new)).await??)
    }

    async fn compare(
        &self,
        session: &Session,
        body: &SnapshotBody,
        target: &Target,
    ) -> Result<CompareReport, RestoreError> {
        let request = self.tree_request(session, body, target, Arc::default())?;
        Ok(on_thread("compare", move || tree::compare(request).map_err(Box::new)).await??)
    }

    /// Tells how far it is until the handle is dropped.
    fn report_progress(&self, phase: RestorePhase, body: &SnapshotBody) -> AbortOnDropHandle<()> {
        let (feed, progress) = (self.job.feed.clone(), self.progress.clone());
        let (total_entries, total_bytes) = (body.stats.entries, body.stats.size_bytes);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let event = RestoreProgress {
                    phase,
                    entries: progress.entries(),
                    files: progress.files(),
                    bytes: progress.bytes(),
                    total_entries,
                    total_bytes,
                };
                feed.progress("", RestoreEvent::Progress(event));
            }
        }))
    }
}

/// Longest line of a list, bytes: names from a snapshot may be any length, and
/// all lists go in one message and one row.
const LINE_BYTES: usize = 1 << 10;

fn finished(written: RestoreReport, compared: CompareReport) -> RestoreFinished {
    let differences = compared.differences_total;
    let failure = (differences > 0).then(|| Failure {
        code: ErrorCode::Differs,
        message: format!(
            "what was restored differs from the snapshot in {differences} places and was removed"
        ),
    });
    let restored = Restored {
        entries: written.entries,
        files: written.files,
        bytes: written.bytes,
        differences,
        difference_list: shortened(compared.differences),
        left_out: written.left_out_total,
        left_out_list: shortened(written.left_out),
        lost: written.lost_total,
        lost_list: shortened(written.lost),
    };
    RestoreFinished { restored, failure, ..RestoreFinished::default() }
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
