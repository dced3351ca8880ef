//! A fleet: one controller, and an agent beside each private Engine, as the
//! processes an operator would start, driven through the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::command::run;
use crate::docker::Engine;
use crate::order::Leaves;
use crate::ports::Port;
use crate::process::Process;
use crate::{binaries, failpoints, invariant, wait};

/// How a command ends that found damage.
const DAMAGED: i32 = 4;

/// Where the repository lies.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory of the fleet's own.
    Directory,
    S3 {
        endpoint: String,
        bucket: String,
        region: String,
        access_key: String,
        secret_key: String,
    },
}

/// What a command of `holdfast` said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// One host: an Engine and its agent.
pub struct Host {
    pub name: String,
    pub engine: Engine,
    dir: PathBuf,
    agent: Option<Process>,
}

/// Taken down, with everything in it, when dropped. What has to be in order at
/// the end of any test is looked at before that.
pub struct Fleet {
    controller: Option<Process>,
    port: Port,
    place: Place,
    /// What hosts that join allow besides backup, restore and one directory.
    rights: Vec<String>,
    hosts: Vec<Host>,
    pub(crate) leaves: Leaves,
    dir: TempDir,
}

// === impl Said ===

impl Said {
    /// Panics unless it ended with `code`.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless standard error holds `text`.
    #[track_caller]
    pub fn complains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        self
    }

    /// What it printed as JSON.
    ///
    /// # Errors
    /// All it said, unless it succeeded with JSON.
    pub fn json(self) -> Result<Value, Self> {
        match serde_json::from_str(&self.stdout) {
            Ok(value) if self.code == 0 => Ok(value),
            _ => Err(self),
        }
    }
}

// === impl Host ===

impl Host {
    pub fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// A directory that this host's own file allows.
    pub fn allowed_dir(&self) -> PathBuf {
        self.dir.join("allowed")
    }

    /// `holdfast-agent join`; what it said is returned.
    fn join(&self, token: &str, rights: &[String]) -> String {
        std::fs::create_dir_all(self.allowed_dir()).expect("allowed directory");
        let file = self.dir.join("join.token");
        crate::secret::write(&file, token);
        let mut allow = format!("backup,restore,{}", self.allowed_dir().display());
        for right in rights {
            allow.push(',');
            allow.push_str(right);
        }
        let mut command = Command::new(binaries::path("holdfast-agent"));
        command.arg("join").arg(&file).arg("--state-dir").arg(self.state_dir()).args(["--allow", &allow]);
        run(&mut command)
    }

    /// Starts the agent, with a fail point if one is named.
    pub fn start_agent(&mut self, failpoint: Option<&str>) {
        self.start_agent_with(Command::new(binaries::path("holdfast-agent")), failpoint);
    }

    fn start_agent_with(&mut self, mut command: Command, failpoint: Option<&str>) {
        command.arg("run").arg("--state-dir").arg(self.state_dir());
        command.arg("--docker-host").arg(self.engine.host()).arg("--socket").arg(self.socket());
        command.env("HOLDFAST_LOG", "info");
        if let Some(name) = failpoint {
            command.env(failpoints::VARIABLE, name);
        }
        self.agent =
            Some(Process::start(&format!("agent of {}", self.name), &command, &self.dir.join("agent.log")));
    }

    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("the agent was started")
    }

    pub(crate) fn agent_runs(&mut self) -> bool {
        self.agent.as_mut().is_some_and(Process::is_running)
    }

    /// `holdfast-agent VERB` beside the agent that runs.
    pub fn agent_says(&self, verb: &str) -> Said {
        let mut command = Command::new(binaries::path("holdfast-agent"));
        command.arg(verb).arg("--state-dir").arg(self.state_dir());
        command.arg("--docker-host").arg(self.engine.host());
        say(command)
    }

    /// `holdfast --socket ...`
    pub fn cli(&self, args: &[&str]) -> Said {
        let mut command = Command::new(binaries::path("holdfast"));
        command.arg("--socket").arg(self.socket()).args(args);
        say(command)
    }
}

// === impl Fleet ===

impl Fleet {
    /// A controller with a directory repository, and these hosts connected.
    pub fn start(names: &[&str]) -> Self {
        Self::start_on(Place::Directory, names)
    }

