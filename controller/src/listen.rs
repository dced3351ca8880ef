//! The controller's one port: TLS 1.3, told apart by ALPN.
//!
//! `h2` is an ordinary call, from an operator or an agent; `holdfast-agent/1`
//! is an agent offering itself as a server. Every connection is a task of its
//! own from the first byte, under a timeout: one peer that says nothing holds
//! up nobody. Connections are counted, per peer and in all, before anything is
//! spent on them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
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
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use crate::api::status_map::causes;
use crate::catalog::Catalog;
use crate::fleet::{Fleet, connection};
use crate::identity::ca::{Authority, AuthorityError};
use crate::identity::certificate::HostCertificate;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// After `accept` itself fails (no file descriptors left), before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const H2_ALPN: &[u8] = b"h2";

/// Who is at the other end of an ordinary connection, as far as TLS can say.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// Chain and dates were right when the connection was made.
    pub certificate: Option<Arc<HostCertificate>>,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub handshakes: Limit,
    pub connections: Limit,
}

/// A bound in all and for one peer address.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub in_all: usize,
    pub per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: Limit { in_all: 512, per_peer: 64 },
            connections: Limit { in_all: 8192, per_peer: 2048 },
        }
    }
}

/// The controller's certificate, replaceable while it serves.
#[derive(Debug)]
pub struct CertificateSlot(Mutex<Arc<CertifiedKey>>);

impl CertificateSlot {
    pub fn new(certificate: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Arc::new(certificate))))
    }

    /// Handshakes from now on use this one.
    pub fn replace(&self, certificate: CertifiedKey) {
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
pub fn tls_config(
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
pub struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
    limits: Limits,
}

impl Listener {
    pub async fn bind(address: SocketAddr, tls: Arc<ServerConfig>, limits: Limits) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await?, tls: TlsAcceptor::from(tls), limits })
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until `stop`. Ordinary connections go to `ordinary`, agents' to
    /// the fleet. Returns when every agent's connection has ended, too; those
    /// are closed with [`Fleet::disconnect_all`].
    pub async fn run(
        self,
        fleet: Fleet,
        catalog: Catalog,
        ordinary: mpsc::Sender<io::Result<Ordinary>>,
        stop: CancellationToken,
    ) {
        let tracker = TaskTracker::new();
        let (handshakes, connections) =
            (Slots::new(self.limits.handshakes), Slots::new(self.limits.connections));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (Some(pending), Some(open)) = (handshakes.take(address.ip()), connections.take(address.ip()))
            else {
                tracing::debug!(peer = %address, "too many connections");
                continue;
            };
            let task = Incoming {
                tls: self.tls.clone(),
                fleet: fleet.clone(),
                catalog: catalog.clone(),
                ordinary: ordinary.clone(),
            };
            let stop = stop.clone();
            tracker.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    served = task.handshake(tcp, address) => {
                        drop(pending);
                        if let Some(served) = served {
                            task.dispatch(served, address, open).await;
                        }
                    }
                }
            });
        }
        drop(self.tcp);
        tracker.close();
        tracker.wait().await;
    }
}

struct Incoming {
    tls: TlsAcceptor,
    fleet: Fleet,
    catalog: Catalog,
    ordinary: mpsc::Sender<io::Result<Ordinary>>,
}

impl Incoming {
    async fn handshake(&self, tcp: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
        tcp.set_nodelay(true).ok()?;
        match timeout(HANDSHAKE_TIMEOUT, self.tls.accept(tcp)).await {
            Ok(Ok(stream)) => Some(stream),
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

    async fn dispatch(&self, stream: TlsStream<TcpStream>, address: SocketAddr, open: Slot) {
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
            (true, _, Some(certificate)) => {
                let (fleet, catalog) = (self.fleet.clone(), self.catalog.clone());
                let host = certificate.host;
                if let Err(error) = connection::serve(stream, address, certificate, fleet, catalog).await {
                    tracing::warn!(peer = %address, host.id = %host, error = %causes(&error), "agent's connection ended");
                }
                drop(open);
            }
            (true, _, None) => tracing::warn!(peer = %address, "an agent showed no certificate"),
            (false, true, certificate) => {
                let close = match &certificate {
                    Some(certificate) => self.fleet.session(certificate.host),
                    None => CancellationToken::new(),
                };
                let peer = Peer { address, certificate: certificate.map(Arc::new) };
                let io = Closable::new(stream, (), close, CancellationToken::new());
                // The other end is gone when the server drains.
                self.ordinary.send(Ok(Ordinary { io, peer, _open: open })).await.ok();
            }
            (false, false, _) => tracing::debug!(peer = %address, "connection without a protocol we speak"),
        }
    }
}

/// An ordinary connection, for tonic's server.
#[derive(Debug)]
pub struct Ordinary {
    io: Closable<TlsStream<TcpStream>>,
    peer: Peer,
    _open: Slot,
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

/// Counts what one limit bounds.
#[derive(Debug, Clone)]
struct Slots {
    limit: Limit,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One of the connections that are counted; dropping it frees the place.
#[derive(Debug)]
struct Slot {
    slots: Slots,
    peer: IpAddr,
}

impl Slots {
    fn new(limit: Limit) -> Self {
        Self { limit, taken: Arc::default() }
    }

    fn take(&self, peer: IpAddr) -> Option<Slot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let in_all: usize = taken.values().sum();
        let of_peer = taken.get(&peer).copied().unwrap_or(0);
        if in_all >= self.limit.in_all || of_peer >= self.limit.per_peer {
            return None;
        }
        taken.insert(peer, of_peer + 1);
        Some(Slot { slots: self.clone(), peer })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x17_places_are_counted_per_peer_and_in_all() {
        let slots = Slots::new(Limit { in_all: 3, per_peer: 2 });
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let held = [slots.take(a), slots.take(a)];
        assert!(slots.take(a).is_none(), "one peer's share is used up");
        let other = slots.take(b);
        assert!(other.is_some() && slots.take(b).is_none(), "all places are used up");
        drop(held);
        assert!(slots.take(a).is_some());
    }
}
