//! One backup job: its sources read, its containers quiesced no longer than
//! must be, its snapshots committed.
//!
//! Without quiescing a source is read once. With it, everything is read and
//! uploaded while the containers run and nothing of that is committed. Then,
//! one group of sources after another, those who write to them are quiesced, only what
//! changed since is read, and they resume; the commit comes after that,
//! because it needs nobody quiesced. A commit that finds frames missing starts
//! the source over, so containers are never quiesced for the sake of a full read.
//!
//! A source fails alone, or with its group where that cannot be quiesced long
//! enough; the job fails with it but the others go on. Before a commit its
//! name must still mean the data that was read.

mod commit;
mod error;
mod reading;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use holdfast_archive::fs::{CaptureBase, Captured, NestedMounts, TornPolicy};
use holdfast_archive::ids::SourceId;
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;

use crate::allow::Right;
use crate::cancel::Cancel;
use crate::failpoint::failpoint;
use crate::quiesce::{QuiesceFailure, QuiesceMode, QuiesceReport, Quiesced, Request};

use super::Context;
use super::event::{BackupEvent, Counts, Failure, SourceFinished, SourcePhase};
use super::job::Job;
use super::progress::ProgressTracker;
use super::source::SourceName;
use super::stopped::Stopped;

pub(super) use self::error::BackupError;

use self::commit::{Circumstances, Done, Offer};
use self::reading::Target;

/// How often a source is read before missing frames are called a failure.
const TRIES: usize = 3;

/// What a backup job is to do.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    pub job: JobId,
    pub generation: u64,
    pub sources: Vec<SourceRequest>,
    /// None: read while in use.
    pub mode: Option<QuiesceMode>,
    pub torn: TornPolicy,
    pub nested_mounts: NestedMounts,
    /// None: as long as this host allows, which is the most in any case.
    pub max_downtime: Option<Duration>,
    pub allow_empty: bool,
}

#[derive(Debug, Clone)]
pub struct SourceRequest {
    pub id: SourceId,
    pub name: SourceName,
}

/// A target and what the last pass over it found.
type Read = (Target, Captured);

struct Backup<'a> {
    context: &'a Context,
    job: &'a Job<BackupEvent>,
    request: &'a BackupRequest,
    progress: Arc<ProgressTracker>,
    failures: Mutex<Vec<Failure>>,
}

/// Runs the job to its end. Nothing is quiesced when it returns, but for what
/// the recovery worker has to resume, as the events say.
pub(super) async fn run(
    context: &Context,
    job: &Job<BackupEvent>,
    request: &BackupRequest,
) -> Result<(), Failure> {
    let progress = Arc::new(ProgressTracker::new(job.feed.clone()));
    let ticking = progress.start();
    let backup = Backup { context, job, request, progress, failures: Mutex::default() };
    backup.run().await;
    drop(ticking);
    backup.ended()
}

