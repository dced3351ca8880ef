//! Which upgrades there are, who drives which, and what a dead agent left.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_archive::text::causes;
use holdfast_proto::ids::JobId;
use tokio::sync::Notify;

use crate::allow::Allow;
use crate::clocks::{Clocks, Moment};
use crate::engine::Engine;
use crate::resume::RecoveryWorker;
use crate::snapshot::Registry;
use crate::spec::Specs;

use super::error::BeginError;
use super::event::{Finished, UpgradeEvent};
use super::handover::{Own, UpgradeOwner};
use super::plan::{self, PlanContext, Planned};
use super::record::{Phase, Record, Store};
use super::run::{UpgradeJob, UpgradeRun};
use super::steps::Step;
use super::{FIRST_PAUSE, RunRequest, UpgradeError, begin};

#[derive(Debug)]
pub(super) struct Context {
    pub(super) engine: Engine,
    pub(super) recovery: Option<RecoveryWorker>,
    pub(super) specs: Specs,
    pub(super) allow: Allow,
    pub(super) registry: Arc<Registry>,
    pub(super) quiesce_lock: Arc<tokio::sync::Mutex<()>>,
    pub(super) own: Option<Own>,
    pub(super) state_dir: PathBuf,
    pub(super) clocks: Clocks,
    pub(super) store: Store,
    pub(super) records: Mutex<BTreeMap<JobId, Record>>,
    /// Upgrades that are run by a task right now.
    pub(super) run: Mutex<HashMap<JobId, Arc<Notify>>>,
    pub(super) nudge: Notify,
}

/// For how long a creation without an answer may still end in a container.
const LATE: Duration = Duration::from_hours(1);

/// Says that a task drives an upgrade, until it is dropped.
pub(super) struct Hold<'a> {
    pub(super) context: &'a Context,
    pub(super) job: JobId,
    pub(super) proceed: Arc<Notify>,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.context.run().remove(&self.job);
    }
}

impl Context {
    pub(super) fn plan_context(&self) -> PlanContext {
        PlanContext {
            engine: self.engine.clone(),
            allow: self.allow.clone(),
            specs: self.specs.clone(),
            own: self.own.clone(),
        }
    }

