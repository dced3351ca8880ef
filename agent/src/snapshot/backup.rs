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

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use holdfast_archive::fs::{CaptureBase, CaptureOptions, Captured, NestedMounts, TornPolicy};
use holdfast_archive::ids::{FrameId, SourceId};
use holdfast_archive::pack_io::PackIoError;
use holdfast_archive::snapshot::{Extent, SHRUNK_WORDS, SnapshotBody, Stats, encode_body};
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, snapshot_event::Event};

use crate::allow::Right;
use crate::cancel::Cancel;
use crate::failpoint::failpoint;
use crate::quiesce::{QuiesceFailure, QuiesceMode, Quiesced, Request};
use crate::session::{Commit, Damaged, Session, code_of};

use super::Context;
use super::job::Job;
use super::pass::{self, Failure, Pass};
use super::progress::{ProgressTracker, SourceProgress};
use super::source::{Source, SourceName};
use super::users;

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

/// A source that is open on both sides.
struct Target {
    id: SourceId,
    source: Source,
    session: Session,
    base: Option<v1::BaseSnapshot>,
    damaged: Arc<HashSet<FrameId>>,
    /// So much of the base is damaged that all is read.
    reads_all: bool,
    parameters: v1::UploadParameters,
    row: Arc<SourceProgress>,
    begun: Instant,
    /// Cancelled with the job, or with the group when its time quiesced is over.
    cancel: Cancel,
}

/// A target and what the last pass over it found.
type Read = (Target, Captured);

/// What goes into a snapshot besides its content.
#[derive(Debug, Clone, Default)]
struct Circumstances {
    downtime_ms: u64,
    disturbances: Vec<String>,
}

struct Backup<'a> {
    context: &'a Context,
    job: &'a Job<v1::SnapshotEvent>,
    request: &'a BackupRequest,
    progress: Arc<ProgressTracker>,
    failures: Mutex<Vec<Failure>>,
}

/// Runs the job to its end. Nothing is quiesced when it returns, but for what
/// the recovery worker has to resume, as the events say.
pub(super) async fn run(
    context: &Context,
    job: &Job<v1::SnapshotEvent>,
    request: &BackupRequest,
) -> v1::JobEnded {
    let progress = Arc::new(ProgressTracker::new(job.id, job.feed.clone()));
    let ticking = progress.start();
    let backup = Backup { context, job, request, progress, failures: Mutex::default() };
    backup.run().await;
    drop(ticking);
    backup.ended()
}

