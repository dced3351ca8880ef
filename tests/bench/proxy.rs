//! Counts requests on their way to the store.
//!
//! Every tool goes through it, so what it costs is the same for all. A
//! connection of a tool is a connection to the store; the Host header goes
//! through as it came, because it is signed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Requests and body bytes since the last look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Traffic {
    pub(crate) get: u64,
    pub(crate) put: u64,
    pub(crate) head: u64,
    pub(crate) post: u64,
    pub(crate) delete: u64,
    /// Announced lengths of requests, bytes.
    pub(crate) sent_bytes: u64,
    /// Announced lengths of answers, bytes.
    pub(crate) received_bytes: u64,
}

impl Traffic {
    pub(crate) fn requests(&self) -> u64 {
        self.get + self.put + self.head + self.post + self.delete
    }
}

#[derive(Default)]
struct Counts {
    get: AtomicU64,
    put: AtomicU64,
    head: AtomicU64,
    post: AtomicU64,
    delete: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

pub(crate) struct Proxy {
    counts: Arc<Counts>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Proxy {
    /// In front of `upstream`, `http://host:port`, each request held for
    /// `latency`.
    pub(crate) fn start(upstream: &str, latency: Duration) -> Result<Self> {
        let upstream =
            upstream.strip_prefix("http://").context("the store is reached by plain HTTP")?.to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let counting = counts.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counts, upstream) = (counting.clone(), upstream.clone());
                tokio::spawn(async move {
                    // A tool that ends breaks its connections; that is no failure.
                    let _ = carry(stream, &upstream, counts, latency).await;
                });
            }
        });
        Ok(Self { counts, address, _runtime: runtime })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn take(&self) -> Traffic {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        Traffic {
            get: take(&self.counts.get),
            put: take(&self.counts.put),
            head: take(&self.counts.head),
            post: take(&self.counts.post),
            delete: take(&self.counts.delete),
            sent_bytes: take(&self.counts.sent),
            received_bytes: take(&self.counts.received),
        }
    }
}

async fn carry(stream: TcpStream, upstream: &str, counts: Arc<Counts>, latency: Duration) -> Result<()> {
    stream.set_nodelay(true)?;
    let store = TcpStream::connect(upstream).await?;
    store.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(store)).await?;
    tokio::spawn(connection);
    let sender = Arc::new(tokio::sync::Mutex::new(sender));
    let handler = service_fn(move |request: Request<Incoming>| {
        let (sender, counts) = (sender.clone(), counts.clone());
        async move {
            counts.request(&request);
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            let mut sender = sender.lock().await;
            sender.ready().await.map_err(io::Error::other)?;
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            counts.received.fetch_add(answer.body().size_hint().lower(), Ordering::Relaxed);
            Ok::<_, io::Error>(answer)
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), handler).await?;
    Ok(())
}

impl Counts {
    fn request(&self, request: &Request<Incoming>) {
        let count = match *request.method() {
            Method::PUT => &self.put,
            Method::HEAD => &self.head,
            Method::POST => &self.post,
            Method::DELETE => &self.delete,
            _ => &self.get,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.sent.fetch_add(request.body().size_hint().lower(), Ordering::Relaxed);
    }
}
