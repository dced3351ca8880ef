//! Commands that run to their end.

use std::path::Path;
use std::process::Command;

/// Runs a command to its end; gives its standard output, or panics with all
/// output unless it succeeds. Not for the probe of a wait: that takes [`try_run`].
#[track_caller]
pub fn run(command: &mut Command) -> String {
    crate::wait::not_in_a_probe("run");
    try_run(command).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Standard output of a command.
///
/// # Errors
/// What it was, how it ended and what it wrote, unless it succeeds.
pub fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?} does not start: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(stdout.trim_end().to_owned());
    }
    Err(format!("{command:?}: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Runs a bash script in a directory and gives what it printed. Panics unless
/// every command of it succeeds.
#[track_caller]
pub fn shell(dir: &Path, script: &str) -> String {
    run(Command::new("bash").args(["-eo", "pipefail", "-c", script]).current_dir(dir))
}
