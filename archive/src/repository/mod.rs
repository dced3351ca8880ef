//! A repository as it lies in its store, used in place: no controller, no
//! catalogue, nothing but the objects.
//!
//! A repository exists once `repo.json` does; it is written last by
//! [`Repository::init`] and first read by [`Repository::open`]. Everything
//! else is found by listing. What cannot be read is set apart and named, never
//! in the way of what can: a damaged snapshot object hides no other snapshot,
//! and a damaged pack none of the frames in others.
//!
//! The controller makes and opens repositories by this and then keeps a
//! catalogue of its own; verification and the command line work with it alone.
//! Only [`Repository::init`] and a [`DirectSession`] write, and nothing deletes.

mod direct;
mod index;

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;

pub use crate::info::{ChunkerParameters, CryptoMode, FORMAT, InfoError, RepositoryInfo};
pub use crate::recovery::{RECOVERY_FILES, hash, is_released, text};
pub(crate) use direct::Changes;
pub use direct::{CommitError, DirectSession};
use index::ListedPack;
pub use index::{BrokenPack, BrokenPackError, Index, PackFacts};

use crate::ids::{PackId, RepositoryId, SnapshotId};
use crate::keys::{ObjectKey, Prefix};
use crate::pack::{self, FOOTER_LEN, TableRead};
use crate::pack_io::{PackEntry, PackSource};
use crate::salvage::walk_frames;
use crate::snapshot::{self, Names, SnapshotBody, SnapshotError, SnapshotHeader};
use crate::store::{Listed, Store, StoreError};

/// Requests under way at once.
const CONCURRENCY: usize = 16;
/// What is read of a pack's end in the hope that its table is in it.
const TAIL_BYTES: u64 = 64 << 10;

/// What a new repository is to be.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The controller that may write and delete.
    pub owner: String,
    pub created_unix_ms: i64,
    pub crypto: CryptoMode,
}

/// A repository that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "{location} holds a repository already: `holdfast-controller rebuild` makes a controller for it; for a new one choose another bucket, prefix or directory"
    )]
    Exists { location: String },
    #[error("{location} is not empty, `{example}` lies in it: choose a prefix or directory of its own")]
    NotEmpty { location: String, example: String },
    #[error("encryption is not built yet: make the repository with crypto mode `none`")]
    Crypto,
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// A repository that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{location} holds no repository: it has no repo.json")]
    NotARepository { location: String },
    #[error("the repository at {location} cannot be used")]
    Info { location: String, source: InfoError },
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// A snapshot and what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub header: SnapshotHeader,
    pub body: SnapshotBody,
}

impl Snapshot {
    /// Whose it is: in the controller's words, if it wrote any.
    pub fn names(&self) -> Names {
        self.header.names.or_of(&self.body)
    }
}

/// An object under `snapshots/` that is no snapshot of this repository.
#[derive(Debug)]
pub struct BrokenSnapshot {
    /// The object's name.
    pub name: String,
    /// What its name says it is.
    pub id: Option<SnapshotId>,
    pub error: BrokenSnapshotError,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum BrokenSnapshotError {
    #[error("its name is none a snapshot has")]
    Name,
    #[error("it could not be read")]
    Store(#[from] StoreError),
    #[error("it is damaged")]
    Object(#[from] SnapshotError),
    #[error("it is snapshot {0}, copied or moved here")]
    Moved(SnapshotId),
    #[error("it belongs to another repository, {0}")]
    Foreign(RepositoryId),
}

/// All snapshots of a repository.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// By host, source and number.
    pub good: Vec<Snapshot>,
    pub broken: Vec<BrokenSnapshot>,
}

/// A repository opened in place. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Store,
    info: Arc<RepositoryInfo>,
}

impl Repository {
    /// Makes a repository in an empty place. One that was cut off can be
    /// repeated.
    ///
    /// # Errors
    /// If anything else lies there, or the store fails.
    pub async fn init(store: Store, options: InitOptions) -> Result<Self, InitError> {
        if options.crypto != CryptoMode::None {
            return Err(InitError::Crypto);
        }
        check_empty(&store).await?;
        let InitOptions { owner, created_unix_ms, crypto } = options;
        let info = RepositoryInfo::new(RepositoryId::generate(), owner, created_unix_ms, crypto);
        // `repo.json` last: a place where it lies has everything that it names.
        for file in RECOVERY_FILES {
            store.put(&ObjectKey::Recovery(file), text(file).as_bytes().into()).await?;
        }
        store.put(&ObjectKey::Repository, info.encode().into()).await?;
        // From here on a directory answers for this repository and no other: its disk may be
        // unmounted at any time.
        store.bind(info.id);
        Ok(Self { store, info: Arc::new(info) })
    }

