//! Frames to and from a store without anybody between.
//!
//! This is the offline way: recovery, verification, export, tests and
//! benchmarks. It takes numbers from what it lists and holds no lease, so two
//! sessions that write at once may give one number twice; a controller never
//! works this way.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{Index, Repository};
use crate::fetch::FrameFetcher;
use crate::ids::{AllocationId, FrameId, HostId, PackId, SnapshotId, SourceId};
use crate::keys::{ObjectKey, Prefix, StateFile};
use crate::manifest::{ManifestError, page_refs};
use crate::pack_io::{FrameLocation, PackIoError, PackSink, PackSource, SealedPack};
use crate::snapshot::{Names, SnapshotBody, SnapshotHeader, encode_body, encode_object};
use crate::state::{Head, StateError, decode_head, encode_head};
use crate::store::{Store, StoreError};

/// A repository to read from and write to. Its methods block and must not be
/// called on a thread of the runtime. Clones are one session.
#[derive(Clone)]
pub struct DirectSession {
    repository: Repository,
    index: Arc<RwLock<Index>>,
    runtime: Handle,
}

/// Packs that came and went since they were looked for last.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) new: HashSet<PackId>,
    pub(crate) gone: HashSet<PackId>,
    /// Frames that lay in one that is gone, and nowhere else.
    pub(crate) lost: Vec<(FrameId, PackId)>,
}