    /// One whose hosts allow these rights besides.
    pub fn start_allowing(rights: &[&str], names: &[&str]) -> Self {
        let mut fleet = Self::controller_only(Place::Directory);
        fleet.allow(rights);
        fleet.start_with(names);
        fleet
    }

    pub fn start_on(place: Place, names: &[&str]) -> Self {
        let mut fleet = Self::controller_only(place);
        fleet.start_with(names);
        fleet
    }

    fn start_with(&mut self, names: &[&str]) {
        self.start_controller(None);
        for name in names {
            self.add_host(name);
        }
    }

    /// Initialised, not running.
    pub fn controller_only(place: Place) -> Self {
        let dir = TempDir::with_prefix("hff").expect("temporary folder");
        let fleet = Self {
            controller: None,
            port: Port::reserve(),
            place,
            rights: Vec::new(),
            hosts: Vec::new(),
            leaves: Leaves::default(),
            dir,
        };
        fleet.make_state("init");
        fleet
    }

    /// Loses the controller with all its state; a new one is made from the
    /// repository, and runs. What it said of itself is returned.
    pub fn rebuild(&mut self) -> String {
        self.rebuild_saying().ends_with(0).stdout
    }

    /// [`Self::rebuild`], however it ends: a repository may be damaged.
    pub fn rebuild_saying(&mut self) -> Said {
        self.lose_controller();
        let said = self.try_rebuild();
        self.start_controller(None);
        said
    }

    /// Kills the controller and moves its state away.
    pub fn lose_controller(&mut self) {
        self.controller().kill();
        let lost = self.dir.path().join("lost");
        let _ = std::fs::remove_dir_all(&lost);
        std::fs::rename(self.state_dir(), lost).expect("moved away");
    }

    /// `holdfast-controller rebuild`, however it ends. Nothing is started.
    pub fn try_rebuild(&self) -> Said {
        say(self.state_command("rebuild"))
    }

    /// Makes another controller of the repository, beside the one that runs.
    /// Nothing is started.
    pub fn rebuild_elsewhere(&self, state_dir: &Path) {
        run(&mut self.state_command_in(state_dir, "rebuild"));
    }

    /// The same as a process, for it to be killed.
    pub fn start_rebuild(&self) -> Process {
        Process::start("rebuild", &self.state_command("rebuild"), &self.dir.path().join("rebuild.log"))
    }

    /// What hosts that join from now on allow besides.
    pub fn allow(&mut self, rights: &[&str]) {
        self.rights = rights.iter().map(|&right| right.to_owned()).collect();
    }

    /// Has a controller that is started from now on purge what is forgotten
    /// without a period of grace.
    pub fn forget_at_once(&self) {
        let file = self.state_dir().join("config.toml");
        let config = std::fs::read_to_string(&file).expect("the controller's configuration");
        let others: Vec<&str> =
            config.lines().filter(|line| !line.starts_with("forget_grace_seconds")).collect();
        std::fs::write(&file, format!("forget_grace_seconds = 0\n{}\n", others.join("\n"))).expect("written");
    }

    fn make_state(&self, verb: &str) -> String {
        run(&mut self.state_command(verb))
    }

    /// `holdfast-controller init` or `rebuild`.
    fn state_command(&self, verb: &str) -> Command {
        self.state_command_in(&self.state_dir(), verb)
    }

    fn state_command_in(&self, state_dir: &Path, verb: &str) -> Command {
        let mut command = Command::new(binaries::path("holdfast-controller"));
        command.arg(verb).arg("--state-dir").arg(state_dir);
        command.args(["--address", &format!("127.0.0.1:{}", self.port.number()), "--crypto", "none"]);
        match &self.place {
            Place::Directory => command.arg("--repository").arg(self.repository_dir()),
            Place::S3 { endpoint, bucket, region, access_key, secret_key } => {
                let credentials = self.credentials_file();
                crate::secret::write(&credentials, format!("{access_key}\n{secret_key}\n"));
                command.args(["--repository", &format!("s3://{bucket}/fleet"), "--s3-endpoint", endpoint]);
                command.args(["--s3-region", region]).arg("--s3-credentials-file").arg(&credentials)
            }
        };
        command
    }