    /// Opens the repository in a store.
    ///
    /// # Errors
    /// If there is none, it is damaged, or needs what this program lacks.
    pub async fn open(store: Store) -> Result<Self, OpenError> {
        let location = store.location();
        let bytes = match store.get(&ObjectKey::Repository).await {
            Err(error) if error.is_not_found() => return Err(OpenError::NotARepository { location }),
            outcome => outcome?,
        };
        let info = RepositoryInfo::decode(&bytes).map_err(|source| OpenError::Info { location, source })?;
        store.bind(info.id);
        Ok(Self { store, info: Arc::new(info) })
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn info(&self) -> &RepositoryInfo {
        &self.info
    }

    /// Every snapshot object, read and checked.
    ///
    /// # Errors
    /// If the store cannot list them. Objects that cannot be read are set apart.
    pub async fn snapshots(&self) -> Result<Snapshots, StoreError> {
        let listed = list(&self.store, Prefix::Snapshots).await?;
        let mut outcomes = stream::iter(listed)
            .map(|Listed { name, key, .. }| async move {
                let Some(ObjectKey::Snapshot(id)) = key else {
                    return Err(BrokenSnapshot { name, id: None, error: BrokenSnapshotError::Name });
                };
                self.snapshot(id).await.map_err(|error| BrokenSnapshot { name, id: Some(id), error })
            })
            .buffered(CONCURRENCY);
        let mut snapshots = Snapshots::default();
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok(snapshot) => snapshots.good.push(snapshot),
                Err(broken) => snapshots.broken.push(broken),
            }
        }
        snapshots.good.sort_by_key(|snapshot| snapshot.header.id);
        Ok(snapshots)
    }

    /// One snapshot by its id.
    ///
    /// # Errors
    /// If its object is not there, not it, or damaged.
    pub async fn snapshot(&self, id: SnapshotId) -> Result<Snapshot, BrokenSnapshotError> {
        let object = self.store.get(&ObjectKey::Snapshot(id)).await?;
        let (header, body) = snapshot::decode_object(&object)?;
        // A copy of another snapshot is not the one that this name stands for.
        if header.id != id {
            return Err(BrokenSnapshotError::Moved(header.id));
        }
        if header.repository != self.info.id {
            return Err(BrokenSnapshotError::Foreign(header.repository));
        }
        Ok(Snapshot { header, body })
    }

    /// Where every frame lies, from the ends of all packs.
    ///
    /// # Errors
    /// If the store cannot list packs. Packs whose table cannot be read are set
    /// apart; they are read whole for the frames in them.
    pub async fn load_index(&self) -> Result<Index, StoreError> {
        // A name that is no pack's is for `verify` to name; it holds nothing that could be asked
        // for.
        let listed = list(&self.store, Prefix::Packs).await?;
        let packs = listed.into_iter().filter_map(|listed| match listed.key {
            Some(ObjectKey::Pack(id)) => Some((id, listed.len)),
            _ => None,
        });
        let mut index = Index::default();
        self.read_tables(packs, &mut |id, len, read| index.take(id, len, read)).await;
        Ok(index)
    }

