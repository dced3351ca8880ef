//! The catalogue from the bucket: for a controller that lost its own, and for
//! one whose catalogue is an old copy.
//!
//! Everything is read: each pack's table, each snapshot, each manifest page
//! once. What the bucket holds is then written down, what rows claimed beyond
//! it is dropped (after a second look, since listings may lag), and only at
//! the end does a suspension end. Cut off anywhere, it is begun again.
//!
//! A bucket does not say whose a pack is. A pack belongs to the host whose
//! snapshots use a frame that lies nowhere else; so no host gets frames it
//! never sent, also where two hosts have equal files.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use holdfast_archive::ids::{FrameId, HostId, PackId, SnapshotId};
use holdfast_archive::keys::{ObjectKey, Prefix};
use holdfast_archive::manifest::page_refs;
use holdfast_archive::seam::{FrameLocation, PackEntry};
use holdfast_archive::snapshot::{SnapshotBody, SnapshotHeader, decode_object, encode_body};
use roaring::RoaringTreemap;

use super::protocol::PackState;
use super::{Repository, RepositoryError};
use crate::catalog::import::FoundSnapshot;

/// Requests to the store at once.
const REQUESTS: usize = 16;
/// Manifest pages read together.
const PAGES: usize = 256;

/// What a rebuild or reconciliation found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub snapshots: u64,
    pub packs: u64,
    pub frames: u64,
    /// What could not be taken over, or was believed and is not there; a
    /// sentence each.
    pub notes: Vec<String>,
}

/// A pack in the bucket.
struct Found {
    id: PackId,
    length: u64,
    table: Vec<PackEntry>,
    host: Option<HostId>,
}

/// A snapshot in the bucket, and the numbers here of the frames it reaches.
struct Seen {
    header: SnapshotHeader,
    body: SnapshotBody,
    frames: RoaringTreemap,
    lacking: u64,
}

/// All that the bucket holds, frames by a number of this pass.
#[derive(Default)]
struct Bucket {
    packs: Vec<Found>,
    numbers: HashMap<FrameId, u64>,
    /// By number: id, and where it lies as pack and row.
    frames: Vec<(FrameId, Vec<(u32, u32)>)>,
    snapshots: Vec<Seen>,
    notes: Vec<String>,
}

impl Repository {
    /// Makes the catalogue agree with the bucket. `take_over` names the new
    /// owner, who takes the repository from whichever controller had it.
    ///
    /// # Errors
    /// When catalogue or store fail, or the repository is another
    /// controller's and not taken over.
    pub async fn reconcile(&self, take_over: Option<&str>) -> Result<Rebuilt, RepositoryError> {
        let _one = self.inner.collecting.lock().await;
        self.settle_owner(take_over).await?;
        self.catalog().begin_reconciliation().await?;
        let head = self.read_head().await?;
        self.catalog().take_head(&head).await?;
        let mut bucket = self.survey().await?;
        bucket.assign_hosts();
        let rebuilt = self.write_down(bucket).await?;
        self.catalog().raise_commit_number().await?;
        self.raise_head().await?;
        self.catalog().end_suspension().await?;
        tracing::info!(
            snapshots = rebuilt.snapshots,
            packs = rebuilt.packs,
            frames = rebuilt.frames,
            "the catalogue agrees with the bucket"
        );
        Ok(rebuilt)
    }

    async fn settle_owner(&self, take_over: Option<&str>) -> Result<(), RepositoryError> {
        let mut info = self.info().await?;
        self.catalog().adopt_repository(info.id, take_over.unwrap_or(&info.owner)).await?;
        let row = self.catalog().repository().await?;
        let Some(row) = row.filter(|row| row.repository == info.id) else {
            return Err(RepositoryError::Suspended(format!(
                "{} holds another repository than this catalogue is of",
                self.store().location()
            )));
        };
        match take_over {
            Some(owner) => {
                if info.owner != owner {
                    info.owner = owner.to_owned();
                    self.store().put(&ObjectKey::Repository, info.encode().into()).await?;
                }
                Ok(self.catalog().set_repository_owner(owner).await?)
            }
            None if row.owner == info.owner => Ok(()),
            None => Err(RepositoryError::Suspended(format!(
                "the repository belongs to controller {}, this is {}",
                info.owner, row.owner
            ))),
        }
    }

