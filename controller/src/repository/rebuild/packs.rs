//! The packs of the bucket and where each frame lies.
//!
//! A listing may leave a pack out: those that the catalogue or an index file
//! knows are asked for by name. A table may be damaged while every frame is
//! whole: then the pack is walked, and what the catalogue's rows and the index
//! files say of it is tried frame by frame.

use std::collections::{BTreeMap, HashMap};

use futures_util::StreamExt as _;
use holdfast_archive::frame::decode;
use holdfast_archive::ids::{FrameId, PackId};
use holdfast_archive::keys::{ObjectKey, Prefix};
use holdfast_archive::pack_io::{FrameLocation, PackEntry};
use holdfast_archive::salvage::walk_frames;
use holdfast_archive::state::{IndexedPack, decode_index};

use super::bucket::{Bucket, Found};
use super::{REQUESTS, Repository, RepositoryError};
use crate::catalog::packs::PackRecord;
use crate::model::protocol::PackState;
use crate::repository::reread::{LOOKS, is_about_object};

/// Packs on the way into a [`Bucket`].
#[derive(Default)]
struct Packs {
    rows: HashMap<PackId, PackRecord>,
    /// Whose table was read, with the bytes each has.
    whole: HashMap<PackId, (u64, Vec<PackEntry>)>,
    /// Whose table cannot be had, with the bytes each has and the reason.
    broken: HashMap<PackId, (u64, String)>,
    /// What index files say of those.
    claims: HashMap<PackId, Vec<IndexedPack>>,
    /// The index file that says of a pack what its own table does, or did.
    hints: HashMap<PackId, u64>,
}

/// A pack that is there: its length, and its table or why it has none.
type Table = (PackId, u64, Result<Vec<PackEntry>, String>);

impl Repository {
    /// Finds all packs. Index files that were read are given by number with
    /// how many packs each holds.
    pub(super) async fn survey_packs(
        &self,
        bucket: &mut Bucket,
    ) -> Result<BTreeMap<u64, u64>, RepositoryError> {
        let mut packs = Packs {
            rows: self.catalog().all_packs().await?.into_iter().map(|row| (row.id, row)).collect(),
            ..Packs::default()
        };
        let mut lengths: BTreeMap<PackId, u64> = BTreeMap::new();
        for (key, length) in self.list_all(Prefix::Packs).await? {
            if let ObjectKey::Pack(id) = key {
                lengths.insert(id, length);
            }
        }
        let unlisted: Vec<PackId> =
            packs.rows.keys().filter(|id| !lengths.contains_key(id)).copied().collect();
        lengths.extend(self.find_unlisted(unlisted).await?);
        self.read_tables(&mut packs, lengths.into_iter().collect()).await?;
        let files = self.read_indexes(&mut packs, bucket).await?;
        // A table that cannot be read is no absence: such a pack is there, and what is in it is
        // looked for another way. An intended one was never promised to anybody.
        for row in packs.rows.values() {
            let there = packs.whole.contains_key(&row.id) || packs.broken.contains_key(&row.id);
            if !there && row.state != PackState::Intended {
                bucket.absent.push(row.number);
                bucket.notes.push(format!("pack {} is not in the bucket any more", row.id));
            }
        }
        bucket.notes.sort_unstable();
        self.fill(bucket, packs).await?;
        Ok(files)
    }

    /// Those of these packs that are in the bucket, by their names. What is not
    /// there is looked for again, all of it together.
    async fn find_unlisted(&self, packs: Vec<PackId>) -> Result<Vec<(PackId, u64)>, RepositoryError> {
        let (mut left, mut found) = (packs, Vec::new());
        for look in 0..LOOKS {
            if left.is_empty() {
                break;
            }
            if look > 0 {
                self.pause().await;
            }
            let heads = left.iter().map(|id| {
                let key = ObjectKey::Pack(*id);
                async move { (*id, self.store().head(&key).await) }
            });
            let heads: Vec<_> = futures_util::stream::iter(heads).buffer_unordered(REQUESTS).collect().await;
            left.clear();
            for (id, meta) in heads {
                match meta? {
                    Some(meta) => found.push((id, meta.len)),
                    None => left.push(id),
                }
            }
        }
        Ok(found)
    }

