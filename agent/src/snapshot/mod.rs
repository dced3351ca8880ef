//! Jobs that take and restore snapshots.
//!
//! A job belongs to the agent: it is started by a call, but it neither waits
//! for its caller nor ends with it. Whoever calls again with its id hears
//! everything from the beginning. A panic in a job fails that job alone.
//!
//! Called by `services`, and by `upgrade` for the registry of jobs and the quiesce
//! lock. Volumes are read where the Engine has them, directories where the host
//! allows them; only a restore writes, and only to what it made itself.
//!
//! Two jobs run at a time, each with its share of the memory; more wait their
//! turn. So a job that has quiesced containers never waits for memory.

mod backup;
mod beside;
mod event;
mod feed;
mod job;
mod pass;
mod progress;
mod restore;
mod source;
mod space;
mod stopped;
mod target;
mod thread;
mod users;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, Stream};
use holdfast_archive::fs::MIN_MEMORY_BYTES;
use holdfast_proto::ids::JobId;
use tokio::sync::Semaphore;

use crate::allow::Allow;
use crate::controller::Controller;
use crate::engine::Engine;
use crate::holder::Holders;
use crate::own::Own;
use crate::quiesce::Quiescer;
use crate::resume::RecoveryWorker;
use crate::session::DataPlane;
use crate::spec::Specs;

pub(crate) use self::backup::{BackupRequest, SourceRequest};
pub(crate) use self::event::{
    BackupEvent, Counts, Failure, RestoreEvent, RestoreFinished, RestorePhase, RestoreProgress, Restored,
    SourceFinished, SourcePhase, SourceProgress, Taken,
};
pub(crate) use self::job::Event;
pub(crate) use self::job::{Admission, AdmissionError, Job, KnownJob, Registry};
pub(crate) use self::restore::RestoreRequest;
pub(crate) use self::source::SourceName;
pub(crate) use self::target::{RestoreTarget, VolumeTarget};

const MAX_JOBS: usize = 2;
const MAX_SOURCES: usize = 2;

/// What jobs work with.
#[derive(Debug)]
pub struct Parts {
    pub engine: Engine,
    pub holders: Holders,
    pub recovery: RecoveryWorker,
    /// Knows what the containers that use a source are made of.
    pub specs: Specs,
    pub plane: DataPlane,
    pub allow: Allow,
    /// For all buffers of all jobs together.
    pub memory_bytes: usize,
    /// Threads of one capture or restore.
    pub workers: usize,
    /// The longest a container may be kept quiesced.
    pub max_downtime: Duration,
    /// Knows the name this host has in its fleet.
    pub controller: Controller,
    /// Knows what is never backed up.
    pub own: Own,
}

/// Runs jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    context: Arc<Context>,
    registry: Arc<Registry>,
}

#[derive(Debug)]
struct Context {
    engine: Engine,
    holders: Holders,
    recovery: RecoveryWorker,
    specs: Specs,
    plane: DataPlane,
    quiescer: Quiescer,
    allow: Allow,
    share: Share,
    workers: usize,
    max_downtime: Duration,
    controller: Controller,
    own: Own,
    slots: Semaphore,
}

/// How a budget of memory is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    jobs: usize,
    sources: usize,
    capture_bytes: usize,
}

impl Share {
    /// As many captures at once as the budget gives the least each needs.
    fn of(memory_bytes: usize) -> Self {
        let captures = memory_bytes / MIN_MEMORY_BYTES;
        let jobs = captures.clamp(1, MAX_JOBS);
        let sources = (captures / jobs).clamp(1, MAX_SOURCES);
        Self { jobs, sources, capture_bytes: memory_bytes / (jobs * sources) }
    }
}

impl Context {
    /// Sources of one job that are read at once.
    fn parallel(&self) -> usize {
        self.share.sources
    }

    fn memory_per_capture(&self) -> usize {
        self.share.capture_bytes
    }

    /// For a job that works on one thing at a time.
    fn memory_per_job(&self) -> usize {
        self.share.capture_bytes * self.share.sources
    }

    fn host_name(&self) -> String {
        self.controller.last().map(|greeting| greeting.host_name).unwrap_or_default()
    }
}

