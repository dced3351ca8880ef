//! Engines that speak other versions of the API than the one that is here:
//! that one, behind a front that answers and refuses as they do.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use e2e::fleet::Fleet;
use e2e::{engine_api, require_engine, wait};
use serde_json::{Value, json};

use super::{HOST, source};

/// What every Engine of the tests speaks.
const REAL: u32 = 41;

/// Newest and oldest minor version of API 1 that are said and taken, and the
/// first lines of the requests since they were set.
#[derive(Debug, Default)]
struct State {
    newest: u32,
    oldest: u32,
    lines: Vec<String>,
}

/// In the place of an Engine's socket until it is dropped.
struct Front {
    socket: PathBuf,
    real: PathBuf,
    state: Arc<Mutex<State>>,
    over: Arc<AtomicBool>,
}

// === impl Front ===

impl Front {
    fn before(engine: &Path) -> Self {
        let (socket, real) = (engine.join("docker.sock"), engine.join("real.sock"));
        std::fs::rename(&socket, &real).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let front = Self { socket, real, state: Arc::default(), over: Arc::default() };
        let (state, over, real) = (front.state.clone(), front.over.clone(), front.real.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (state, real) = (state.clone(), real.clone());
                // A client that hangs up has its reasons.
                thread::spawn(move || client.and_then(|client| serve(client, &real, &state)));
            }
        });
        front
    }

    fn speak(&self, newest: u32, oldest: u32) {
        *self.state() = State { newest, oldest, lines: Vec::new() };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The versions that were asked for by path since the last change.
    fn versions(&self) -> Vec<String> {
        let lines = self.state().lines.clone();
        let path = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut versions: Vec<String> = lines
            .iter()
            .map(path)
            .filter(|path| path != "/version")
            .map(|path| path.split('/').nth(1).unwrap_or_default().to_owned())
            .collect();
        versions.sort();
        versions.dedup();
        versions
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::rename(&self.real, &self.socket);
    }
}

/// One request; the agent has a connection for each.
fn serve(mut client: UnixStream, real: &Path, state: &Mutex<State>) -> io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match client.read(&mut part)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&part[..length]),
        }
    }
    let end = head.windows(2).position(|end| end == b"\r\n").unwrap_or(head.len());
    let line = String::from_utf8_lossy(&head[..end]).into_owned();
    let (newest, oldest) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lines.push(line.clone());
        (state.newest, state.oldest)
    };
    let path = line.split(' ').nth(1).unwrap_or_default();
    if path == "/version" {
        return client.write_all(answer(200, &version(real, newest, oldest)?).as_bytes());
    }
    let asked: Option<u32> = path.strip_prefix("/v1.").and_then(|rest| rest.split('/').next()?.parse().ok());
    let refusal = match asked {
        Some(minor) if minor > newest => {
            format!("client version 1.{minor} is too new. Maximum supported API version is 1.{newest}")
        }
        Some(minor) if minor < oldest => format!(
            "client version 1.{minor} is too old. Minimum supported API version is 1.{oldest}, please upgrade your client to a newer version"
        ),
        Some(minor) => return pass_on(client, real, &line, minor, &head[end..]),
        None => "this front takes no path without a version".to_owned(),
    };
    client.write_all(answer(400, &json!({ "message": refusal })).as_bytes())
}

fn pass_on(mut client: UnixStream, real: &Path, line: &str, minor: u32, rest: &[u8]) -> io::Result<()> {
    let line = line.replacen(&format!("/v1.{minor}/"), &format!("/v1.{}/", minor.min(REAL)), 1);
    let mut engine = UnixStream::connect(real)?;
    engine.write_all(line.as_bytes())?;
    engine.write_all(rest)?;
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_engine);
        let _ = to_engine.shutdown(Shutdown::Write);
    });
    io::copy(&mut engine, &mut client)?;
    client.shutdown(Shutdown::Both)
}

fn version(real: &Path, newest: u32, oldest: u32) -> io::Result<Value> {
    let (_, body) = engine_api::request(real, "GET", "/version", None).map_err(io::Error::other)?;
    let mut version: Value = serde_json::from_slice(&body)?;
    version["ApiVersion"] = format!("1.{newest}").into();
    version["MinAPIVersion"] = format!("1.{oldest}").into();
    Ok(version)
}

fn answer(code: u16, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The same agent all along: an Engine is replaced under it.
#[test]
fn d10_every_engine_is_asked_in_a_version_it_speaks_or_refused_with_what_to_do() {
    require_engine!();
    let fleet = Fleet::start(&[HOST]);
    let engine = fleet.engine(HOST);
    engine.run_writer("writer", "data");
    let real = engine.dir().join("real.sock");
    let running = || {
        let (_, body) = engine_api::request(&real, "GET", "/v1.41/containers/writer/json", None).unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()["State"]["Running"].clone()
    };
    let front = Front::before(engine.dir());
    let mut copies = 0;
    // As the Engine here; 29.0; one later than any that is known; 20.10 to 28.
    for (newest, oldest, used) in [(41, 12, 41), (52, 44, 51), (60, 51, 51), (47, 24, 47)] {
        front.speak(newest, oldest);
        let asked = || front.versions().contains(&format!("v1.{used}"));
        wait::until_true(&format!("the Engine to be asked in 1.{used}"), 60, asked);
        // What was asked in the version of the Engine before is no matter.
        front.speak(newest, oldest);
        let job = fleet.backup(HOST, "data", "stop");
        assert_eq!(job["state"], "succeeded", "1.{oldest} to 1.{newest}: {job}");
        assert_eq!(running(), true, "1.{oldest} to 1.{newest}");
        copies += 1;
        let name = format!("copy-{copies}");
        fleet.ok(&["restore", "volume", "data@latest", "--host", HOST, "--as", &name]);
        let copy = engine.dir().join(format!("data/volumes/{name}/_data/log"));
        assert!(std::fs::read_to_string(&copy).unwrap().contains("line 1\n"), "{}", copy.display());
        assert_eq!(front.versions(), [format!("v1.{used}")], "{:?}", front.state().lines);
    }
    for (newest, oldest, words) in
        [(40, 12, "upgrade Docker to 20.10 or newer"), (60, 52, "upgrade the agent"), (39, 39, "1.39")]
    {
        front.speak(newest, oldest);
        let refused = |host: &Value| host["engine_problem"].as_str().is_some_and(|said| said.contains(words));
        let host = fleet.wait_json("the Engine to be refused", 60, &["host", "show", HOST], refused);
        assert_eq!(host["connected"], true, "{host}");
        front.speak(newest, oldest);
        let said =
            fleet.cli(&["backup", "run", "--host", HOST, "--volume", "data", "-o", "json"]).ends_with(1);
        let job: Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(
            (&job["state"], &job["error_code"]),
            (&"failed".into(), &"engine-unsupported".into()),
            "{job}"
        );
        assert!(job["error"].as_str().unwrap().contains(words), "{job}");
        assert_eq!(front.versions(), Vec::<String>::new(), "{:?}", front.state().lines);
    }
    drop(front);
    wait::until("a backup once Docker is upgraded", 60, || {
        let backup =
            ["backup", "run", "--host", HOST, "--volume", "data", "--consistency", "pause", "-o", "json"];
        let said = fleet.cli(&backup);
        if said.code == 0 { Ok(said) } else { Err(said) }
    });
    let job = fleet.backup(HOST, "data", "stop");
    assert_eq!(source(&job, "data")["ok"], true, "{job}");
    assert_eq!(engine.state("writer"), "running");
    fleet.assert_whole();
}
