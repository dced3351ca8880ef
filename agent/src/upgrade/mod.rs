//! Replaces a container, its data included, as one transaction.
//!
//! The old container runs until the new one is made beside it and most of its
//! data is cloned. Then everything that uses the data is stopped, the clone is made
//! whole, the names change hands and the new container has to show that it is
//! well. Until that is so, everything can go back to the moment of the stop,
//! and does, without a controller and without a store: the clone is exchanged
//! for what the new container made of the data.
//!
//! Each step is in the [`record`] before it is done. After a crash an upgrade
//! that had begun to commit goes forward, every other one goes back: by the
//! agent that starts again, or by `holdfast-agent resume`.
//!
//! One upgrade at a time has quiesced containers on a host, and no backup that
//! wants quiesced containers runs meanwhile: both would start what the other
//! stopped.

mod begin;
mod context;
pub(crate) mod error;
mod event;
mod executor;
mod finish;
mod gate;
pub(crate) mod guards;
mod handover;
mod image;
mod members;
pub(crate) mod plan;
mod populate_guard;
pub(crate) mod probe;
pub(crate) mod record;
mod requested_rollback;
mod restore_old;
mod run;
mod stand_in;
mod steps;
mod undisturbed;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, Stream};
use holdfast_archive::backoff::Backoff;
use holdfast_proto::ids::JobId;
use tokio::sync::Notify;

use crate::allow::{Allow, Right};
use crate::clocks::Clocks;
use crate::engine::Engine;
use crate::resume::RecoveryWorker;
use crate::snapshot::{Admission, Registry};
use crate::spec::Specs;

use self::context::Context;
use self::error::NotCommitted;
pub(crate) use self::error::{RequestError, UpgradeError};
pub(crate) use self::event::{Finished, Stopped, UpgradeEvent};
pub(crate) use self::handover::Own;
use self::plan::{PlanRequest, Planned};
use self::record::{Phase, Record, Store, StoreError};
use self::requested_rollback::RollbackOptions;
use self::run::{UpgradeRun, end};

/// How often grace periods are looked at.
const GRACE_TICK: Duration = Duration::from_secs(30);

/// How often a helper is looked at.
const HELPER_TICK: Duration = Duration::from_secs(1);

/// How long one upgrade that a dead agent left is tried to be brought to its
/// end before the next one gets the lock, and the first is come back to. Longer
/// than what the Engine refuses is tried.
const RECOVERY: Duration = Duration::from_secs(300);

/// Pauses between attempts to go back or forward after a crash.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSES: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(30));

/// What upgrades work with.
#[derive(Debug)]
pub struct Parts {
    pub engine: Engine,
    /// None where the journal is another process's.
    pub recovery: Option<RecoveryWorker>,
    pub specs: Specs,
    pub allow: Allow,
    pub registry: Arc<Registry>,
    /// Held by whoever has quiesced containers.
    pub quiesce_lock: Arc<tokio::sync::Mutex<()>>,
    /// The container the agent runs in, if any.
    pub own: Option<Own>,
}

/// Runs upgrades. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upgrades {
    context: Arc<Context>,
}

/// What is asked of a host that is to replace a container.
#[derive(Debug, Clone)]
pub struct RunRequest {
    pub job: JobId,
    pub generation: u64,
    pub plan: PlanRequest,
    pub fingerprint: String,
}

impl Parts {
    /// For a process that only brings to an end what was begun.
    pub fn alone(engine: Engine, recovery: Option<RecoveryWorker>, specs: Specs) -> Self {
        let (registry, quiesce_lock) = (Arc::default(), Arc::default());
        Self { engine, recovery, specs, allow: Allow::default(), registry, quiesce_lock, own: None }
    }
}

// === impl Upgrades ===