    /// Reads the tables of these packs, each given with its length in bytes.
    async fn read_tables(
        &self,
        packs: impl Iterator<Item = (PackId, u64)>,
        each: &mut (dyn FnMut(PackId, u64, ListedPack) + Send),
    ) {
        let mut tables = stream::iter(packs)
            .map(|(id, len)| async move { (id, len, self.read_table(id, len).await) })
            .buffer_unordered(CONCURRENCY);
        while let Some((id, len, table)) = tables.next().await {
            let read = match table {
                Ok(table) => ListedPack::Whole(table),
                Err(error) => {
                    // What is whole in it is of use without its table.
                    let bytes = self.store.get(&ObjectKey::Pack(id)).await;
                    let found = bytes.map(|bytes| walk_frames(&bytes)).unwrap_or_default();
                    ListedPack::Broken { found, error }
                }
            };
            each(id, len, read);
        }
    }

    /// The table of a pack of that length.
    ///
    /// # Errors
    /// If it cannot be read or is wrong.
    pub async fn read_table(&self, id: PackId, len: u64) -> Result<Vec<PackEntry>, BrokenPackError> {
        let key = ObjectKey::Pack(id);
        // Most tables are in the last 64 KiB. One that is longer says so itself, once its footer is
        // read.
        let (mut want, mut narrow) = (TAIL_BYTES.min(len), false);
        loop {
            let tail = match self.store.get_range(&key, len - want..len).await {
                // What lies before the table may be all that the medium has lost.
                Err(error) if error.is_at_rest() && !narrow => {
                    (want, narrow) = ((FOOTER_LEN as u64).min(len), true);
                    continue;
                }
                tail => tail?,
            };
            match pack::read_table(&tail, len)? {
                TableRead::Table(table) => return Ok(table),
                // Each round asks for more than the one before, and never for more than there is: a
                // hostile footer ends it.
                TableRead::NeedTail(more) if more > want && more <= len => want = more,
                TableRead::NeedTail(_) => return Err(pack::PackError::Length(len).into()),
            }
        }
    }

    /// A source of all frames, for reading from plain threads. Must be called
    /// within the tokio runtime that is to do the reading.
    ///
    /// # Errors
    /// If the store cannot list packs.
    pub async fn source(&self) -> Result<Arc<dyn PackSource>, StoreError> {
        Ok(Arc::new(self.session().await?))
    }

    /// [`Self::session`] over an index that was loaded before.
    pub(crate) fn session_with(&self, index: Index) -> DirectSession {
        DirectSession::new(self.clone(), index)
    }

    /// A session that can also write: for one writer alone, without a
    /// controller's protection.
    ///
    /// # Errors
    /// If the store cannot list packs.
    pub async fn session(&self) -> Result<DirectSession, StoreError> {
        Ok(DirectSession::new(self.clone(), self.load_index().await?))
    }
}

/// That nothing of anybody else lies where a repository is to be made.
async fn check_empty(store: &Store) -> Result<(), InitError> {
    // What an init that was cut off has left, or a test of the store. Anything else is
    // somebody's.
    let ours = |listed: &Listed| matches!(listed.key, Some(ObjectKey::Recovery(_) | ObjectKey::Probe(_)));
    for listed in list(store, Prefix::All).await? {
        let location = store.location();
        if listed.key == Some(ObjectKey::Repository) {
            return Err(InitError::Exists { location });
        }
        if !ours(&listed) {
            return Err(InitError::NotEmpty { location, example: listed.name });
        }
    }
    Ok(())
}

/// All objects with this prefix.
///
/// # Errors
/// If the store fails.
pub async fn list(store: &Store, prefix: Prefix) -> Result<Vec<Listed>, StoreError> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(prefix, after.as_deref()).await?;
        all.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(all),
        }
    }
}
