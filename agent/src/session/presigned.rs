//! A pack sent straight to the store, with an address the controller signed.
//!
//! The controller signs length and checksum too, so the address is good for
//! these bytes alone and the store itself refuses others. That it leads to the
//! store and nowhere else is not taken from the controller: see
//! [`crate::store_pin`]. Redirects are not followed, and of an answer nothing
//! but its status and the store's own word for it is told on: a refusal quotes
//! the signed request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_archive::ids::PackId;
use holdfast_proto::v1;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::store_pin::{Address, Admitted, NotPinned, SignedPut, StorePin};

const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// Slowest transfer worth waiting for, bytes a second, after a minute's grace.
const SLOWEST: u64 = 16 << 10;

/// Where systems keep the certificates they trust.
const ROOT_FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

#[derive(Debug, thiserror::Error)]
pub(super) enum PutError {
    /// No connection, or none that can be trusted.
    #[error("the store cannot be reached from this host: {0}")]
    Unreachable(String),
    #[error(transparent)]
    NotPinned(#[from] NotPinned),
    #[error("the controller's request for a pack cannot be sent: {0}")]
    Request(String),
    #[error("the connection to the store broke: {0}")]
    Broken(String),
    #[error("the store did not take the pack: {status}{word}")]
    Refused { status: u16, word: String },
}

/// Sends the bytes, if the request is for this pack in the pinned place; Ok
/// means the store answered success.
pub(super) async fn put(
    pin: &StorePin,
    presigned: v1::PresignedPut,
    pack: &PackId,
    bytes: Bytes,
) -> Result<(), PutError> {
    // When it ends to count is for the store to say, by its own clock.
    let v1::PresignedPut { url, headers, expires_unix_ms: _ } = presigned;
    let admitted = pin.admit(&SignedPut { url, headers }, pack, bytes.len() as u64)?;
    let limit = Duration::from_secs(60 + bytes.len() as u64 / SLOWEST);
    tokio::time::timeout(limit, put_untimed(pin, admitted, bytes))
        .await
        .unwrap_or_else(|_| Err(PutError::Broken(format!("not done after {} s", limit.as_secs()))))
}

async fn put_untimed(pin: &StorePin, admitted: Admitted, bytes: Bytes) -> Result<(), PutError> {
    let Address { secure, host, port } = admitted.address.clone();
    let request = request(admitted, bytes)?;
    let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((host.as_str(), port))).await;
    let stream = connected
        .map_err(|_| PutError::Unreachable(format!("no answer from {host}:{port}")))?
        .map_err(|error| PutError::Unreachable(format!("{host}:{port}: {error}")))?;
    if !secure {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.clone())
        .map_err(|_| PutError::Unreachable(format!("`{host}` is no name a certificate can have")))?;
    let handshake = tokio::time::timeout(CONNECT_LIMIT, connector(pin.ca_pem())?.connect(name, stream)).await;
    let stream = handshake
        .map_err(|_| PutError::Unreachable(format!("no TLS answer from {host}:{port}")))?
        .map_err(|error| PutError::Unreachable(format!("{host}:{port}: {error}")))?;
    send(stream, request).await
}

fn request(admitted: Admitted, bytes: Bytes) -> Result<Request<Full<Bytes>>, PutError> {
    let Admitted { address: _, authority, path_and_query, headers } = admitted;
    let mut request = Request::put(path_and_query)
        .header(header::HOST, authority)
        .header(header::CONTENT_LENGTH, bytes.len());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Full::new(bytes)).map_err(|error| PutError::Request(error.to_string()))
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), PutError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| PutError::Broken(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when the sender and the answer are dropped.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), 64 << 10).collect().await;
    if status.is_success() {
        return Ok(());
    }
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
    let word = error_word(&text).map(|word| format!(" {word}")).unwrap_or_default();
    Err(PutError::Refused { status: status.as_u16(), word })
}

/// The store's word for what is wrong, such as `AccessDenied`.
fn error_word(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("<Code>")?;
    let (word, _) = rest.split_once("</Code>")?;
    (word.len() <= 64 && word.chars().all(|c| c.is_ascii_alphanumeric())).then_some(word)
}

/// Trusts the pinned CA, or what this system trusts where none is pinned.
fn connector(ca_pem: &str) -> Result<TlsConnector, PutError> {
    let mut roots = rustls::RootCertStore::empty();
    if ca_pem.is_empty() {
        roots.add_parsable_certificates(system_roots()?);
    } else {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(ca_pem.as_bytes()).flatten());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PutError::Unreachable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, PutError> {
    let file = ROOT_FILES.iter().find(|path| Path::new(path).exists());
    let file =
        file.ok_or_else(|| PutError::Unreachable("this system has no list of trusted certificates".into()))?;
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| PutError::Unreachable(format!("{file} cannot be read: {error}")))?;
    Ok(certificates.flatten().collect())
}