    pub(super) fn records(&self) -> MutexGuard<'_, BTreeMap<JobId, Record>> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        // These are written by another process.
        for record in records.values_mut().filter(|record| record.is_handed_over()) {
            match self.store.read(record.job) {
                Ok(read) => *record = read,
                Err(error) => tracing::error!(job.id = %record.job, error = %causes(&error),
                    "what a helper wrote of an upgrade cannot be read"),
            }
        }
        records
    }

    pub(super) fn record(&self, job: JobId) -> Option<Record> {
        self.records().get(&job).cloned()
    }

    pub(super) fn run(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Notify>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, job: JobId) -> Result<Hold<'_>, UpgradeError> {
        let mut run = self.run();
        if run.contains_key(&job) {
            return Err(UpgradeError::Busy);
        }
        let proceed = Arc::new(Notify::new());
        run.insert(job, proceed.clone());
        Ok(Hold { context: self, job, proceed })
    }

    /// Takes an upgrade as it is by now: what was seen of it before may be old.
    pub(super) fn take_fresh(
        &self,
        job: JobId,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<(Hold<'_>, Record), UpgradeError> {
        let hold = self.take(job)?;
        match self.record(job) {
            Some(record) if wanted(&record) => Ok((hold, record)),
            _ => Err(UpgradeError::Changed),
        }
    }

    /// The whole of one upgrade. What is known of it already is repeated or
    /// finished, never begun again. None: the agent stops, and whoever comes
    /// after it knows the end.
    pub(super) async fn upgrade(&self, job: &UpgradeJob, request: &RunRequest) -> Option<Finished> {
        let known = self.records().contains_key(&job.id);
        if known {
            return self.repeat(job.id, job).await;
        }
        let hold = match self.take(job.id) {
            Ok(hold) => hold,
            Err(error) => return Some(Finished::failed(&error)),
        };
        let record = match self.begin(request).await {
            Ok(record) => record,
            Err(error) => return Some(Finished::failed(&error)),
        };
        let mut run = UpgradeRun::of_job(self, record, job, &hold.proceed);
        let went = if run.record.helper.is_some() {
            run.hand_over().await
        } else {
            run.execute(&Step::ALL).await.map(|()| UpgradeOwner::Over)
        };
        match went {
            Ok(UpgradeOwner::Helper) => return None,
            Ok(_) => {}
            Err(error) => run.end_otherwise(&error.unless_cancelled(&job.cancel)).await,
        }
        Some(run.finished())
    }

    /// For whoever listens to a task that panicked: what is on disk leads back,
    /// and the loop goes on with it.
    #[expect(clippy::unnecessary_wraps, reason = "it stands for the end of the task")]
    pub(super) fn panicked(&self) -> Option<Finished> {
        self.nudge.notify_one();
        Some(Finished::failed(&UpgradeError::Panicked))
    }

    /// The record of an upgrade nothing of which is done yet.
    pub(super) async fn begin(&self, request: &RunRequest) -> Result<Record, UpgradeError> {
        let planned = self.agreed(request).await?;
        let recreations = begin::recreations(&self.specs, &planned).await?;
        let mut record = begin::record(request, &planned, &recreations);
        if let Some(own) = self.own.as_ref().filter(|own| own.id == planned.old.id) {
            record.helper = Some(own.helper(&record, &record.from_image_id)?);
        }
        Ok(record)
    }

    /// The plan made again must be the one that was agreed to.
    pub(super) async fn agreed(&self, request: &RunRequest) -> Result<Planned, BeginError> {
        let planned = plan::plan(&self.plan_context(), &request.plan).await?;
        if planned.summary.fingerprint != request.fingerprint {
            return Err(BeginError::PlanChanged { container: planned.old.name });
        }
        if !planned.summary.runnable {
            let losses = planned.summary.losses.iter().filter(|one| !one.allowed).map(|one| &one.loss);
            let problems: Vec<String> = planned
                .summary
                .refusals
                .iter()
                .cloned()
                .chain(losses.map(|loss| format!("{} (allow it as `{}`)", loss.text, loss.name)))
                .collect();
            return Err(BeginError::NotRunnable { problems });
        }
        Ok(planned)
    }

    /// How an upgrade ended that an earlier agent began: after whoever drives
    /// it now is done. None: this agent stops before that.
    pub(super) async fn repeat(&self, upgrade: JobId, job: &UpgradeJob) -> Option<Finished> {
        self.nudge.notify_one();
        let mut told = 0;
        loop {
            let Some(record) = self.record(upgrade) else {
                return Some(Finished::failed(&UpgradeError::Forgotten));
            };
            for step in record.steps.iter().skip(told) {
                job.feed.push(UpgradeEvent::Step(step.clone()));
            }
            told = record.steps.len();
            if !record.is_under_way() {
                return Some(Finished::of(&record));
            }
            if self.registry.is_stopping() {
                return None;
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    /// Finishes or takes back what nobody drives, trying each for at most so
    /// long.
    pub(super) async fn recover_all(&self, within: Duration) {
        let left: Vec<Record> =
            self.records().values().filter(|record| record.is_under_way()).cloned().collect();
        for record in left {
            let _lock = self.quiesce_lock.clone().lock_owned().await;
            let Ok((_hold, record)) = self.take_fresh(record.job, Record::is_under_way) else { continue };
            let Some(record) = self.left_to_us(record).await else { continue };
            tracing::warn!(job.id = %record.job, container.name = record.target().name, state = ?record.phase(),
                "an upgrade was cut off; it is finished or taken back now");
            let mut run = UpgradeRun::new(self, record);
            run.go_on(Some(within)).await;
        }
    }

    /// Takes away what the Engine made after all when nobody waited for its
    /// answer any more.
    pub(super) async fn remove_orphans(&self, now: Moment) {
        let may_come = |record: &Record| record.since_end(now) < LATE && record.has_unanswered_creations();
        let jobs: Vec<JobId> =
            self.records().values().filter(|record| may_come(record)).map(|record| record.job).collect();
        for job in jobs {
            let Ok((_hold, record)) = self.take_fresh(job, may_come) else { continue };
            let mut run = UpgradeRun::new(self, record);
            if let Err(error) = run.remove_orphans().await {
                tracing::error!(job.id = %run.record.job, error = %causes(&error),
                    "a container that came too late for its upgrade could not be removed; it is tried again");
            }
        }
    }

    /// Removes what upgrades kept for a rollback whose time is over.
    pub(super) async fn end_grace(&self, now: Moment) {
        // One that was cut off in the middle of its end goes on with it.
        let due = |record: &Record| match record.phase() {
            Phase::Committed => record.is_grace_over(now),
            phase => phase == Phase::Finishing,
        };
        let jobs: Vec<JobId> =
            self.records().values().filter(|record| due(record)).map(|record| record.job).collect();
        for job in jobs {
            let Ok((_hold, record)) = self.take_fresh(job, due) else { continue };
            let mut run = UpgradeRun::new(self, record);
            if let Err(error) = run.finish().await {
                tracing::error!(job.id = %run.record.job, error = %causes(&error),
                    "what an upgrade kept for a rollback could not be removed; it is tried again");
            }
        }
        let mut records = self.records();
        for job in self.store.forget_old(&records) {
            records.remove(&job);
        }
    }
}
