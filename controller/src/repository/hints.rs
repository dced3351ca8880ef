//! The files under `index/`: the tables of packs once more.
//!
//! Nothing is believed because it is in one, and all of them may be lost. They
//! serve a controller that was lost itself, where a pack's own table is damaged
//! or a listing leaves a pack out. A file is never written over: a new one takes
//! in what the ones it replaces still hold, then rows name it, and only then
//! are those removed.

use std::collections::HashSet;

use futures_util::StreamExt as _;
use holdfast_archive::ids::PackId;
use holdfast_archive::keys::ObjectKey;
use holdfast_archive::pack::table_len;
use holdfast_archive::state::{IndexedPack, encode_index};

use super::{Repository, RepositoryError};
use crate::catalog::hints::IndexFileRow;
use crate::catalog::packs::PackRecord;

/// Packs in one file; one with fewer is taken into the next.
const PACKS: usize = 256;
/// Bytes of tables after which a file is closed.
const BYTES: usize = 4 << 20;
/// A pack with a longer table has none here: one object would not hold it.
const LONGEST_TABLE: usize = 32 << 20;
/// Tables read at once.
const READS: usize = 8;

impl Repository {
    /// Writes the tables of packs that no index file holds yet; gives of how
    /// many. Safe to be cut off anywhere.
    ///
    /// # Errors
    /// When catalogue or store fail.
    pub async fn write_hints(&self) -> Result<u64, RepositoryError> {
        self.compared().await?;
        if self.suspended().await?.is_some() {
            return Ok(0);
        }
        let _one = self.inner.collecting.lock().await;
        let (mut after, mut written) = (0, 0);
        loop {
            let packs = self.catalog().packs_without_hint(after, PACKS as u32).await?;
            let Some(last) = packs.last() else { break };
            after = last.number;
            let fresh = self.tables(packs).await;
            if !fresh.is_empty() {
                written += fresh.len() as u64;
                self.write_index(fresh).await?;
            }
        }
        if self.catalog().index_files().await?.iter().any(is_sparse) {
            self.write_index(Vec::new()).await?;
        }
        self.remove_unused_indexes().await?;
        Ok(written)
    }

    /// The tables of these packs, of those that can be read now.
    async fn tables(&self, packs: Vec<PackRecord>) -> Vec<IndexedPack> {
        let tables = packs.into_iter().map(|row| async move {
            match self.read_table(&row.id, row.length).await {
                Ok(table) => Some(IndexedPack { pack: row.id, len: row.length, table }),
                Err(error) => {
                    tracing::warn!(pack = %row.id, %error, "its table is in no index file");
                    None
                }
            }
        });
        let tables = futures_util::stream::iter(tables).buffered(READS);
        let held = |hint: &IndexedPack| table_len(hint.table.len()) <= LONGEST_TABLE;
        tables.filter_map(std::future::ready).filter(|hint| std::future::ready(held(hint))).collect().await
    }

    /// Writes files with these tables and those of the files they replace.
    pub(super) async fn write_index(&self, fresh: Vec<IndexedPack>) -> Result<(), RepositoryError> {
        let mut tables = Vec::new();
        for file in self.catalog().index_files().await? {
            if !is_sparse(&file) && file.packs >= PACKS as u64 {
                continue;
            }
            let used: HashSet<PackId> =
                self.catalog().packs_of_index(file.number).await?.into_iter().collect();
            if used.is_empty() {
                continue;
            }
            match self.read_index(file.number).await? {
                Ok(listed) => tables.extend(listed.into_iter().filter(|hint| used.contains(&hint.pack))),
                Err(reason) => {
                    tracing::warn!(file = file.number, reason, "an index file is written anew");
                    self.catalog().dissolve_index(file.number).await?;
                }
            }
        }
        tables.extend(fresh);
        for part in parts(tables) {
            // Its number may be that of a file of whoever took the bucket over.
            self.refuse_foreign().await?;
            let number = self.catalog().next_index().await?;
            self.store().put(&ObjectKey::Index(number), encode_index(&part).into()).await?;
            let packs: Vec<PackId> = part.iter().map(|hint| hint.pack).collect();
            self.catalog().note_index(number, packs.len() as u64, &packs).await?;
        }
        Ok(())
    }

    /// Removes the index file with most packs; false where there is none. The
    /// tables in it are written again by [`Self::write_hints`].
    ///
    /// # Errors
    /// When catalogue or store fail.
    pub(super) async fn give_up_hints(&self) -> Result<bool, RepositoryError> {
        self.refuse_collection_off().await?;
        let files = self.catalog().index_files().await?;
        let Some(largest) = files.iter().max_by_key(|file| file.packs) else { return Ok(false) };
        // Rows first: one that names a file which is gone is never mended.
        self.catalog().dissolve_index(largest.number).await?;
        self.refuse_foreign().await?;
        let left = self.store().delete(&[ObjectKey::Index(largest.number)]).await?;
        match left.into_iter().next() {
            None => {
                self.catalog().drop_index(largest.number).await?;
                Ok(true)
            }
            Some((_, error)) => Err(error.into()),
        }
    }

    /// Removes files that no row names. While something is missing nothing is
    /// deleted, hints neither.
    async fn remove_unused_indexes(&self) -> Result<(), RepositoryError> {
        if self.refuse_collection_off().await.is_err() {
            return Ok(());
        }
        let unused: Vec<u64> = self
            .catalog()
            .index_files()
            .await?
            .into_iter()
            .filter(|file| file.used == 0)
            .map(|file| file.number)
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        let keys: Vec<ObjectKey> = unused.iter().map(|number| ObjectKey::Index(*number)).collect();
        self.refuse_foreign().await?;
        let left = self.store().delete(&keys).await?;
        for number in unused {
            if !left.iter().any(|(key, _)| *key == ObjectKey::Index(number)) {
                self.catalog().drop_index(number).await?;
            }
        }
        Ok(())
    }
}

/// Most of what it holds is gone.
fn is_sparse(file: &IndexFileRow) -> bool {
    file.used > 0 && file.used * 2 < file.packs
}

/// In files of at most so many packs and about so many bytes.
fn parts(tables: Vec<IndexedPack>) -> Vec<Vec<IndexedPack>> {
    let mut parts: Vec<Vec<IndexedPack>> = Vec::new();
    let mut bytes = 0;
    for hint in tables {
        let more = table_len(hint.table.len());
        match parts.last_mut().filter(|part| part.len() < PACKS && bytes + more <= BYTES) {
            Some(part) => {
                bytes += more;
                part.push(hint);
            }
            None => {
                bytes = more;
                parts.push(vec![hint]);
            }
        }
    }
    parts
}