/// A snapshot that was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("the manifest cannot be read")]
    Manifest(#[from] ManifestError),
    #[error("the manifest refers to {count} frames that are not in the repository, {first} first")]
    Missing { count: usize, first: FrameId },
    #[error("state/head is damaged: rebuild it before writing")]
    Head(#[from] StateError),
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl DirectSession {
    pub(super) fn new(repository: Repository, index: Index) -> Self {
        Self { repository, index: Arc::new(RwLock::new(index)), runtime: Handle::current() }
    }

    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Makes a snapshot of a manifest whose frames are all stored.
    ///
    /// # Errors
    /// If a reference leads nowhere or the store fails; then there is no
    /// snapshot.
    pub fn commit(
        &self,
        host: HostId,
        source: SourceId,
        body: &SnapshotBody,
        created_unix_ms: i64,
    ) -> Result<SnapshotId, CommitError> {
        // Before the snapshot is written: one that refers to what is not there would be damage from
        // its first moment.
        self.check_references(body.root)?;
        self.runtime.block_on(self.write_snapshot(host, source, body, created_unix_ms))
    }

    /// Looks for packs again, for as long as others write and collect: takes in
    /// those that came, lets go of those that went. One that a listing leaves
    /// out is asked for by name before it counts as gone.
    ///
    /// # Errors
    /// If the store cannot list packs.
    pub(crate) async fn refresh(&self) -> Result<Changes, StoreError> {
        let store = self.repository.store();
        let listed = super::list(store, Prefix::Packs).await?;
        let listed: HashMap<PackId, u64> = listed
            .into_iter()
            .filter_map(|object| match object.key {
                Some(ObjectKey::Pack(id)) => Some((id, object.len)),
                _ => None,
            })
            .collect();
        let known = self.index().known();
        let gone = gone(store, &known, &listed).await?;
        let came = listed.into_iter().filter(|(pack, _)| !known.contains(pack));
        let mut tables = Vec::new();
        self.repository.read_tables(came, &mut |id, len, table| tables.push((id, len, table))).await;
        let new = tables.iter().map(|(pack, ..)| *pack).collect();
        // The lock is taken when all has been read: sessions go on locating frames meanwhile.
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let lost = index.remove(&gone);
        tables.into_iter().for_each(|(id, len, table)| index.take(id, len, table));
        Ok(Changes { new, gone, lost })
    }

    /// What is known of packs now.
    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_references(&self, root: FrameId) -> Result<(), CommitError> {
        let fetcher = FrameFetcher::new(Arc::new(self.clone()), 0);
        let mut todo = vec![root];
        let mut seen = HashSet::from([root]);
        let mut missing = Vec::new();
        while !todo.is_empty() {
            // Together: neighbours come by one request.
            let pages = std::mem::take(&mut todo);
            fetcher.get_many(&pages, &mut |_, raw| -> Result<(), ManifestError> {
                let refs = page_refs(&raw)?;
                let index = self.index();
                missing.extend(refs.data.into_iter().filter(|frame| !index.contains(frame)));
                todo.extend(refs.pages.into_iter().filter(|page| seen.insert(*page)));
                Ok(())
            })?;
        }
        match missing.first() {
            None => Ok(()),
            Some(&first) => Err(CommitError::Missing { count: missing.len(), first }),
        }
    }

    async fn write_snapshot(
        &self,
        host: HostId,
        source: SourceId,
        body: &SnapshotBody,
        created_unix_ms: i64,
    ) -> Result<SnapshotId, CommitError> {
        let store = self.repository.store();
        let mut head = match store.get(&ObjectKey::State(StateFile::Head)).await {
            Ok(object) => decode_head(&object)?,
            Err(error) if error.is_not_found() => Head::default(),
            Err(error) => return Err(error.into()),
        };
        let listed = super::list(store, Prefix::SnapshotsOf(host, source)).await?;
        let numbers = listed.into_iter().filter_map(|listed| match listed.key {
            Some(ObjectKey::Snapshot(id)) => Some(id.number),
            _ => None,
        });
        let given = head.numbers.entry((host, source)).or_default();
        // The higher of what the head remembers and what is there: the head knows forgotten ones,
        // the listing those of a head that was put back.
        *given = numbers.max().unwrap_or(0).max(*given) + 1;
        let id = SnapshotId { host, source, number: *given };
        head.commit_number += 1;
        let header = SnapshotHeader {
            repository: self.repository.info().id,
            id,
            created_unix_ms,
            commit_number: head.commit_number,
            names: Names::default().or_of(body),
        };
        // The head first: a number that was written down and not used harms nobody.
        store.put(&ObjectKey::State(StateFile::Head), encode_head(&head).into()).await?;
        store.put(&ObjectKey::Snapshot(id), encode_object(&header, &encode_body(body)).into()).await?;
        Ok(id)
    }
}

impl PackSink for DirectSession {
    fn have(&self, frames: &[FrameId]) -> Result<Vec<bool>, PackIoError> {
        let index = self.index();
        Ok(frames.iter().map(|frame| index.contains(frame)).collect())
    }

    fn put_pack(&self, pack: SealedPack) -> Result<(), PackIoError> {
        let id = PackId { sha256: pack.sha256, allocation: AllocationId::generate() };
        let len = pack.bytes.len() as u64;
        self.runtime.block_on(self.repository.store().put_pack(id, pack.bytes))?;
        // Only once it is stored: `have` promises.
        self.index.write().unwrap_or_else(PoisonError::into_inner).add(id, len, &pack.table);
        Ok(())
    }
}

impl PackSource for DirectSession {
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        let index = self.index();
        Ok(frames.iter().map(|frame| index.locate(frame)).collect())
    }

    fn elsewhere(&self, frame: &FrameId, not_in: &[PackId]) -> Result<Option<FrameLocation>, PackIoError> {
        let index = self.index();
        Ok(index.locations(frame).find(|location| !not_in.contains(&location.pack)))
    }

    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        Ok(self.runtime.block_on(self.repository.store().get_range(&ObjectKey::Pack(*pack), range))?)
    }
}

/// Packs that are not there any more. A listing is not one moment: a pack that
/// came while it ran may be left out, so each is asked for by name.
async fn gone(
    store: &Store,
    known: &HashSet<PackId>,
    listed: &HashMap<PackId, u64>,
) -> Result<HashSet<PackId>, StoreError> {
    let mut gone = HashSet::new();
    for pack in known.iter().filter(|pack| !listed.contains_key(pack)) {
        if store.head(&ObjectKey::Pack(*pack)).await?.is_none() {
            gone.insert(*pack);
        }
    }
    Ok(gone)
}