    async fn survey(&self) -> Result<Bucket, RepositoryError> {
        let mut bucket = Bucket::default();
        let known: HashMap<PackId, HostId> =
            self.catalog().all_packs().await?.into_iter().map(|pack| (pack.id, pack.host)).collect();
        let listed = self.list_all(Prefix::Packs).await?;
        let tables = listed.into_iter().filter_map(|(key, length)| match key {
            ObjectKey::Pack(id) => Some(async move { (id, length, self.read_table(&id, length).await) }),
            _ => None,
        });
        let mut tables = futures_util::stream::iter(tables).buffer_unordered(REQUESTS);
        while let Some((id, length, table)) = tables.next().await {
            match table {
                Ok(table) => bucket.add(Found { id, length, table, host: known.get(&id).copied() }),
                Err(RepositoryError::Invalid(reason)) => bucket.notes.push(reason),
                Err(RepositoryError::Store(error)) if !error.kind().is_transient() => {
                    bucket.notes.push(format!("pack {id}: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        self.read_snapshots(&mut bucket).await?;
        self.follow(&mut bucket).await?;
        Ok(bucket)
    }

    async fn list_all(&self, prefix: Prefix) -> Result<Vec<(ObjectKey, u64)>, RepositoryError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store().list(prefix, after.as_deref()).await?;
            all.extend(page.items.into_iter().filter_map(|item| Some((item.key?, item.len))));
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    async fn read_snapshots(&self, bucket: &mut Bucket) -> Result<(), RepositoryError> {
        let repository = self.id().await?;
        let listed = self.list_all(Prefix::Snapshots).await?;
        let objects = listed.into_iter().filter_map(|(key, _)| match key {
            ObjectKey::Snapshot(id) => Some(async move { (id, self.store().get(&key).await) }),
            _ => None,
        });
        let objects: Vec<_> = futures_util::stream::iter(objects).buffer_unordered(REQUESTS).collect().await;
        for (id, object) in objects {
            let object = match object {
                Ok(object) => object,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            match decode_object(&object) {
                Ok((header, _)) if header.id != id || header.repository != repository => {
                    bucket.notes.push(format!("the object of snapshot {id} is of another: left alone"));
                }
                Ok((header, body)) => {
                    bucket.snapshots.push(Seen { header, body, frames: RoaringTreemap::new(), lacking: 0 });
                }
                Err(error) => bucket.notes.push(format!("snapshot {id}: {error}")),
            }
        }
        bucket.snapshots.sort_by_key(|seen| seen.header.commit_number);
        Ok(())
    }

    /// Follows each snapshot from its root; each page is read once.
    async fn follow(&self, bucket: &mut Bucket) -> Result<(), RepositoryError> {
        let mut known: HashMap<u64, (RoaringTreemap, RoaringTreemap, u64)> = HashMap::new();
        for at in 0..bucket.snapshots.len() {
            let root = bucket.snapshots[at].body.root;
            let (mut all, mut lacking) = (RoaringTreemap::new(), 0);
            let mut todo = RoaringTreemap::new();
            match bucket.numbers.get(&root) {
                Some(&number) => {
                    todo.insert(number);
                    all.insert(number);
                }
                None => lacking += 1,
            }
            let mut done = RoaringTreemap::new();
            while !todo.is_empty() {
                let batch: RoaringTreemap = todo.iter().take(PAGES).collect();
                todo -= &batch;
                done |= &batch;
                let unknown: Vec<FrameLocation> = batch
                    .iter()
                    .filter(|number| !known.contains_key(number))
                    .map(|number| bucket.location(number))
                    .collect();
                for (id, raw) in self.read_frames(unknown).await? {
                    let number = bucket.numbers[&id];
                    known.insert(number, bucket.refs(raw.as_deref()));
                }
                for number in &batch {
                    let (pages, data, lacks) = &known[&number];
                    todo |= pages - &done;
                    all |= pages;
                    all |= data;
                    lacking += lacks;
                }
            }
            let seen = &mut bucket.snapshots[at];
            (seen.frames, seen.lacking) = (all, lacking);
        }
        Ok(())
    }

    async fn write_down(&self, bucket: Bucket) -> Result<Rebuilt, RepositoryError> {
        let Bucket { packs, numbers, frames, snapshots, mut notes } = bucket;
        let mut rebuilt = Rebuilt { frames: frames.len() as u64, ..Rebuilt::default() };
        self.drop_absent(&packs, &snapshots, &mut notes).await?;
        for pack in &packs {
            // A pack no snapshot uses has no host: it stays an orphan.
            if let Some(host) = pack.host {
                self.catalog().import_pack(&pack.id, host, pack.length, &pack.table).await?;
                rebuilt.packs += 1;
            }
        }
        let before: HashMap<SnapshotId, u64> = self.catalog().all_snapshot_ids().await?.into_iter().collect();
        for seen in &snapshots {
            let host = seen.header.id.host;
            let ids: Vec<FrameId> = seen.frames.iter().map(|number| frames[number as usize].0).collect();
            self.adopt_strays(host, &ids, &numbers, &frames, &packs).await?;
            let mut reached = RoaringTreemap::new();
            for found in self.catalog().find_frames(host, &ids).await?.into_iter().flatten() {
                reached.insert(found.number);
            }
            if seen.lacking > 0 {
                notes.push(format!("snapshot {} lacks {} frames", seen.header.id, seen.lacking));
            }
            rebuilt.snapshots += 1;
            if let Some(number) = before.get(&seen.header.id) {
                self.catalog().renew_snapshot(*number, &reached).await?;
                continue;
            }
            let body = SnapshotBody { partial: seen.body.partial || seen.lacking > 0, ..seen.body.clone() };
            let found = FoundSnapshot {
                id: seen.header.id,
                commit_number: seen.header.commit_number,
                created_ms: seen.header.created_unix_ms,
                body: &body,
                body_bytes: &encode_body(&seen.body),
                frames: &reached,
            };
            if !self.catalog().import_snapshot(&found).await? {
                rebuilt.snapshots -= 1;
                notes.push(format!(
                    "snapshot {} has the commit number of another: left alone",
                    seen.header.id
                ));
            }
        }
        rebuilt.notes = notes;
        Ok(rebuilt)
    }

    /// Drops rows of what is not in the bucket, looked for once more by name.
    async fn drop_absent(
        &self,
        packs: &[Found],
        snapshots: &[Seen],
        notes: &mut Vec<String>,
    ) -> Result<(), RepositoryError> {
        let there: std::collections::HashSet<PackId> = packs.iter().map(|pack| pack.id).collect();
        for row in self.catalog().all_packs().await? {
            if there.contains(&row.id) || self.store().head(&ObjectKey::Pack(row.id)).await?.is_some() {
                continue;
            }
            if row.state != PackState::Intended {
                notes.push(format!("pack {} is not in the bucket any more", row.id));
            }
            self.catalog().drop_absent_pack(row.number).await?;
        }
        let there: std::collections::HashSet<SnapshotId> =
            snapshots.iter().map(|seen| seen.header.id).collect();
        for (id, number) in self.catalog().all_snapshot_ids().await? {
            if there.contains(&id) || self.store().head(&ObjectKey::Snapshot(id)).await?.is_some() {
                continue;
            }
            notes.push(format!("snapshot {id} is not in the bucket any more"));
            self.catalog().drop_absent_snapshot(number).await?;
        }
        Ok(())
    }

    /// Frames a host needs that lie only in packs that count as another's.
    async fn adopt_strays(
        &self,
        host: HostId,
        ids: &[FrameId],
        numbers: &HashMap<FrameId, u64>,
        frames: &[(FrameId, Vec<(u32, u32)>)],
        packs: &[Found],
    ) -> Result<(), RepositoryError> {
        let mut strays: BTreeMap<u32, Vec<PackEntry>> = BTreeMap::new();
        for (id, found) in ids.iter().zip(self.catalog().find_frames(host, ids).await?) {
            if found.is_some() {
                continue;
            }
            let places = &frames[numbers[id] as usize].1;
            if let Some((pack, row)) = places.iter().find(|(pack, _)| packs[*pack as usize].host.is_some()) {
                strays.entry(*pack).or_default().push(packs[*pack as usize].table[*row as usize].clone());
            }
        }
        for (pack, entries) in strays {
            self.catalog().import_frames(host, &packs[pack as usize].id, &entries).await?;
        }
        Ok(())
    }
}

impl Bucket {
    fn add(&mut self, found: Found) {
        let pack = self.packs.len() as u32;
        for (row, entry) in (0..).zip(&found.table) {
            let next = self.frames.len() as u64;
            let number = *self.numbers.entry(entry.id).or_insert(next);
            if number == next {
                self.frames.push((entry.id, Vec::new()));
            }
            self.frames[number as usize].1.push((pack, row));
        }
        self.packs.push(found);
    }

    fn location(&self, number: u64) -> FrameLocation {
        let (pack, row) = self.frames[number as usize].1[0];
        let pack = &self.packs[pack as usize];
        FrameLocation { pack: pack.id, entry: pack.table[row as usize].clone() }
    }

    /// Pages and data a page refers to, and how many references lead nowhere.
    fn refs(&self, raw: Option<&[u8]>) -> (RoaringTreemap, RoaringTreemap, u64) {
        let Some(refs) = raw.and_then(|raw| page_refs(raw).ok()) else {
            return (RoaringTreemap::new(), RoaringTreemap::new(), 1);
        };
        let mut lacking = 0;
        let mut numbers = |ids: Vec<FrameId>| -> RoaringTreemap {
            let found: Vec<u64> = ids.iter().filter_map(|id| self.numbers.get(id).copied()).collect();
            lacking += (ids.len() - found.len()) as u64;
            found.into_iter().collect()
        };
        let (pages, data) = (numbers(refs.pages), numbers(refs.data));
        (pages, data, lacking)
    }

    /// Gives each pack its host: first where a frame lies nowhere else, then
    /// where a host still needs a frame.
    fn assign_hosts(&mut self) {
        let mut needs: BTreeMap<HostId, RoaringTreemap> = BTreeMap::new();
        for seen in &self.snapshots {
            *needs.entry(seen.header.id.host).or_default() |= &seen.frames;
        }
        for alone in [true, false] {
            for (host, needed) in &needs {
                for number in needed {
                    let places = &self.frames[number as usize].1;
                    let owned = places.iter().any(|(pack, _)| self.packs[*pack as usize].host == Some(*host));
                    if owned || (alone && places.len() > 1) {
                        continue;
                    }
                    let free = places.iter().find(|(pack, _)| self.packs[*pack as usize].host.is_none());
                    if let Some((pack, _)) = free {
                        self.packs[*pack as usize].host = Some(*host);
                    }
                }
            }
        }
    }
}
