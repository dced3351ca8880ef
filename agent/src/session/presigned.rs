//! A pack sent straight to the store, with an address the controller signed.
//!
//! The controller signs length and checksum too, so the address is good for
//! these bytes alone and the store itself refuses others.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::v1::PresignedPut;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
    #[error("the address the controller gave for a pack is not usable: {0}")]
    Address(String),
    #[error("the connection to the store broke: {0}")]
    Broken(String),
    #[error("the store did not take the pack: {status} {body}")]
    Refused { status: u16, body: String },
}

/// Sends the bytes; Ok means the store answered success.
pub(super) async fn put(presigned: &PresignedPut, bytes: Bytes) -> Result<(), PutError> {
    let limit = Duration::from_secs(60 + bytes.len() as u64 / SLOWEST);
    tokio::time::timeout(limit, put_untimed(presigned, bytes))
        .await
        .unwrap_or_else(|_| Err(PutError::Broken(format!("not done after {} s", limit.as_secs()))))
}

async fn put_untimed(presigned: &PresignedPut, bytes: Bytes) -> Result<(), PutError> {
    let uri: Uri = presigned.url.parse().map_err(|_| PutError::Address("not a URL".into()))?;
    let host = uri.host().ok_or_else(|| PutError::Address("no host in it".into()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(PutError::Address("neither http nor https".into())),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let request = request(presigned, &uri, bytes)?;
    let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect((host.as_str(), port))).await;
    let stream = connected
        .map_err(|_| PutError::Unreachable(format!("no answer from {host}:{port}")))?
        .map_err(|error| PutError::Unreachable(format!("{host}:{port}: {error}")))?;
    if !secure {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| PutError::Address("no valid host".into()))?;
    let handshake = tokio::time::timeout(CONNECT_LIMIT, connector()?.connect(name, stream)).await;
    let stream = handshake
        .map_err(|_| PutError::Unreachable(format!("no TLS answer from {host}:{port}")))?
        .map_err(|error| PutError::Unreachable(format!("{host}:{port}: {error}")))?;
    send(stream, request).await
}

fn request(presigned: &PresignedPut, uri: &Uri, bytes: Bytes) -> Result<Request<Full<Bytes>>, PutError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::put(path);
    let given = |name: &str| presigned.headers.keys().any(|key| key.eq_ignore_ascii_case(name));
    if !given("host") {
        request = request.header(header::HOST, authority);
    }
    if !given("content-length") {
        request = request.header(header::CONTENT_LENGTH, bytes.len());
    }
    for (name, value) in &presigned.headers {
        request = request.header(name, value);
    }
    request.body(Full::new(bytes)).map_err(|error| PutError::Address(error.to_string()))
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
    Err(PutError::Refused { status: status.as_u16(), body: text.chars().take(300).collect() })
}

/// Trusts what this system trusts.
fn connector() -> Result<TlsConnector, PutError> {
    let mut roots = rustls::RootCertStore::empty();
    let file = ROOT_FILES.iter().find(|path| Path::new(path).exists());
    let file =
        file.ok_or_else(|| PutError::Unreachable("this system has no list of trusted certificates".into()))?;
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| PutError::Unreachable(format!("{file} cannot be read: {error}")))?;
    roots.add_parsable_certificates(certificates.flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PutError::Unreachable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