impl Backup<'_> {
    async fn run(&self) {
        if let Err(error) = self.context.allow.check(Right::Backup) {
            return self.refuse_all(&Failure::of(ErrorCode::NotAllowed, &error));
        }
        let slot = tokio::select! {
            slot = self.context.slots.acquire() => slot,
            () = self.job.cancel.cancelled() => {
                return self.refuse_all(&self.cancelled());
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
                    self.finish(target, result).await;
                }
                Err(failure) => self.failed(source.id, begun, failure),
            }
        });
        each.await;
    }

    async fn snapshot_in_use(&self, target: &Target) -> Result<Done, Failure> {
        let mut damaged = Arc::clone(&target.damaged);
        for attempt in 1..=TRIES {
            let captured =
                self.pass(target, base(target, attempt), &damaged, v1::SourcePhase::FirstPass).await?;
            failpoint("agent.capture.first-pass-done");
            match self.commit(target, captured, &Circumstances::default()).await? {
                Ok(done) => return Ok(done),
                Err(missing) => Arc::make_mut(&mut damaged).extend(missing),
            }
        }
        Err(frames_missing())
    }

    async fn read_quiesced(&self, mode: QuiesceMode) {
        let mut pending = Vec::new();
        for source in &self.request.sources {
            let begun = Instant::now();
            match self.open(source).await {
                Ok(target) => pending.push(target),
                Err(failure) => self.failed(source.id, begun, failure),
            }
        }
        for attempt in 1..=TRIES {
            pending = self.quiesced_round(pending, mode, attempt).await;
            if pending.is_empty() {
                return;
            }
        }
        for target in pending {
            self.finish(target, Err(frames_missing())).await;
        }
    }

    /// Both passes and the commit of every target; returns those whose
    /// commit found frames missing.
    async fn quiesced_round(&self, targets: Vec<Target>, mode: QuiesceMode, attempt: usize) -> Vec<Target> {
        let targets = targets.into_iter().map(|target| {
            let base = base(&target, attempt);
            (target, base)
        });
        let mut left = self.read_all(targets, v1::SourcePhase::FirstPass).await;
        if left.is_empty() {
            return Vec::new();
        }
        failpoint("agent.capture.first-pass-done");
        for (target, _) in &left {
            target.row.set_phase(v1::SourcePhase::Quiescing);
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

    /// Quiesce those who write to the first group of what is left. The
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
            let failure = Failure::cancelled(cancel).unwrap_or_else(|| Failure::of(error.code(), &error));
            (failure, group)
        })
    }

    /// Reads what changed since the first pass, then resumes in any case.
    async fn second_pass(&self, first: Vec<Read>, quiesced: Quiesced) -> (Vec<Read>, Circumstances) {
        let targets = first.into_iter().map(|(target, captured)| (target, Some(base_of(&captured))));
        let second = self.read_all(targets, v1::SourcePhase::SecondPass).await;
        failpoint("agent.capture.second-pass-done");
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
                Ok(Ok(done)) => self.finish(target, Ok(done)).await,
                Ok(Err(missing)) => {
                    Arc::make_mut(&mut target.damaged).extend(missing);
                    again.push(target);
                }
                Err(failure) => self.finish(target, Err(failure)).await,
            }
        }
        again
    }

    /// One pass over each; those that fail are finished and left out.
    async fn read_all(
        &self,
        targets: impl Iterator<Item = (Target, Option<CaptureBase>)>,
        phase: v1::SourcePhase,
    ) -> Vec<Read> {
        let passes = targets.map(|(target, base)| async move {
            // What the second pass follows was read and sent by the first: nothing
            // of that is damaged, and nobody is kept quiesced for it.
            let damaged = match phase {
                v1::SourcePhase::SecondPass => Arc::default(),
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
                Err(failure) => self.finish(target, Err(failure)).await,
            }
        }
        good
    }

    async fn open(&self, request: &SourceRequest) -> Result<Target, Failure> {
        let context = self.context;
        let begun = Instant::now();
        if self.job.cancel.is_cancelled() {
            return Err(self.cancelled());
        }
        let source =
            Source::open(context, &request.name).await.map_err(|error| Failure::of(error.code(), &error))?;
        let open = v1::OpenUploadRequest {
            job_id: self.job.id.to_string(),
            generation: self.job.generation(),
            source_id: request.id.to_string(),
        };
        let cancel = self.job.cancel.part();
        let upload = match context.plane.open_upload(open, &cancel).await {
            Ok(upload) => upload,
            Err(error) => {
                source.release().await;
                return Err(pack_io_failure(&cancel, &error));
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
        let expected = upload.base.as_ref().map_or(0, |base| base.size_bytes);
        let row = self.progress.add(request.id.to_string(), expected);
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

    async fn pass(
        &self,
        target: &Target,
        base: Option<CaptureBase>,
        damaged: &Arc<HashSet<FrameId>>,
        phase: v1::SourcePhase,
    ) -> Result<Captured, Failure> {
        if let Some(failure) = Failure::cancelled(&target.cancel) {
            return Err(failure);
        }
        // What is torn while containers run is read again quiesced.
        let preliminary = self.request.mode.is_some() && phase == v1::SourcePhase::FirstPass;
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
            Err(failure)
                if failure.code == ErrorCode::BaseUnreadable && phase == v1::SourcePhase::FirstPass =>
            {
                tracing::warn!(job.id = %self.job.id, source.id = %target.id, error = failure.message,
                    "all is read again");
                let pass = Pass { base: None, progress: target.row.begin(phase), ..pass };
                let mut captured = self.capture(target, pass).await?;
                let warning = format!(
                    "the base snapshot could not be read, all was read again; run `holdfast repo verify`: {}",
                    failure.message
                );
                captured.warnings.push(warning);
                captured
            }
            // The root of a volume that was removed meanwhile cannot be read either.
            Err(failure) if failure.code == ErrorCode::Unreadable => {
                self.refuse_another(target).await?;
                return Err(failure);
            }
            captured => captured?,
        };
        self.refuse_sudden_emptiness(target, captured.stats.entries).await?;
        Ok(captured)
    }

    async fn capture(&self, target: &Target, pass: Pass) -> Result<Captured, Failure> {
        let root = target.source.root().map_err(|error| Failure::of(error.code(), &error))?;
        pass::capture(root, pass, &target.session, &target.cancel).await
    }

    /// An empty tree where there was none before is more likely a mount that
    /// is not there than the truth.
    async fn refuse_sudden_emptiness(&self, target: &Target, entries: u64) -> Result<(), Failure> {
        let held_something = target.base.as_ref().is_some_and(|base| base.entries > 1);
        if self.request.allow_empty || !held_something || entries > 1 {
            return Ok(());
        }
        // One that was removed meanwhile is empty as well.
        self.refuse_another(target).await?;
        Err(Failure::new(
            ErrorCode::SourceEmpty,
            "the source is empty now and was not in its last snapshot: is a filesystem not mounted? If that is meant: \
             holdfast backup run --allow-empty",
        ))
    }

    /// Refuses a source whose name means other data by now, or nothing.
    async fn refuse_another(&self, target: &Target) -> Result<(), Failure> {
        let same = target.source.check_identity(&self.context.engine).await;
        same.map_err(|error| Failure::of(error.code(), &error))
    }

    /// Says so where less than a tenth is left of the last snapshot: a volume
    /// with two files left of a million is more likely a loss than a change.
    /// It is taken all the same; older snapshots hold the rest.
    fn shrinkage(&self, target: &Target, now: Extent) -> Option<String> {
        let base = target.base.as_ref().filter(|_| !self.request.allow_empty)?;
        let then = Extent { entries: base.entries, size_bytes: base.size_bytes };
        now.shrank_from(then).then(|| {
            format!(
                "{SHRUNK_WORDS} {}: {} entries and {} bytes then, {} entries and {} bytes now; \
                 if that is meant: holdfast backup run --allow-empty",
                base.snapshot_id, then.entries, then.size_bytes, now.entries, now.size_bytes
            )
        })
    }

    /// Offers what was read. The inner error lists frames that are missing.
    async fn commit(
        &self,
        target: &Target,
        captured: Captured,
        circumstances: &Circumstances,
    ) -> Result<Result<Done, Vec<FrameId>>, Failure> {
        target.row.set_phase(v1::SourcePhase::Committing);
        if let Some(failure) = Failure::cancelled(&target.cancel) {
            return Err(failure);
        }
        self.refuse_another(target).await?;
        let stats = target.row.total(&captured.stats);
        let partial = captured.partial || !circumstances.disturbances.is_empty();
        let shrinkage = self.shrinkage(target, captured.stats.extent());
        let shrunk = shrinkage.is_some();
        let mut problems = circumstances.disturbances.clone();
        problems.extend(shrinkage);
        problems.extend(captured.problems);
        problems.extend(captured.warnings);
        let body = SnapshotBody {
            root: captured.root,
            started_unix_ns: captured.started_unix_ns,
            stats,
            source: target.source.facts(),
            consistency: consistency(self.request.mode).to_owned(),
            host_name: self.context.host_name(),
            partial,
            problems: problems.clone(),
            downtime_ms: circumstances.downtime_ms,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            containers: users::describe(&self.context.engine, &self.context.specs, &target.source.place())
                .await,
        };
        match target.session.commit(encode_body(&body)).await {
            Ok(Commit::Committed(committed)) => {
                let stats = wire_stats(&stats);
                let own = Done { snapshot: String::new(), stats, partial, shrunk, problems };
                Ok(Ok(own.told_committed(committed)))
            }
            Ok(Commit::Missing(frames)) => {
                tracing::warn!(job.id = %self.job.id, source.id = %target.id, frames = frames.len(),
                    "frames the snapshot uses are not in the repository; their files are read again");
                Ok(Err(frames))
            }
            Err(error) => Err(pack_io_failure(&target.cancel, &error)),
        }
    }

    async fn finish(&self, target: Target, result: Result<Done, Failure>) {
        let retries = target.session.retries();
        let finished = match result {
            Ok(done) => v1::SourceFinished {
                source_id: target.id.to_string(),
                ok: true,
                snapshot_id: done.snapshot,
                stats: Some(v1::SnapshotStats { retries, ..done.stats }),
                partial: done.partial,
                shrunk: done.shrunk,
                problems: done.problems,
                duration_ms: millis(target.begun.elapsed()),
                ..Default::default()
            },
            Err(failure) => {
                let stats = target.row.now();
                v1::SourceFinished {
                    stats: Some(v1::SnapshotStats { retries, ..wire_stats(&stats) }),
                    ..self.failed_event(target.id, target.begun, failure)
                }
            }
        };
        target.row.finish();
        target.session.close().await;
        target.source.release().await;
        self.emit(Event::Source(finished));
    }

    fn failed(&self, source: SourceId, begun: Instant, failure: Failure) {
        let event = self.failed_event(source, begun, failure);
        self.emit(Event::Source(event));
    }

    fn failed_event(&self, source: SourceId, begun: Instant, failure: Failure) -> v1::SourceFinished {
        tracing::warn!(job.id = %self.job.id, source.id = %source, code = failure.code.as_str(), error = failure.message,
            "no snapshot was taken");
        self.note(failure.clone());
        v1::SourceFinished {
            source_id: source.to_string(),
            duration_ms: millis(begun.elapsed()),
            error_code: failure.code.as_str().to_owned(),
            error: failure.message,
            ..Default::default()
        }
    }

    fn refuse_all(&self, failure: &Failure) {
        for source in &self.request.sources {
            self.failed(source.id, Instant::now(), failure.clone());
        }
    }

    fn report_rest(&self, reports: Vec<v1::ContainerQuiesced>) {
        for report in reports {
            // What its owner removed or ended meanwhile is told, and is no failure.
            if !report.resumed && self.context.recovery.is_to_resume(&report.container_id) {
                let message =
                    format!("container `{}` has not resumed: {}", report.container_name, report.problem);
                self.note(Failure::new(ErrorCode::NotResumed, message));
            }
            self.emit(Event::Quiesced(report));
        }
    }

    fn emit(&self, event: Event) {
        self.job.feed.push(v1::SnapshotEvent { job_id: self.job.id.to_string(), event: Some(event) });
    }

    fn note(&self, failure: Failure) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    }

    fn cancelled(&self) -> Failure {
        Failure::cancelled(&self.job.cancel)
            .unwrap_or_else(|| Failure::new(ErrorCode::Cancelled, "the job was cancelled"))
    }

    fn ended(&self) -> v1::JobEnded {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        // That something is left quiesced is worse than a snapshot that was not taken.
        let worst =
            failures.iter().find(|failure| failure.code == ErrorCode::NotResumed).or(failures.first());
        match worst {
            None => v1::JobEnded { ok: true, ..Default::default() },
            Some(failure) => v1::JobEnded {
                ok: false,
                cancelled: failure.code == ErrorCode::Cancelled,
                error_code: failure.code.as_str().to_owned(),
                error: failure.message.clone(),
            },
        }
    }
}

/// A committed snapshot.
#[derive(Debug)]
struct Done {
    snapshot: String,
    stats: v1::SnapshotStats,
    partial: bool,
    /// Less than a tenth is left of the base.
    shrunk: bool,
    problems: Vec<String>,
}

impl Done {
    /// As the repository has it. Where an earlier attempt of this job committed
    /// and died, that attempt's snapshot is the answer, and this one's reading
    /// is nowhere.
    fn told_committed(self, committed: v1::CommittedSnapshot) -> Self {
        let v1::CommittedSnapshot { snapshot_id: snapshot, partial, stats, problems, .. } = committed;
        match stats {
            Some(stats) => {
                let shrunk = self.shrunk || problems.iter().any(|problem| problem.starts_with(SHRUNK_WORDS));
                Self { snapshot, stats, partial, shrunk, problems }
            }
            // Of a controller that does not tell.
            None => Self { snapshot, ..self },
        }
    }
}

/// Takes those with these indexes out.
fn take<T>(from: &mut Vec<T>, indexes: &[usize]) -> Vec<T> {
    let numbered = std::mem::take(from).into_iter().enumerate();
    let (taken, left): (Vec<_>, Vec<_>) = numbered.partition(|(index, _)| indexes.contains(index));
    from.extend(left.into_iter().map(|(_, item)| item));
    taken.into_iter().map(|(_, item)| item).collect()
}

fn pack_io_failure(cancel: &Cancel, error: &PackIoError) -> Failure {
    Failure::cancelled(cancel).unwrap_or_else(|| Failure::of(code_of(error), error))
}

/// What a pass follows. After a second failure the base itself is in doubt, and
/// one of which too much is damaged is followed by none.
fn base(target: &Target, attempt: usize) -> Option<CaptureBase> {
    let base = target.base.as_ref().filter(|_| attempt < TRIES && !target.reads_all)?;
    Some(CaptureBase { root: FrameId::from_slice(&base.root)?, started_unix_ns: base.started_unix_ns })
}

fn base_of(captured: &Captured) -> CaptureBase {
    CaptureBase { root: captured.root, started_unix_ns: captured.started_unix_ns }
}

fn frames_missing() -> Failure {
    Failure::new(
        ErrorCode::FramesMissing,
        format!(
            "the repository lacks frames of this snapshot although they were sent {TRIES} times; run `holdfast repo verify`"
        ),
    )
}

fn consistency(mode: Option<QuiesceMode>) -> &'static str {
    match mode {
        None => "none",
        Some(QuiesceMode::Pause) => "pause",
        Some(QuiesceMode::Stop) => "stop",
    }
}

pub(super) fn wire_stats(stats: &Stats) -> v1::SnapshotStats {
    let Stats {
        entries,
        files,
        size_bytes,
        read_bytes,
        new_bytes,
        stored_bytes,
        changed_files,
        torn_files,
        vanished_entries,
        unreadable_entries,
    } = *stats;
    v1::SnapshotStats {
        entries,
        files,
        size_bytes,
        read_bytes,
        new_bytes,
        stored_bytes,
        changed_files,
        torn_files,
        vanished_entries,
        unreadable_entries,
        retries: 0,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