impl Snapshots {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            engine,
            holders,
            recovery,
            specs,
            plane,
            allow,
            memory_bytes,
            workers,
            max_downtime,
            controller,
            own,
        } = parts;
        let share = Share::of(memory_bytes);
        let quiescer = Quiescer::new(engine.clone(), recovery.clone(), own_container());
        let context = Context {
            engine,
            holders,
            recovery,
            specs,
            plane,
            quiescer,
            allow,
            share,
            workers,
            max_downtime,
            controller,
            own,
            slots: Semaphore::new(share.jobs),
        };
        Self { context: Arc::new(context), registry: Arc::default() }
    }

    /// Starts a backup, or attaches to it. None: it was cancelled before.
    ///
    /// # Errors
    /// When the caller was replaced by another, or the agent stops.
    pub fn back_up(
        &self,
        request: BackupRequest,
    ) -> Result<Option<impl Stream<Item = BackupEvent> + Send + use<>>, AdmissionError> {
        let (id, generation) = (request.job, request.generation);
        let sources = request.sources.iter().map(|source| source.name.to_string()).collect();
        let panicked = |failure| BackupEvent::Ended(Err(failure));
        self.start(id, generation, sources, panicked, |context, job| async move {
            let ended = backup::run(&context, &job, &request).await;
            log_end(&job, ended.as_ref().err());
            BackupEvent::Ended(ended)
        })
    }

    /// Starts a restore, or attaches to it. None: it was cancelled before.
    ///
    /// # Errors
    /// When the caller was replaced by another, or the agent stops.
    pub fn restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Option<impl Stream<Item = RestoreEvent> + Send + use<>>, AdmissionError> {
        let (id, generation) = (request.job, request.generation);
        let sources = vec![request.snapshot.to_string()];
        let panicked = |failure| RestoreEvent::Finished(RestoreFinished::failed(failure));
        self.start(id, generation, sources, panicked, |context, job| async move {
            let finished = restore::run(&context, &job, &request).await;
            log_end(&job, finished.failure.as_ref());
            RestoreEvent::Finished(finished)
        })
    }

    /// Runs `work`, whose last event ends the job, unless the job is there
    /// already. `panicked` makes the last event of one that panics.
    fn start<E, F, W>(
        &self,
        id: JobId,
        generation: u64,
        sources: Vec<String>,
        panicked: fn(Failure) -> E,
        work: W,
    ) -> Result<Option<impl Stream<Item = E> + Send + use<E, F, W>>, AdmissionError>
    where
        E: job::Event,
        F: Future<Output = E> + Send + 'static,
        W: FnOnce(Arc<Context>, Arc<Job<E>>) -> F,
    {
        let job = match self.registry.admit(id, generation, sources)? {
            Admission::Cancelled => return Ok(None),
            Admission::Attach(job) => return Ok(Some(job.feed.listen())),
            Admission::Start(job) => job,
        };
        let events = job.feed.listen();
        let run = AssertUnwindSafe(work(self.context.clone(), job.clone())).catch_unwind();
        // The job owns itself; `shut_down` waits for its feed to end. So the
        // feed has to end whatever happens in it.
        tokio::spawn(async move {
            let last = run.await.unwrap_or_else(|_| {
                let failure = Failure::panic();
                log_end(&job, Some(&failure));
                panicked(failure)
            });
            job.feed.end(last);
        });
        Ok(Some(events))
    }

    /// All jobs of this agent, for those who run others than snapshots.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.clone()
    }

    /// Held by whoever has quiesced containers.
    pub fn quiesce_lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.context.quiescer.lock()
    }

    /// Jobs that have not ended, and those whose end is remembered.
    pub fn known(&self) -> Vec<KnownJob> {
        self.registry.known()
    }

    /// Cancels a job now, or when it comes. True: it was running.
    pub fn cancel(&self, job: JobId) -> bool {
        self.registry.cancel(job)
    }

    /// Ends all jobs; returns when nothing of theirs is quiesced any more.
    pub async fn shut_down(&self) {
        self.registry.shut_down().await;
    }
}

fn log_end<E>(job: &Job<E>, failure: Option<&Failure>) {
    let code = failure.map_or("", |failure| failure.code.as_str());
    tracing::info!(job.id = %job.id, ok = failure.is_none(), code, "{} ended", job.kind);
}

/// The container this process runs in, if the Engine made it: its id is in the
/// path of files the Engine mounts into every container.
pub(crate) fn own_container() -> Option<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    container_of(&table)
}

fn container_of(mountinfo: &str) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (root, target) = (fields.nth(3)?, fields.next()?);
        if !matches!(target, "/etc/hostname" | "/etc/hosts" | "/etc/resolv.conf") {
            return None;
        }
        let id = root.split("/containers/").nth(1)?.split('/').next()?;
        (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    })
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn memory_is_divided_among_what_runs_at_once() {
        let least = MIN_MEMORY_BYTES;
        assert_eq!(Share::of(least), Share { jobs: 1, sources: 1, capture_bytes: least });
        assert_eq!(Share::of(2 * least), Share { jobs: 2, sources: 1, capture_bytes: least });
        assert_eq!(Share::of(4 * least), Share { jobs: 2, sources: 2, capture_bytes: least });
        let plenty = Share::of(64 * least);
        assert_eq!((plenty.jobs, plenty.sources), (MAX_JOBS, MAX_SOURCES));
    }

    #[test]
    fn the_agents_own_container_is_known_by_its_mounts() {
        let id = "3f".repeat(32);
        let line =
            format!("1 2 8:1 /var/lib/docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw");
        assert_eq!(container_of(&line), Some(id));
        // A container's files seen from the host, as an agent there may.
        let line = "1 2 8:1 / /var/lib/docker/containers/x/mounts/shm rw - tmpfs shm rw";
        assert_eq!(container_of(line), None);
    }
}