impl Backup<'_> {
    async fn run(&self) {
        if let Err(error) = self.context.allow.check(Right::Backup) {
            return self.refuse_all(&BackupError::from(error).into());
        }
        // Memory and threads are shared out before anything is opened, so that nobody
        // waits for them with containers quiesced.
        let slot = tokio::select! {
            slot = self.context.slots.acquire() => slot,
            () = self.job.cancel.cancelled() => {
                return self.refuse_all(&BackupError::from(Stopped::surely(&self.job.cancel)).into());
            }
        };
        match self.request.mode {
            None => self.read_in_use().await,
            Some(mode) => self.read_quiesced(mode).await,
        }
        drop(slot);
    }

    async fn read_in_use(&self) {
        let sources = stream::iter(&self.request.sources);
        let each = sources.for_each_concurrent(self.context.parallel(), |source| async move {
            let begun = Instant::now();
            match self.open(source).await {
                Ok(target) => {
                    let result = self.snapshot_in_use(&target).await;
                    self.finish(target, result.map_err(Failure::from)).await;
                }
                Err(error) => self.failed(source.id, begun, error.into()),
            }
        });
        each.await;
    }

    async fn snapshot_in_use(&self, target: &Target) -> Result<Done, BackupError> {
        let mut damaged = Arc::clone(&target.damaged);
        for attempt in 1..=TRIES {
            let captured = self.pass(target, target.base(attempt), &damaged, SourcePhase::FirstPass).await?;
            failpoint("agent.capture.first-pass-done");
            match self.commit(target, captured, &Circumstances::default()).await? {
                Offer::Taken(done) => return Ok(done),
                Offer::Missing(frames) => Arc::make_mut(&mut damaged).extend(frames),
            }
        }
        Err(BackupError::FramesMissing)
    }

    async fn read_quiesced(&self, mode: QuiesceMode) {
        let mut pending = Vec::new();
        for source in &self.request.sources {
            let begun = Instant::now();
            match self.open(source).await {
                Ok(target) => pending.push(target),
                Err(error) => self.failed(source.id, begun, error.into()),
            }
        }
        // Those whose frames went missing are read again from the first pass on: a full
        // read with containers quiesced could take hours.
        for attempt in 1..=TRIES {
            pending = self.quiesced_round(pending, mode, attempt).await;
            if pending.is_empty() {
                return;
            }
        }
        for target in pending {
            self.finish(target, Err(BackupError::FramesMissing.into())).await;
        }
    }

    /// Both passes and the commit of every target; returns those whose
    /// commit found frames missing.
    async fn quiesced_round(&self, targets: Vec<Target>, mode: QuiesceMode, attempt: usize) -> Vec<Target> {
        let targets = targets.into_iter().map(|target| {
            let base = target.base(attempt);
            (target, base)
        });
        let mut left = self.read_all(targets, SourcePhase::FirstPass).await;
        if left.is_empty() {
            return Vec::new();
        }
        failpoint("agent.capture.first-pass-done");
        for (target, _) in &left {
            target.row.set_phase(SourcePhase::Quiescing);
        }
        let mut again = Vec::new();
        while !left.is_empty() {
            // Its own, so that the watchdog of one group ends no other.
            let cancel = self.job.cancel.part();
            match self.quiesce(&left, mode, &cancel).await {
                Ok(quiesced) => {
                    let group = take(&mut left, quiesced.group());
                    group.iter().for_each(|(target, _)| cancel.pass_on(&target.cancel));
                    let (second, circumstances) = self.second_pass(group, quiesced).await;
                    again.extend(self.commit_all(second, &circumstances).await);
                }
                Err((failure, group)) => {
                    for (target, _) in take(&mut left, &group) {
                        self.finish(target, Err(failure.clone())).await;
                    }
                }
            }
        }
        again
    }

    /// Quiesces those who write to the first group of what is left. The
    /// error says which are not read for it.
    async fn quiesce(
        &self,
        left: &[Read],
        mode: QuiesceMode,
        cancel: &Cancel,
    ) -> Result<Quiesced, (Failure, Vec<usize>)> {
        let most = self.context.max_downtime;
        let request = Request {
            job: self.job.id,
            places: left.iter().map(|(target, _)| target.source.place()).collect(),
            mode,
            max_downtime: self.request.max_downtime.map_or(most, |asked| asked.min(most)),
        };
        let quiesced = self.context.quiescer.quiesce(&request, cancel).await;
        quiesced.map_err(|QuiesceFailure { error, group, reports }| {
            self.report_rest(reports);
            (BackupError::from(error).unless_stopped(cancel).into(), group)
        })
    }

    /// Reads what changed since the first pass, then resumes in any case.
    async fn second_pass(&self, first: Vec<Read>, quiesced: Quiesced) -> (Vec<Read>, Circumstances) {
        let targets = first.into_iter().map(|(target, captured)| (target, Some(base_of(&captured))));
        let second = self.read_all(targets, SourcePhase::SecondPass).await;
        failpoint("agent.capture.second-pass-done");
        // Asked before anything resumes: a container that runs now ran during the read.
        let disturbances = quiesced.disturbances().await.unwrap_or_else(|error| {
            vec![format!("it is not known whether all containers were quiesced to the end: {error}")]
        });
        let reports = quiesced.resume().await;
        let downtime_ms = reports.iter().map(|report| report.downtime_ms).max().unwrap_or_default();
        self.report_rest(reports);
        (second, Circumstances { downtime_ms, disturbances })
    }

    async fn commit_all(&self, read: Vec<Read>, circumstances: &Circumstances) -> Vec<Target> {
        let mut again = Vec::new();
        for (mut target, captured) in read {
            match self.commit(&target, captured, circumstances).await {
                Ok(Offer::Taken(done)) => self.finish(target, Ok(done)).await,
                Ok(Offer::Missing(frames)) => {
                    Arc::make_mut(&mut target.damaged).extend(frames);
                    again.push(target);
                }
                Err(error) => self.finish(target, Err(error.into())).await,
            }
        }
        again
    }

    /// One pass over each; those that fail are finished and left out.
    async fn read_all(
        &self,
        targets: impl Iterator<Item = (Target, Option<CaptureBase>)>,
        phase: SourcePhase,
    ) -> Vec<Read> {
        let passes = targets.map(|(target, base)| async move {
            // What the second pass follows was read and sent by the first: nothing
            // of that is damaged, and nobody is kept quiesced for it.
            let damaged = match phase {
                SourcePhase::SecondPass => Arc::default(),
                _ => Arc::clone(&target.damaged),
            };
            let read = self.pass(&target, base, &damaged, phase).await;
            (target, read)
        });
        let read: Vec<_> = stream::iter(passes).buffer_unordered(self.context.parallel()).collect().await;
        let mut good = Vec::new();
        for (target, result) in read {
            match result {
                Ok(captured) => good.push((target, captured)),
                Err(error) => self.finish(target, Err(error.into())).await,
            }
        }
        good
    }

    /// Lets go of a source on both sides and tells how it ended.
    async fn finish(&self, target: Target, result: Result<Done, Failure>) {
        let stats = match &result {
            Ok(done) => done.stats,
            Err(_) => target.row.now(),
        };
        let finished = SourceFinished {
            source: target.id,
            took: target.begun.elapsed(),
            counts: Some(Counts { stats, retries: target.session.retries() }),
            result: result.map(|done| done.taken),
        };
        self.note_result(&finished);
        target.row.finish();
        target.session.close().await;
        target.source.release().await;
        // Last: once this is told, another job may use the source or open a lease.
        self.job.feed.push(BackupEvent::Source(finished));
    }

    /// Tells of a source that was not begun.
    fn failed(&self, source: SourceId, begun: Instant, failure: Failure) {
        let finished = SourceFinished { source, took: begun.elapsed(), counts: None, result: Err(failure) };
        self.note_result(&finished);
        self.job.feed.push(BackupEvent::Source(finished));
    }

    fn note_result(&self, finished: &SourceFinished) {
        let Err(failure) = &finished.result else { return };
        tracing::warn!(job.id = %self.job.id, source.id = %finished.source, code = failure.code.as_str(),
            error = failure.message, "no snapshot was taken");
        self.note(failure.clone());
    }

    fn refuse_all(&self, failure: &Failure) {
        for source in &self.request.sources {
            self.failed(source.id, Instant::now(), failure.clone());
        }
    }

    fn report_rest(&self, reports: Vec<QuiesceReport>) {
        for report in reports {
            // What its owner removed or ended meanwhile is told, and is no failure.
            if !report.resumed && self.context.recovery.is_to_resume(&report.container_id) {
                let (name, problem) = (report.container_name.clone(), report.problem.clone());
                self.note(BackupError::NotResumed { name, problem }.into());
            }
            self.job.feed.push(BackupEvent::Quiesced(report));
        }
    }

    fn note(&self, failure: Failure) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    }

    fn ended(&self) -> Result<(), Failure> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // That something is left quiesced is worse than a snapshot that was not taken.
        let worst =
            failures.iter().find(|failure| failure.code == ErrorCode::NotResumed).or(failures.first());
        worst.map_or(Ok(()), |failure| Err(failure.clone()))
    }
}

/// Takes those with these indexes out.
fn take<T>(from: &mut Vec<T>, indexes: &[usize]) -> Vec<T> {
    let numbered = std::mem::take(from).into_iter().enumerate();
    let (taken, left): (Vec<_>, Vec<_>) = numbered.partition(|(index, _)| indexes.contains(index));
    from.extend(left.into_iter().map(|(_, item)| item));
    taken.into_iter().map(|(_, item)| item).collect()
}

fn base_of(captured: &Captured) -> CaptureBase {
    CaptureBase { root: captured.root, started_unix_ns: captured.started_unix_ns }
}
