//! A controller in this process, reached over real TLS on loopback, and an
//! agent that answers the way a real one does.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_archive::store::StoreConfig;
use holdfast_controller::app::App;
use holdfast_controller::catalog::Catalog;
use holdfast_controller::catalog::audit::AuditFilter;
use holdfast_controller::config::{Config, Crypto, default_forget_grace_seconds, default_listen};
use holdfast_controller::fleet::Fleet;
use holdfast_controller::init;
use holdfast_controller::places::Limits;
use holdfast_controller::quota::Quotas;
use holdfast_proto::closable::Closable;
use holdfast_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holdfast_proto::v1::host_service_client::HostServiceClient;
use holdfast_proto::v1::volume_service_server::{VolumeService, VolumeServiceServer};
use holdfast_proto::{AGENT_ALPN, SERVER_NAME, v1};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// Longest wait for anything in these tests.
const WAIT_LIMIT: Duration = Duration::from_secs(180);

/// Polls until `probe` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    let waiting = async {
        while !probe().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

pub(crate) struct Controller {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) catalog: Catalog,
    pub(crate) fleet: Fleet,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Adds an operator's token to each call.
#[derive(Clone)]
pub(crate) struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = format!("Bearer {}", self.0).parse().expect("a token is ASCII");
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

pub(crate) type HostClient = HostServiceClient<InterceptedService<Channel, Bearer>>;

impl Controller {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        // Another test of this process may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = dir.path().join("state");
        let place = dir.path().join("repository");
        let config = Config {
            listen: default_listen(),
            addresses: Vec::new(),
            crypto: Crypto::None,
            forget_grace_seconds: default_forget_grace_seconds(),
            repository: StoreConfig::new(place.to_str().expect("plain").parse().expect("a place")),
            quotas: Quotas::default(),
        };
        init::init(&state, &config).await.expect("made");
        let app = App::open(&state, config).await.expect("opened").with_limits(limits);
        let (catalog, fleet) = (app.catalog().clone(), app.fleet().clone());
        let bound = app.bind(Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await.expect("bound");
        let (address, stop) = (bound.address(), CancellationToken::new());
        let stopped = stop.clone();
        let running = tokio::spawn(async move { bound.run(stopped).await.expect("ran") });
        Self { dir, address, catalog, fleet, stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(WAIT_LIMIT, self.running).await.expect("stopped in time").expect("joined");
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.state().join("ca.crt")).expect("CA")
    }

    pub(crate) fn admin_token(&self) -> String {
        let token = std::fs::read_to_string(self.state().join(init::ADMIN_TOKEN_FILE)).expect("token");
        token.trim().to_owned()
    }

    pub(crate) async fn connect(
        &self,
        alpn: &[u8],
        credentials: Option<&Credentials>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem().as_bytes()).expect("pem")).expect("root");
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match credentials {
            None => config.with_no_client_auth(),
            Some(Credentials { certificate, key }) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("pem");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("pem");
                config.with_client_auth_cert(vec![certificate], key).expect("credentials")
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// An ordinary connection.
    pub(crate) async fn channel(&self, credentials: Option<&Credentials>) -> Result<Channel, Status> {
        let stream =
            self.connect(b"h2", credentials).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let mut stream = Some(TokioIo::new(stream));
        Endpoint::from_static("http://controller")
            .connect_with_connector(tower::service_fn(move |_| {
                let stream = stream.take();
                async move { stream.ok_or_else(|| std::io::Error::other("gone")) }
            }))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))
    }

    pub(crate) async fn hosts(&self) -> HostClient {
        let channel = self.channel(None).await.expect("connected");
        HostServiceClient::with_interceptor(channel, Bearer(self.admin_token()))
    }

    pub(crate) async fn token(&self, name: &str) -> String {
        let request = v1::CreateJoinTokenRequest { name: name.to_owned(), ..Default::default() };
        self.hosts().await.create_join_token(request).await.expect("a token").into_inner().token
    }

    pub(crate) async fn join(&self, token: &str) -> Result<(v1::JoinResponse, Credentials), Status> {
        let key = KeyPair::generate().expect("key");
        let request = v1::JoinRequest {
            token: token.to_owned(),
            csr_pem: csr(&key),
            instance_id: "01JTEST".to_owned(),
            agent_version: "0".to_owned(),
        };
        let mut client = EnrolmentServiceClient::new(self.channel(None).await?);
        let answer = client.join(request).await?.into_inner();
        let certificate = answer.certificate_pem.clone();
        Ok((answer, Credentials { certificate, key: key.serialize_pem() }))
    }

    /// A host with that name that has joined.
    pub(crate) async fn host(&self, name: &str) -> (String, Credentials) {
        let (answer, credentials) = self.join(&self.token(name).await).await.expect("joined");
        (answer.host_id, credentials)
    }

    pub(crate) async fn is_connected(&self, name: &str) -> bool {
        let request = v1::GetHostRequest { host: name.to_owned() };
        self.hosts().await.get_host(request).await.expect("known").into_inner().connected
    }

    /// Audit rows of that action and outcome: actor and subject.
    pub(crate) async fn audited(&self, action: &str, outcome: &str) -> Vec<(String, String)> {
        let filter = AuditFilter { limit: 10_000, ..AuditFilter::default() };
        let rows = self.catalog.list_audit(&filter).await.expect("rows");
        rows.into_iter()
            .filter(|row| row.action.ends_with(action) && row.outcome == outcome)
            .map(|row| (row.actor, row.subject))
            .collect()
    }
}

