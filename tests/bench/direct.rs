//! Holdfast's capture and restore straight on the store, with neither
//! controller nor agent: what the archive itself costs.
//!
//! Each step is a process of its own that opens the repository and loads its
//! index from the ends of all packs, which a controller never has to. So
//! requests of this way say little; times, memory and bytes do.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use e2e::garage::Garage;
use e2e::secret;
use holdfast_archive::fs::{
    CaptureBase, CaptureOptions, CaptureProgress, CaptureRequest, RestoreOptions, RestoreProgress,
    RestoreRequest, capture, restore,
};
use holdfast_archive::ids::FrameId;
use holdfast_archive::repository::{CryptoMode, InitOptions, Repository};
use holdfast_archive::store::{Location, S3Options, Store, StoreConfig};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::measure::{Cost, run};

/// What a worker is given, in a file.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    store: StoreConfig,
    source: PathBuf,
    /// Root page and time of the snapshot before.
    base: Option<(String, i64)>,
}

pub(crate) struct Direct {
    dir: TempDir,
}

impl Direct {
    pub(crate) const PREFIX: &'static str = "direct";

    pub(crate) fn new(garage: &Garage, endpoint: &str, source: &Path) -> Result<Self> {
        let dir = TempDir::with_prefix("hfb-direct")?;
        let credentials_file = dir.path().join("credentials");
        secret::write(&credentials_file, format!("{}\n{}\n", garage.access_key, garage.secret_key));
        let store = StoreConfig {
            location: Location::S3 { bucket: garage.bucket.clone(), prefix: Self::PREFIX.to_owned() },
            s3: S3Options {
                endpoint: Some(endpoint.to_owned()),
                region: Some(Garage::REGION.to_owned()),
                credentials_file: Some(credentials_file),
                ..S3Options::default()
            },
        };
        let orders = Orders { store, source: source.to_owned(), base: None };
        fs::write(dir.path().join("orders"), serde_json::to_vec(&orders)?)?;
        Ok(Self { dir })
    }

    fn worker(&self, verb: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").arg(verb).arg(self.dir.path().join("orders"));
        Ok(command)
    }

    pub(crate) fn init(&self) -> Result<Cost> {
        Ok(run(&mut self.worker("init")?)?.0)
    }

    pub(crate) fn backup(&self) -> Result<Cost> {
        Ok(run(&mut self.worker("backup")?)?.0)
    }

    pub(crate) fn restore(&self) -> Result<(Cost, PathBuf)> {
        let target = self.dir.path().join("out");
        fs::create_dir(&target)?;
        let cost = run(self.worker("restore")?.arg(&target))?.0;
        Ok((cost, target))
    }
}

#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Work {
    Init { orders: PathBuf },
    Backup { orders: PathBuf },
    Restore { orders: PathBuf, target: PathBuf },
}

/// A step, in the process that is measured.
pub(crate) fn work(work: Work) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (Work::Init { orders: file } | Work::Backup { orders: file } | Work::Restore { orders: file, .. }) =
        &work;
    let orders: Orders = serde_json::from_slice(&fs::read(file)?)?;
    let store = Store::open(&orders.store)?;
    let session = match work {
        Work::Init { .. } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            let options = InitOptions {
                owner: "bench".to_owned(),
                created_unix_ms: i64::try_from(now)?,
                crypto: CryptoMode::None,
            };
            runtime.block_on(Repository::init(store, options))?;
            return Ok(());
        }
        Work::Backup { .. } | Work::Restore { .. } => runtime.block_on(async {
            let repository = Repository::open(store).await?;
            anyhow::Ok(Arc::new(repository.session().await?))
        })?,
    };
    match work {
        Work::Restore { target, .. } => {
            restore(RestoreRequest {
                root: base(&orders)?.context("nothing was backed up")?.root,
                target: File::open(target)?.into(),
                options: RestoreOptions { setuid: true, ..RestoreOptions::default() },
                source: session,
                progress: Arc::new(RestoreProgress::default()),
                cancel: Arc::default(),
            })?;
        }
        Work::Init { .. } | Work::Backup { .. } => {
            let captured = capture(CaptureRequest {
                root: File::open(&orders.source)?.into(),
                base: base(&orders)?,
                damaged: &HashSet::new(),
                options: CaptureOptions::default(),
                sink: session.clone(),
                source: session,
                progress: Arc::new(CaptureProgress::default()),
                cancel: Arc::default(),
            })?;
            let base = Some((captured.root.to_string(), captured.started_unix_ns));
            fs::write(file, serde_json::to_vec(&Orders { base, ..orders })?)?;
        }
    }
    Ok(())
}

fn base(orders: &Orders) -> Result<Option<CaptureBase>> {
    let Some((root, started_unix_ns)) = &orders.base else { return Ok(None) };
    Ok(Some(CaptureBase { root: root.parse::<FrameId>()?, started_unix_ns: *started_unix_ns }))
}