    async fn read_tables(&self, packs: &mut Packs, found: Vec<(PackId, u64)>) -> Result<(), RepositoryError> {
        let tables = found.into_iter().map(|(id, length)| self.table_of(id, length));
        let mut tables = futures_util::stream::iter(tables).buffer_unordered(REQUESTS);
        while let Some(table) = tables.next().await {
            // Listed, and not there when it is asked for: not there.
            let Some((id, length, table)) = table? else { continue };
            match table {
                Ok(table) => drop(packs.whole.insert(id, (length, table))),
                Err(reason) => drop(packs.broken.insert(id, (length, reason))),
            }
        }
        Ok(())
    }

    /// A pack's table, read again before it counts as damaged; `None` where the
    /// pack itself is gone.
    async fn table_of(&self, id: PackId, length: u64) -> Result<Option<Table>, RepositoryError> {
        let (mut reason, mut gone) = (String::new(), false);
        for look in 0..LOOKS {
            if look > 0 {
                self.pause().await;
            }
            (reason, gone) = match self.read_table(&id, length).await {
                Ok(table) => return Ok(Some((id, length, Ok(table)))),
                Err(RepositoryError::Invalid(reason)) => (reason, false),
                Err(RepositoryError::Store(error)) if is_about_object(&error) => {
                    (format!("pack {id}: {error}"), error.is_not_found())
                }
                Err(error) => return Err(error),
            };
        }
        // Not by what a read of a part of it said alone: it is asked for by its name.
        if gone {
            let there = self.find_unlisted(vec![id]).await?;
            return Ok(there.first().map(|(_, length)| (id, *length, Err(reason))));
        }
        Ok(Some((id, length, Err(reason))))
    }

    /// Reads the index files. Nothing is believed because it is in one: a pack
    /// that only they know is looked for, and what they say of a pack without
    /// a table is tried later.
    async fn read_indexes(
        &self,
        packs: &mut Packs,
        bucket: &mut Bucket,
    ) -> Result<BTreeMap<u64, u64>, RepositoryError> {
        let mut files = BTreeMap::new();
        for (key, _) in self.list_all(Prefix::Index).await? {
            let ObjectKey::Index(number) = key else { continue };
            let listed = match self.read_index(number).await? {
                Ok(listed) => listed,
                Err(reason) => {
                    bucket.notes.push(format!("index/{number} is not used: {reason}"));
                    continue;
                }
            };
            files.insert(number, listed.len() as u64);
            let known = |packs: &Packs, id: &PackId| {
                packs.whole.contains_key(id) || packs.broken.contains_key(id) || packs.rows.contains_key(id)
            };
            let unlisted = listed.iter().map(|hint| hint.pack).filter(|id| !known(packs, id)).collect();
            let found = self.find_unlisted(unlisted).await?;
            self.read_tables(packs, found).await?;
            for hint in listed {
                match packs.whole.get(&hint.pack) {
                    Some((length, table)) if *length == hint.len && *table == hint.table => {
                        packs.hints.insert(hint.pack, number);
                    }
                    // Its table can be had nowhere else: the file has to stay.
                    None if packs.broken.contains_key(&hint.pack) => {
                        packs.hints.insert(hint.pack, number);
                        packs.claims.entry(hint.pack).or_default().push(hint);
                    }
                    Some(_) | None => {}
                }
            }
        }
        Ok(files)
    }