    /// Where the controller listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.number()))
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("controller")
    }

    pub fn repository_dir(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    /// Packs of the repository in a directory, as they lie there, and their
    /// lengths in bytes.
    pub fn packs(&self) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.repository_dir().join("packs")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("a folder of packs") {
                let entry = entry.expect("an entry");
                let meta = entry.metadata().expect("a pack");
                if meta.is_dir() {
                    dirs.push(entry.path());
                } else {
                    found.insert(entry.path(), meta.len());
                }
            }
        }
        found
    }

    pub fn credentials_file(&self) -> PathBuf {
        self.dir.path().join("s3.credentials")
    }

    /// Starts the controller on the port it always has, with a fail point if
    /// one is named, and waits until it answers.
    pub fn start_controller(&mut self, failpoint: Option<&str>) {
        self.start_controller_with(Command::new(binaries::path("holdfast-controller")), failpoint);
    }

    /// Starts it by way of another command, which becomes it.
    pub fn start_controller_under(&mut self, wrapper: &[String]) {
        self.start_controller_with(under(wrapper, "holdfast-controller"), None);
    }

    fn start_controller_with(&mut self, mut command: Command, failpoint: Option<&str>) {
        let _ = std::fs::remove_file(self.state_dir().join("listen"));
        command.arg("run").arg("--state-dir").arg(self.state_dir());
        command.args(["--listen", &format!("127.0.0.1:{}", self.port.number())]);
        command.env("HOLDFAST_LOG", "info");
        if let Some(name) = failpoint {
            command.env(failpoints::VARIABLE, name);
        }
        self.controller =
            Some(Process::start("controller", &command, &self.dir.path().join("controller.log")));
        let listening = self.state_dir().join("listen");
        let process = self.controller();
        wait::until("the controller", 30, || {
            assert!(process.is_running(), "the controller ended\n{}", process.output());
            listening.exists().then_some(()).ok_or("not listening")
        });
    }

    /// Whether a controller runs and can be asked.
    pub(crate) fn is_answering(&mut self) -> bool {
        self.controller.as_mut().is_some_and(Process::is_running)
    }

    pub(crate) fn hosts_mut(&mut self) -> &mut [Host] {
        &mut self.hosts
    }

    pub fn controller(&mut self) -> &mut Process {
        self.controller.as_mut().expect("the controller was started")
    }

    /// A new Engine, enrolled under `name`, its agent connected.
    pub fn add_host(&mut self, name: &str) {
        self.add_host_under(name, &[]);
    }

    /// As [`Self::add_host`], its agent started by way of another command,
    /// which becomes it.
    pub fn add_host_under(&mut self, name: &str, wrapper: &[String]) {
        let host = self.new_host(name, Engine::start());
        self.enrol(host, wrapper);
    }

    /// As [`Self::add_host`], on an Engine that runs already.
    pub fn add_host_on(&mut self, name: &str, engine: Engine) {
        let host = self.new_host(name, engine);
        self.enrol(host, &[]);
    }

    fn enrol(&mut self, mut host: Host, wrapper: &[String]) {
        let name = host.name.clone();
        host.join(&self.token(&name), &self.rights);
        host.start_agent_with(under(wrapper, "holdfast-agent"), None);
        self.hosts.push(host);
        self.wait_connected(&name);
    }

    /// A new Engine and an agent that runs beside it and knows no controller.
    pub fn add_stranger(&mut self, name: &str) {
        let mut host = self.new_host(name, Engine::start());
        host.start_agent(None);
        let socket = host.socket();
        wait::until("the agent's socket", 30, || socket.exists().then_some(()).ok_or("not there"));
        self.hosts.push(host);
    }

    fn new_host(&self, name: &str, engine: Engine) -> Host {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).expect("host folder");
        Host { name: name.to_owned(), engine, dir, agent: None }
    }

    /// Enrols a host beside its agent, which is left alone. What `join` said is
    /// returned.
    pub fn join_beside(&mut self, name: &str, token: &str) -> String {
        let rights = self.rights.clone();
        self.host(name).join(token, &rights)
    }

    /// Enrols a host anew under the name it has, and starts its agent again.
    pub fn rejoin(&mut self, name: &str, token: &str) {
        let rights = self.rights.clone();
        let host = self.host(name);
        host.agent().kill();
        host.join(token, &rights);
        host.start_agent(None);
    }

    pub fn token(&self, name: &str) -> String {
        self.ok(&["host", "token", name])
    }

    pub fn wait_connected(&self, name: &str) {
        self.wait_json(&format!("host {name} to connect"), 30, &["host", "show", name], |host| {
            host["connected"] == true && host["engine_version"] != ""
        });
    }

    pub fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.iter_mut().find(|host| host.name == name).expect("a host of this fleet")
    }

    pub fn engine(&self, name: &str) -> &Engine {
        &self.hosts.iter().find(|host| host.name == name).expect("a host of this fleet").engine
    }

    /// A `holdfast` command with the administrator's token.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_as(&self.state_dir().join("admin.token"), args)
    }

    /// A `holdfast` command with the token in that file.
    pub fn command_as(&self, token_file: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("holdfast"));
        command.env_remove("HOLDFAST_SOCKET").env("XDG_CONFIG_HOME", self.dir.path().join("config"));
        command.arg("--controller").arg(format!("127.0.0.1:{}", self.port.number()));
        command.arg("--ca-file").arg(self.state_dir().join("ca.crt"));
        command.arg("--token-file").arg(token_file);
        command.args(args);
        command
    }

    pub fn cli(&self, args: &[&str]) -> Said {
        say(self.command(args))
    }

    /// What somebody of another role is told; a token of theirs is made.
    pub fn cli_as(&self, role: &str, args: &[&str]) -> Said {
        let file = self.dir.path().join(format!("{role}.token"));
        if !file.exists() {
            let path = file.to_str().expect("a plain path");
            self.controller_says(&["token", "create", role, "--role", role, "--file", path]).ends_with(0);
        }
        say(self.command_as(&file, args))
    }

    /// Standard output of a command that must succeed. Not for the probe of a
    /// wait: that takes [`Self::try_json`].
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        wait::not_in_a_probe("Fleet::ok");
        self.cli(args).ends_with(0).stdout.trim_end().to_owned()
    }

    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        wait::not_in_a_probe("Fleet::json");
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let text = self.ok(&args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}\n{text}"))
    }

    /// As [`Self::json`], for the probe of a wait.
    ///
    /// # Errors
    /// What the command said, unless it succeeded with JSON.
    pub fn try_json(&self, args: &[&str]) -> Result<Value, Said> {
        self.cli(&[args, &["-o", "json"]].concat()).json()
    }

    /// Waits until what a command shows as JSON is as `wanted`, and gives it.
    #[track_caller]
    pub fn wait_json(
        &self,
        what: &str,
        seconds: u64,
        args: &[&str],
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait::until_is(what, seconds, || self.try_json(args), wanted)
    }

    /// Backs volumes of a host up and gives the finished job.
    #[track_caller]
    pub fn backup(&self, host: &str, volume: &str, consistency: &str) -> Value {
        self.json(&["backup", "run", "--host", host, "--volume", volume, "--consistency", consistency])
    }

    /// `holdfast repo ...` on this fleet's repository, with no controller.
    pub fn repo(&self, verb: &str, args: &[&str]) -> Said {
        let mut command = Command::new(binaries::path("holdfast"));
        command.args(["repo", verb]);
        match &self.place {
            Place::Directory => command.arg("--repository").arg(self.repository_dir()),
            Place::S3 { endpoint, bucket, region, .. } => {
                command.args(["--repository", &format!("s3://{bucket}/fleet"), "--s3-endpoint", endpoint]);
                command
                    .args(["--s3-region", region])
                    .arg("--s3-credentials-file")
                    .arg(self.credentials_file())
            }
        };
        command.args(args);
        say(command)
    }

    /// Panics unless every snapshot of the repository is whole (I1).
    #[track_caller]
    pub fn assert_whole(&self) {
        let said = self.repo("verify", &[]);
        invariant!("I1", said.code != DAMAGED, "{}{}", said.stdout, said.stderr);
        said.ends_with(0);
    }

    /// Panics unless everything jobs said they stored is in the catalogue (I2),
    /// and the catalogue and the bucket have the same snapshots (I3, I10).
    /// Nothing may run meanwhile.
    #[track_caller]
    pub fn assert_acknowledged(&self, after: &str) {
        let found = self.snapshots_told_listed_and_stored().unwrap_or_else(|said| panic!("{said:?}"));
        found.assert_agreement(after);
    }

    /// What jobs, the catalogue and the bucket know of snapshots, one after the
    /// other.
    ///
    /// # Errors
    /// What the command said that failed.
    pub(crate) fn snapshots_told_listed_and_stored(&self) -> Result<Snapshots, Said> {
        let listed = ids(&self.try_json(&["snapshot", "ls", "--forgotten"])?);
        let jobs = self.try_json(&["job", "ls", "--limit", "500"])?;
        let jobs = jobs.as_array().cloned().unwrap_or_default();
        let pruned = jobs.iter().any(|job| job["kind"] == "prune");
        let sources = jobs.iter().flat_map(|job| job["sources"].as_array()).flatten();
        let told = sources.filter_map(|source| source["snapshot"].as_str()).filter(|told| !told.is_empty());
        let told = told.map(str::to_owned).collect();
        let stored = ids(&self.repo("ls", &["-o", "json"]).json()?);
        Ok(Snapshots { told, listed, stored, pruned })
    }

    /// `holdfast-controller VERB` beside the one that runs.
    pub fn controller_says(&self, args: &[&str]) -> Said {
        let mut command = Command::new(binaries::path("holdfast-controller"));
        command.args(args).arg("--state-dir").arg(self.state_dir());
        say(command)
    }

    /// Ends controller and agents, after a look at what has to be in order. The
    /// files stay until it is dropped: where they lie on a disk of their own, that
    /// is unmounted between the two.
    pub fn close(&mut self) {
        if !std::thread::panicking() {
            self.assert_in_order();
        }
        // Agents first: they would only log that the controller has gone.
        for host in &mut self.hosts {
            host.agent = None;
        }
        self.controller = None;
    }

    /// Waits until no job is queued or running.
    pub fn wait_idle(&self, seconds: u64) {
        self.wait_json("all jobs to end", seconds, &["job", "ls", "--active"], |jobs| {
            jobs.as_array().is_some_and(Vec::is_empty)
        });
    }
}

