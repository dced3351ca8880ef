//! The controller from configuration to drain: open, bind, run, drain.
//!
//! Everything that can be wrong with settings, catalogue or CA is found before
//! the port is bound; the bound address is made known before the first call
//! can be answered; and stopping goes the other way round: health says so
//! first, then nothing new is accepted, then the loops and the calls under way
//! get a deadline.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_archive::process;
use holdfast_archive::store::{Store, StoreError};
use holdfast_proto::FILE_DESCRIPTOR_SET;
use holdfast_proto::v1::audit_service_server::AuditServiceServer;
use holdfast_proto::v1::catalog_service_server::CatalogServiceServer;
use holdfast_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use holdfast_proto::v1::host_service_server::HostServiceServer;
use holdfast_proto::v1::job_service_server::JobServiceServer;
use holdfast_proto::v1::policy_service_server::PolicyServiceServer;
use holdfast_proto::v1::source_service_server::SourceServiceServer;
use holdfast_proto::v1::status_service_server::StatusServiceServer;
use holdfast_proto::v1::upgrade_service_server::UpgradeServiceServer;
use rustix::fs::FlockOperation;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::api::audit::AuditApi;
use crate::api::auth::AuthLayer;
use crate::api::catalog::CatalogApi;
use crate::api::denials::Denials;
use crate::api::enrolment::EnrolmentApi;
use crate::api::hosts::{Addresses, HostApi};
use crate::api::jobs::JobApi;
use crate::api::policies::PolicyApi;
use crate::api::repository::RepositoryApi;
use crate::api::sources::SourceApi;
use crate::api::status::StatusApi;
use crate::api::upgrades::UpgradeApi;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::config::{Config, LISTEN_FILE};
use crate::fleet::{Fleet, own_directories};
use crate::identity::ca::{Authority, AuthorityError};
use crate::init::write_atomically;
use crate::jobs::Jobs;
use crate::limits;
use crate::listen::{CertificateSlot, Doors, Listener, Ordinary, tls_config};
use crate::loops::{Driver, Periods, Statuses};
use crate::places::Limits;
use crate::repository::Repository;
use holdfast_archive::text::causes;

const LOCK_FILE: &str = "lock";

/// How long calls under way may take after the order to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How often the controller's own certificate is renewed; it lives 90 days.
const CERTIFICATE_RENEWAL: Duration = Duration::from_secs(86_400);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Resets of streams that were not yet accepted, before a peer is cut off.
const MAX_PENDING_RESETS: usize = 20;

