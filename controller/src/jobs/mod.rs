//! Jobs: units of orchestrated work that outlive the process driving them.
//!
//! [`Jobs`] is the one handle the API, the loops and the operations share.
//! Truth is in the catalogue; what is held here is progress for the eye, who
//! is to be cancelled, and bells to ring when there is something to do.
//!
//! Called by `operations`, `loops` and `api`. It writes rows of jobs; what a job
//! does to a host or to the repository is the business of `operations`.

pub(crate) mod progress;
pub(crate) mod settings;
pub(crate) mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_proto::ids::{InstanceId, JobId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::catalog::jobs::JobRecord;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::fleet::Fleet;
use crate::model::job::State;
use crate::repository::Repository;

use progress::ProgressTracker;
use settings::Settings;

/// Who waits for a job looks at its row at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Bells: ringing one runs a loop's next pass at once.
#[derive(Debug, Default)]
pub struct Nudges {
    pub scheduler: Notify,
    pub dispatcher: Notify,
    pub retention: Notify,
    pub repository: Notify,
    pub gc: Notify,
    pub inventory: Notify,
    pub export: Notify,
    pub history: Notify,
}

/// Cheap to clone; all clones share one state.
#[derive(Debug, Clone)]
pub struct Jobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    catalog: Catalog,
    fleet: Fleet,
    repository: Repository,
    settings: Settings,
    progress: ProgressTracker,
    nudges: Nudges,
    /// Of this process: jobs another one drove are taken over.
    owner: String,
    driven: Mutex<HashMap<JobId, CancellationToken>>,
}

/// Held by the one driver of a job in this process: from before the row is claimed or taken
/// over until the end is on record. Whoever gets the guard of a job whose row still runs
/// may drive it.
#[derive(Debug)]
pub(crate) struct DriverGuard {
    jobs: Jobs,
    id: JobId,
    /// Cancelled when somebody asks for that.
    token: CancellationToken,
}

impl DriverGuard {
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}

impl Drop for DriverGuard {
    fn drop(&mut self) {
        // Who cancels after this finds no token, and a row that has ended.
        self.jobs.driven().remove(&self.id);
    }
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It had not started and never will.
    Cancelled,
    /// It runs and was asked to stop.
    Asked,
    AlreadyEnded,
    Unknown,
}

impl Jobs {
    pub fn new(catalog: Catalog, fleet: Fleet, repository: Repository, settings: Settings) -> Self {
        let inner = Inner {
            catalog,
            fleet,
            repository,
            settings,
            progress: ProgressTracker::default(),
            nudges: Nudges::default(),
            owner: InstanceId::generate().to_string(),
            driven: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub fn fleet(&self) -> &Fleet {
        &self.inner.fleet
    }

    pub fn repository(&self) -> &Repository {
        &self.inner.repository
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub fn progress(&self) -> &ProgressTracker {
        &self.inner.progress
    }

    pub fn nudges(&self) -> &Nudges {
        &self.inner.nudges
    }

    pub fn owner(&self) -> &str {
        &self.inner.owner
    }

    /// Adds a line to a job's event log and notifies its watchers.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn log_event(&self, job: JobId, message: &str) -> Result<(), CatalogError> {
        self.catalog().add_job_event(job, now_ms(), message).await?;
        self.progress().notify(job);
        Ok(())
    }

    /// Waits until a job has ended, however long that takes.
    ///
    /// # Errors
    /// The catalogue fails, or the job's row is gone.
    pub async fn ended(&self, id: JobId) -> Result<JobRecord, CatalogError> {
        loop {
            // Before the row is read, so that no change falls in between.
            let mut version = self.progress().subscribe(id);
            let record = self.catalog().job(id).await?.ok_or_else(|| CatalogError::Unreadable {
                what: "job",
                value: format!("{id}, which is gone"),
            })?;
            if record.state.ended() {
                self.progress().remove_if_unwatched(id);
                return Ok(record);
            }
            // Closed or late: the row tells.
            let _ = tokio::time::timeout(LOOK_AGAIN, version.changed()).await;
        }
    }

    /// A host's name, or its id where there is none any more.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn host_name(&self, host: HostId) -> Result<String, CatalogError> {
        Ok(self.catalog().host(host).await?.map_or_else(|| host.to_string(), |host| host.name))
    }

    /// Cancels a job that waits, or asks the one that runs to stop; its
    /// children as well.
    ///
    /// # Errors
    /// The catalogue fails; what was cancelled until then stays so.
    pub async fn cancel(&self, id: JobId, actor: &str) -> Result<CancelOutcome, CatalogError> {
        let outcome = self.cancel_one(id, actor).await?;
        // After the job itself: it makes no more of them now, or sees the
        // wish before it waits for one.
        for child in self.catalog().child_jobs(id).await? {
            if !child.state.ended() {
                Box::pin(self.cancel(child.id, actor)).await?;
            }
        }
        Ok(outcome)
    }

    async fn cancel_one(&self, id: JobId, actor: &str) -> Result<CancelOutcome, CatalogError> {
        let Some(record) = self.catalog().job(id).await? else { return Ok(CancelOutcome::Unknown) };
        if record.state.ended() {
            return Ok(CancelOutcome::AlreadyEnded);
        }
        let reason = format!("cancelled by {actor} before it started");
        // Queued first, then running: a job goes one way only, so one of the two finds
        // it unless it has ended.
        if self.catalog().end_queued_job(id, State::Cancelled, "cancelled", &reason, now_ms()).await? {
            self.progress().remove(id);
            return Ok(CancelOutcome::Cancelled);
        }
        if !self.catalog().request_cancel(id, &format!("{actor} asked to cancel"), now_ms()).await? {
            return Ok(CancelOutcome::AlreadyEnded);
        }
        self.progress().notify(id);
        // After the row: a driver that registers its token later reads the request there.
        let token = self.driven().get(&id).cloned();
        if let Some(token) = token {
            token.cancel();
        }
        Ok(CancelOutcome::Asked)
    }

    /// Makes this process the driver of a job until the guard is dropped. `None`: it has a
    /// driver already.
    pub(crate) fn begin_driving(&self, id: JobId) -> Option<DriverGuard> {
        let mut driven = self.driven();
        if driven.contains_key(&id) {
            return None;
        }
        let token = CancellationToken::new();
        driven.insert(id, token.clone());
        Some(DriverGuard { jobs: self.clone(), id, token })
    }

    fn driven(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, CancellationToken>> {
        self.inner.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