/// Ids of snapshots, as three know them.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// That jobs said they stored.
    told: BTreeSet<String>,
    /// In the catalogue.
    listed: BTreeSet<String>,
    /// In the bucket.
    stored: BTreeSet<String>,
    /// Whether a job may have removed some for good.
    pruned: bool,
}

impl Snapshots {
    /// Of those that were told of none counts as missing where they may be gone
    /// on purpose.
    pub(crate) fn but_for_pruned(mut self) -> Self {
        if self.pruned {
            self.told.clear();
        }
        self
    }

    pub(crate) fn agree(&self) -> bool {
        self.told.is_subset(&self.listed) && self.listed == self.stored
    }

    #[track_caller]
    pub(crate) fn assert_agreement(&self, after: &str) {
        let Self { told, listed, stored, pruned: _ } = self;
        let missing: Vec<_> = told.difference(listed).collect();
        invariant!("I2", missing.is_empty(), "after {after}: {missing:?} were stored and are not listed");
        invariant!("I3", listed == stored, "after {after}: listed {listed:?}, in the bucket {stored:?}");
    }
}

/// Of a list of snapshots.
fn ids(snapshots: &Value) -> BTreeSet<String> {
    let each = snapshots.as_array().expect("a list").iter();
    each.map(|snapshot| snapshot["id"].as_str().expect("an id").to_owned()).collect()
}

/// A binary, by way of a command that becomes it.
fn under(wrapper: &[String], binary: &str) -> Command {
    let binary = binaries::path(binary);
    let Some((program, more)) = wrapper.split_first() else { return Command::new(binary) };
    let mut command = Command::new(program);
    command.args(more).arg(binary);
    command
}

fn say(mut command: Command) -> Said {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.close();
    }
}
