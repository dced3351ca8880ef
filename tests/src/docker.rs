//! Private Docker Engines: each with its own data root, socket and network
//! namespace, so that several stand for several hosts and none touches the
//! machine's own.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::command::{run, try_run};
use crate::leftovers::{self, Alive, unmount_below};
use crate::process::Process;
use crate::{engine_api, locks, wait};

/// Image every Engine starts with: a static busybox and nothing else.
pub const IMAGE: &str = "holdfast-test/base:1";

/// By how much ids on the host are above those in a container of
/// [`Engine::start_remapped`].
pub const REMAP_OFFSET: u32 = 300_000;

/// Why no private Engine can be had here, if so: tests then say so and are
/// counted as skipped by `tests/run`.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("private Docker Engines need root".to_owned());
    }
    ["dockerd", "docker", "ip", "nsenter", "setpriv", "busybox"]
        .into_iter()
        .find(|tool| which(tool).is_none())
        .map(|tool| format!("`{tool}` is not installed"))
}

fn which(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(tool))
        .find(|file| file.is_file())
}

/// A running `dockerd`, taken down with everything in it when dropped.
pub struct Engine {
    daemon: Option<Process>,
    alive: Alive,
    binds: &'static [Bind],
    dir: TempDir,
}

/// A file or folder of the Engine's own that its daemon, and nobody else, finds
/// at a place of the machine.
type Bind = (&'static str, &'static str);

const REMAPPED: [Bind; 2] = [("subids", "/etc/subuid"), ("subids", "/etc/subgid")];

/// Every daemon of a machine asks all plugins that it finds there.
const PLUGINS: [Bind; 1] = [("plugins", "/run/docker/plugins")];

impl Engine {
    /// Starts one and loads [`IMAGE`].
    pub fn start() -> Self {
        Self::start_as("{}", &[])
    }

