//! The controller's one port: TLS 1.3, told apart by ALPN.
//!
//! `h2` is an ordinary call, from an operator or an agent; `holdfast-agent/1`
//! is an agent offering itself as a server. Every connection is a task of its
//! own from the first byte, under a timeout: one peer that says nothing holds
//! up nobody. Connections are counted before anything is spent on them, see
//! [`crate::places`]. Those without a certificate go through a door of their
//! own, behind which little may be sent ahead: a certificate is all that TLS
//! can tell apart before the first call.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use holdfast_proto::AGENT_ALPN;
use holdfast_proto::closable::Closable;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::catalog::Catalog;
use crate::catalog::standing::Standing;
use crate::clock::now_ms;
use crate::fleet::{Fleet, connection};
use crate::identity::ca::{Authority, AuthorityError};
use crate::identity::certificate::HostCertificate;
use crate::limits::HANDSHAKE;
use crate::places::{Limits, Network, Owner, Place, Places, Ticket};
use holdfast_archive::text::causes;

/// After `accept` itself fails (no file descriptors left), before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const H2_ALPN: &[u8] = b"h2";

/// Who is at the other end of an ordinary connection, as far as TLS can say.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    /// Chain and dates were right when the connection was made.
    pub certificate: Option<Arc<HostCertificate>>,
    /// To be told once somebody is known.
    pub ticket: Ticket,
}

/// Where ordinary connections go, by whether they showed a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    pub certified: mpsc::Sender<io::Result<Ordinary>>,
    pub plain: mpsc::Sender<io::Result<Ordinary>>,
}

/// The controller's certificate, replaceable while it serves.
#[derive(Debug)]
pub(crate) struct CertificateSlot(Mutex<Arc<CertifiedKey>>);

impl CertificateSlot {
    pub(crate) fn new(certificate: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(certificate))))
    }

    /// Handshakes from now on use this one.
    pub(crate) fn replace(&self, certificate: CertifiedKey) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(certificate);
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// TLS as the controller speaks it: a client certificate is optional, because
/// operators have tokens and joining hosts have nothing yet, but one that is
/// shown must be of our CA.
///
/// # Errors
/// The CA's certificate cannot be a root.
pub(crate) fn tls_config(
    authority: &Authority,
    certificate: Arc<CertificateSlot>,
) -> Result<Arc<ServerConfig>, AuthorityError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![H2_ALPN.to_vec(), AGENT_ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// The bound port.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
    limits: Limits,
}

impl Listener {
    /// Binds the port; connections wait until [`Self::run`].
    ///
    /// # Errors
    /// The address is taken, or not one of this machine.
    pub(crate) async fn bind(
        address: SocketAddr,
        tls: Arc<ServerConfig>,
        limits: Limits,
    ) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await?, tls: TlsAcceptor::from(tls), limits })
    }

    /// The address that is bound, with the port the system chose.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until `stop`. Ordinary connections go to `doors`, agents' to
    /// the fleet. Returns when every agent's connection has ended, too; those
    /// are closed with [`Fleet::disconnect_all`].
    pub(crate) async fn run(self, fleet: Fleet, catalog: Catalog, doors: Doors, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let places = Places::new(self.limits);
        tracker.spawn({
            let (places, stop) = (places.clone(), stop.clone());
            async move { places.keep_time(&stop).await }
        });
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Most likely no descriptor is free: at once it would fail the same way.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Before the handshake, which costs far more than to close the connection.
            let Some(place) = places.take(Network::of(address.ip()), Instant::now()) else {
                tracing::debug!(peer = %address, "too many connections that show nothing");
                continue;
            };
            let task = Incoming {
                tls: self.tls.clone(),
                fleet: fleet.clone(),
                catalog: catalog.clone(),
                doors: doors.clone(),
            };
            let stop = stop.clone();
            tracker.spawn(async move {
                let closing = place.ticket().closing().clone();
                let stream = tokio::select! {
                    () = stop.cancelled() => None,
                    () = closing.cancelled() => {
                        tracing::debug!(peer = %address, "made room for another connection");
                        None
                    }
                    stream = task.handshake(tcp, address) => stream,
                };
                if let Some(stream) = stream {
                    task.serve(stream, address, place).await;
                }
            });
        }
        // Closed first: no connection is taken that nobody would serve.
        drop(self.tcp);
        tracker.close();
        tracker.wait().await;
    }
}

