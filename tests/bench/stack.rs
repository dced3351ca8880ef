//! Holdfast as it is run: built controller, agent and command line, a Docker
//! Engine, and a volume of it as the source.
//!
//! Wall time is that of the command an operator types. CPU time is that of
//! command, agent and controller together; the Engine's is left out, it does
//! next to nothing. Peak memory is the agent's, its high-water mark being
//! reset before each step, and the controller's apart from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use e2e::fleet::{Fleet, Place};
use e2e::garage::Garage;
use rustix::process::Pid;

use crate::measure::{Cost, cpu_seconds, run, status_kib};

const HOST: &str = "bench";
const VOLUME: &str = "data";
const RESTORED: &str = "restored";

pub(crate) struct Stack {
    fleet: Fleet,
    agent: Pid,
    controller: Pid,
}

impl Stack {
    pub(crate) const PREFIX: &'static str = "fleet";

    pub(crate) fn start(garage: &Garage, endpoint: &str) -> Self {
        let place = Place::S3 {
            endpoint: endpoint.to_owned(),
            bucket: garage.bucket.clone(),
            region: Garage::REGION.to_owned(),
            access_key: garage.access_key.clone(),
            secret_key: garage.secret_key.clone(),
        };
        let mut fleet = Fleet::start_on(place, &[HOST]);
        fleet.engine(HOST).docker(["volume", "create", VOLUME]);
        let agent = fleet.host(HOST).agent().pid();
        let controller = fleet.controller().pid();
        Self { fleet, agent, controller }
    }

    /// Where the volume's data lies.
    pub(crate) fn source(&self) -> PathBuf {
        self.fleet.engine(HOST).volume_path(VOLUME)
    }

    fn step(&self, args: &[&str]) -> Result<(Cost, String)> {
        let both = [self.agent, self.controller];
        for pid in both {
            // 5 resets the high-water mark of resident memory.
            std::fs::write(format!("/proc/{}/clear_refs", pid.as_raw_nonzero()), "5")?;
        }
        let before: f64 = both.map(cpu_seconds).into_iter().sum::<Result<f64>>()?;
        let (mut cost, text) = run(&mut self.fleet.command(args))?;
        cost.cpu_s += both.map(cpu_seconds).into_iter().sum::<Result<f64>>()? - before;
        let peak = |pid| status_kib(pid, "VmHWM:").map(|kib| kib as f64 / 1024.0).context("no memory mark");
        cost.peak_rss_mib = peak(self.agent)?;
        cost.controller_rss_mib = Some(peak(self.controller)?);
        Ok((cost, text))
    }

    pub(crate) fn backup(&self) -> Result<Cost> {
        let args = ["backup", "run", "--host", HOST, "--volume", VOLUME, "--consistency", "none"];
        Ok(self.step(&args)?.0)
    }

    pub(crate) fn restore(&self) -> Result<(Cost, PathBuf)> {
        let snapshot = format!("{HOST}/{VOLUME}@latest");
        let args = ["restore", "volume", &snapshot, "--host", HOST, "--as", RESTORED];
        let cost = self.step(&args)?.0;
        Ok((cost, self.fleet.engine(HOST).volume_path(RESTORED)))
    }

    pub(crate) fn one_file(&self, path: &Path) -> Result<(Cost, usize)> {
        let snapshot = format!("{HOST}/{VOLUME}@latest");
        let path = path.to_str().context("a plain path")?;
        let (cost, text) = self.step(&["snapshot", "cat", &snapshot, path])?;
        Ok((cost, text.len()))
    }
}
