//! Rows made from what the bucket holds, for a catalogue that was lost or is
//! an old copy.

use std::collections::HashSet;

use holdfast_archive::ids::{FrameId, HostId, PackId, SnapshotId};
use holdfast_archive::pack_io::PackEntry;
use holdfast_archive::snapshot::{Names, SnapshotBody};
use roaring::RoaringTreemap;
use sqlx::Row as _;

use super::frames::make_host_number;
use super::packs::{PackRecord, add_frames, insert_pack, pack, read as read_pack};
use super::repository::{bitmap, bitmap_bytes, id, next_frames, next_pack, note_number, signed, unsigned};
use super::snapshots::{Inserted, insert_snapshot};
use super::{Catalog, CatalogError};
use crate::model::protocol::{PackState, SnapshotState};

/// A snapshot found in the bucket.
#[derive(Debug, Clone)]
pub struct FoundSnapshot<'a> {
    pub id: SnapshotId,
    pub commit_number: u64,
    pub created_ms: i64,
    pub names: &'a Names,
    pub body: &'a SnapshotBody,
    pub body_bytes: &'a [u8],
    pub frames: &'a RoaringTreemap,
}

impl Catalog {
    /// Packs in every state, in no order.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn all_packs(&self) -> Result<Vec<PackRecord>, CatalogError> {
        let rows = sqlx::query("select * from packs").fetch_all(self.pool()).await?;
        rows.iter().map(read_pack).collect()
    }

    /// Snapshots in every state, with their commit numbers.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn all_snapshot_ids(&self) -> Result<Vec<(SnapshotId, u64)>, CatalogError> {
        let rows = sqlx::query("select host_id, source_id, number, commit_number from snapshots")
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                let id = SnapshotId {
                    host: id(row.try_get("host_id")?, "host id")?,
                    source: id(row.try_get("source_id")?, "source id")?,
                    number: unsigned(row.try_get("number")?),
                };
                Ok((id, unsigned(row.try_get("commit_number")?)))
            })
            .collect()
    }

    /// Makes a pack that is in the bucket live, with its whole table.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_pack(
        &self,
        id: &PackId,
        host: HostId,
        length: u64,
        table: &[PackEntry],
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // One that is known keeps its number: bitmaps and rows of frames have it.
        let number = match pack(&mut tx, id).await? {
            Some(row) => row.number,
            None => {
                let number = next_pack(&mut tx).await?;
                insert_pack(&mut tx, number, id, host, 0, PackState::Live, length).await?;
                number
            }
        };
        // Condemned or deleting, it is live again: what is unused is found again by the next
        // collection, and what is used after all would be lost.
        sqlx::query(
            "update packs set state = 'live', suspect = 0, length = $2, condemned_lease = null
             where number = $1",
        )
        .bind(signed(number))
        .bind(signed(length))
        .execute(&mut *tx)
        .await?;
        add_frames(&mut tx, host, number, table).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Says where these frames of a host lie, whatever its rows said before: each
    /// was found there, or lies nowhere else. The pack may count as another
    /// host's.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn place_frames(
        &self,
        host: HostId,
        id: &PackId,
        frames: &[PackEntry],
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let Some(row) = pack(&mut tx, id).await? else { return Ok(()) };
        let number = make_host_number(&mut tx, host).await?;
        for entry in frames {
            // A frame that has a row keeps its number, by which snapshots know it; the new one
            // is then given to nobody.
            let first = next_frames(&mut tx, 1).await?;
            sqlx::query(
                "insert into frames
                     (number, host, id, pack, kind, key_epoch, pack_offset, stored_bytes, raw_bytes)
                 values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 on conflict (host, id) do update set pack = excluded.pack, kind = excluded.kind,
                     key_epoch = excluded.key_epoch, pack_offset = excluded.pack_offset,
                     stored_bytes = excluded.stored_bytes, raw_bytes = excluded.raw_bytes, damaged = 0",
            )
            .bind(signed(first))
            .bind(signed(number))
            .bind(entry.id.as_bytes().as_slice())
            .bind(signed(row.number))
            .bind(entry.kind as i64)
            .bind(i64::from(entry.key_epoch))
            .bind(signed(entry.offset))
            .bind(i64::from(entry.stored_len))
            .bind(i64::from(entry.raw_len))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Gives frames that a snapshot of the host needs and that lie nowhere a
    /// number: a row that is marked as damaged and points at no pack. When the
    /// frame is sent again it keeps that number, so it belongs to the snapshots
    /// that lacked it. Rows there are already are marked.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn note_missing_frames(&self, host: HostId, frames: &[FrameId]) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let host = make_host_number(&mut tx, host).await?;
        for frame in frames {
            let number = next_frames(&mut tx, 1).await?;
            sqlx::query(
                "insert into frames (number, host, id, pack, kind, key_epoch, pack_offset, stored_bytes,
                     raw_bytes, damaged)
                 values ($1, $2, $3, 0, 1, 0, 0, 0, 0, 1)
                 on conflict (host, id) do update set damaged = 1",
            )
            .bind(signed(number))
            .bind(signed(host))
            .bind(frame.as_bytes().as_slice())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// All frames that were found damaged, whoever's they are.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn all_damaged(&self) -> Result<HashSet<FrameId>, CatalogError> {
        let ids: Vec<Vec<u8>> =
            sqlx::query_scalar("select id from frames where damaged = 1").fetch_all(self.pool()).await?;
        Ok(ids.iter().filter_map(|id| FrameId::from_slice(id)).collect())
    }

    /// Drops rows of frames that lie nowhere and that nothing needs any more.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_missing_frames(&self, kept: &RoaringTreemap) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // Pack 0 is none: `note_missing_frames` writes it.
        let numbers: Vec<i64> =
            sqlx::query_scalar("select number from frames where pack = 0").fetch_all(&mut *tx).await?;
        for number in numbers.into_iter().filter(|number| !kept.contains(unsigned(*number))) {
            sqlx::query("delete from frames where number = $1").bind(number).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Writes the row of a snapshot that is in the bucket. False where its
    /// commit number is another's.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_snapshot(&self, found: &FoundSnapshot<'_>) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let taken: Option<i64> =
            sqlx::query_scalar("select commit_number from snapshots where commit_number = $1")
                .bind(signed(found.commit_number))
                .fetch_optional(&mut *tx)
                .await?;
        if taken.is_some() {
            return Ok(false);
        }
        let row = Inserted {
            id: found.id,
            commit_number: found.commit_number,
            state: SnapshotState::Committed,
            job: String::new(),
            created_ms: found.created_ms,
            names: found.names,
            body: found.body,
            body_bytes: found.body_bytes,
            frames: found.frames,
            extent: Some(found.body.stats.extent()),
            shrink_accepted: false,
        };
        insert_snapshot(&mut tx, &row).await?;
        // Neither number is given again: the next snapshot would be stored over this one.
        note_number(&mut tx, found.id.host, found.id.source, found.id.number).await?;
        sqlx::query("update repository set commit_number = max(commit_number, $1)")
            .bind(signed(found.commit_number))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Adds to what a known snapshot reaches; nothing it was known to reach is
    /// taken away, for what could not be read today may be read tomorrow. With
    /// `stored` its object is in the bucket: one that was committing is
    /// committed.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn renew_snapshot(
        &self,
        commit_number: u64,
        frames: &RoaringTreemap,
        partial: bool,
        stored: bool,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let before: Option<Vec<u8>> =
            sqlx::query_scalar("select frames from snapshot_blobs where commit_number = $1")
                .bind(signed(commit_number))
                .fetch_optional(&mut *tx)
                .await?;
        let Some(before) = before else { return Ok(()) };
        // A page that could not be read this time reaches nothing: without what was known
        // before, collection would delete what is below it.
        let union = bitmap(&before)? | frames;
        sqlx::query("update snapshot_blobs set frames = $2 where commit_number = $1")
            .bind(signed(commit_number))
            .bind(bitmap_bytes(&union))
            .execute(&mut *tx)
            .await?;
        sqlx::query("update snapshots set partial = $2 where commit_number = $1")
            .bind(signed(commit_number))
            .bind(partial)
            .execute(&mut *tx)
            .await?;
        if stored {
            sqlx::query(
                "update snapshots set state = 'committed' where commit_number = $1 and state = 'committing'",
            )
            .bind(signed(commit_number))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Notes that a pack is not in the bucket: its frames are lost until they
    /// are sent again. The row stays while a snapshot uses one of them, so that
    /// each keeps its number, and the pack, should it come back, its owner.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn mark_absent_pack(&self, number: u64) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("update frames set damaged = 1 where pack = $1")
            .bind(signed(number))
            .execute(&mut *tx)
            .await?;
        // An intended pack is none that was there before: its upload may be under way.
        sqlx::query(
            "update packs set state = 'live', suspect = 0, condemned_lease = null where number = $1
             and state <> 'intended'",
        )
        .bind(signed(number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Drops the row of a snapshot that is not in the bucket.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_absent_snapshot(&self, commit_number: u64) -> Result<(), CatalogError> {
        sqlx::query("delete from snapshots where commit_number = $1")
            .bind(signed(commit_number))
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Before a reconciliation: no lease goes on, nothing cached of pages is
    /// believed, and nothing is deleted should it be cut off.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn begin_reconciliation(&self, unfinished: &str) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("update leases set ended_tick = (select ticks from repository) where ended_tick is null")
            .execute(&mut *tx)
            .await?;
        for statement in ["delete from page_refs", "delete from orphans"] {
            sqlx::query(statement).execute(&mut *tx).await?;
        }
        sqlx::query("update repository set collection_off = $1").bind(unfinished).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes the controller that may write to the repository.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn set_repository_owner(&self, owner: &str) -> Result<(), CatalogError> {
        sqlx::query("update repository set owner = $1").bind(owner).execute(self.pool()).await?;
        Ok(())
    }
}
