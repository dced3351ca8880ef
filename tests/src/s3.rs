//! An S3 server inside the test: quick to start, and able to misbehave.
//!
//! A real implementation (s3s-fs, with signatures and checksums checked) sits
//! behind a layer that counts requests and, on plan, fails them the ways
//! servers and networks do. Where it matters what a server in use out there
//! does, tests use `garage`.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_archive::store::{Location, S3Options, StoreConfig};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, DATE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::fleet::Place;

type AnyBody = Pin<Box<dyn Body<Data = Bytes, Error = io::Error> + Send>>;

pub const BUCKET: &str = "holdfast";
pub const ACCESS_KEY: &str = "HFTESTKEY";
pub const SECRET_KEY: &str = "hush-hush-hush";

/// How a request goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misbehaviour {
    /// This status and error code, nothing done.
    Answer(u16, &'static str),
    /// As that, dated so many seconds from now.
    AnswerDated(u16, &'static str, i64),
    /// 200, with an error in the body, nothing done.
    ErrorIn200,
    /// The connection ends before anything is done.
    Reset,
    /// Done, but the connection ends before the answer.
    AnswerLost,
    /// The answer's body breaks off after so many bytes.
    BreakOff(usize),
    /// The answer's body has so many bytes less, and says so.
    Shorter(usize),
    /// The answer's body comes a byte at a time, this far apart.
    Trickle(Duration),
    /// A listing does not have the objects whose keys contain this.
    LeaveOut(&'static str),
    /// Nothing comes.
    Silence,
}

/// Which requests go wrong: by default every one of the method, for ever.
#[derive(Debug, Clone)]
pub struct Mishap {
    method: &'static str,
    path_part: String,
    skip: u64,
    times: u64,
    how: Misbehaviour,
}

impl Mishap {
    pub fn new(method: &'static str, how: Misbehaviour) -> Self {
        Self { method, path_part: String::new(), skip: 0, times: u64::MAX, how }
    }

    /// Only where path and query contain this.
    pub fn on(mut self, path_part: impl Into<String>) -> Self {
        self.path_part = path_part.into();
        self
    }

    /// Lets the first `skip` pass.
    pub fn skip(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }
}

#[derive(Default)]
struct Shared {
    mishaps: Vec<Mishap>,
    seen: Vec<String>,
}

impl Shared {
    fn take(&mut self, request: &Request<Incoming>) -> Option<Misbehaviour> {
        let path = request.uri().to_string();
        self.seen.push(format!("{} {path}", request.method()));
        let mishap = self.mishaps.iter_mut().find(|mishap| {
            mishap.method == request.method().as_str() && mishap.times > 0 && path.contains(&mishap.path_part)
        })?;
        if mishap.skip > 0 {
            mishap.skip -= 1;
            return None;
        }
        mishap.times -= 1;
        Some(mishap.how.clone())
    }
}

/// A running server with one bucket.
pub struct S3Server {
    runtime: Option<tokio::runtime::Runtime>,
    shared: Arc<Mutex<Shared>>,
    dir: TempDir,
    address: SocketAddr,
    tls: bool,
}

impl S3Server {
    pub fn start() -> Self {
        Self::launch(None)
    }

    /// With a certificate for 127.0.0.1 of a CA of its own: see
    /// [`Self::ca_file`].
    pub fn start_tls() -> Self {
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = certified.signing_key.serialize_der();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certified.cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::Pkcs8(key.into()),
            )
            .expect("a TLS set-up");
        let server = Self::launch(Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))));
        std::fs::write(server.dir.path().join("ca.pem"), certified.cert.pem()).expect("written");
        server
    }

    fn launch(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let dir = TempDir::with_prefix("hfs3").expect("a temporary folder");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join(BUCKET)).expect("a bucket");
        let credentials = format!("{ACCESS_KEY}\n{SECRET_KEY}\n");
        let credentials_file = dir.path().join("credentials");
        crate::secret::write(&credentials_file, credentials);

        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).expect("a store"));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(Shared::default()));
        let with_tls = tls.is_some();
        runtime.spawn(accept(listener, tls, service, shared.clone()));
        Self { runtime: Some(runtime), shared, dir, address, tls: with_tls }
    }

    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    pub fn credentials_file(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Where its objects lie, to be damaged.
    pub fn bucket_dir(&self) -> PathBuf {
        self.dir.path().join("root").join(BUCKET)
    }

    /// A repository's place under that prefix.
    pub fn config(&self, prefix: &str) -> StoreConfig {
        StoreConfig {
            location: Location::S3 { bucket: BUCKET.to_owned(), prefix: prefix.to_owned() },
            s3: S3Options {
                endpoint: Some(self.endpoint()),
                credentials_file: Some(self.credentials_file()),
                ca_file: self.tls.then(|| self.ca_file()),
                ..S3Options::default()
            },
        }
    }

    /// For a fleet whose repository is to lie here.
    pub fn place(&self) -> Place {
        Place::S3 {
            endpoint: self.endpoint(),
            bucket: BUCKET.to_owned(),
            region: "us-east-1".to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
        }
    }

    /// From now on; earlier plans are asked first.
    pub fn plan(&self, mishap: Mishap) {
        self.lock().mishaps.push(mishap);
    }

    pub fn behave(&self) {
        self.lock().mishaps.clear();
    }

    /// Method, path and query of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.lock().seen.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Not waiting: connections of clients are still open.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    service: S3Service,
    shared: Arc<Mutex<Shared>>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let (service, shared, tls) = (service.clone(), shared.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, service, shared).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, service, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve<S>(stream: S, service: S3Service, shared: Arc<Mutex<Shared>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handler = service_fn(move |request| {
        let (service, shared) = (service.clone(), shared.clone());
        async move {
            let mishap = shared.lock().unwrap_or_else(PoisonError::into_inner).take(&request);
            handle(&service, request, mishap).await
        }
    });
    // A connection that a test made break is no error here.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), handler).await;
}

async fn handle(
    service: &S3Service,
    request: Request<Incoming>,
    mishap: Option<Misbehaviour>,
) -> Result<Response<AnyBody>, io::Error> {
    match mishap {
        None => pass(service, request).await,
        Some(Misbehaviour::Reset) => Err(io::Error::other("reset on plan")),
        Some(Misbehaviour::Silence) => std::future::pending().await,
        Some(Misbehaviour::Answer(status, code)) => answer(request, status, code, None).await,
        Some(Misbehaviour::AnswerDated(status, code, offset)) => {
            answer(request, status, code, Some(offset)).await
        }
        Some(Misbehaviour::ErrorIn200) => answer(request, 200, "InternalError", None).await,
        Some(Misbehaviour::AnswerLost) => {
            pass(service, request).await?.into_body().collect().await?;
            Err(io::Error::other("answer lost on plan"))
        }
        Some(Misbehaviour::BreakOff(after)) => {
            damaged(service, request, |whole| {
                let head = Ok(Frame::data(whole.slice(..after.min(whole.len()))));
                let parts = vec![head, Err(io::Error::other("broken off on plan"))];
                (whole.len(), Box::pin(StreamBody::new(futures_util::stream::iter(parts))))
            })
            .await
        }
        Some(Misbehaviour::Shorter(by)) => {
            damaged(service, request, |whole| {
                let short = whole.slice(..whole.len().saturating_sub(by));
                (short.len(), full(short))
            })
            .await
        }
        Some(Misbehaviour::LeaveOut(key_part)) => {
            damaged(service, request, |whole| {
                let rest = without_entries(&whole, key_part);
                (rest.len(), full(rest))
            })
            .await
        }
        Some(Misbehaviour::Trickle(apart)) => {
            damaged(service, request, |whole| {
                let len = whole.len();
                let bytes = futures_util::stream::iter(0..len).then(move |at| {
                    let byte = whole.slice(at..=at);
                    async move {
                        tokio::time::sleep(apart).await;
                        Ok(Frame::data(byte))
                    }
                });
                (len, Box::pin(StreamBody::new(bytes)))
            })
            .await
        }
    }
}

async fn pass(service: &S3Service, request: Request<Incoming>) -> Result<Response<AnyBody>, io::Error> {
    let response = service.call(request.map(s3s::Body::from)).await.map_err(io::Error::other)?;
    Ok(response.map(|body| Box::pin(body.map_err(io::Error::other)) as AnyBody))
}

async fn damaged(
    service: &S3Service,
    request: Request<Incoming>,
    damage: impl FnOnce(Bytes) -> (usize, AnyBody),
) -> Result<Response<AnyBody>, io::Error> {
    let (mut parts, body) = pass(service, request).await?.into_parts();
    let whole = body.collect().await?.to_bytes();
    let (len, body) = damage(whole);
    parts.headers.insert(CONTENT_LENGTH, len.into());
    Ok(Response::from_parts(parts, body))
}

/// A page of a listing, without the entries whose keys contain `key_part`.
fn without_entries(page: &[u8], key_part: &str) -> Bytes {
    const ENTRY: &str = "<Contents>";
    const END: &str = "</Contents>";
    let page = String::from_utf8_lossy(page);
    let mut parts = page.split(ENTRY);
    let mut rest = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entry, after) = part.split_once(END).expect("an entry ends");
        let key = entry.split("<Key>").nth(1).and_then(|key| key.split("</Key>").next());
        if !key.expect("an entry has a key").contains(key_part) {
            rest.extend([ENTRY, entry, END]);
        }
        rest.push_str(after);
    }
    rest.into()
}

async fn answer(
    request: Request<Incoming>,
    status: u16,
    code: &str,
    dated: Option<i64>,
) -> Result<Response<AnyBody>, io::Error> {
    // Taken in whole, so that the connection stays in step.
    request.into_body().collect().await.map_err(io::Error::other)?;
    let text = format!("<Error><Code>{code}</Code><Message>as planned</Message></Error>");
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = StatusCode::from_u16(status).map_err(io::Error::other)?;
    if let Some(offset) = dated {
        response.headers_mut().insert(DATE, http_date(offset).parse().map_err(io::Error::other)?);
    }
    Ok(response)
}

fn full(bytes: Bytes) -> AnyBody {
    Box::pin(Full::new(bytes).map_err(|never: Infallible| match never {}))
}

/// So many seconds from now, as the Date header has it.
fn http_date(offset: i64) -> String {
    let shift = Duration::from_secs(offset.unsigned_abs());
    let now = std::time::SystemTime::now();
    let then = if offset < 0 { now - shift } else { now + shift };
    chrono::DateTime::<chrono::Utc>::from(then).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
