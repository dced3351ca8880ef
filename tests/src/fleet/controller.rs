//! The controller of a fleet: its state made, lost and rebuilt, and the process
//! that runs on it.

use std::path::Path;
use std::process::Command;

use super::said::{Said, say};
use super::{Fleet, Place};
use crate::command::run;
use crate::process::Process;
use crate::{binaries, failpoints, wait};

impl Fleet {
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

    /// Has a controller that is started from now on purge what is forgotten
    /// without a period of grace.
    pub fn forget_at_once(&self) {
        let file = self.state_dir().join("config.toml");
        let config = std::fs::read_to_string(&file).expect("the controller's configuration");
        let others: Vec<&str> =
            config.lines().filter(|line| !line.starts_with("forget_grace_seconds")).collect();
        std::fs::write(&file, format!("forget_grace_seconds = 0\n{}\n", others.join("\n"))).expect("written");
    }

    pub(super) fn make_state(&self, verb: &str) -> String {
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
        let credentials = self.credentials_file();
        if let Place::S3 { access_key, secret_key, .. } = &self.place {
            crate::secret::write(&credentials, format!("{access_key}\n{secret_key}\n"));
        }
        self.place.name_to(&mut command, &self.repository_dir(), &credentials);
        command
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
    pub(super) fn is_answering(&mut self) -> bool {
        self.controller.as_mut().is_some_and(Process::is_running)
    }

    pub fn controller(&mut self) -> &mut Process {
        self.controller.as_mut().expect("the controller was started")
    }

    /// `holdfast-controller VERB` beside the one that runs.
    pub fn controller_says(&self, args: &[&str]) -> Said {
        let mut command = Command::new(binaries::path("holdfast-controller"));
        command.args(args).arg("--state-dir").arg(self.state_dir());
        say(command)
    }
}

/// A binary, by way of a command that becomes it.
pub(super) fn under(wrapper: &[String], binary: &str) -> Command {
    let binary = binaries::path(binary);
    let Some((program, more)) = wrapper.split_first() else { return Command::new(binary) };
    let mut command = Command::new(program);
    command.args(more).arg(binary);
    command
}
