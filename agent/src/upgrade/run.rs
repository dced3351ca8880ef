//! One upgrade in the hands of a task: its record, which is written before each
//! act, and what whoever listens is told.

use tokio::sync::{Notify, OwnedMutexGuard};

use crate::cancel::Cancel;
use crate::clone::FirstPass;
use crate::resume::blocking;
use crate::snapshot::Job;

use super::UpgradeError;
use super::context::Context;
use super::event::{Finished, UpgradeEvent};
use super::executor::Problems;
use super::record::{Record, State};

pub(super) type UpgradeJob = Job<UpgradeEvent>;

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
    pub(super) async fn save(&mut self) -> Result<(), UpgradeError> {
        let (store, record) = (self.context.store.clone(), self.record.clone());
        blocking(move || store.save(&record)).await?;
        // After the disk: nobody sees a state that a crash could take back.
        self.context.records().insert(self.record.job, self.record.clone());
        Ok(())
    }

    /// Enters a state: written first, told afterwards.
    pub(super) async fn enter(&mut self, state: State, text: impl Into<String>) -> Result<(), UpgradeError> {
        self.record.set_state(state);
        self.note(text).await
    }

    /// A line within a state.
    pub(super) async fn note(&mut self, text: impl Into<String>) -> Result<(), UpgradeError> {
        let step = self.record.add_step(text);
        self.save().await?;
        tracing::info!(job.id = %self.record.job, container.name = self.record.target().name,
            state = ?self.record.phase(), "{}", step.text);
        self.push(UpgradeEvent::Step(step));
        Ok(())
    }

    pub(super) fn push(&self, event: UpgradeEvent) {
        if let Some(Listener { job, .. }) = self.listener {
            job.feed.push(event);
        }
    }

    pub(super) fn finished(&self) -> Finished {
        Finished::of(&self.record)
    }
}

/// The last word about an upgrade; None: it is said by the agent that comes.
pub(super) fn end(job: &UpgradeJob, finished: Option<Finished>) {
    let Some(finished) = finished else {
        tracing::info!(job.id = %job.id, "the agent stops; the upgrade goes on without it");
        return job.feed.abandon();
    };
    tracing::info!(job.id = %job.id, ok = finished.ok, code = finished.error_code, "upgrade ended");
    job.feed.end(UpgradeEvent::Finished(Box::new(finished)));
}
