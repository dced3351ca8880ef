//! A host for tests: an agent that plays its part of the contract and can be
//! made to break it.

mod upgrades;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use holdfast_archive::backoff::Backoff;
use holdfast_archive::ids::HostId;
use holdfast_archive::store::Store;
use holdfast_proto::v1::container_service_server::ContainerServiceServer;
use holdfast_proto::v1::restore_event::Event as RestoreAgentEvent;
use holdfast_proto::v1::snapshot_event::Event;
use holdfast_proto::v1::snapshot_service_server::{SnapshotService, SnapshotServiceServer};
use holdfast_proto::v1::volume_service_server::{VolumeService, VolumeServiceServer};
use holdfast_proto::v1::*;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::Jobs;
use super::settings::Settings;
use crate::catalog::Catalog;
use crate::catalog::sources::add_host;
use crate::fleet::Fleet;
use crate::loops::{Driver, Periods, Statuses};
use crate::repository::Repository;

/// How a backup ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackupEnd {
    Partial,
    Failed,
    /// The store did not answer.
    StoreAway,
    /// Only once it is cancelled, or released.
    FencingToken,
}

#[derive(Debug, Default)]
struct Told {
    volumes: Vec<String>,
    /// Every call to start or attach: job and generation.
    calls: Vec<(String, u64)>,
    /// What each job was first called with.
    requests: HashMap<String, CreateSnapshotsRequest>,
    /// The same in the order they came.
    order: Vec<CreateSnapshotsRequest>,
    /// Generation of each job at work.
    running: HashMap<String, u64>,
    started: u32,
    /// Streams still to be cut after their first progress.
    cuts: u32,
    /// With a cut the job is forgotten, as if the agent had been killed.
    killed: bool,
    backups: usize,
    /// By the number of the backup, from 0; the others are good.
    backup_ends: HashMap<usize, BackupEnd>,
    /// The snapshot each backup ends with; `None`: one that is nowhere.
    snapshot: Option<String>,
    upgrades: upgrades::Upgrades,
}

