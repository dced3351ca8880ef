//! A real S3 server: Garage, one node, in a temporary folder.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::fleet::Place;
use crate::ports::Port;
use crate::process::Process;
use crate::wait;

/// Version that `tests/tools/install-garage` builds into the user's cache.
pub const VERSION: &str = "2.5.0";

/// The built server, or what to do to have it.
///
/// # Errors
/// It is not built; the error says how.
pub fn binary() -> Result<PathBuf, String> {
    let path = crate::cache::folder()?.join(format!("garage-{VERSION}/bin/garage"));
    path.exists()
        .then_some(path)
        .ok_or_else(|| "Garage is not built; run tests/tools/install-garage".to_owned())
}

/// A running server with one bucket.
pub struct Garage {
    server: Option<Process>,
    binary: PathBuf,
    dir: TempDir,
    pub endpoint: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
    /// For its peers, for S3 and for its administrator.
    _ports: [Port; 3],
}

impl Garage {
    pub const REGION: &'static str = "garage";

    pub fn start(binary: PathBuf) -> Self {
        let dir = TempDir::with_prefix("hfg").expect("temporary folder");
        let ports = [(); 3].map(|()| Port::reserve());
        let [rpc, s3, admin] = ports.each_ref().map(Port::number);
        let hex = |length: usize| {
            (0..length).map(|_| format!("{:x}", rand::random_range(0..16u8))).collect::<String>()
        };
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "metadata_dir = \"{}\"\ndata_dir = \"{}\"\ndb_engine = \"sqlite\"\nmetadata_fsync = false\n\
             replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_secret = \"{}\"\n[s3_api]\ns3_region = \"{}\"\napi_bind_addr = \"127.0.0.1:{s3}\"\n\
             root_domain = \".s3.garage.localhost\"\n[admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\nadmin_token = \"x\"\n",
            at("meta"),
            at("data"),
            hex(64),
            Self::REGION,
        );
        std::fs::write(dir.path().join("garage.toml"), config).expect("written");
        let mut garage = Self {
            server: None,
            binary,
            dir,
            endpoint: format!("http://127.0.0.1:{s3}"),
            bucket: "holdfast".to_owned(),
            access_key: format!("GK{}", hex(24)),
            secret_key: hex(64),
            _ports: ports,
        };
        garage.start_server();
        wait::until("Garage", 30, || {
            let answer =
                Command::new("curl").args(["-sf", &format!("http://127.0.0.1:{admin}/health")]).status();
            answer.is_ok_and(|status| status.success()).then_some(()).ok_or("not healthy")
        });
        garage
    }

    fn start_server(&mut self) {
        let mut command = Command::new(&self.binary);
        command.args(["server", "--single-node", "--default-bucket"]);
        command.env("GARAGE_CONFIG_FILE", self.dir.path().join("garage.toml"));
        command.env("GARAGE_DEFAULT_BUCKET", &self.bucket);
        command.env("GARAGE_DEFAULT_ACCESS_KEY", &self.access_key);
        command.env("GARAGE_DEFAULT_SECRET_KEY", &self.secret_key);
        command.env("RUST_LOG", "garage=warn");
        self.server = Some(Process::start("garage", &command, &self.dir.path().join("garage.log")));
    }

    /// For a fleet whose repository is to lie here.
    pub fn place(&self) -> Place {
        Place::S3 {
            endpoint: self.endpoint.clone(),
            bucket: self.bucket.clone(),
            region: Self::REGION.to_owned(),
            access_key: self.access_key.clone(),
            secret_key: self.secret_key.clone(),
        }
    }

    /// Cuts the store off, as a crash of it would.
    pub fn kill(&mut self) {
        if let Some(server) = &mut self.server {
            server.kill();
        }
    }

    /// Starts it again with what it had stored.
    pub fn restart(&mut self) {
        self.kill();
        self.start_server();
    }
}
