//! One upgrade in the hands of a task: its record, which is written before each
//! act, and what whoever listens is told.

use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, upgrade_event::Event};
use tokio::sync::{Notify, OwnedMutexGuard};

use crate::cancel::Cancel;
use crate::clone::FirstPass;
use crate::resume::blocking;
use crate::snapshot::Job;

use super::Failure;
use super::context::Context;
use super::executor::Problems;
use super::record::{Phase, Record, State};

pub(super) type UpgradeJob = Job<v1::UpgradeEvent>;

/// An upgrade in the hands of one task.
pub(super) struct UpgradeRun<'a> {
    pub(super) context: &'a Context,
    pub(super) record: Record,
    /// Who listens, and may cancel; none where an agent or a helper goes on with
    /// what another one began.
    listener: Option<Listener<'a>>,
    /// Held from the moment nobody else on this host may quiesce containers.
    pub(super) quiesce_lock: Option<OwnedMutexGuard<()>>,
    /// What the first pass over each source saw, for the second.
    pub(super) first_passes: Vec<FirstPass>,
    /// What could not be undone for single containers in this attempt.
    pub(super) problems: Problems,
    /// How often its end could not be reached because something was refused.
    pub(super) tries: u32,
}

/// The task's job, and the signal that its snapshots are taken.
#[derive(Clone, Copy)]
struct Listener<'a> {
    job: &'a UpgradeJob,
    proceed: &'a Notify,
}

impl<'a> UpgradeRun<'a> {
    /// With nobody who listens.
    pub(super) fn new(context: &'a Context, record: Record) -> Self {
        Self {
            context,
            record,
            listener: None,
            quiesce_lock: None,
            first_passes: Vec::new(),
            problems: Problems::default(),
            tries: 0,
        }
    }

    /// For a job, which hears what happens and can cancel it.
    pub(super) fn of_job(
        context: &'a Context,
        record: Record,
        job: &'a UpgradeJob,
        proceed: &'a Notify,
    ) -> Self {
        Self { listener: Some(Listener { job, proceed }), ..Self::new(context, record) }
    }

    /// The order to stop; one that never comes where nobody listens.
    pub(super) fn cancel(&self) -> Cancel {
        self.listener.map(|listener| listener.job.cancel.clone()).unwrap_or_default()
    }

    /// Returns when the caller has its snapshots; never where nobody listens.
    pub(super) async fn told_to_proceed(&self) {
        match self.listener {
            Some(listener) => listener.proceed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// On disk, and in what is listed, when it returns.
    pub(super) async fn save(&mut self) -> Result<(), Failure> {
        let (store, record) = (self.context.store.clone(), self.record.clone());
        blocking(move || store.save(&record)).await?;
        self.context.records().insert(self.record.job, self.record.clone());
        Ok(())
    }

    /// Enters a state: written first, told afterwards.
    pub(super) async fn enter(&mut self, state: State, text: impl Into<String>) -> Result<(), Failure> {
        self.record.set_state(state);
        self.note(text).await
    }

    /// A line within a state.
    pub(super) async fn note(&mut self, text: impl Into<String>) -> Result<(), Failure> {
        let step = self.record.add_step(text);
        self.save().await?;
        tracing::info!(job.id = %self.record.job, container.name = self.record.target().name,
            state = ?self.record.phase(), "{}", step.text);
        self.push(Event::Step(step.wire()));
        Ok(())
    }

    pub(super) fn push(&self, happened: Event) {
        if let Some(Listener { job, .. }) = self.listener {
            job.feed.push(event(job.id, happened));
        }
    }

    pub(super) fn finished(&self) -> v1::UpgradeFinished {
        finished(&self.record)
    }
}

/// The last word about an upgrade; None: it is said by the agent that comes.
pub(super) fn end(job: &UpgradeJob, finished: Option<v1::UpgradeFinished>) {
    let Some(finished) = finished else {
        tracing::info!(job.id = %job.id, "the agent stops; the upgrade goes on without it");
        return job.feed.abandon();
    };
    tracing::info!(job.id = %job.id, ok = finished.ok, code = finished.error_code, "upgrade ended");
    job.feed.end(event(job.id, Event::Finished(finished)));
}

pub(super) fn event(job: JobId, event: Event) -> v1::UpgradeEvent {
    v1::UpgradeEvent { job_id: job.to_string(), event: Some(event) }
}

pub(super) fn failed(failure: &Failure) -> v1::UpgradeFinished {
    v1::UpgradeFinished {
        cancelled: failure.code == ErrorCode::Cancelled,
        error_code: failure.code.as_str().to_owned(),
        error: failure.message.clone(),
        ..Default::default()
    }
}

/// How an upgrade that is not under way any more ended.
pub(super) fn finished(record: &Record) -> v1::UpgradeFinished {
    v1::UpgradeFinished {
        ok: matches!(record.phase(), Phase::Committed | Phase::Finishing | Phase::Finished),
        rolled_back: record.phase() == Phase::RolledBack && record.stopped_unix_ms.is_some(),
        cancelled: record.error_code() == Some(ErrorCode::Cancelled),
        downtime_ms: record.downtime_ms,
        error_code: record.error_code.clone(),
        error: record.error.clone(),
        upgrade: Some(record.wire()),
    }
}
