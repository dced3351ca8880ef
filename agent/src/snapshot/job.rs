//! The jobs this agent runs, has run lately, or must not run.
//!
//! Starting is idempotent by job id: a second call attaches to the first one's
//! job, or hears how it ended. A cancel that comes before its job leaves a
//! tombstone, so that a delayed start does not run after all. A caller whose
//! generation is lower than one seen for the job has been replaced and is
//! refused.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use holdfast_proto::ids::JobId;

use crate::cancel::{Cancel, CancelReason};
use crate::clocks::now_unix_ms;
use crate::session::JobRun;

use super::event::{BackupEvent, RestoreEvent};
use super::feed::Feed;

/// Ended jobs whose events are kept.
const ENDED_KEPT: usize = 128;

/// Tombstones kept.
const TOMBSTONES_KEPT: usize = 1024;

/// One job, running or ended.
#[derive(Debug)]
pub(crate) struct Job<E> {
    pub id: JobId,
    pub kind: &'static str,
    pub sources: Vec<String>,
    pub started_unix_ms: i64,
    pub cancel: Cancel,
    pub feed: Arc<Feed<E>>,
    generation: AtomicU64,
}

/// A job that has not ended, or whose end is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownJob {
    pub job: JobId,
    pub kind: &'static str,
    pub generation: u64,
    pub started_unix_ms: i64,
    /// Of a job that has not ended.
    pub sources: Vec<String>,
    pub ended: bool,
}

/// What a call to start a job comes to.
#[derive(Debug)]
pub(crate) enum Admission<E> {
    /// It is new; the caller must run it.
    Start(Arc<Job<E>>),
    /// It is there; its feed tells everything.
    Attach(Arc<Job<E>>),
    /// It was cancelled before it came.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("job {job} is driven with generation {highest} by now; {given} is of a caller that was replaced")]
    StaleGeneration { job: JobId, given: u64, highest: u64 },
    #[error("job {job} is of another kind")]
    OtherKind { job: JobId },
    #[error("the agent stops")]
    Stopping,
}

/// All jobs of one agent.
#[derive(Debug, Default)]
pub struct Registry {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<JobId, Entry>,
    /// In the order they were admitted.
    order: VecDeque<JobId>,
    tombstones: VecDeque<JobId>,
    stopping: bool,
}

/// A kind of job, by the events it tells.
pub(crate) trait Event: fmt::Debug + Clone + Send + Sync + 'static {
    const KIND: &'static str;
}

/// A job of whatever kind.
type Entry = Arc<dyn AnyJob + Send + Sync>;

/// What is known of a job without its events.
trait AnyJob: Any + fmt::Debug {
    fn generation(&self) -> &AtomicU64;
    fn cancel(&self) -> &Cancel;
    fn has_ended(&self) -> bool;
    fn ended(&self) -> BoxFuture<'_, ()>;
    fn describe(&self) -> KnownJob;
}

impl Event for BackupEvent {
    const KIND: &'static str = "backup";
}

impl Event for RestoreEvent {
    const KIND: &'static str = "restore";
}

impl<E> Job<E> {
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// For the controller, which refuses a generation that was replaced.
    pub(crate) fn run(&self) -> JobRun {
        JobRun { job: self.id, generation: self.generation() }
    }
}

impl<E: Event> AnyJob for Job<E> {
    fn generation(&self) -> &AtomicU64 {
        &self.generation
    }

    fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    fn has_ended(&self) -> bool {
        self.feed.has_ended()
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        self.feed.ended().boxed()
    }

    fn describe(&self) -> KnownJob {
        let ended = self.feed.has_ended();
        KnownJob {
            job: self.id,
            kind: self.kind,
            generation: self.generation(),
            started_unix_ms: self.started_unix_ms,
            // Those of all that ended would not fit a message.
            sources: if ended { Vec::new() } else { self.sources.clone() },
            ended,
        }
    }
}