    /// An index file, or why it says nothing.
    pub(in crate::repository) async fn read_index(
        &self,
        number: u64,
    ) -> Result<Result<Vec<IndexedPack>, String>, RepositoryError> {
        let mut reason = String::new();
        for look in 0..LOOKS {
            if look > 0 {
                self.pause().await;
            }
            reason = match self.store().get(&ObjectKey::Index(number)).await {
                Ok(object) => match decode_index(&object) {
                    Ok(listed) => return Ok(Ok(listed)),
                    Err(error) => error.to_string(),
                },
                Err(error) if is_about_object(&error) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(Err(reason))
    }

    async fn fill(&self, bucket: &mut Bucket, packs: Packs) -> Result<(), RepositoryError> {
        let Packs { rows, whole, broken, mut claims, hints } = packs;
        // In order of their ids, so that two passes over one bucket are alike.
        let mut whole: Vec<_> = whole.into_iter().collect();
        whole.sort_unstable_by_key(|(id, _)| *id);
        for (id, (length, table)) in whole {
            let host = rows.get(&id).map(|row| row.host);
            let hint = hints.get(&id).copied();
            bucket.add(Found { id, length, table, host, proven: host.is_some(), hint }, &HashMap::new());
        }
        let mut broken: Vec<_> = broken.into_iter().collect();
        broken.sort_unstable_by_key(|(id, _)| *id);
        for (id, (there, reason)) in broken {
            let row = rows.get(&id);
            let claims = claims.remove(&id).unwrap_or_default();
            let length = row.map(|row| row.length).or_else(|| claims.first().map(|hint| hint.len));
            let mut claimed: Vec<PackEntry> =
                self.catalog().frames_of_pack(&id).await?.into_iter().map(|row| row.location.entry).collect();
            claimed.extend(claims.into_iter().flat_map(|hint| hint.table));
            let (good, bad) = self.salvage(&id, claimed).await?;
            bucket.notes.push(format!(
                "{reason}; {} of its frames were read without its table, {} cannot be",
                good.len(),
                bad.len()
            ));
            let outcomes = (0..good.len() + bad.len()).map(|row| (row as u32, row < good.len())).collect();
            let table: Vec<PackEntry> = good.into_iter().chain(bad).collect();
            let host = row.map(|row| row.host);
            let length = length.unwrap_or(there);
            let hint = hints.get(&id).copied();
            bucket.add(Found { id, length, table, host, proven: host.is_some(), hint }, &outcomes);
        }
        Ok(())
    }

    /// The frames of a pack without a table: those that are whole, and those
    /// claimed to be in it that are not. No id is twice in both together.
    async fn salvage(
        &self,
        pack: &PackId,
        claimed: Vec<PackEntry>,
    ) -> Result<(Vec<PackEntry>, Vec<PackEntry>), RepositoryError> {
        let mut good: HashMap<FrameId, PackEntry> = HashMap::new();
        let mut bad: Vec<PackEntry> = claimed.clone();
        for look in 0..LOOKS {
            if look > 0 {
                self.pause().await;
            }
            match self.store().get(&ObjectKey::Pack(*pack)).await {
                Ok(bytes) => {
                    let at = |entry: &PackEntry| {
                        let start = usize::try_from(entry.offset).ok()?;
                        bytes.get(start..start.checked_add(entry.stored_len as usize)?)
                    };
                    let whole = claimed
                        .iter()
                        .filter(|entry| at(entry).is_some_and(|stored| decode(stored, entry).is_ok()))
                        .cloned();
                    // Claims first: they know what kind a frame is.
                    for entry in whole.chain(walk_frames(&bytes)) {
                        good.entry(entry.id).or_insert(entry);
                    }
                }
                Err(error) if is_about_object(&error) => {
                    for entry in &bad {
                        let location = FrameLocation { pack: *pack, entry: entry.clone() };
                        if self.read_apart(vec![location]).await?.iter().any(|(_, raw)| raw.is_some()) {
                            good.entry(entry.id).or_insert_with(|| entry.clone());
                        }
                    }
                }
                Err(error) => return Err(error.into()),
            }
            bad.retain(|entry| !good.contains_key(&entry.id));
            if bad.is_empty() && !good.is_empty() {
                break;
            }
        }
        let mut good: Vec<PackEntry> = good.into_values().collect();
        good.sort_unstable_by_key(|entry| entry.offset);
        bad.sort_unstable_by_key(|entry| (entry.id, entry.offset));
        bad.dedup_by_key(|entry| entry.id);
        Ok((good, bad))
    }
}
