//! restic, as found on the machine, with a cache of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use e2e::garage::Garage;
use tempfile::TempDir;

use crate::measure::{Cost, run};

pub(crate) struct Restic {
    source: PathBuf,
    repository: String,
    access_key: String,
    secret_key: String,
    dir: TempDir,
}

impl Restic {
    pub(crate) const PREFIX: &'static str = "restic";

    pub(crate) fn new(garage: &Garage, endpoint: &str, source: &Path) -> Result<Self> {
        Ok(Self {
            source: source.to_owned(),
            repository: format!("s3:{endpoint}/{}/{}", garage.bucket, Self::PREFIX),
            access_key: garage.access_key.clone(),
            secret_key: garage.secret_key.clone(),
            dir: TempDir::with_prefix("hfb-restic")?,
        })
    }

    pub(crate) fn version() -> Result<String> {
        let output = Command::new("restic").arg("version").output().context("restic is not installed")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("restic");
        command.arg("-q").arg("-r").arg(&self.repository);
        command.arg("--cache-dir").arg(self.dir.path().join("cache"));
        command.env("AWS_ACCESS_KEY_ID", &self.access_key).env("AWS_SECRET_ACCESS_KEY", &self.secret_key);
        command.env("AWS_DEFAULT_REGION", Garage::REGION).env("RESTIC_PASSWORD", "benchmark");
        command
    }

    pub(crate) fn init(&self) -> Result<Cost> {
        Ok(run(self.command().arg("init"))?.0)
    }

    pub(crate) fn backup(&self) -> Result<Cost> {
        Ok(run(self.command().args(["backup", "--host", "h"]).arg(&self.source))?.0)
    }

    /// The tree it restored; restic makes the whole path below the target.
    pub(crate) fn restore(&self) -> Result<(Cost, PathBuf)> {
        let target = self.dir.path().join("out");
        let cost = run(self.command().args(["restore", "latest", "--target"]).arg(&target))?.0;
        let tree = target.join(self.source.strip_prefix("/")?);
        Ok((cost, tree))
    }

    pub(crate) fn one_file(&self, path: &Path) -> Result<(Cost, usize)> {
        let (cost, text) = run(self.command().args(["dump", "latest"]).arg(self.source.join(path)))?;
        Ok((cost, text.len()))
    }
}
