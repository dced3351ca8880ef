//! A real S3 server that installs in a minute: moto, from PyPI, in memory. It
//! stands in where Garage is not built. It does not check signatures, regions
//! or checksums, and honours conditional writes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::command::run;
use crate::gate::Gate;
use crate::process::Process;
use crate::wait;

/// Version that `tests/tools/install-moto` installs into the user's cache.
pub const VERSION: &str = "5.2.5";

/// The installed server, or what to do to have it.
///
/// # Errors
/// It is not installed; the error says how.
pub fn binary() -> Result<PathBuf, String> {
    let path = crate::cache::folder()?.join(format!("moto-{VERSION}"));
    let complete = path.join("complete").exists();
    complete
        .then(|| path.join("bin/moto_server"))
        .ok_or_else(|| "moto is not installed; run tests/tools/install-moto".to_owned())
}

/// A running server with one bucket.
pub struct Moto {
    gate: Gate,
    _server: Process,
    _dir: TempDir,
}

impl Moto {
    pub fn start(binary: PathBuf, bucket: &str) -> Self {
        let dir = TempDir::with_prefix("hfm").expect("temporary folder");
        let log = dir.path().join("moto.log");
        let mut command = Command::new(binary);
        command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1");
        let server = Process::start("moto", &command, &log);
        let address = wait::until("the address of moto", 30, || address(&server.output()));
        let gate = Gate::open(address);
        let url = format!("http://{address}/{bucket}");
        wait::until("moto", 30, || {
            let status = Command::new("curl").args(["-sf", "-o", "/dev/null", "-X", "PUT", &url]).status();
            status.is_ok_and(|status| status.success()).then_some(()).ok_or("no bucket made")
        });
        run(Command::new("curl").args(["-sf", "-o", "/dev/null", &url]));
        Self { gate, _server: server, _dir: dir }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gate.address())
    }

    pub fn cut_off(&mut self) {
        self.gate.shut();
    }

    pub fn bring_back(&mut self) {
        self.gate.reopen();
    }
}

/// From ` * Running on http://127.0.0.1:40123`.
fn address(output: &str) -> Result<SocketAddr, String> {
    let url = output.split("Running on http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    url.and_then(|url| url.parse().ok()).ok_or_else(|| output.to_owned())
}
