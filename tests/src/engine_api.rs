//! Requests to an Engine's socket. They cost a fraction of what starting the
//! `docker` program does, and waits ask forty times a second.

use std::path::Path;

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Sends one request over a connection of its own: the status code and the
/// body. A `body` is sent as JSON. May be called within a runtime.
///
/// # Errors
/// Nobody listens at the socket, or what answers does not speak HTTP.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>)> {
    let of_its_own = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(exchange(socket, method, path, body))
    };
    // A runtime cannot be entered on a thread that drives another.
    std::thread::scope(|scope| scope.spawn(of_its_own).join().expect("no panic in there"))
}

async fn exchange(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>)> {
    let stream = UnixStream::connect(socket).await.context("no Engine listens")?;
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "engine")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body))?;
    let answer = sender.send_request(request).await?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((code, body.to_vec()))
}
