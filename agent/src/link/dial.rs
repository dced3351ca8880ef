//! Making a connection: every address in turn, every step under a timeout. A
//! dial into a black hole would otherwise hang in the TLS handshake for ever.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_archive::text::causes;
use holdfast_proto::{AGENT_ALPN, SERVER_NAME};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::identity::{Identity, IdentityError};
use super::tls;

/// For the TCP connection and the handshake of one address, together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// No address led to a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{address} could not be reached")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not answer within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout { address: String },
    #[error(
        "{address} does not speak `{}`, the protocol between agents and their controller of this release; \
         install the controller's release here (the controller is upgraded first, then its agents)",
        String::from_utf8_lossy(AGENT_ALPN)
    )]
    OtherProtocol { address: String },
    #[error("no address of the controller is known")]
    NoAddress,
}

impl DialError {
    /// Whether the server was reached and is not the one we look for.
    pub(super) fn is_wrong_server(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
    }
}

/// Connects to the first address that lets us; the error is the last one's.
pub(super) async fn dial(
    addresses: &[String],
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let mut failed = DialError::NoAddress;
    for address in addresses {
        failed = match timeout(DIAL_TIMEOUT, connect(address, config)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) if is_other_protocol(&source) => {
                DialError::OtherProtocol { address: address.clone() }
            }
            Ok(Err(source)) => DialError::Connect { address: address.clone(), source },
            Err(_) => DialError::Timeout { address: address.clone() },
        };
        tracing::debug!(error = %causes(&failed), "the controller was not reached");
    }
    Err(failed)
}

/// Whether the server answers to none of the protocols it was offered.
fn is_other_protocol(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

async fn connect(address: &str, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    // Small frames would otherwise wait for the acknowledgement of the one before.
    tcp.set_nodelay(true)?;
    // The name is fixed: which of its addresses led here proves nothing.
    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
    TlsConnector::from(config.clone()).connect(name, tcp).await
}

/// The ordinary channel to the controller with this identity. It connects on
/// its first call and again after it was lost.
pub(super) fn channel(identity: &Identity) -> Result<Channel, IdentityError> {
    let config = tls::config(identity, b"h2")?;
    Ok(channel_with(identity.addresses.clone(), config))
}

/// A channel over connections made with `config`.
pub(super) fn channel_with(addresses: Vec<String>, config: Arc<ClientConfig>) -> Channel {
    // TLS is ours: hence http.
    Endpoint::from_static("http://controller")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        // Also while idle: a NAT in between forgets a connection on which nothing is sent.
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_| {
            let (addresses, config) = (addresses.clone(), config.clone());
            async move { dial(&addresses, &config).await.map(TokioIo::new) }
        }))
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::join::tests::authority;
    use super::*;

    #[tokio::test]
    async fn p22_a_controller_of_another_protocol_is_named_with_what_to_do() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let (chain, key, ca_key_sha256) = authority();
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"holdfast-agent/2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                drop(acceptor.accept(tcp).await);
            }
        });
        let mut config = (*tls::joining_config(ca_key_sha256).unwrap()).clone();
        dial(std::slice::from_ref(&address), &Arc::new(config.clone())).await.expect("h2 is spoken");
        config.alpn_protocols = vec![AGENT_ALPN.to_vec()];
        let error = dial(std::slice::from_ref(&address), &Arc::new(config)).await.unwrap_err();
        assert!(matches!(error, DialError::OtherProtocol { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&address) && text.contains("install the controller's release"), "{text}");
        serving.abort();
    }
}
