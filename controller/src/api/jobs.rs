//! `JobService`: start, list, watch, cancel.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::job_service_server::JobService;
use holdfast_proto::v1::{
    self, GetJobRequest, Job, JobEvent, JobServiceCancelJobRequest, JobServiceCancelJobResponse,
    ListJobsRequest, StartBackupRequest, StartBackupResponse, StartPruneRequest, StartPruneResponse,
    StartRestoreRequest, StartRestoreResponse, WatchJobRequest,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::scope::shown_hosts;
use super::status_map::catalog_failed;
use crate::catalog::CatalogError;
use crate::catalog::jobs::{EventRecord, JobFilter, JobRecord};
use crate::jobs::view::{ChildView, JobView};
use crate::jobs::{CancelOutcome, Jobs};
use crate::model::caller::Caller;
use crate::operations::start::backup::{BackupJobs, BackupStart};
use crate::operations::start::prune::PruneStart;
use crate::operations::start::restore::RestoreStart;
use crate::operations::{names, start};
use crate::wire;
use holdfast_proto::ErrorCode;

/// Jobs listed when no limit is given, and at most.
const LISTED: u32 = 50;
const MAX_LISTED: u32 = 1000;

/// Progress is shown to a watcher no more often than this.
const WATCH_PACE: Duration = Duration::from_millis(200);

/// A watcher hears of a job after so long at the latest, news or not.
const WATCH_SILENCE: Duration = Duration::from_secs(2);

/// Answers for jobs.
#[derive(Debug, Clone)]
pub struct JobApi {
    jobs: Jobs,
}

impl JobApi {
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    async fn find(&self, id: &str) -> Result<JobRecord, Status> {
        let unknown = || ErrorCode::JobUnknown.status(format!("job `{id}` is not known"));
        let parsed: JobId = id.parse().map_err(|_| {
            ErrorCode::InvalidRequest.status_with_hint(format!("`{id}` is no job id"), "holdfast job ls")
        })?;
        self.jobs.catalog().job(parsed).await.map_err(|error| catalog_failed(&error))?.ok_or_else(unknown)
    }

    async fn encode(&self, record: JobRecord) -> Result<Job, Status> {
        Ok(self.jobs.view(record).await.map_err(|error| catalog_failed(&error))?.into())
    }
}

impl From<JobView> for Job {
    fn from(view: JobView) -> Self {
        let JobView { record, host, sources, children, restore: _ } = view;
        let child = |ChildView { record, host }| wire::job::child(record, host);
        wire::job::job(record, host, sources, children.into_iter().map(child).collect())
    }
}

/// One watcher's place in a job's event log.
struct Watch {
    jobs: Jobs,
    id: JobId,
    after: u64,
    version: watch::Receiver<u64>,
    /// Of the last look.
    looked: Option<Instant>,
    waiting: std::collections::VecDeque<JobEvent>,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Result<Option<JobEvent>, CatalogError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                self.jobs.progress().remove_if_unwatched(self.id);
                return Ok(None);
            }
            if let Some(looked) = self.looked {
                self.wait(looked).await;
            }
            self.look().await?;
        }
    }

    /// Until there is something new, and it is time to show it.
    async fn wait(&mut self, looked: Instant) {
        // Closed: the job has ended, or its driver has let go of it and the
        // entry was removed; a new one is about the next driver.
        if let Ok(Err(_)) = timeout(WATCH_SILENCE, self.version.changed()).await {
            self.version = self.jobs.progress().subscribe(self.id);
        }
        tokio::time::sleep_until(looked + WATCH_PACE).await;
    }

    /// Reads the row first and the events after: an end is written together
    /// with its last line, so whoever sees the one reads the other.
    async fn look(&mut self) -> Result<(), CatalogError> {
        self.looked = Some(Instant::now());
        self.version.borrow_and_update();
        let Some(record) = self.jobs.catalog().job(self.id).await? else {
            self.ended = true;
            return Ok(());
        };
        let events = self.jobs.catalog().job_events(self.id, self.after).await?;
        let ended = record.state.ended();
        let view = self.jobs.view(record).await?;
        let restore_progress = view.restore.map(v1::RestoreProgress::from);
        let job = Job::from(view);
        let told = !events.is_empty();
        for EventRecord { sequence, at_ms, message } in events {
            self.after = sequence;
            let job = Some(job.clone());
            self.waiting.push_back(JobEvent { sequence, unix_ms: at_ms, message, job, restore_progress });
        }
        // Progress has no line of its own: without news of the log the job is sent as it is,
        // and at the end once more, with its outcome.
        if !told || ended {
            self.waiting.push_back(JobEvent {
                sequence: self.after,
                unix_ms: crate::clock::now_ms(),
                message: String::new(),
                job: Some(job),
                restore_progress,
            });
        }
        self.ended = ended;
        Ok(())
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl JobService for JobApi {
    type ListJobsStream = Replies<Job>;
    type WatchJobStream = Replies<JobEvent>;

    async fn start_backup(
        &self,
        request: Request<StartBackupRequest>,
    ) -> Result<Response<StartBackupResponse>, Status> {
        let actor = Caller::of(&request).actor();
        let BackupStart { jobs, warnings } =
            start::backup::backup(&self.jobs, request.into_inner().try_into()?, &actor).await?;
        let jobs = match jobs {
            BackupJobs::Planned(planned) => planned.into_iter().map(Job::from).collect(),
            BackupJobs::Started(started) => started.into_iter().map(Job::from).collect(),
        };
        Ok(Response::new(StartBackupResponse { jobs, warnings }))
    }

    async fn start_restore(
        &self,
        request: Request<StartRestoreRequest>,
    ) -> Result<Response<StartRestoreResponse>, Status> {
        let actor = Caller::of(&request).actor();
        let RestoreStart { job, plan } =
            start::restore::restore(&self.jobs, request.into_inner().try_into()?, &actor).await?;
        Ok(Response::new(StartRestoreResponse { job: job.map(Job::from), plan }))
    }

    async fn start_prune(
        &self,
        request: Request<StartPruneRequest>,
    ) -> Result<Response<StartPruneResponse>, Status> {
        let actor = Caller::of(&request).actor();
        let StartPruneRequest { plan_only } = request.into_inner();
        Ok(Response::new(match start::prune::prune(&self.jobs, plan_only, &actor).await? {
            PruneStart::Planned(plan) => StartPruneResponse { job: None, plan: Some(plan.into()) },
            PruneStart::Started(job) => StartPruneResponse { job: Some((*job).into()), plan: None },
        }))
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<Self::ListJobsStream>, Status> {
        let caller = Caller::of(&request);
        let ListJobsRequest { host, policy, states, limit } = request.into_inner();
        let host = match host.as_str() {
            "" => None,
            name => Some(names::host(self.jobs.catalog(), name).await?.id),
        };
        let states = states
            .into_iter()
            .map(|state| {
                wire::job::state(state)
                    .ok_or_else(|| ErrorCode::InvalidRequest.status("an unknown job state"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let limit = if limit == 0 { LISTED } else { limit.min(MAX_LISTED) };
        let catalog = self.jobs.catalog();
        let shown = shown_hosts(catalog, &caller).await.map_err(|error| catalog_failed(&error))?;
        let filter = JobFilter {
            host,
            policy: (!policy.is_empty()).then_some(policy),
            states,
            // Before the limit, which counts what the caller is shown.
            among: shown.map(|hosts| hosts.into_keys().collect()),
            limit,
        };
        let records = catalog.jobs(&filter).await.map_err(|error| catalog_failed(&error))?;
        let mut jobs = Vec::with_capacity(records.len());
        for record in records {
            jobs.push(Ok(self.encode(record).await?));
        }
        Ok(Response::new(Box::pin(stream::iter(jobs))))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let record = self.find(&request.into_inner().id).await?;
        Ok(Response::new(self.encode(record).await?))
    }

    async fn watch_job(
        &self,
        request: Request<WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let WatchJobRequest { id, after } = request.into_inner();
        let record = self.find(&id).await?;
        let watch = Watch {
            jobs: self.jobs.clone(),
            id: record.id,
            after,
            version: self.jobs.progress().subscribe(record.id),
            waiting: std::collections::VecDeque::new(),
            ended: false,
            looked: None,
        };
        let events = stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            match watch.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(watch))),
                Ok(None) => None,
                Err(error) => Some((Err(catalog_failed(&error)), None)),
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn cancel_job(
        &self,
        request: Request<JobServiceCancelJobRequest>,
    ) -> Result<Response<JobServiceCancelJobResponse>, Status> {
        let actor = Caller::of(&request).actor();
        let record = self.find(&request.into_inner().id).await?;
        let outcome = self.jobs.cancel(record.id, &actor).await.map_err(|error| catalog_failed(&error))?;
        match outcome {
            CancelOutcome::Cancelled | CancelOutcome::Asked => {
                let record = self.find(&record.id.to_string()).await?;
                Ok(Response::new(JobServiceCancelJobResponse { job: Some(self.encode(record).await?) }))
            }
            CancelOutcome::AlreadyEnded => {
                let record = self.find(&record.id.to_string()).await?;
                let state = record.state.as_str();
                Err(ErrorCode::JobEnded.status(format!("job {} has ended already: {state}", record.id)))
            }
            CancelOutcome::Unknown => {
                Err(ErrorCode::JobUnknown.status(format!("job `{}` is not known", record.id)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use holdfast_archive::ids::HostId;

    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::jobs::NewJob;
    use crate::jobs::testing::Bench;
    use crate::model::caller::{HostScope, Role};
    use crate::model::job::parameters::{BackupParameters, Parameters};
    use crate::policy::LabelMatch;

    async fn job(catalog: &Catalog, host: HostId, created_ms: i64) -> JobId {
        let job = NewJob {
            id: JobId::generate(),
            policy: String::new(),
            host: Some(host),
            actor: "op".into(),
            parameters: Parameters::Backup(BackupParameters::default()),
            not_before_ms: 0,
        };
        catalog.create_job(&job, created_ms).await.expect("made");
        job.id
    }

    async fn listed(api: &JobApi, labels: &[&str], limit: u32) -> Vec<String> {
        let hosts = labels.iter().map(|label| LabelMatch::parse(label).expect("a label")).collect();
        let caller = Caller::Operator { name: "op".into(), role: Role::Viewer, hosts: HostScope(hosts) };
        let mut request = Request::new(ListJobsRequest { limit, ..ListJobsRequest::default() });
        request.extensions_mut().insert(caller);
        let jobs = api.list_jobs(request).await.expect("listed").into_inner();
        jobs.map(|job| job.expect("a job").id).collect().await
    }

    #[tokio::test]
    async fn what_a_caller_is_not_shown_does_not_count_against_the_limit() {
        let bench = Bench::new().await;
        let catalog = &bench.catalog;
        let mine = HostId::generate();
        let labels = [("rack".to_owned(), "7".to_owned())].into();
        assert!(catalog.import_host(mine, "db-1", &labels).await.expect("made"));
        let old = [job(catalog, mine, 1).await, job(catalog, mine, 2).await];
        // So many newer ones of another host that no page holds them all.
        let newer = job(catalog, bench.host, 3).await;
        let values: Vec<String> = (0..MAX_LISTED).map(|_| format!("('{}')", JobId::generate())).collect();
        let copies = format!(
            "insert into jobs (id, kind, host_id, state, actor, parameters, created_ms)
             select column1, kind, host_id, state, actor, parameters, created_ms
             from jobs, (values {}) where id = '{newer}'",
            values.join(",")
        );
        sqlx::query(sqlx::AssertSqlSafe(copies)).execute(catalog.pool()).await.expect("rows");
        let api = JobApi::new(bench.jobs());
        assert_eq!(listed(&api, &["rack=7"], 10).await, [old[1].to_string(), old[0].to_string()]);
        assert_eq!(listed(&api, &["rack=7"], 1).await, [old[1].to_string()]);
        assert!(listed(&api, &["rack=8"], 10).await.is_empty());
        assert_eq!(listed(&api, &[], 2).await.len(), 2);
    }
}
