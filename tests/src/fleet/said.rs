//! What a command said, and how it ended.

use std::process::Command;

use serde_json::Value;

/// What a command of `holdfast` said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

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

/// Runs it to its end.
pub(super) fn say(mut command: Command) -> Said {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
