//! What an operator of a fleet types.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::Fleet;
use super::said::{Said, say};
use crate::{binaries, wait};

impl Fleet {
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
        self.place.name_to(&mut command, &self.repository_dir(), &self.credentials_file());
        command.args(args);
        say(command)
    }

    /// Waits until no job is queued or running.
    pub fn wait_idle(&self, seconds: u64) {
        self.wait_json("all jobs to end", seconds, &["job", "ls", "--active"], |jobs| {
            jobs.as_array().is_some_and(Vec::is_empty)
        });
    }
}
