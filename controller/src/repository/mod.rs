//! Where snapshots live: the agents' data plane, commit and deletion, and
//! what the rest of the controller asks of the repository.
//!
//! `protocol` decides, `catalog` applies inside transactions, and this folder
//! does what lies between: it talks to the store. No transaction is open
//! while a store is waited for. Nothing here is only in memory that a restart
//! would need: a commit that was cut off is a row in state `committing`, a
//! half-done deletion one in state `deleting` or `purging`.
//!
//! Called by `api` for agents and operators, by `operations` for prunes and
//! snapshots, and by `loops` for upkeep. It calls no agent and knows jobs only as
//! what grants a lease.

mod commit;
mod error;
pub mod gc;
mod head;
mod hints;
mod info;
mod lease;
pub(crate) mod read;
mod rebuild;
pub(crate) mod reference;
mod reread;
mod rewrite;
#[cfg(test)]
mod tests;
pub(crate) mod upload;
mod verify;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_archive::ids::{HostId, SnapshotId};
use holdfast_archive::keys::{ObjectKey, StateFile};
use holdfast_archive::snapshot::{SnapshotBody, decode_body};
use holdfast_archive::state::{decode_hosts, decode_policies, encode_hosts, encode_policies};
use holdfast_archive::store::Store;
use roaring::RoaringTreemap;
use tokio::sync::Semaphore;

pub use commit::Committed;
pub use error::RepositoryError;
pub use lease::{OpenedRestore, OpenedUpload};
pub use read::SnapshotSource;
pub use rebuild::Rebuilt;
pub use verify::Verified;

use crate::catalog::Catalog;
use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::clock::now_ms;
use crate::limits;
use crate::model::protocol::{self, LeaseLimits};
use crate::quota::{Quotas, Usage, day_of};
use crate::share::{Shares, Turns};

/// How long a tick is: the unit in which a running controller counts time.
pub const TICK: Duration = Duration::from_secs(10);

/// What can be set about the repository.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Between forgetting a snapshot and removing it for good.
    pub grace: Duration,
    pub leases: LeaseLimits,
    /// How long an object without a row is left alone, in ticks.
    pub orphan_ticks: u64,
    /// How long to wait before something that is not there, or damaged, is
    /// looked for once more.
    pub second_look: Duration,
    /// Packs of one host on their way through the controller at once.
    pub uploads_per_host: usize,
    /// Bytes of packs in the controller's memory, all hosts together; a
    /// quarter for one host.
    pub upload_memory_bytes: usize,
    /// What one host may add in a day.
    pub quotas: Quotas,
    /// Let hosts write straight to a store that was seen to hold them to
    /// length, content and key.
    pub direct_uploads: bool,
    pub compression_level: u32,
    pub pack_bytes: u32,
    pub upload_concurrency: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(crate::config::default_forget_grace_seconds()),
            leases: LeaseLimits {
                silent: ticks_of(86_400),
                open: ticks_of(7 * 86_400),
                resume: ticks_of(2 * 86_400),
            },
            orphan_ticks: ticks_of(86_400),
            second_look: Duration::from_secs(2),
            uploads_per_host: limits::UPLOADS_OF_HOST,
            upload_memory_bytes: limits::UPLOAD_BYTES,
            quotas: Quotas::default(),
            direct_uploads: false,
            compression_level: 3,
            pack_bytes: 32 << 20,
            upload_concurrency: 2,
        }
    }
}

const fn ticks_of(seconds: u64) -> u64 {
    seconds / TICK.as_secs()
}

/// How the repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryStatus {
    /// Empty while the repository was never reached.
    pub id: String,
    pub location: String,
    pub snapshots: u64,
    pub packs: u64,
    pub stored_bytes: u64,
    pub commit_number: u64,
    /// Why collection and deduplication are off; empty where deduplication is on.
    pub suspended: String,
    /// Why collection alone is off; empty where it is on or all is off.
    pub collection_off: String,
    /// What is to be done about either.
    pub remedy: Remedy,
    /// Why the store could not be asked; empty when it was.
    pub problem: String,
}

