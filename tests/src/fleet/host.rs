//! One host of a fleet: an Engine, and the agent beside it as a process.

use std::path::PathBuf;
use std::process::Command;

use super::said::{Said, say};
use crate::command::run;
use crate::docker::Engine;
use crate::process::Process;
use crate::{binaries, failpoints};

/// One host: an Engine and its agent.
pub struct Host {
    pub name: String,
    pub engine: Engine,
    dir: PathBuf,
    agent: Option<Process>,
}

impl Host {
    /// With an Engine that runs; its agent is not started.
    pub(super) fn new(name: &str, engine: Engine, dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).expect("host folder");
        Self { name: name.to_owned(), engine, dir, agent: None }
    }

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
    pub(super) fn join(&self, token: &str, rights: &[String]) -> String {
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

    /// As [`Self::start_agent`], by way of a command that becomes it.
    pub(super) fn start_agent_with(&mut self, mut command: Command, failpoint: Option<&str>) {
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

    /// Takes the agent down, if one was started.
    pub(super) fn end_agent(&mut self) {
        self.agent = None;
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