impl Upgrades {
    /// Reads what earlier agents left.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn open(state_dir: &Path, parts: Parts) -> Result<Self, StoreError> {
        let Parts { engine, recovery, specs, allow, registry, quiesce_lock, own } = parts;
        let store = Store::open(state_dir)?;
        let records = Mutex::new(store.load()?);
        let context = Context {
            engine,
            recovery,
            specs,
            allow,
            registry,
            quiesce_lock,
            own,
            state_dir: state_dir.to_owned(),
            clocks: Clocks::new(state_dir),
            store,
            records,
            run: Mutex::default(),
            nudge: Notify::new(),
        };
        Ok(Self { context: Arc::new(context) })
    }

    /// What an upgrade would do.
    ///
    /// # Errors
    /// When the container or the image is not there, or the host does not
    /// allow to touch containers.
    pub async fn plan(&self, request: &PlanRequest) -> Result<Planned, RequestError> {
        self.context.allow.check(Right::Container)?;
        plan::plan(&self.context.plan_context(), request).await.map_err(RequestError::from)
    }

    /// Starts an upgrade, or attaches to it. None: it was cancelled before.
    ///
    /// # Errors
    /// When the caller was replaced by another, or the agent stops.
    pub fn run(
        &self,
        request: RunRequest,
    ) -> Result<Option<impl Stream<Item = UpgradeEvent> + Send + use<>>, RequestError> {
        self.context.allow.check(Right::Container)?;
        if matches!(request.plan.options.probe, Some(record::Probe::Command(_))) {
            self.context.allow.check(Right::Exec)?;
        }
        let names = vec![request.plan.container.clone()];
        // Cancelled after an agent that is gone began it: how it ended is told.
        if self.context.record(request.job).is_some() {
            self.context.registry.bury_no_more(request.job);
        }
        let job = match self.context.registry.admit(request.job, request.generation, names)? {
            Admission::Cancelled => return Ok(None),
            Admission::Attach(job) => return Ok(Some(job.feed.listen())),
            Admission::Start(job) => job,
        };
        let events = job.feed.listen();
        let context = self.context.clone();
        tokio::spawn(async move {
            let run = AssertUnwindSafe(context.upgrade(&job, &request)).catch_unwind();
            end(&job, run.await.unwrap_or_else(|_| context.panicked()));
        });
        Ok(Some(events))
    }

    /// Lets an upgrade, or the rollback of one, that waits with its containers at
    /// rest go on. `until_unix_ms`: of the rest that is meant. False: it does not
    /// wait.
    ///
    /// # Errors
    /// When the caller was replaced by another.
    pub fn proceed(&self, job: JobId, generation: u64, until_unix_ms: i64) -> Result<bool, RequestError> {
        // Kept until the signal was given: a record that waits once more is
        // written either before, and refuses, or after, and hears it not.
        let records = self.context.records();
        let waiting = records.values().find(|record| record.waits_for(job, until_unix_ms)).map(|one| one.job);
        let Some(proceed) = waiting.and_then(|upgrade| self.context.run().get(&upgrade).cloned()) else {
            return Ok(false);
        };
        self.context.registry.check_generation(job, generation)?;
        proceed.notify_one();
        Ok(true)
    }

    /// Upgrades this host remembers, newest first.
    pub fn list(&self, container: &str, job: Option<JobId>) -> Vec<Record> {
        let records = self.context.records();
        let wanted = records.values().rev().filter(|record| {
            (container.is_empty() || record.target().name == container)
                && job.is_none_or(|job| record.job == job)
        });
        wanted.cloned().collect()
    }

    /// Gives up the way back of a committed upgrade.
    ///
    /// # Errors
    /// When there is none, or something could not be removed.
    pub async fn commit(&self, name: &str) -> Result<Record, RequestError> {
        self.context.allow.check(Right::Container)?;
        let job = self.committed(name)?.job;
        let context = self.context.clone();
        // A task of its own: a caller that goes away must not leave it half done.
        let finishing = tokio::spawn(async move {
            let (_hold, record) = context.take_fresh(job, |record| record.phase() == Phase::Committed)?;
            let mut run = UpgradeRun::new(&context, record);
            run.finish().await?;
            Ok(run.record)
        });
        finishing.await.unwrap_or(Err(UpgradeError::CommitPanicked)).map_err(RequestError::from)
    }

    /// Undoes a committed upgrade; the stream tells how it goes. `wait`: with
    /// everything quiesced it goes on only when it is told to proceed.
    ///
    /// # Errors
    /// When there is none in its grace period.
    pub fn roll_back(
        &self,
        name: &str,
        job: JobId,
        wait: bool,
    ) -> Result<impl Stream<Item = UpgradeEvent> + Send + use<>, RequestError> {
        self.context.allow.check(Right::Container)?;
        let going = self.going_back(name);
        let found = self.committed(name);
        let started = match self.context.registry.admit::<UpgradeEvent>(job, 0, vec![name.to_owned()])? {
            Admission::Attach(job) => return Ok(job.feed.listen()),
            Admission::Cancelled => {
                return Err(UpgradeError::CancelledBefore.into());
            }
            Admission::Start(started) => started,
        };
        let record = match found {
            Ok(record) => record,
            // Begun by the agent that was here before, whose caller comes back.
            Err(_) if going.is_some() => going.expect("it was just found"),
            Err(error) => {
                let finished = Finished::failed(&error.clone().into());
                started.feed.end(UpgradeEvent::Finished(Box::new(finished)));
                return Err(error.into());
            }
        };
        let events = started.feed.listen();
        let context = self.context.clone();
        tokio::spawn(async move {
            let rollback = AssertUnwindSafe(context.roll_back(record, &started, RollbackOptions { wait }))
                .catch_unwind();
            end(&started, rollback.await.unwrap_or_else(|_| context.panicked()));
        });
        Ok(events)
    }

    /// Goes on with what a dead agent left, and ends grace periods; for ever.
    pub async fn run_loop(self) {
        loop {
            self.context.recover_all(RECOVERY).await;
            self.context.dismiss_helpers().await;
            let now = self.context.clocks.now();
            self.context.end_grace(now).await;
            self.context.remove_orphans(now).await;
            let handed_over = self.context.records().values().any(Record::is_handed_over);
            tokio::select! {
                () = tokio::time::sleep(if handed_over { HELPER_TICK } else { GRACE_TICK }) => {}
                () = self.context.nudge.notified() => {}
            }
        }
    }

    /// Goes on with what a dead agent left, trying for at most `within`; says
    /// what is left.
    pub async fn recover(&self, within: Duration) -> Vec<String> {
        self.context.recover_all(within).await;
        let records = self.context.records();
        let left = records.values().filter(|record| record.is_under_way());
        left.map(|record| format!("take back the upgrade of container `{}`", record.target().name)).collect()
    }

    /// An upgrade that is being rolled back on request, or is stopped for it.
    fn going_back(&self, name: &str) -> Option<Record> {
        let records = self.context.records();
        let newest = records.values().rev().find(|record| is_meant(record, name))?;
        let requested = newest.rollback().is_some_and(|rollback| rollback.requested);
        (requested || newest.quiesced().is_some()).then(|| newest.clone())
    }

    /// The newest committed upgrade of a container, or the one of that job.
    fn committed(&self, name: &str) -> Result<Record, NotCommitted> {
        let records = self.context.records();
        let newest = records.values().rev().find(|record| is_meant(record, name));
        let newest = newest.ok_or_else(|| NotCommitted::Unknown { name: name.to_owned() })?;
        let name = newest.target().name.clone();
        match newest.phase() {
            Phase::Committed => Ok(newest.clone()),
            Phase::Finishing => Err(NotCommitted::Finishing { name }),
            Phase::Finished => Err(NotCommitted::Finished { name }),
            Phase::RolledBack => Err(NotCommitted::RolledBack { name }),
            _ => Err(NotCommitted::UnderWay { name }),
        }
    }
}

/// Whether a record is the one a person names, by container or by job.
fn is_meant(record: &Record, name: &str) -> bool {
    record.job.to_string() == name || record.target().name == name
}

#[cfg(test)]
mod tests;