/// Shared by the services and the test.
#[derive(Debug, Clone)]
pub(crate) struct FakeAgent {
    told: Arc<Mutex<Told>>,
    /// Jobs end once this is true.
    finish: watch::Sender<bool>,
    released: watch::Sender<bool>,
    cancelled: watch::Sender<HashSet<String>>,
    /// Something about an upgrade is different now.
    changed: watch::Sender<u64>,
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeAgent {
    pub(crate) async fn start(volumes: &[&str]) -> (Self, Channel) {
        let told =
            Told { volumes: volumes.iter().map(|name| (*name).to_owned()).collect(), ..Told::default() };
        let agent = Self {
            told: Arc::new(Mutex::new(told)),
            finish: watch::channel(false).0,
            released: watch::channel(false).0,
            cancelled: watch::channel(HashSet::new()).0,
            changed: watch::channel(0).0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let services = Server::builder()
            .add_service(SnapshotServiceServer::new(agent.clone()))
            .add_service(VolumeServiceServer::new(agent.clone()))
            .add_service(ContainerServiceServer::new(agent.clone()));
        tokio::spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        (agent, endpoint.connect_lazy())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finish(&self) {
        self.finish.send_replace(true);
    }

    /// Lets go of backups that were held.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    pub(crate) fn backup_ends(&self, number: usize, end: BackupEnd) {
        self.told().backup_ends.insert(number, end);
    }

    /// Backups end with this snapshot.
    pub(crate) fn ends_with(&self, snapshot: String) {
        self.told().snapshot = Some(snapshot);
    }

    pub(crate) fn cut_streams(&self, count: u32) {
        self.told().cuts = count;
    }

    /// Cuts streams and knows nothing of their jobs afterwards.
    pub(crate) fn kill(&self, count: u32) {
        let mut told = self.told();
        told.cuts = count;
        told.killed = true;
    }

    pub(crate) fn calls(&self) -> Vec<u64> {
        self.told().calls.iter().map(|(_, generation)| *generation).collect()
    }

    pub(crate) fn started(&self) -> u32 {
        self.told().started
    }

    /// Backups in the order they came.
    pub(crate) fn backups(&self) -> Vec<CreateSnapshotsRequest> {
        self.told().order.clone()
    }

    pub(crate) fn requests(&self) -> Vec<CreateSnapshotsRequest> {
        self.told().requests.values().cloned().collect()
    }

    fn admit(&self, job: &str, generation: u64) -> Result<bool, Status> {
        let mut told = self.told();
        told.calls.push((job.to_owned(), generation));
        match told.running.get(job) {
            Some(seen) if *seen > generation => {
                return Err(Status::failed_precondition("a caller that was replaced"));
            }
            Some(_) => {}
            None => told.started += 1,
        }
        told.running.insert(job.to_owned(), generation);
        if told.cuts > 0 {
            told.cuts -= 1;
            if told.killed {
                told.running.remove(job);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Waits for the order to finish or to cancel; true: cancelled.
    async fn end(&self, job: &str, token: bool) -> bool {
        let mut finish = if token { self.released.subscribe() } else { self.finish.subscribe() };
        let mut cancelled = self.cancelled.subscribe();
        tokio::select! {
            _ = finish.wait_for(|set| *set) => false,
            _ = cancelled.wait_for(|jobs| jobs.contains(job)) => true,
        }
    }
}

fn event(job: &str, event: Event) -> Result<SnapshotEvent, Status> {
    Ok(SnapshotEvent { job_id: job.to_owned(), event: Some(event) })
}

#[tonic::async_trait]
impl SnapshotService for FakeAgent {
    type CreateSnapshotsStream = Events<SnapshotEvent>;
    type RestoreSnapshotStream = Events<RestoreEvent>;

    async fn create_snapshots(
        &self,
        request: Request<CreateSnapshotsRequest>,
    ) -> Result<Response<Self::CreateSnapshotsStream>, Status> {
        let request = request.into_inner();
        let cut = self.admit(&request.job_id, request.generation)?;
        let job = request.job_id.clone();
        let end = {
            let mut told = self.told();
            let number = told.backups;
            if !told.requests.contains_key(&job) {
                told.requests.insert(job.clone(), request.clone());
                told.order.push(request.clone());
                told.backups += 1;
            }
            told.backup_ends.get(&number).copied()
        };
        let (sender, receiver) = mpsc::channel(16);
        let agent = self.clone();
        tokio::spawn(async move {
            for source in &request.sources {
                let progress = SourceProgress { source_id: source.source_id.clone(), ..Default::default() };
                let _ = sender.send(event(&job, Event::Progress(progress))).await;
            }
            if cut {
                let _ = sender.send(Err(Status::unavailable("cut"))).await;
                return;
            }
            let cancelled = agent.end(&job, end == Some(BackupEnd::FencingToken)).await;
            if !cancelled {
                let snapshot = agent.told().snapshot.clone();
                for source in &request.sources {
                    let finished = SourceFinished {
                        source_id: source.source_id.clone(),
                        ok: !matches!(end, Some(BackupEnd::Failed | BackupEnd::StoreAway)),
                        error_code: if end == Some(BackupEnd::StoreAway) { "store-unreachable" } else { "" }
                            .into(),
                        partial: end == Some(BackupEnd::Partial),
                        snapshot_id: snapshot.clone().unwrap_or_else(|| format!("{}/{job}", source.name)),
                        ..Default::default()
                    };
                    let _ = sender.send(event(&job, Event::Source(finished))).await;
                }
            }
            let ended = JobEnded { ok: !cancelled, cancelled, ..Default::default() };
            let _ = sender.send(event(&job, Event::Ended(ended))).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn restore_snapshot(
        &self,
        request: Request<RestoreSnapshotRequest>,
    ) -> Result<Response<Self::RestoreSnapshotStream>, Status> {
        let request = request.into_inner();
        self.admit(&request.job_id, request.generation)?;
        let finished = RestoreFinished { ok: true, files: 3, ..Default::default() };
        let last =
            RestoreEvent { job_id: request.job_id, event: Some(RestoreAgentEvent::Finished(finished)) };
        Ok(Response::new(Box::pin(futures_util::stream::iter([Ok(last)]))))
    }

    async fn list_running(
        &self,
        _request: Request<ListRunningRequest>,
    ) -> Result<Response<ListRunningResponse>, Status> {
        let job = |(id, generation): (&String, &u64)| RunningJob {
            job_id: id.clone(),
            generation: *generation,
            ..Default::default()
        };
        let jobs = self.told().running.iter().map(job).collect();
        Ok(Response::new(ListRunningResponse { jobs }))
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        let job = request.into_inner().job_id;
        self.cancelled.send_if_modified(|jobs| jobs.insert(job));
        Ok(Response::new(CancelJobResponse { was_running: true }))
    }
}

#[tonic::async_trait]
impl VolumeService for FakeAgent {
    type ListVolumesStream = Events<Volume>;

    async fn list_volumes(
        &self,
        _request: Request<ListVolumesRequest>,
    ) -> Result<Response<Self::ListVolumesStream>, Status> {
        let volume = |name: &String| {
            Ok(Volume {
                name: name.clone(),
                driver: "local".into(),
                users: vec![VolumeUser::default()],
                ..Default::default()
            })
        };
        let volumes: Vec<_> = self.told().volumes.iter().map(volume).collect();
        Ok(Response::new(Box::pin(futures_util::stream::iter(volumes))))
    }

    async fn inspect_volume(
        &self,
        request: Request<InspectVolumeRequest>,
    ) -> Result<Response<Volume>, Status> {
        let name = request.into_inner().name;
        if self.told().volumes.contains(&name) {
            return Ok(Response::new(Volume { name, ..Default::default() }));
        }
        Err(Status::not_found("no such volume"))
    }

    async fn create_volume(
        &self,
        _request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_volume(
        &self,
        _request: Request<RemoveVolumeRequest>,
    ) -> Result<Response<RemoveVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn prune_volumes(
        &self,
        _request: Request<PruneVolumesRequest>,
    ) -> Result<Response<PruneVolumesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A controller's insides over a real catalogue, with one host.
pub(crate) struct Bench {
    pub(crate) catalog: Catalog,
    pub(crate) fleet: Fleet,
    pub(crate) host: HostId,
    pub(crate) repository: Repository,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let url = format!("sqlite://{}/catalog.db", dir.path().display());
        let catalog = Catalog::open(&url).await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        std::fs::create_dir(dir.path().join("repository")).expect("a folder");
        let store = Store::directory(&dir.path().join("repository")).expect("a folder");
        let repository = Repository::new(catalog.clone(), store, crate::repository::Settings::default());
        Self { catalog, fleet: Fleet::new(), host, repository, _dir: dir }
    }

    /// As a controller that was just started makes it.
    pub(crate) fn jobs(&self) -> Jobs {
        self.jobs_at_most(Settings::default().running_most)
    }

    /// The same, with so many places for jobs.
    pub(crate) fn jobs_at_most(&self, running_most: u64) -> Jobs {
        let settings = Settings {
            retry: Backoff::new(Duration::from_millis(20), Duration::from_millis(50)),
            attempts: 3,
            running_most,
            ..Settings::default()
        };
        Jobs::new(self.catalog.clone(), self.fleet.clone(), self.repository.clone(), settings)
    }

    /// Another host, with an agent that is connected.
    pub(crate) async fn another(&self, name: &str, volumes: &[&str]) -> FakeAgent {
        let host = add_host(&self.catalog, name).await;
        let (agent, channel) = FakeAgent::start(volumes).await;
        self.fleet.insert(host, channel);
        agent
    }

    /// An agent that is connected.
    pub(crate) async fn agent(&self, volumes: &[&str]) -> FakeAgent {
        let (agent, channel) = FakeAgent::start(volumes).await;
        self.fleet.insert(self.host, channel);
        agent
    }
}

/// Starts the loops of a controller.
pub(crate) async fn driver(jobs: &Jobs) -> Driver {
    Driver::start(jobs.clone(), periods(), Statuses::default()).await.expect("starts")
}

/// Waits until something holds, within reason.
/// For what a busy machine does with a slow disk: each step of a job is synced.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(180);

pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Waits for the end of a job; shows it if that does not come.
pub(crate) async fn ended(jobs: &Jobs, id: &str) -> Job {
    let id = id.parse().expect("an id");
    let end = tokio::time::timeout(WAIT_LIMIT, jobs.ended(id)).await;
    let record = jobs.catalog().job(id).await.expect("asked").expect("there");
    let job = Job::from(jobs.view(record).await.expect("shown"));
    assert!(end.is_ok(), "not in time: {job:#?}");
    job
}

/// Loops that run often enough for a test; background ones not at all.
pub(crate) fn periods() -> Periods {
    let often = Duration::from_millis(20);
    let never = Duration::from_hours(100);
    Periods {
        scheduler: never,
        dispatcher: often,
        retention: never,
        gc: never,
        inventory: never,
        export: never,
        history: never,
    }
}
