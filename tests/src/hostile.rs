//! A host that has joined and then does what it likes: real certificate, real
//! connections, no manners. And peers that have nothing to show at all.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use holdfast_archive::pack_io::{FrameKind, SealedPack};
use holdfast_proto::closable::Closable;
use holdfast_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use holdfast_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holdfast_proto::v1::repository_service_client::RepositoryServiceClient;
use holdfast_proto::v1::snapshot_event::Event;
use holdfast_proto::v1::snapshot_service_server::{SnapshotService, SnapshotServiceServer};
use holdfast_proto::v1::volume_service_server::{VolumeService, VolumeServiceServer};
use holdfast_proto::{AGENT_ALPN, SERVER_NAME, v1};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where a controller is and who it must be.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub ca_pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
struct Credentials {
    certificate: String,
    key: String,
}

/// A host that has joined.
#[derive(Clone)]
pub struct Intruder {
    target: Target,
    credentials: Credentials,
    manners: Arc<Manners>,
    /// What the controller orders.
    orders: mpsc::UnboundedSender<v1::CreateSnapshotsRequest>,
}

/// What it does besides, as long as this is set.
#[derive(Debug, Default)]
pub struct Manners {
    pub endless_inventory: AtomicBool,
    pub endless_events: AtomicBool,
    /// What was sent of either.
    pub sent: AtomicU64,
}

// === impl Target ===

impl Target {
    fn tls(&self, alpn: &[u8], credentials: Option<&Credentials>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).expect("pem")).expect("root");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match credentials {
            None => config.with_no_client_auth(),
            Some(Credentials { certificate, key }) => {
                let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("pem");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("pem");
                config.with_client_auth_cert(vec![certificate], key).expect("credentials")
            }
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }

    async fn connect(
        &self,
        config: Arc<ClientConfig>,
        from: Option<IpAddr>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = match from {
            None => TcpStream::connect(self.address).await?,
            Some(from) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(from, 0))?;
                socket.connect(self.address).await?
            }
        };
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        TlsConnector::from(config).connect(name, tcp).await
    }

    async fn channel(&self, credentials: Option<&Credentials>) -> Channel {
        let stream = self.connect(self.tls(b"h2", credentials), None).await.expect("connected");
        let mut stream = Some(TokioIo::new(stream));
        Endpoint::from_static("http://controller")
            .connect_with_connector(tower::service_fn(move |_| {
                let stream = stream.take();
                async move { stream.ok_or_else(|| std::io::Error::other("gone")) }
            }))
            .await
            .expect("HTTP/2")
    }
}

// === impl Intruder ===

impl Intruder {
    /// Joins with a token, as any host does.
    pub async fn join(
        target: Target,
        token: &str,
    ) -> (Self, mpsc::UnboundedReceiver<v1::CreateSnapshotsRequest>) {
        let key = KeyPair::generate().expect("key");
        let csr = CertificateParams::default().serialize_request(&key).expect("request").pem().expect("pem");
        let request = v1::JoinRequest {
            token: token.to_owned(),
            csr_pem: csr,
            instance_id: "01JHOSTILE".to_owned(),
            agent_version: "0".to_owned(),
        };
        let mut client = EnrolmentServiceClient::new(target.channel(None).await);
        let answer = client.join(request).await.expect("joined").into_inner();
        let credentials = Credentials { certificate: answer.certificate_pem, key: key.serialize_pem() };
        let (orders, ordered) = mpsc::unbounded_channel();
        (Self { target, credentials, manners: Arc::default(), orders }, ordered)
    }

    pub fn manners(&self) -> &Manners {
        &self.manners
    }

    /// A new ordinary connection.
    pub async fn channel(&self) -> Channel {
        self.target.channel(Some(&self.credentials)).await
    }

    pub async fn repository(&self) -> RepositoryServiceClient<Channel> {
        RepositoryServiceClient::new(self.channel().await).max_decoding_message_size(8 << 20)
    }

