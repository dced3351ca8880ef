//! Records of upgrades on disk: one file each, replaced by a rename, readable by
//! root alone because it holds the container's environment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use holdfast_proto::ids::JobId;

use crate::durable;

use super::{Record, VERSION};

/// Upgrades that are over and are still listed.
const KEPT: usize = 100;

#[derive(Debug, thiserror::Error)]
#[error("the record of an upgrade cannot be {action} at {}", .path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The records of one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the records below `state_dir`, made if there are none.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join("upgrades");
        let made = fs::create_dir_all(&dir).and_then(|()| File::open(state_dir)?.sync_all());
        made.map_err(|source| StoreError { action: "made", path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    /// Returns once the record is on disk. Blocks on the disk; on an error
    /// what it announces must not be done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.path(record.job);
        let bytes = serde_json::to_vec(record).expect("a record has only strings, numbers and maps of them");
        durable::replace(&path, durable::OWNER_ONLY, &bytes).map_err(|source| StoreError {
            action: "written",
            path,
            source,
        })
    }

    /// One record as it is on disk now. Blocks on the disk.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(crate) fn read(&self, job: JobId) -> Result<Record, StoreError> {
        let path = self.path(job);
        let read = || Ok(serde_json::from_slice(&fs::read(&path)?)?);
        read().map_err(|source| StoreError { action: "read", path: path.clone(), source })
    }

    /// Takes the one lock under which a helper works; none while another
    /// process has it. The kernel drops it with its holder.
    ///
    /// # Errors
    /// When there can be no lock.
    pub(crate) fn lock(&self, job: JobId) -> Result<Option<File>, StoreError> {
        let path = self.lock_path(job);
        let take = || {
            let file = durable::lock_file(&path)?;
            Ok(durable::try_lock(&file)?.then_some(file))
        };
        take().map_err(|source| StoreError { action: "locked", path: path.clone(), source })
    }

    /// Removes the lock of an upgrade that has no helper any more.
    pub(crate) fn forget_lock(&self, job: JobId) {
        // An empty file that stays does no harm.
        drop(fs::remove_file(self.lock_path(job)));
    }

    /// Every record that can be read, oldest first. One of a newer agent, or a
    /// damaged one, is left where it is, and said.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub(crate) fn load(&self) -> Result<BTreeMap<JobId, Record>, StoreError> {
        let failed = |source| StoreError { action: "listed", path: self.dir.clone(), source };
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = fs::read(&path).map_err(|source| StoreError {
                action: "read",
                path: path.clone(),
                source,
            })?;
            match serde_json::from_slice::<Record>(&read) {
                Ok(record) if record.version > VERSION => tracing::error!(
                    path = %path.display(), record.version,
                    "the record of an upgrade is of a newer agent: run that one, which goes on with it"
                ),
                Ok(record) if !record.members.is_empty() => {
                    records.insert(record.job, record);
                }
                Ok(_) => {
                    tracing::error!(path = %path.display(), "the record of an upgrade names no container")
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of an upgrade cannot be read");
                }
            }
        }
        Ok(records)
    }

    /// Removes the oldest records of upgrades that are over, but for the last
    /// hundred; gives the ids of those that went.
    pub(crate) fn forget_old(&self, records: &BTreeMap<JobId, Record>) -> Vec<JobId> {
        let over: Vec<JobId> =
            records.values().filter(|record| record.is_over()).map(|record| record.job).collect();
        let gone: Vec<JobId> = over[..over.len().saturating_sub(KEPT)].to_vec();
        for job in &gone {
            // One that stays is tried again the next time.
            drop(fs::remove_file(self.path(*job)));
        }
        gone
    }

    fn lock_path(&self, job: JobId) -> PathBuf {
        self.path(job).with_extension("lock")
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.dir.join(format!("{job}.json"))
    }
}