impl Registry {
    /// Decides what a call to start a job comes to.
    ///
    /// # Errors
    /// When the caller was replaced, or the agent stops.
    pub(crate) fn admit<E: Event>(
        &self,
        id: JobId,
        generation: u64,
        sources: Vec<String>,
    ) -> Result<Admission<E>, AdmissionError> {
        let mut state = self.lock();
        if let Some(entry) = state.jobs.get(&id) {
            refuse_stale(entry, id, generation)?;
            let any: Arc<dyn Any + Send + Sync> = entry.clone();
            let job = any.downcast::<Job<E>>().map_err(|_| AdmissionError::OtherKind { job: id })?;
            // Under the lock in which a lower one was refused: it never goes down.
            job.generation.store(generation, Ordering::SeqCst);
            return Ok(Admission::Attach(job));
        }
        // A cancel may overtake the start it is meant for.
        if state.tombstones.contains(&id) {
            return Ok(Admission::Cancelled);
        }
        if state.stopping {
            return Err(AdmissionError::Stopping);
        }
        let job = Arc::new(Job {
            id,
            kind: E::KIND,
            sources,
            started_unix_ms: now_unix_ms(),
            cancel: Cancel::new(),
            feed: Arc::new(Feed::new()),
            generation: AtomicU64::new(generation),
        });
        state.jobs.insert(id, job.clone());
        state.order.push_back(id);
        state.drop_old();
        Ok(Admission::Start(job))
    }

    /// Refuses a caller that was replaced. A job nobody drives here has none.
    ///
    /// # Errors
    /// When a higher generation was seen for the job.
    pub(crate) fn check_generation(&self, id: JobId, generation: u64) -> Result<(), AdmissionError> {
        self.lock().jobs.get(&id).map_or(Ok(()), |entry| refuse_stale(entry, id, generation))
    }

    /// Lets a job come after all that was cancelled before it came here.
    pub(crate) fn bury_no_more(&self, id: JobId) {
        self.lock().tombstones.retain(|other| *other != id);
    }

    /// Cancels a job that runs, or one that has not come yet. True: it ran.
    pub fn cancel(&self, id: JobId) -> bool {
        let mut state = self.lock();
        if let Some(entry) = state.jobs.get(&id) {
            // Before the cancel, which may end the job at once.
            let running = !entry.has_ended();
            entry.cancel().cancel(CancelReason::Asked);
            return running;
        }
        if !state.tombstones.contains(&id) {
            state.tombstones.push_back(id);
            if state.tombstones.len() > TOMBSTONES_KEPT {
                state.tombstones.pop_front();
            }
        }
        false
    }

    /// Jobs that have not ended, and those whose end is remembered, oldest first.
    pub fn known(&self) -> Vec<KnownJob> {
        let state = self.lock();
        state.order.iter().filter_map(|id| state.jobs.get(id)).map(|job| job.describe()).collect()
    }

    /// Cancels everything, admits nothing more and waits for the jobs to end,
    /// which includes that what they quiesced has resumed.
    pub async fn shut_down(&self) {
        // Before the list is made: what is admitted after it would not be waited for.
        self.lock().stopping = true;
        let live = self.live();
        for entry in &live {
            entry.cancel().cancel(CancelReason::Shutdown);
        }
        for entry in &live {
            entry.ended().await;
        }
    }

    /// Whether the agent stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    fn live(&self) -> Vec<Entry> {
        let state = self.lock();
        let entries = state.order.iter().filter_map(|id| state.jobs.get(id));
        entries.filter(|entry| !entry.has_ended()).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_old(&mut self) {
        // Only those that have ended count: a running job is never dropped.
        let ended = self.order.iter().filter(|id| self.jobs[id].has_ended()).count();
        for _ in ENDED_KEPT..ended {
            let Some(at) = self.order.iter().position(|id| self.jobs[id].has_ended()) else { return };
            if let Some(id) = self.order.remove(at) {
                self.jobs.remove(&id);
            }
        }
    }
}

