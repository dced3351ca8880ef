//! One child process with its output in a file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{CliError, Result};

const STOP_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs a command to its end; its own words are the error when it fails.
    pub(super) fn run(binary: &Path, args: &[&OsStr]) -> Result<()> {
        let output = Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| CliError::io(&binary.display().to_string(), &error))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(CliError::failed(format!("{} failed: {}", name_of(binary), said.trim())))
    }

    /// Starts it in a process group of its own: Ctrl-C is for this program,
    /// which then ends its children in order.
    pub(super) fn start(binary: &Path, args: &[&OsStr], log: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| CliError::io(&log.display().to_string(), &error);
        // Both handles write at its end, and a folder that is kept keeps what earlier runs said.
        let output = File::options().create(true).append(true).open(log).map_err(failed)?;
        let child = Command::new(binary)
            .args(args)
            .stdin(Stdio::null())
            // Nothing to read: outside the group of the terminal a read of it would stop the process.
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .map_err(|error| CliError::io(&binary.display().to_string(), &error))?;
        Ok(Self { name: name_of(binary), child, log: log.to_owned() })
    }

    /// An error with its last words when it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(CliError::failed(format!("{} ended ({status}); its last words:", self.name))
                    .more(self.tail()))
            }
            Err(error) => Err(CliError::io(&self.name, &error)),
        }
    }

    /// The end of what it has written.
    pub(super) fn tail(&self) -> Vec<String> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        // One that was killed may have written half a character.
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// SIGTERM, and SIGKILL for one that does not listen.
    pub(super) fn stop(mut self) {
        // One that has ended was waited for when that was seen: its number may be another
        // process's by now.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        // An agent that ends sets its containers going again first: that is what the time is for.
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        // Until it is gone: what is started next needs its locks and its port.
        let _ = self.child.wait();
    }
}

fn name_of(binary: &Path) -> String {
    binary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