    /// Offers itself as a server until the connection ends.
    pub async fn dial(&self) {
        let config = self.target.tls(AGENT_ALPN, Some(&self.credentials));
        let stream = self.target.connect(config, None).await.expect("connected");
        let gone = tokio_util_token();
        let io = Closable::new(stream, (), tokio_util_token(), gone.clone());
        let incoming = futures_util::stream::once(async { Ok::<_, std::io::Error>(io) })
            .chain(futures_util::stream::pending());
        let router = Server::builder()
            .add_service(AgentServiceServer::new(self.clone()))
            .add_service(VolumeServiceServer::new(self.clone()))
            .add_service(SnapshotServiceServer::new(self.clone()));
        tokio::spawn(async move {
            let ended = async move { gone.cancelled().await };
            router.serve_with_incoming_shutdown(Box::pin(incoming), ended).await.expect("served");
        });
    }

    /// Announces, sends and commits a pack.
    pub async fn put(&self, lease: &str, pack: &SealedPack) -> String {
        let mut client = self.repository().await;
        let request = v1::AllocPackRequest {
            lease_id: lease.to_owned(),
            length: pack.bytes.len() as u64,
            sha256: pack.sha256.to_vec(),
        };
        let id = client.alloc_pack(request).await.expect("announced").into_inner().pack_id;
        let (lease_id, pack_id) = (lease.to_owned(), id.clone());
        let first = v1::UploadPackRequest { lease_id, pack_id, data: Bytes::new() };
        let rest: Vec<_> = pack.bytes.chunks(1 << 20).map(Bytes::copy_from_slice).collect();
        let rest = rest.into_iter().map(|data| v1::UploadPackRequest { data, ..Default::default() });
        let messages = futures_util::stream::iter(std::iter::once(first).chain(rest));
        client.upload_pack(messages).await.expect("stored");
        let frames = pack.table.iter().map(|entry| v1::PackFrame {
            id: entry.id.as_bytes().to_vec(),
            kind: match entry.kind {
                FrameKind::Data => v1::FrameKind::Data.into(),
                FrameKind::Page => v1::FrameKind::Page.into(),
            },
            key_epoch: entry.key_epoch,
            offset: entry.offset,
            stored_bytes: entry.stored_len,
            raw_bytes: entry.raw_len,
        });
        let request = v1::CommitPackRequest {
            lease_id: lease.to_owned(),
            pack_id: id.clone(),
            frames: frames.collect(),
        };
        client.commit_pack(request).await.expect("committed");
        id
    }
}

fn tokio_util_token() -> tokio_util::sync::CancellationToken {
    tokio_util::sync::CancellationToken::new()
}

#[tonic::async_trait]
impl AgentService for Intruder {
    async fn hello(&self, _: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        Ok(Response::new(v1::HelloResponse { agent: Some(description()) }))
    }

    async fn get_agent(&self, _: Request<v1::GetAgentRequest>) -> Result<Response<v1::Agent>, Status> {
        Ok(Response::new(description()))
    }
}

fn description() -> v1::Agent {
    v1::Agent { version: "0".to_owned(), instance_id: "01JHOSTILE".to_owned(), ..Default::default() }
}

#[tonic::async_trait]
impl VolumeService for Intruder {
    type ListVolumesStream = Events<v1::Volume>;