fn refuse_stale(entry: &Entry, job: JobId, given: u64) -> Result<(), AdmissionError> {
    let highest = entry.generation().load(Ordering::SeqCst);
    if given < highest { Err(AdmissionError::StaleGeneration { job, given, highest }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Event = BackupEvent;

    const ENDED: Event = BackupEvent::Ended(Ok(()));

    fn start(registry: &Registry, id: JobId, generation: u64) -> Arc<Job<Event>> {
        match registry.admit::<Event>(id, generation, vec!["db_data".to_owned()]).unwrap() {
            Admission::Start(job) => job,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn p12_a_second_start_attaches_and_never_runs_twice() {
        let registry = Registry::default();
        let id = JobId::generate();
        let job = start(&registry, id, 3);
        let again = registry.admit::<Event>(id, 3, Vec::new()).unwrap();
        assert!(matches!(again, Admission::Attach(attached) if Arc::ptr_eq(&attached, &job)));
        job.feed.end(ENDED);
        assert!(matches!(registry.admit::<Event>(id, 4, Vec::new()).unwrap(), Admission::Attach(_)));
        // A controller that comes back now finds that it need not begin it again.
        let known = registry.known();
        assert_eq!((known.len(), known[0].generation, known[0].ended), (1, 4, true));
        assert_eq!(known[0].sources, Vec::<String>::new());
    }

    #[test]
    fn p12_a_cancel_before_the_start_is_remembered() {
        let registry = Registry::default();
        let id = JobId::generate();
        assert!(!registry.cancel(id));
        assert!(!registry.cancel(id));
        assert!(matches!(registry.admit::<Event>(id, 1, Vec::new()).unwrap(), Admission::Cancelled));
    }

    #[test]
    fn p11_a_caller_that_was_replaced_is_refused() {
        let registry = Registry::default();
        let id = JobId::generate();
        start(&registry, id, 2);
        registry.admit::<Event>(id, 5, Vec::new()).unwrap();
        let error = registry.admit::<Event>(id, 4, Vec::new()).unwrap_err();
        assert_eq!(error, AdmissionError::StaleGeneration { job: id, given: 4, highest: 5 });
        let known = registry.known();
        assert_eq!((known[0].generation, known[0].ended), (5, false));
        assert_eq!(known[0].sources, ["db_data"]);
    }

    #[test]
    fn a_job_of_another_kind_is_not_attached_to() {
        let registry = Registry::default();
        let id = JobId::generate();
        start(&registry, id, 1);
        let error = registry.admit::<RestoreEvent>(id, 1, Vec::new()).unwrap_err();
        assert_eq!(error, AdmissionError::OtherKind { job: id });
    }

    #[test]
    fn cancelling_reaches_the_running_job() {
        let registry = Registry::default();
        let job = start(&registry, JobId::generate(), 1);
        assert!(registry.cancel(job.id));
        assert_eq!(job.cancel.reason(), Some(CancelReason::Asked));
        assert!(job.cancel.is_cancelled());
    }

    #[test]
    fn only_ended_jobs_are_forgotten() {
        let registry = Registry::default();
        let running = start(&registry, JobId::generate(), 1);
        for _ in 0..ENDED_KEPT + 20 {
            start(&registry, JobId::generate(), 1).feed.end(ENDED);
        }
        start(&registry, JobId::generate(), 1);
        assert!(registry.lock().jobs.len() <= ENDED_KEPT + 2);
        assert!(registry.known().iter().any(|job| job.job == running.id && !job.ended));
    }

    #[tokio::test]
    async fn stopping_cancels_and_waits_and_admits_nothing_more() {
        let registry = Arc::new(Registry::default());
        let job = start(&registry, JobId::generate(), 1);
        let stopping = tokio::spawn({
            let registry = registry.clone();
            async move { registry.shut_down().await }
        });
        job.cancel.cancelled().await;
        assert_eq!(job.cancel.reason(), Some(CancelReason::Shutdown));
        assert!(!stopping.is_finished());
        job.feed.end(ENDED);
        stopping.await.unwrap();
        let late = registry.admit::<Event>(JobId::generate(), 1, Vec::new());
        assert_eq!(late.unwrap_err(), AdmissionError::Stopping);
    }
}