/// Why the controller cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("another controller runs on {}", .0.display())]
    Locked(PathBuf),
    #[error("{} could not be {action}", path.display())]
    File { path: PathBuf, action: &'static str, source: io::Error },
    #[error("the catalogue cannot be used")]
    Catalog(#[from] CatalogError),
    #[error("the repository's place cannot be used")]
    Store(#[from] StoreError),
    #[error("the certificate authority cannot be used")]
    Authority(#[from] AuthorityError),
    #[error("{address} cannot be listened on")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the API's description cannot be served")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("the server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Everything the controller is made of, before it can be reached.
#[derive(Debug)]
pub struct App {
    state_dir: PathBuf,
    config: Config,
    catalog: Catalog,
    authority: Arc<Authority>,
    fleet: Fleet,
    jobs: Jobs,
    loops: Statuses,
    limits: Limits,
    /// Held while this process is the state directory's controller.
    _lock: File,
}

impl App {
    /// Opens what `init` made. One controller at a time per state directory.
    ///
    /// # Errors
    /// Another controller holds the state directory, something `init` made is gone
    /// or unreadable, or the repository's place is none.
    pub async fn open(state_dir: &Path, config: Config) -> Result<Self, AppError> {
        // First: a second controller on these files would write the same rows.
        let lock = lock(state_dir)?;
        let authority = Arc::new(Authority::open(state_dir)?);
        let catalog = Catalog::open_in(state_dir).await?;
        let store = Store::open(&config.repository)?;
        let grace = Duration::from_secs(config.forget_grace_seconds);
        let settings = crate::repository::Settings { grace, quotas: config.quotas, ..Default::default() };
        let repository = Repository::new(catalog.clone(), store, settings);
        let fleet = Fleet::with_own(own_directories(state_dir, &config.repository));
        let jobs =
            Jobs::new(catalog.clone(), fleet.clone(), repository, crate::jobs::settings::Settings::default());
        Ok(Self {
            state_dir: state_dir.to_owned(),
            config,
            catalog,
            authority,
            fleet,
            jobs,
            loops: Statuses::default(),
            limits: Limits::for_files(open_files()),
            _lock: lock,
        })
    }

    /// Bounds on connections other than the built-in ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub fn repository(&self) -> &Repository {
        self.jobs.repository()
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Binds the port, `listen` or else the configured one, and makes the
    /// bound address known in the state directory.
    ///
    /// # Errors
    /// The address cannot be bound, an address of the configuration fits no
    /// certificate, or the state directory cannot be written.
    pub async fn bind(self, listen: Option<SocketAddr>) -> Result<Bound, AppError> {
        let address = listen.unwrap_or(self.config.listen);
        let names = self.config.certificate_names();
        let certificate = CertificateSlot::new(self.authority.issue_server(&names, now_ms())?);
        let tls = tls_config(&self.authority, certificate.clone())?;
        let bind = |source| AppError::Bind { address, source };
        let listener = Listener::bind(address, tls, self.limits).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let path = self.state_dir.join(LISTEN_FILE);
        write_atomically(&path, &format!("{address}\n")).map_err(|source| AppError::File {
            path,
            action: "written",
            source,
        })?;
        Ok(Bound { app: self, listener, address, certificate })
    }

    fn routes(&self, address: SocketAddr, denials: Denials) -> Result<Routes, AppError> {
        let addresses = Addresses::new(self.config.addresses.clone(), address);
        let (catalog, fleet, authority) = (&self.catalog, &self.fleet, &self.authority);
        let mut routes = Routes::builder();
        routes
            .add_service(reflection().build_v1()?)
            // Tools in use ask for this one first, or alone.
            .add_service(reflection().build_v1alpha()?)
            .add_service(
                EnrolmentServiceServer::new(EnrolmentApi::new(
                    catalog.clone(),
                    fleet.clone(),
                    authority.clone(),
                    denials,
                    self.config.quotas,
                    self.repository().store().place(),
                ))
                .max_decoding_message_size(limits::ANONYMOUS_MESSAGE),
            )
            .add_service(HostServiceServer::new(HostApi::new(
                catalog.clone(),
                fleet.clone(),
                authority.clone(),
                addresses,
            )))
            .add_service(SourceServiceServer::new(SourceApi::new(catalog.clone())))
            .add_service(RepositoryApi::service(self.jobs.repository().clone()))
            .add_service(PolicyServiceServer::new(PolicyApi::new(self.jobs.clone())))
            .add_service(JobServiceServer::new(JobApi::new(self.jobs.clone())))
            .add_service(UpgradeServiceServer::new(UpgradeApi::new(self.jobs.clone())))
            .add_service(CatalogServiceServer::new(CatalogApi::new(self.jobs.clone())))
            .add_service(AuditServiceServer::new(AuditApi::new(
                catalog.clone(),
                self.jobs.repository().clone(),
            )))
            .add_service(StatusServiceServer::new(StatusApi::new(self.jobs.clone(), self.loops.clone())));
        Ok(routes.routes())
    }
}

/// A controller that can be dialled and will answer once it runs.
pub struct Bound {
    app: App,
    listener: Listener,
    address: SocketAddr,
    certificate: Arc<CertificateSlot>,
}

impl Bound {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then drains.
    ///
    /// # Errors
    /// A service cannot be set up, what a former controller left running cannot be
    /// read, or serving fails.
    pub async fn run(self, stop: CancellationToken) -> Result<(), AppError> {
        let Self { app, listener, address, certificate } = self;
        // What is served: the same routes at two doors, behind who may call what.
        let denials = Denials::new(app.catalog.clone());
        let auth = AuthLayer::new(app.catalog.clone(), app.fleet.clone(), denials.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        let health_service = health_service.max_decoding_message_size(limits::ANONYMOUS_MESSAGE);
        let routes = app.routes(address, denials)?.add_service(health_service);
        let (certified, certified_incoming) = mpsc::channel(16);
        let (plain, plain_incoming) = mpsc::channel(16);
        let doors = Doors { certified, plain };

        // Beside it: accepting, sessions that expire, our own certificate.
        let tasks = TaskTracker::new();
        tasks.spawn(listener.run(app.fleet.clone(), app.catalog.clone(), doors, stop.clone()));
        let names = app.config.certificate_names();
        let (sessions, catalog, until) = (auth.sessions(), app.catalog.clone(), stop.clone());
        tasks.spawn(async move { sessions.keep(&catalog, &until).await });
        tasks.spawn(renew_certificate(app.authority.clone(), names, certificate, stop.clone()));
        tasks.close();
        // Before the first call is answered: jobs of a former controller have a
        // driver again before anybody can start others.
        let loops = Driver::start(app.jobs.clone(), Periods::default(), app.loops.clone()).await?;
        tracing::info!(address = %address, "listening");

        let certified = serve(CERTIFIED, auth.clone(), routes.clone(), certified_incoming, stop.clone());
        let plain = serve(PLAIN, auth, routes, plain_incoming, stop.clone());
        let mut serving =
            tokio::spawn(async move { futures_util::future::try_join(certified, plain).await.map(|_| ()) });
        let served = tokio::select! {
            served = &mut serving => Some(served),
            () = stop.cancelled() => None,
        };
        // A server that ends by itself stops the rest as well.
        stop.cancel();
        tracing::info!("stopping");
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        // Before the connections: a job let go of is taken over by the next
        // controller, one that loses its host first only logs noise.
        loops.stop().await;
        app.fleet.disconnect_all();
        let drained = tokio::time::timeout(DRAIN_DEADLINE, async {
            tasks.wait().await;
            match served {
                Some(served) => served,
                None => (&mut serving).await,
            }
        });
        match drained.await {
            Ok(Ok(served)) => served?,
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Err(_) => {
                tracing::warn!("calls still under way were cut off");
                serving.abort();
            }
        }
        Ok(())
    }
}

/// What one connection may have open and send ahead.
#[derive(Debug, Clone, Copy)]
struct Room {
    streams: u32,
    /// Bytes of a stream and of the connection.
    windows: (u32, u32),
}

const CERTIFIED: Room = Room { streams: limits::HOST_STREAMS, windows: limits::HOST_WINDOWS };
const PLAIN: Room = Room { streams: limits::PLAIN_STREAMS, windows: limits::PLAIN_WINDOWS };

async fn serve(
    room: Room,
    auth: AuthLayer,
    routes: Routes,
    incoming: mpsc::Receiver<io::Result<Ordinary>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(room.streams)
        .http2_max_header_list_size(limits::HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .initial_stream_window_size(room.windows.0)
        .initial_connection_window_size(room.windows.1)
        .layer(auth)
        .add_routes(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop.cancelled_owned())
        .await
}

/// Raises the number of files this process may have open as far as it may be,
/// up to what the controller can use; gives the number.
pub fn raise_open_files() -> u64 {
    process::raise_open_files(limits::OPEN_FILES);
    open_files()
}

fn open_files() -> u64 {
    process::open_files().unwrap_or(limits::OPEN_FILES)
}

async fn renew_certificate(
    authority: Arc<Authority>,
    names: Vec<String>,
    slot: Arc<CertificateSlot>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CERTIFICATE_RENEWAL) => {}
        }
        match authority.issue_server(&names, now_ms()) {
            Ok(certificate) => slot.replace(certificate),
            Err(error) => {
                tracing::error!(error = %causes(&error), "the controller's certificate could not be renewed");
            }
        }
    }
}

fn lock(state_dir: &Path) -> Result<File, AppError> {
    let path = state_dir.join(LOCK_FILE);
    let file = |source| AppError::File { path: path.clone(), action: "opened", source };
    let lock = File::options().create(true).write(true).truncate(false).open(&path).map_err(file)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(AppError::Locked(state_dir.to_owned())),
        Err(error) => Err(file(error.into())),
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
