//! Child processes that end with the test, with their output kept for failures.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failpoints::{self, FailPoint};

/// A long-running child. Killed when dropped; its output goes to a file,
/// whose end is printed when the test is failing.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where it was told to die or to stand still.
    fail_point: Option<FailPoint>,
}

impl Process {
    /// Starts `command` with its output in `log`, in a process group of its
    /// own, told to end when the thread that started it does.
    pub fn start(name: &str, command: &Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("log file opens");
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        let mut fail_point = None;
        for (key, value) in command.get_envs() {
            if key == failpoints::VARIABLE {
                fail_point = value.and_then(|value| value.to_str()).map(FailPoint::parse);
            }
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let child = wrapped
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("log file"))
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), fail_point }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and waits until it is gone. What dies so dies at no fail point.
    pub fn kill(&mut self) -> ExitStatus {
        self.fail_point = None;
        let _ = self.child.kill();
        self.child.wait().expect("child can be waited for")
    }

    /// Waits until it has stopped itself at its fail point, one that halts.
    #[track_caller]
    pub fn wait_halted(&self, seconds: u64) {
        let halting = self.fail_point.as_ref().filter(|point| point.halts());
        let point = halting.expect("it was started with a fail point that halts");
        let stat = format!("/proc/{}/stat", self.pid().as_raw_nonzero());
        crate::wait::until(&format!("{} to stand still", self.name), seconds, || {
            let line = std::fs::read_to_string(&stat).unwrap_or_default();
            // The state follows the name, which stands in brackets.
            let state = line.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
            (state == Some("T")).then_some(()).ok_or(line)
        });
        point.record();
    }

    /// Lets it run on after that.
    pub fn run_on(&self) {
        let _ = kill_process(self.pid(), Signal::CONT);
    }

    /// SIGTERM; panics when it has not ended by itself in time.
    pub fn stop(&mut self, seconds: u64) -> ExitStatus {
        let _ = kill_process(self.pid(), Signal::TERM);
        self.ended(seconds)
    }

    /// Waits for it to end by itself. Panics when one that was started with a
    /// fail point did not die there.
    #[track_caller]
    pub fn wait(&mut self, seconds: u64) -> ExitStatus {
        let status = self.ended(seconds);
        if let Some(point) = &self.fail_point {
            point.assert_killed(status);
        }
        status
    }

    #[track_caller]
    fn ended(&mut self, seconds: u64) -> ExitStatus {
        let seconds = seconds * crate::wait::WAIT_LIMIT;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            if let Some(status) = self.child.try_wait().expect("child can be waited for") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} still runs after {seconds} s\n{}",
                self.name,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let output = self.output();
            let tail: Vec<&str> = output.lines().rev().take(80).collect();
            eprintln!("--- last output of {}", self.name);
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