struct Incoming {
    tls: TlsAcceptor,
    fleet: Fleet,
    catalog: Catalog,
    doors: Doors,
}

impl Incoming {
    async fn handshake(&self, tcp: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        tcp.set_nodelay(true).ok()?;
        match timeout(HANDSHAKE, self.tls.accept(tcp)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) if is_other_protocol(&error) => {
                tracing::info!(
                    %peer,
                    "it offers no protocol that is spoken here: an agent of another release? install this \
                     controller's release there"
                );
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake took too long");
                None
            }
        }
    }

    async fn serve(self, stream: TlsStream<TcpStream>, address: SocketAddr, place: Place) {
        let session = stream.get_ref().1;
        let is_agent = session.alpn_protocol() == Some(AGENT_ALPN);
        let is_ordinary = session.alpn_protocol() == Some(H2_ALPN);
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = match certificate.map(|der| HostCertificate::parse(der)).transpose() {
            Ok(certificate) => certificate,
            Err(error) => {
                tracing::warn!(peer = %address, %error, "connection refused");
                return;
            }
        };
        match (is_agent, is_ordinary, certificate) {
            (true, _, Some(certificate)) => self.agent(stream, address, certificate, place).await,
            (true, _, None) => tracing::warn!(peer = %address, "an agent showed no certificate"),
            (false, true, certificate) => self.ordinary(stream, address, certificate, place).await,
            (false, false, _) => tracing::debug!(peer = %address, "connection without a protocol we speak"),
        }
    }

    async fn agent(
        self,
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        certificate: HostCertificate,
        place: Place,
    ) {
        let host = certificate.host;
        self.recognise(&certificate, place.ticket()).await;
        // Closed by its stream, not by dropping this: the fleet has to be told.
        let io = Closable::new(stream, (), place.ticket().closing().clone(), CancellationToken::new());
        if let Err(error) = connection::serve(io, address, certificate, self.fleet, self.catalog).await {
            tracing::warn!(peer = %address, host.id = %host, error = %causes(&error), "agent's connection ended");
        }
        drop(place);
    }

    async fn ordinary(
        self,
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        certificate: Option<HostCertificate>,
        place: Place,
    ) {
        let ticket = place.ticket().clone();
        let door = match &certificate {
            Some(certificate) => {
                self.recognise(certificate, &ticket).await;
                close_with(self.fleet.session(certificate.host), ticket.closing().clone());
                self.doors.certified
            }
            None => self.doors.plain,
        };
        let close = ticket.closing().clone();
        let peer = Peer { address, certificate: certificate.map(Arc::new), ticket };
        let io = Closable::new(stream, (), close, CancellationToken::new());
        // The other end is gone when the server drains.
        door.send(Ok(Ordinary { io, peer, _place: place })).await.ok();
    }

    /// A certificate that is good makes its host known; of any other the calls
    /// are told what is wrong with it.
    async fn recognise(&self, certificate: &HostCertificate, ticket: &Ticket) {
        let (host, now) = (certificate.host, now_ms());
        if !certificate.is_valid_at(now) {
            return;
        }
        match self.catalog.certificate_standing(host, &certificate.serial, now).await {
            Ok(Standing::Good { .. }) => {
                if !ticket.belongs_to(Owner::Host(host)) {
                    tracing::warn!(host.id = %host, "no place for a further connection of a host");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = %causes(&error), "a certificate could not be looked up"),
        }
    }
}

/// Whether all protocols that the client offers are others than ours.
fn is_other_protocol(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::NoApplicationProtocol))
}

/// Closes one connection when all of its host are closed.
fn close_with(all: CancellationToken, one: CancellationToken) {
    // Ends with the connection: its place cancels `one` when it is given back.
    tokio::spawn(async move {
        tokio::select! {
            () = all.cancelled() => one.cancel(),
            () = one.cancelled() => {}
        }
    });
}

/// An ordinary connection, for tonic's server.
#[derive(Debug)]
pub(crate) struct Ordinary {
    io: Closable<TlsStream<TcpStream>>,
    peer: Peer,
    _place: Place,
}

impl Connected for Ordinary {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Ordinary {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Ordinary {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