pub(crate) fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).expect("request").pem().expect("pem")
}

/// What a fake agent has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agent {
    pub(crate) instance: String,
    pub(crate) greeted: Arc<Mutex<Vec<String>>>,
    pub(crate) metadata: Arc<Mutex<Vec<MetadataMap>>>,
}

impl Agent {
    pub(crate) fn new(instance: &str) -> Self {
        Self { instance: instance.to_owned(), ..Self::default() }
    }

    pub(crate) fn is_greeted(&self) -> bool {
        !self.greeted.lock().expect("lock").is_empty()
    }

    /// Dials once and serves until the connection ends.
    pub(crate) async fn dial(&self, controller: &Controller, credentials: &Credentials) -> JoinHandle<()> {
        let stream = controller.connect(AGENT_ALPN, Some(credentials)).await.expect("connected");
        let gone = CancellationToken::new();
        let io = Closable::new(stream, (), CancellationToken::new(), gone.clone());
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(io)).chain(tokio_stream::pending());
        let router = Server::builder()
            .add_service(AgentServiceServer::new(self.clone()))
            .add_service(VolumeServiceServer::new(self.clone()));
        tokio::spawn(async move {
            let ended = async move { gone.cancelled().await };
            router.serve_with_incoming_shutdown(incoming, ended).await.expect("served");
        })
    }

    fn description(&self) -> v1::Agent {
        v1::Agent { version: "0".to_owned(), instance_id: self.instance.clone(), ..Default::default() }
    }
}

#[tonic::async_trait]
impl AgentService for Agent {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        self.greeted.lock().expect("lock").push(request.into_inner().host_name);
        Ok(Response::new(v1::HelloResponse { agent: Some(self.description()) }))
    }

    async fn get_agent(&self, _: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        Ok(Response::new(self.description()))
    }
}

type Volumes = Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::Volume, Status>> + Send>>;

#[tonic::async_trait]
impl VolumeService for Agent {
    type ListVolumesStream = Volumes;

    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<Volumes>, Status> {
        self.metadata.lock().expect("lock").push(request.metadata().clone());
        let volumes = ["a", "b"].map(|name| Ok(v1::Volume { name: name.to_owned(), ..Default::default() }));
        Ok(Response::new(Box::pin(tokio_stream::iter(volumes))))
    }

    async fn inspect_volume(
        &self,
        _: Request<v1::InspectVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Err(Status::not_found("no such volume"))
    }

    async fn create_volume(
        &self,
        _: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        Ok(Response::new(v1::CreateVolumeResponse::default()))
    }

    async fn remove_volume(
        &self,
        request: Request<v1::RemoveVolumeRequest>,
    ) -> Result<Response<v1::RemoveVolumeResponse>, Status> {
        self.metadata.lock().expect("lock").push(request.metadata().clone());
        Err(Status::failed_precondition(format!("volume {} is in use", request.into_inner().name)))
    }

    async fn prune_volumes(
        &self,
        _: Request<v1::PruneVolumesRequest>,
    ) -> Result<Response<v1::PruneVolumesResponse>, Status> {
        Ok(Response::new(v1::PruneVolumesResponse::default()))
    }
}