    async fn list_volumes(
        &self,
        _: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<Self::ListVolumesStream>, Status> {
        let data = v1::Volume { name: "data".to_owned(), driver: "local".to_owned(), ..Default::default() };
        if !self.manners.endless_inventory.load(Ordering::Relaxed) {
            return Ok(Response::new(Box::pin(futures_util::stream::iter([Ok(data)]))));
        }
        let manners = self.manners.clone();
        let names = (0..4_000_000_u64).map(move |number| {
            manners.sent.fetch_add(1, Ordering::Relaxed);
            let labels = [("label".to_owned(), "x".repeat(100 << 10))].into();
            Ok(v1::Volume { name: format!("volume-{number}"), labels, ..Default::default() })
        });
        Ok(Response::new(Box::pin(futures_util::stream::iter(names))))
    }

    async fn inspect_volume(
        &self,
        _: Request<v1::InspectVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn create_volume(
        &self,
        _: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::CreateVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn remove_volume(
        &self,
        _: Request<v1::RemoveVolumeRequest>,
    ) -> Result<Response<v1::RemoveVolumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn prune_volumes(
        &self,
        _: Request<v1::PruneVolumesRequest>,
    ) -> Result<Response<v1::PruneVolumesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl SnapshotService for Intruder {
    type CreateSnapshotsStream = Events<v1::SnapshotEvent>;
    type RestoreSnapshotStream = Events<v1::RestoreEvent>;

    /// Never ends: says nothing, and then ever new things.
    async fn create_snapshots(
        &self,
        request: Request<v1::CreateSnapshotsRequest>,
    ) -> Result<Response<Self::CreateSnapshotsStream>, Status> {
        let request = request.into_inner();
        let (job, manners) = (request.job_id.clone(), self.manners.clone());
        let _ = self.orders.send(request);
        let events = futures_util::stream::unfold(0_u64, move |number| {
            let (job, manners) = (job.clone(), manners.clone());
            async move {
                while !manners.endless_events.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                manners.sent.fetch_add(1, Ordering::Relaxed);
                let quiesced = v1::ContainerQuiesced {
                    container_id: number.to_string(),
                    container_name: "x".repeat(900 << 10),
                    resumed: true,
                    ..Default::default()
                };
                let event = v1::SnapshotEvent { job_id: job, event: Some(Event::Quiesced(quiesced)) };
                Some((Ok(event), number + 1))
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn restore_snapshot(
        &self,
        _: Request<v1::RestoreSnapshotRequest>,
    ) -> Result<Response<Self::RestoreSnapshotStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_running(
        &self,
        _: Request<v1::ListRunningRequest>,
    ) -> Result<Response<v1::ListRunningResponse>, Status> {
        Ok(Response::new(v1::ListRunningResponse::default()))
    }

    async fn cancel_job(
        &self,
        _: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        Ok(Response::new(v1::CancelJobResponse::default()))
    }
}

/// What a flood has done so far.
#[derive(Debug, Default)]
pub struct Flood {
    /// Handshakes that were made.
    pub connected: AtomicU64,
    /// Connections that were turned away or closed.
    pub refused: AtomicU64,
    /// Calls begun and left half-sent.
    pub half_sent: AtomicU64,
}

impl Flood {
    /// So many peers without credentials, each of which connects from a
    /// loopback address of a few, begins 64 calls, sends a part of each and
    /// waits; one that is closed comes again after a while. Ends by itself.
    pub async fn run(self: Arc<Self>, target: Target, peers: usize, until: Instant) {
        let config = target.tls(b"h2", None);
        let mut tasks = tokio::task::JoinSet::new();
        for peer in 0..peers {
            let (flood, target, config) = (self.clone(), target.clone(), config.clone());
            let from = IpAddr::from([127, 0, 0, 2 + u8::try_from(peer % 4).expect("small")]);
            tasks.spawn(async move {
                while Instant::now() < until {
                    let left = until.saturating_duration_since(Instant::now());
                    let visit = flood.visit(&target, config.clone(), from);
                    let _ = tokio::time::timeout(left, visit).await;
                    flood.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn visit(
        &self,
        target: &Target,
        config: Arc<ClientConfig>,
        from: IpAddr,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TokioIo::new(target.connect(config, Some(from)).await?);
        self.connected.fetch_add(1, Ordering::Relaxed);
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        let connection = tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..64 {
            // A message that says it has 60 KiB, and 16 KiB of it.
            let mut half = vec![0, 0, 0, 60 << 2, 0];
            half.resize(16 << 10, b'x');
            let half = Frame::data(Bytes::from(half));
            let begun = futures_util::stream::once(async { Ok::<_, std::io::Error>(half) });
            let body = StreamBody::new(begun.chain(futures_util::stream::pending()));
            let request = hyper::Request::post("http://controller/holdfast.v1.EnrolmentService/Join")
                .header("content-type", "application/grpc")
                .body(Box::pin(body))?;
            if sender.ready().await.is_err() {
                break;
            }
            answers.push(sender.send_request(request));
            self.half_sent.fetch_add(1, Ordering::Relaxed);
        }
        futures_util::future::join_all(answers).await;
        connection.await??;
        Ok(())
    }
}
