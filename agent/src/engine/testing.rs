//! Objects on the Engine of this machine for tests: uniquely named, labelled,
//! removed again. Where no Engine answers, such tests say so and end.
//!
//! A test that is ended by force removes nothing. Each holds a lock as long as
//! it runs, so that a later one can tell what is nobody's and remove it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_proto::ids::JobId;
use http::Method;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{CHANGE_LIMIT, Engine, VolumeName};

pub(crate) const SOCKET: &str = "/var/run/docker.sock";

/// What every name begins with.
const FAMILY: &str = "hf-unit-";

/// How many random letters follow: process ids come again, on a machine that
/// is kept.
const RANDOM: usize = 12;

/// One folder for all tests of this machine, wherever their own files are.
const LOCKS: &str = "/tmp/holdfast-test-scenes";

/// How often what others left behind is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// Everything one test makes, under one prefix.
pub(crate) struct Scene {
    pub(crate) engine: Engine,
    prefix: String,
    image: OnceLock<String>,
    /// Held as long as the test runs; its file goes with the scene.
    alive: File,
}

impl Scene {
    /// None where there is no Engine to test against.
    pub(crate) async fn open() -> Option<Self> {
        let engine = Engine::open(Path::new(SOCKET));
        if let Err(error) = engine.info().await {
            support::record::skipped(&error.to_string());
            return None;
        }
        sweep();
        Some(Self::new(engine))
    }

    fn new(engine: Engine) -> Self {
        let id = JobId::generate().to_string().to_lowercase();
        let prefix = format!("{FAMILY}{}", &id[id.len() - RANDOM..]);
        let alive = lock(&prefix).expect("a name that no other test has");
        Self { engine, prefix, image: OnceLock::new(), alive }
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
        let first = self.prefix.bytes().fold(0, |sum, byte| (sum * 31 + u32::from(byte)) % 128);
        for step in 0..128 {
            let octets = format!("10.{}.{index}", 64 + (first + step * 37) % 128);
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
        remove_all(&self.prefix);
        drop(fs::remove_file(Path::new(LOCKS).join(&self.prefix)));
    }
}

/// Removes all that was made under a prefix.
fn remove_all(prefix: &str) {
    let filter = format!("name={prefix}-");
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
    for repository in [prefix.to_owned(), format!("{prefix}-*")] {
        let filter = format!("reference={repository}");
        for image in listed(&["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &filter]) {
            quietly(Command::new("docker").args(["image", "rm", "-f", &image]));
        }
    }
    for path in temporary().filter(|path| file_name(path).starts_with(&format!("{prefix}-"))) {
        drop(fs::remove_dir_all(path));
    }
}

/// The lock of that name, unless another test has it. It is free again when
/// its holder is gone, however it ended.
fn lock(name: &str) -> Option<File> {
    fs::create_dir_all(LOCKS).expect("a folder for locks");
    let file = File::options().create(true).truncate(false).write(true).open(Path::new(LOCKS).join(name));
    let file = file.expect("a file to lock");
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// Now and then: removes what tests left behind that were ended by force.
fn sweep() {
    let Some(turn) = lock("sweep") else { return };
    let last = turn.metadata().and_then(|meta| meta.modified()).ok();
    let recent = last.and_then(|at| at.elapsed().ok()).is_some_and(|since| since < SWEEP_EVERY);
    if recent && turn.metadata().is_ok_and(|meta| meta.len() > 0) {
        return;
    }
    sweep_all();
    drop(fs::write(Path::new(LOCKS).join("sweep"), "swept"));
}

fn sweep_all() {
    for prefix in prefixes() {
        let Some(_nobodys) = lock(&prefix) else { continue };
        remove_all(&prefix);
        drop(fs::remove_file(Path::new(LOCKS).join(&prefix)));
    }
}

/// Prefixes of all there is on this machine.
fn prefixes() -> BTreeSet<String> {
    let name = format!("name={FAMILY}");
    let mut names = listed(&["ps", "-a", "--filter", &name, "--format", "{{.Names}}"]);
    names.extend(listed(&["volume", "ls", "-q", "--filter", &name]));
    names.extend(listed(&["network", "ls", "--filter", &name, "--format", "{{.Name}}"]));
    names.extend(listed(&["images", "--format", "{{.Repository}}"]));
    names.extend(temporary().map(|path| file_name(&path)));
    names.iter().filter_map(|name| prefix_of(name)).collect()
}

/// Nothing for names that are not of this family.
fn prefix_of(name: &str) -> Option<String> {
    let (random, end) = name.strip_prefix(FAMILY)?.split_at_checked(RANDOM)?;
    let ours = random.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (ours && (end.is_empty() || end.starts_with('-'))).then(|| format!("{FAMILY}{random}"))
}

fn temporary() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten();
    entries.flatten().map(|entry| entry.path())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn listed(arguments: &[&str]) -> Vec<String> {
    let output =
        Command::new("docker").args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).split_whitespace().map(str::to_owned).collect()
}

fn quietly(command: &mut Command) {
    drop(command.stdout(Stdio::null()).stderr(Stdio::null()).status());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_family_have_a_prefix() {
        let whole = Some("hf-unit-0123456789ab".to_owned());
        assert_eq!(prefix_of("hf-unit-0123456789ab-data"), whole);
        assert_eq!(prefix_of("hf-unit-0123456789ab"), whole);
        for other in
            ["hf-unit-", "hf-unit-4711-0-data", "hf-unit-0123456789abc", "my-hf-unit-0123456789ab-x", "db"]
        {
            assert_eq!(prefix_of(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn what_a_dead_test_left_is_swept_and_what_a_live_one_has_is_not() {
        let Some(live) = Scene::open().await else { return };
        let live_name = live.run_sleeper("live", &["-v", &format!("{}:/data", live.name("data"))]).await;
        let dead = Scene::new(live.engine.clone());
        let (name, volume, directory) = (dead.name("dead"), dead.name("data"), dead.directory("files"));
        dead.run_sleeper("dead", &["-v", &format!("{volume}:/data")]).await;
        // As by SIGKILL: nothing is removed, and the lock is free.
        let prefix = dead.prefix.clone();
        flock(&dead.alive, FlockOperation::Unlock).unwrap();
        std::mem::forget(dead);

        sweep_all();
        let containers = listed(&["ps", "-a", "--format", "{{.Names}}"]);
        assert!(!containers.contains(&name), "{containers:?}");
        assert!(containers.contains(&live_name), "{containers:?}");
        let volumes = listed(&["volume", "ls", "-q"]);
        assert!(!volumes.contains(&volume) && volumes.contains(&live.name("data")), "{volumes:?}");
        let images = listed(&["images", "--format", "{{.Repository}}"]);
        assert!(!images.contains(&prefix), "{images:?}");
        assert!(!directory.exists());
    }
}