    /// One whose containers' user and group ids are [`REMAP_OFFSET`] above what
    /// they are inside (`userns-remap`).
    pub fn start_remapped() -> Self {
        Self::start_as(r#"{"userns-remap": "nobody:nogroup"}"#, &REMAPPED)
    }

    /// One that looks for the sockets of its plugins in [`Self::plugins`] alone.
    pub fn start_with_plugins() -> Self {
        PLUGINS.iter().for_each(|(_, place)| std::fs::create_dir_all(place).expect("made"));
        Self::start_as("{}", &PLUGINS)
    }

    fn start_as(config: &str, binds: &'static [Bind]) -> Self {
        leftovers::sweep();
        let dir = TempDir::with_prefix("hfe").expect("temporary folder");
        let alive = Alive::new(dir.path());
        std::fs::write(dir.path().join("daemon.json"), config).expect("written");
        let ids = format!("nobody:{REMAP_OFFSET}:65536\nnogroup:{REMAP_OFFSET}:65536\n");
        std::fs::write(dir.path().join("subids"), ids).expect("written");
        std::fs::create_dir(dir.path().join("plugins")).expect("made");
        run(Command::new("ip").args(["netns", "add", alive.namespace()]));
        run(Command::new("ip").args(["-n", alive.namespace(), "link", "set", "lo", "up"]));
        let mut engine = Self { daemon: None, alive, binds, dir };
        engine.start_daemon();
        engine.import_base();
        engine
    }

    fn start_daemon(&mut self) {
        let at = |name: &str| self.dir.path().join(name);
        // A pid file that names a recycled pid keeps a killed daemon from starting again.
        let _ = std::fs::remove_file(at("pid"));
        let mut command = Command::new("nsenter");
        // Not `ip netns exec`: that mounts a fresh /sys, in which dockerd finds no cgroups.
        command.arg(format!("--net=/run/netns/{}", self.alive.namespace()));
        if self.binds.is_empty() {
            command.arg("dockerd");
        } else {
            let bind = |(own, place): &Bind| format!("mount --bind '{}' {place} && ", at(own).display());
            let binds: String = self.binds.iter().map(bind).collect();
            let script = format!("{binds}exec dockerd \"$@\"");
            command.args(["unshare", "--mount", "--propagation", "slave", "sh", "-c", &script, "dockerd"]);
        }
        command.arg("--config-file").arg(at("daemon.json"));
        command.arg("--data-root").arg(at("data"));
        command.arg("--exec-root").arg(at("exec"));
        command.arg("--pidfile").arg(at("pid"));
        command.arg("--host").arg(self.host());
        // Below the data root's own file system overlay2 may not work (nested overlays).
        command.args(["--storage-driver", if overlay_works(self.dir.path()) { "overlay2" } else { "vfs" }]);
        let (log, pid) = (at("dockerd.log"), at("pid"));
        // It gives its containerd 15 s and then ends: too few on a busy machine,
        // so no two tests start one at the same time.
        let _turn = locks::lock("dockerd-starts");
        let mut daemon = Process::start("dockerd", &command, &log);
        wait::until_is(
            "the private Docker Engine",
            60,
            || {
                if !daemon.is_running() && !self.has_containerd() {
                    let _ = std::fs::remove_file(&pid);
                    daemon = Process::start("dockerd", &command, &log);
                }
                self.try_api("GET", "/version", None)
            },
            |(code, _)| *code == 200,
        );
        self.daemon = Some(daemon);
    }

    fn import_base(&self) {
        let root = self.dir.path().join("image");
        std::fs::create_dir_all(root.join("bin")).expect("image root");
        let busybox = which("busybox").expect("checked by `unavailable`");
        std::fs::copy(&busybox, root.join("bin/busybox")).expect("busybox copied");
        // Not the copy: a process that another thread starts may still hold it open.
        for applet in run(Command::new(&busybox).arg("--list")).lines() {
            let _ = symlink("busybox", root.join("bin").join(applet));
        }
        let tar = self.dir.path().join("image.tar");
        run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
        self.docker([
            "import",
            "--change",
            "CMD [\"/bin/sh\"]",
            "--change",
            "ENV PATH=/bin",
            &tar.display().to_string(),
            IMAGE,
        ]);
    }

    /// `unix://...`, for `--docker-host` and `docker -H`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    /// Where one that was started for it looks for plugins.
    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// Writes the daemon's configuration and has it read that. Which keys it
    /// takes up while it runs is the Engine's matter.
    pub fn configure(&self, config: &Value) {
        std::fs::write(self.dir.path().join("daemon.json"), config.to_string()).expect("written");
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        let daemon = self.daemon.as_ref().expect("it was started");
        kill_process(daemon.pid(), signal).expect("the daemon runs");
    }

    /// Scratch space that goes with the Engine.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A `docker` command for this Engine.
    pub fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.host()]).args(args);
        command
    }

    /// Runs `docker ...`; panics unless it succeeds.
    #[track_caller]
    pub fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        run(&mut self.command(args))
    }

    /// As [`Self::docker`], for the probe of a wait.
    ///
    /// # Errors
    /// What it said, unless it succeeded.
    pub fn try_docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
        try_run(&mut self.command(args))
    }

    /// One request of the Engine's own API at version 1.41, past every client:
    /// the status code and the answer, null where there is none.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        wait::not_in_a_probe("Engine::api");
        self.try_api(method, path, body).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Self::api`], for the probe of a wait.
    ///
    /// # Errors
    /// No whole answer came. A status code that means failure is an answer.
    pub fn try_api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        let socket = self.dir.path().join("docker.sock");
        let (code, answer) = engine_api::request(&socket, method, &format!("/v1.41{path}"), body)
            .map_err(|error| format!("{method} {path}: {error:#}"))?;
        Ok((code, serde_json::from_slice(&answer).unwrap_or_default()))
    }

    /// What the Engine's API says of a container; panics where there is none.
    /// Its mounts, which the Engine lists in no order, are sorted by target.
    #[track_caller]
    pub fn inspect(&self, container: &str) -> Value {
        wait::not_in_a_probe("Engine::inspect");
        self.try_inspect(container).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Self::inspect`], for the probe of a wait.
    ///
    /// # Errors
    /// There is no such container, or the Engine does not answer.
    pub fn try_inspect(&self, container: &str) -> Result<Value, String> {
        let (code, mut answer) = self.try_api("GET", &format!("/containers/{container}/json"), None)?;
        if code != 200 {
            return Err(format!("{container}: {code} {answer}"));
        }
        if let Some(mounts) = answer["Mounts"].as_array_mut() {
            mounts.sort_by_key(|mount| mount["Destination"].to_string());
        }
        Ok(answer)
    }

    /// Whether there is one; an Engine that does not answer is no "no".
    #[track_caller]
    pub fn has_container(&self, container: &str) -> bool {
        wait::not_in_a_probe("Engine::has_container");
        self.try_has_container(container).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Self::has_container`], for the probe of a wait.
    ///
    /// # Errors
    /// The Engine does not answer, or with neither yes nor no.
    pub fn try_has_container(&self, container: &str) -> Result<bool, String> {
        self.is_there(&format!("/containers/{container}/json"))
    }

    fn is_there(&self, path: &str) -> Result<bool, String> {
        match self.try_api("GET", path, None)? {
            (200, _) => Ok(true),
            (404, _) => Ok(false),
            (code, answer) => Err(format!("{path}: {code} {answer}")),
        }
    }

    /// Builds an image from a Dockerfile and executable files beside it.
    pub fn build_image(&self, dockerfile: &str, files: &[(&str, &str)], image: &str) {
        let context = TempDir::new_in(self.dir.path()).expect("build context");
        for (name, text) in files.iter().chain(&[("Dockerfile", dockerfile)]) {
            let file = context.path().join(name);
            std::fs::write(&file, text).expect("file written");
            std::fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("mode set");
        }
        let mut command = self.command(["build", "-q", "--network", "none", "-t", image]);
        // The builder inside the Engine: the other one is a plugin that may be missing.
        run(command.arg(context.path()).env("DOCKER_BUILDKIT", "0"));
    }

    /// Where a local volume's data lies on this machine.
    #[track_caller]
    pub fn volume_path(&self, volume: &str) -> PathBuf {
        let (code, answer) = self.api("GET", &format!("/volumes/{volume}"), None);
        assert_eq!(code, 200, "{volume}: {answer}");
        answer["Mountpoint"].as_str().expect("a path").into()
    }

    /// Whether there is one; an Engine that does not answer is no "no".
    #[track_caller]
    pub fn has_volume(&self, volume: &str) -> bool {
        wait::not_in_a_probe("Engine::has_volume");
        self.try_has_volume(volume).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Self::has_volume`], for the probe of a wait.
    ///
    /// # Errors
    /// The Engine does not answer, or with neither yes nor no.
    pub fn try_has_volume(&self, volume: &str) -> Result<bool, String> {
        self.is_there(&format!("/volumes/{volume}"))
    }

    /// "running", "paused", "exited", ...
    #[track_caller]
    pub fn state(&self, container: &str) -> String {
        wait::not_in_a_probe("Engine::state");
        self.try_state(container).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// As [`Self::state`], for the probe of a wait.
    ///
    /// # Errors
    /// As [`Self::try_inspect`].
    pub fn try_state(&self, container: &str) -> Result<String, String> {
        let container = self.try_inspect(container)?;
        Ok(container["State"]["Status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a container is in that state.
    #[track_caller]
    pub fn wait_state(&self, container: &str, state: &str, seconds: u64) {
        let what = format!("container {container} to be {state}");
        wait::until_is(&what, seconds, || self.try_state(container), |seen| seen == state);
    }

    /// A container that appends a line to `/data/log` of `volume` ten times a second.
    pub fn run_writer(&self, name: &str, volume: &str) {
        let mount = format!("{volume}:/data");
        let script =
            "trap 'exit 0' TERM; i=0; while true; do i=$((i+1)); echo line $i >> /data/log; sleep 0.1; done";
        self.docker(["run", "-d", "--name", name, "-v", &mount, IMAGE, "sh", "-c", script]);
    }

    /// Kills the daemon as a crash would and starts it again.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.start_again();
    }

    /// Kills the daemon as a crash would.
    pub fn crash(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill();
        }
    }

    /// Has the daemon end as `systemctl stop docker` does.
    pub fn shut_down(&mut self) {
        self.daemon.as_mut().expect("it was started").stop(60);
    }

    /// Whether the containerd it started last still runs.
    fn has_containerd(&self) -> bool {
        let dir = self.dir.path().join("exec/containerd");
        let Ok(pid) = std::fs::read_to_string(dir.join("containerd.pid")) else { return false };
        // Another process may have its id by now.
        let command = std::fs::read_to_string(Path::new("/proc").join(pid.trim()).join("cmdline"));
        command.is_ok_and(|command| command.contains(&dir.display().to_string()))
    }

    /// Leaves all that the death of a test does: the daemon is dead, and
    /// nothing is taken down. Gives its folder and its namespace.
    pub fn abandon(mut self) -> (PathBuf, String) {
        self.crash();
        let left = (self.dir.path().to_owned(), self.alive.namespace().to_owned());
        self.alive.let_go();
        std::mem::forget(self);
        left
    }

    /// Starts it after a crash or a shutdown.
    pub fn start_again(&mut self) {
        // Its containerd is told to end by the death of its parent; a daemon
        // started before that takes it for a running one and waits in vain.
        wait::until_true("the end of the killed Engine's containerd", 20, || !self.has_containerd());
        self.start_daemon();
    }
}

/// Whether an overlay can be mounted with its layers below `dir`.
fn overlay_works(dir: &Path) -> bool {
    let at = |name: &str| dir.join(format!("overlay-{name}"));
    for name in ["lower", "upper", "work", "merged"] {
        let _ = std::fs::create_dir_all(at(name));
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        at("lower").display(),
        at("upper").display(),
        at("work").display()
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(at("merged"))
        .output()
        .is_ok_and(|output| output.status.success());
    if mounted {
        let _ = Command::new("umount").arg(at("merged")).output();
    }
    mounted
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok((200, listed)) = self.try_api("GET", "/containers/json?all=true", None) {
            let ids: Vec<&str> =
                listed.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str()).collect();
            if !ids.is_empty() {
                let _ = self.command(["rm", "-f"]).args(ids).output();
            }
        }
        if let Some(daemon) = &mut self.daemon {
            let _ = kill_process(daemon.pid(), Signal::TERM);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while daemon.is_running() && std::time::Instant::now() < deadline {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
        self.daemon = None;
        unmount_below(self.dir.path());
        let _ = Command::new("ip").args(["netns", "del", self.alive.namespace()]).output();
    }
}

/// Ends the test early, and has it counted as skipped, where no private Engine
/// can be had. A test that needs one begins with `require_engine!()`.
#[macro_export]
macro_rules! require_engine {
    () => {
        if let Some(reason) = $crate::docker::unavailable() {
            $crate::record::skipped(&reason);
            return;
        }
    };
}
