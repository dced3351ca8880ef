//! What a command costs, as the kernel counts it.
//!
//! Times are read from the process after its end and before it is reaped;
//! children it waited for itself are among them. Peak memory is the kernel's
//! own high-water mark, read until the end: what a process takes in its very
//! last milliseconds may be missed.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Kernel ticks a second; fixed on every architecture Linux runs on here.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Cost {
    pub(crate) wall_s: f64,
    /// User and system time.
    pub(crate) cpu_s: f64,
    pub(crate) peak_rss_mib: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) controller_rss_mib: Option<f64>,
}

/// Runs the command to its end; fails with its output unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<(Cost, String)> {
    let output = tempfile::NamedTempFile::new()?;
    let errors = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(output.reopen()?).stderr(errors.reopen()?);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?} does not start"))?;
    let pid = Pid::from_child(&child);
    let mut peak_kib = 0;
    loop {
        peak_kib = peak_kib.max(status_kib(pid, "VmHWM:").unwrap_or(0));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::Pid(pid), options)?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    let wall_s = began.elapsed().as_secs_f64();
    let cpu_s = cpu_seconds(pid)?;
    let status = child.wait()?;
    let text = fs::read_to_string(output.path()).unwrap_or_default();
    if !status.success() {
        bail!("{command:?}: {status}\n{text}{}", fs::read_to_string(errors.path()).unwrap_or_default());
    }
    Ok((Cost { wall_s, cpu_s, peak_rss_mib: peak_kib as f64 / 1024.0, controller_rss_mib: None }, text))
}

/// User and system time of a process so far, with the children it waited for.
pub(crate) fn cpu_seconds(pid: Pid) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // After the name, which may hold anything: state, then 10 fields, then the four times.
    let fields = stat.rsplit_once(')').context("a stat line has a name")?.1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(4).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS)
}

/// A line of the process's status, in KiB.
pub(crate) fn status_kib(pid: Pid, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