/// What switches on again what is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing is off.
    None,
    /// The repository has to be where it was.
    BringBack,
    /// Its `repo.json` is damaged and has to be written again.
    WriteInfo,
    /// It belongs to another controller, and one of the two has to go.
    OneController,
    /// The catalogue has to be compared with the bucket.
    Reconcile,
    /// What is missing has to be sent again, or given up.
    AcceptLoss,
}

/// Handle of the repository. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    catalog: Catalog,
    store: Store,
    settings: Settings,
    /// One writer of `state/head`, so that it never goes back.
    head: tokio::sync::Mutex<()>,
    /// One round of deletion, or one reconciliation, at a time.
    collecting: tokio::sync::Mutex<()>,
    /// Commits being driven, by commit number: one driver each, so that no
    /// PUT of a snapshot can be under way when its purge deletes the object.
    driving: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<()>>>>,
    uploads: Turns,
    upload_memory: Shares,
    /// Answers with bytes of packs, and the bytes read for hosts.
    reads: Turns,
    read_memory: Shares,
    decoders: Semaphore,
    /// Packs whose table was read from their very bytes on the way through.
    tables: Mutex<upload::Tables>,
    readable: Mutex<read::Readable>,
    direct: tokio::sync::OnceCell<bool>,
    /// The catalogue was compared with the bucket since this process began.
    compared: tokio::sync::OnceCell<()>,
    /// Why no repository was found where it should be, when it was looked for last.
    absent: Mutex<Option<String>>,
}

impl Repository {
    pub fn new(catalog: Catalog, store: Store, settings: Settings) -> Self {
        Self {
            inner: Arc::new(Inner {
                catalog,
                store,
                head: tokio::sync::Mutex::default(),
                collecting: tokio::sync::Mutex::default(),
                driving: Mutex::default(),
                uploads: Turns::new(settings.uploads_per_host),
                upload_memory: Shares::new(
                    settings.upload_memory_bytes,
                    limits::upload_bytes_of_host(settings.upload_memory_bytes),
                ),
                reads: Turns::new(limits::READ_STREAMS_OF_HOST),
                read_memory: Shares::new(limits::READ_BYTES, limits::READ_BYTES_OF_HOST),
                decoders: Semaphore::new(limits::DECODERS),
                tables: Mutex::default(),
                readable: Mutex::default(),
                direct: tokio::sync::OnceCell::new(),
                compared: tokio::sync::OnceCell::new(),
                absent: Mutex::default(),
                settings,
            }),
        }
    }

    fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Counts a tick. To be called every [`TICK`] by a running controller and
    /// by nobody else: the age of leases is counted in these.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn tick(&self) -> Result<(), RepositoryError> {
        self.catalog().advance_ticks(1).await?;
        Ok(())
    }

    /// Snapshots, newest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn list(&self, filter: &SnapshotFilter) -> Result<Vec<SnapshotRecord>, RepositoryError> {
        Ok(self.catalog().snapshots(filter).await?)
    }

    /// One snapshot, in whatever state.
    ///
    /// # Errors
    /// There is none of this id, or the catalogue fails.
    pub async fn get(&self, id: &SnapshotId) -> Result<SnapshotRecord, RepositoryError> {
        self.catalog().snapshot(id).await?.ok_or_else(|| RepositoryError::no_snapshot(id))
    }

    /// The agent's account of a snapshot.
    ///
    /// # Errors
    /// There is none of this id, it cannot be read, or the catalogue fails.
    pub async fn body(&self, id: &SnapshotId) -> Result<SnapshotBody, RepositoryError> {
        let record = self.get(id).await?;
        let bytes = self
            .catalog()
            .snapshot_body(record.commit_number)
            .await?
            .ok_or_else(|| RepositoryError::no_snapshot(id))?;
        decode_body(&bytes)
            .map_err(|error| RepositoryError::Damaged(format!("snapshot {id} in the catalogue: {error}")))
    }

    /// Holds a snapshot, so that nothing forgets it, or releases it.
    ///
    /// # Errors
    /// There is none of this id that could be held, or the catalogue fails.
    pub async fn hold(&self, id: &SnapshotId, hold: bool) -> Result<SnapshotRecord, RepositoryError> {
        if !self.catalog().hold_snapshot(id, hold).await? {
            return Err(RepositoryError::no_snapshot(id));
        }
        self.get(id).await
    }

    /// Forgets a snapshot: it is removed for good once the grace is over.
    ///
    /// # Errors
    /// There is none of this id, it is held or not committed yet, or the catalogue
    /// fails.
    pub async fn forget(&self, id: &SnapshotId) -> Result<SnapshotRecord, RepositoryError> {
        let grace = i64::try_from(self.settings().grace.as_millis()).unwrap_or(i64::MAX);
        let done = self.catalog().forget_snapshot(id, now_ms().saturating_add(grace)).await?;
        let record = self.get(id).await?;
        match (done, record.state, record.held) {
            (true, _, _) | (false, protocol::SnapshotState::Forgotten, _) => Ok(record),
            (false, _, true) => Err(RepositoryError::Held(*id)),
            (false, _, false) => {
                Err(RepositoryError::Busy(format!("snapshot {id} is {}", record.state.as_str())))
            }
        }
    }

    /// Takes a forgotten snapshot back.
    ///
    /// # Errors
    /// There is none of this id, it is being purged, the repository is suspended,
    /// or the catalogue fails.
    pub async fn undelete(&self, id: &SnapshotId) -> Result<SnapshotRecord, RepositoryError> {
        self.refuse_suspended().await?;
        let done = self.catalog().undelete_snapshot(id).await?;
        let record = self.get(id).await?;
        match (done, record.state) {
            (true, _) | (false, protocol::SnapshotState::Committed) => Ok(record),
            (false, state) => Err(RepositoryError::Busy(format!(
                "snapshot {id} is {}: it cannot be taken back",
                state.as_str()
            ))),
        }
    }

    /// What `status` shows. The store is asked once, so that a store that
    /// cannot be reached is told.
    ///
    /// # Errors
    /// The catalogue fails; a store that does is part of the answer.
    pub async fn status(&self) -> Result<RepositoryStatus, RepositoryError> {
        let counts = self.catalog().repository_counts().await?;
        // A store that was never reached is asked for everything: it may be by now.
        let asked = match self.catalog().repository().await? {
            Some(_) => self.refuse_foreign().await,
            None => self.check().await.map(|_| ()),
        };
        // It was reached: that it is another's is said by the suspension.
        let foreign = matches!(asked, Err(RepositoryError::Suspended(_)));
        let damaged = matches!(asked, Err(RepositoryError::Damaged(_)));
        let problem = asked.err().filter(|_| !foreign).map(|error| error.to_string()).unwrap_or_default();
        let row = self.catalog().repository().await?;
        let suspended = self.suspended().await?.unwrap_or_default();
        let collection_off = match &row {
            Some(row) if suspended.is_empty() => row.collection_off.clone(),
            Some(_) | None => String::new(),
        };
        // The most basic first: each of these makes those below it meaningless.
        let remedy = if locked(&self.inner.absent).is_some() {
            Remedy::BringBack
        } else if damaged {
            Remedy::WriteInfo
        } else if foreign {
            Remedy::OneController
        } else if !suspended.is_empty() || collection_off == rebuild::UNFINISHED {
            Remedy::Reconcile
        } else if !collection_off.is_empty() {
            Remedy::AcceptLoss
        } else {
            Remedy::None
        };
        Ok(RepositoryStatus {
            id: row.as_ref().map(|row| row.repository.to_string()).unwrap_or_default(),
            location: self.store().location(),
            snapshots: counts.snapshots,
            packs: counts.packs,
            stored_bytes: counts.stored_bytes,
            commit_number: row.as_ref().map_or(0, |row| row.commit_number),
            suspended,
            collection_off,
            remedy,
            problem,
        })
    }

    /// Writes what a lost controller needs besides snapshots. The content is
    /// the caller's.
    ///
    /// # Errors
    /// The repository is suspended or another controller's, or the store fails.
    pub async fn export_state(&self, hosts: &[u8], policies: &[u8]) -> Result<(), RepositoryError> {
        self.refuse_suspended().await?;
        self.refuse_foreign().await?;
        let state = |file, bytes: Vec<u8>| {
            let store = self.store().clone();
            async move { store.put(&ObjectKey::State(file), bytes.into()).await }
        };
        // Two objects, each whole by itself: who takes over reads either alone.
        state(StateFile::Hosts, encode_hosts(hosts)).await?;
        state(StateFile::Policies, encode_policies(policies)).await?;
        Ok(())
    }

    /// What [`Self::export_state`] wrote last, hosts and policies; `None` for
    /// what is not there or not whole.
    ///
    /// # Errors
    /// The store fails.
    pub async fn exported_state(&self) -> Result<[Option<Vec<u8>>; 2], RepositoryError> {
        let mut found = [None, None];
        for (at, file) in [StateFile::Hosts, StateFile::Policies].into_iter().enumerate() {
            let object = match self.store().get(&ObjectKey::State(file)).await {
                Ok(object) => object,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let content = match file {
                StateFile::Hosts => decode_hosts(&object),
                _ => decode_policies(&object),
            };
            found[at] = content.ok().map(<[u8]>::to_vec);
        }
        Ok(found)
    }

    /// Counts what a host is about to add in a day; over a quota is refused,
    /// and `status` names the host.
    pub(super) async fn charge(&self, host: HostId, add: Usage) -> Result<(), RepositoryError> {
        let (day, quotas) = (day_of(now_ms()), self.settings().quotas);
        let Some((name, quota)) = self.catalog().charge(host, day, add, &quotas).await? else {
            return Ok(());
        };
        let reason = format!("it came to its quota {name} = {quota}");
        tracing::warn!(host.id = %host, name, quota, "a host came to a quota");
        self.catalog().alarm(host, day, &reason).await?;
        Err(RepositoryError::Quota(format!(
            "this host may add no more today: {name} = {quota} in the controller's config.toml"
        )))
    }

    /// The frames a snapshot reaches, from a small cache.
    async fn frames_of(&self, commit_number: u64) -> Result<Arc<RoaringTreemap>, RepositoryError> {
        let known = locked(&self.inner.readable).get(commit_number);
        if let Some(frames) = known {
            return Ok(frames);
        }
        let frames = Arc::new(self.catalog().snapshot_frames(commit_number).await?);
        locked(&self.inner.readable).put(commit_number, frames.clone());
        Ok(frames)
    }

    /// Leases that hold their packs and snapshots, as of now.
    async fn holding(&self) -> Result<Holding, RepositoryError> {
        let now = self.catalog().repository().await?.map_or(0, |row| row.ticks);
        let limits = self.settings().leases;
        let mut holding = Holding::default();
        for lease in self.catalog().leases_since(now.saturating_sub(limits.resume)).await? {
            if !protocol::Protocol::WHOLE.lease_holds(lease.facts, now, limits) {
                continue;
            }
            holding.packs.insert(lease.number);
            if lease.facts.ended_tick.is_none() {
                holding.open.insert(lease.number);
                holding.snapshots.extend(lease.snapshot);
            }
        }
        Ok(holding)
    }
}

/// What leases hold.
#[derive(Debug, Default)]
struct Holding {
    /// Leases whose committed packs stay.
    packs: HashSet<u64>,
    /// Those that are open: their intents stay, and collection waits for them.
    open: HashSet<u64>,
    /// Commit numbers of bases and of what is being restored.
    snapshots: Vec<u64>,
}

/// None of these locks is held across anything that can panic half-way
/// through a change, so what a poisoned one holds is whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
