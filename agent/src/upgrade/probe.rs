//! Asks a running container one question.
//!
//! Ports are asked from inside the container's own network namespace, so no
//! published port is needed and nothing on the way can answer in its place. A
//! thread enters the namespace, connects and ends: a socket stays in the
//! namespace it was made in, the thread's is never used again.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::engine::Engine;

use super::record::Probe;

/// The longest one question may take.
const LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Says what showed that it is well, or what it answered instead.
pub(super) async fn ask(engine: &Engine, id: &str, probe: &Probe) -> Result<String, String> {
    let asked = async {
        match probe {
            Probe::Command(argv) => command(engine, id, argv).await,
            Probe::Tcp(port) => {
                connect(engine, id, *port).await.map(|_| format!("port {port} accepts connections"))
            }
            Probe::Http { port, path } => {
                let stream = connect(engine, id, *port).await?;
                get(stream, *port, path).await
            }
        }
    };
    tokio::time::timeout(LIMIT, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
}

async fn command(engine: &Engine, id: &str, argv: &[String]) -> Result<String, String> {
    let shown = argv.join(" ");
    let outcome = engine.exec(id, argv, LIMIT).await.map_err(|error| error.to_string())?;
    if outcome.exit_code == 0 {
        return Ok(format!("`{shown}` succeeds in it"));
    }
    let output: String = outcome.output.trim().chars().take(200).collect();
    Err(format!("`{shown}` ended with exit code {}: {}", outcome.exit_code, output.escape_debug()))
}

async fn connect(engine: &Engine, id: &str, port: u16) -> Result<TcpStream, String> {
    let container = engine.inspect_container(id).await.map_err(|error| error.to_string())?;
    if container.pid <= 0 {
        return Err("it does not run".to_owned());
    }
    let inspected = engine.inspect_container_json(id).await.map_err(|error| error.to_string())?;
    let own = inspected["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flat_map(|networks| networks.values())
        .filter_map(|network| network["IPAddress"].as_str()?.parse().ok());
    // Most listen on every address; some only on the container's own.
    let addresses: Vec<SocketAddr> =
        std::iter::once([127, 0, 0, 1].into()).chain(own).map(|ip| SocketAddr::new(ip, port)).collect();
    let pid = container.pid;
    let (tell, told) = tokio::sync::oneshot::channel();
    // Not of the runtime's pool: its threads go on to serve others.
    let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
        drop(tell.send(connect_inside(pid, &addresses)));
    });
    thread.map_err(|error| format!("no thread could be started: {error}"))?;
    told.await.unwrap_or_else(|_| Err("the probe failed inside".to_owned()))
}

fn connect_inside(pid: i64, addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))
        .map_err(|error| format!("its network cannot be entered: {error}"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| format!("its network cannot be entered: {error}"))?;
    let mut problem = "no address to ask".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(problem)
}

async fn get(stream: TcpStream, port: u16, path: &str) -> Result<String, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    stream.set_nonblocking(true).map_err(|error| words(&error))?;
    let stream = tokio::net::TcpStream::from_std(stream).map_err(|error| words(&error))?;
    let handshake = hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(|error| words(&error))?;
    // Ends with the answer, or when the sender is dropped.
    let driving = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, format!("localhost:{port}"))
        .header(http::header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| words(&error))?;
    let answer = sender.send_request(request).await;
    driving.abort();
    let status = answer.map_err(|error| words(&error))?.status();
    if status.as_u16() < 400 {
        return Ok(format!("GET {path} at port {port} answers {}", status.as_u16()));
    }
    Err(format!("GET {path} at port {port} answered {}", status.as_u16()))
}
