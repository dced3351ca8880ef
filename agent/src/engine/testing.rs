//! Objects on the Engine of this machine for tests: uniquely named, labelled,
//! removed again. Where no Engine answers, such tests say so and end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::{CHANGE_LIMIT, Engine, VolumeName};

pub(crate) const SOCKET: &str = "/var/run/docker.sock";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Everything one test makes, under one prefix.
pub(crate) struct Scene {
    pub(crate) engine: Engine,
    prefix: String,
    image: OnceLock<String>,
}

impl Scene {
    /// None where there is no Engine to test against.
    pub(crate) async fn open() -> Option<Self> {
        let engine = Engine::open(Path::new(SOCKET));
        if let Err(error) = engine.info().await {
            crate::record::skipped(&error.to_string());
            return None;
        }
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("hf-unit-{}-{number}", std::process::id());
        Some(Self { engine, prefix, image: OnceLock::new() })
    }

    /// A name no other test uses.
    pub(crate) fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    pub(crate) fn volume_name(&self, suffix: &str) -> VolumeName {
        self.name(suffix).parse().expect("a plain name")
    }

    /// Label that only this test's objects carry.
    pub(crate) fn label(&self) -> String {
        self.prefix.clone()
    }

    /// An image with a static shell.
    pub(crate) async fn image(&self) -> String {
        if let Some(image) = self.image.get() {
            return image.clone();
        }
        let mut root = tar::Builder::new(Vec::new());
        root.append_path_with_name("/bin/busybox", "bin/busybox").expect("busybox-static is installed");
        let root = Bytes::from(root.into_inner().expect("writes to memory"));
        self.engine.import_image(&self.prefix, "1", root, &["ENV PATH=/bin"]).await.expect("an image");
        let image = format!("{}:1", self.prefix);
        self.image.get_or_init(|| image).clone()
    }

    /// Runs `docker` with the test's socket; its output is returned.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .args(["-H", "unix:///var/run/docker.sock"])
            .args(arguments)
            .output()
            .expect("the docker client is installed");
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a container that sleeps, with further arguments of `docker run`.
    pub(crate) async fn run_sleeper(&self, suffix: &str, arguments: &[&str]) -> String {
        let (name, image) = (self.name(suffix), self.image().await);
        let label = format!("{}=1", self.label());
        let mut all = vec!["run", "-d", "--name", &name, "--label", &label, "--network", "none"];
        all.extend(arguments);
        all.extend([image.as_str(), "/bin/busybox", "sleep", "86400"]);
        self.docker(&all);
        name
    }

    /// The same image with other settings, which are those of `Config`.
    pub(crate) async fn image_with(&self, suffix: &str, config: &Value) -> String {
        let (base, name) = (self.image().await, self.name(suffix));
        let body = json!({ "Image": base, "Cmd": ["/bin/busybox"], "HostConfig": { "NetworkMode": "none" } });
        let made = self.engine.create_container_json(&name, None, &body).await.expect("a container");
        let path = format!("/commit?container={}&repo={name}&tag=1", made.id);
        let committed = self.engine.ask("commit", CHANGE_LIMIT, Method::POST, path, Some(config)).await;
        let _: Value = committed.expect("an image");
        self.engine.remove_container(&made.id).await.expect("it goes");
        format!("{name}:1")
    }

    /// Makes a network and returns its name and the first three octets of its
    /// addresses, which differ between tests that run at the same time.
    pub(crate) fn network(&self, suffix: &str, index: u8) -> (String, String) {
        let name = self.name(suffix);
        for step in 0..128 {
            let octets = format!("10.{}.{index}", 64 + (std::process::id() + step * 37) % 128);
            let subnet = format!("{octets}.0/24");
            let mut create = Command::new("docker");
            create.args(["network", "create", "--subnet", &subnet, &name]);
            let output = create.output().expect("docker runs");
            if output.status.success() {
                return (name, octets);
            }
            // Another test, or the machine itself, may be there.
            let problem = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(problem.contains("overlaps"), "{problem}");
        }
        panic!("no block of addresses is free for {name}")
    }

    /// An empty directory that goes with the test.
    pub(crate) fn directory(&self, suffix: &str) -> PathBuf {
        let path = std::env::temp_dir().join(self.name(suffix));
        fs::create_dir_all(&path).expect("a temporary directory");
        path
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let filter = format!("name={}-", self.prefix);
        let containers = listed(&["ps", "-aq", "--filter", &filter]);
        // Those without a name of their own go with their container, unless it
        // was made with them.
        let mounted = "{{range .Mounts}}{{.Name}} {{end}}";
        let volumes: Vec<String> =
            containers.iter().flat_map(|id| listed(&["inspect", "--format", mounted, id])).collect();
        for id in containers {
            quietly(Command::new("docker").args(["rm", "-fv", &id]));
        }
        for volume in volumes.iter().filter(|volume| volume.len() == 64) {
            quietly(Command::new("docker").args(["volume", "rm", volume]));
        }
        for volume in listed(&["volume", "ls", "-q", "--filter", &filter]) {
            // Holders of a test that panicked have names of their own.
            for id in listed(&["ps", "-aq", "--filter", &format!("volume={volume}")]) {
                quietly(Command::new("docker").args(["rm", "-f", &id]));
            }
            quietly(Command::new("docker").args(["volume", "rm", "-f", &volume]));
        }
        for network in listed(&["network", "ls", "-q", "--filter", &filter]) {
            quietly(Command::new("docker").args(["network", "rm", &network]));
        }
        for repository in [self.prefix.clone(), format!("{}-*", self.prefix)] {
            let filter = format!("reference={repository}");
            for image in listed(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &filter]) {
                quietly(Command::new("docker").args(["image", "rm", "-f", &image]));
            }
        }
        let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("{}-", self.prefix)) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
    }
}

fn listed(arguments: &[&str]) -> Vec<String> {
    let output =
        Command::new("docker").args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).split_whitespace().map(str::to_owned).collect()
}

fn quietly(command: &mut Command) {
    drop(command.stdout(Stdio::null()).stderr(Stdio::null()).status());
}
