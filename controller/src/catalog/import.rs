//! Rows made from what the bucket holds, for a catalogue that was lost or is
//! an old copy.

use holdfast_archive::ids::{HostId, PackId, SnapshotId};
use holdfast_archive::seam::PackEntry;
use holdfast_archive::snapshot::SnapshotBody;
use roaring::RoaringTreemap;
use sqlx::Row as _;

use super::packs::{PackRecord, add_frames, insert_pack, pack, read as read_pack};
use super::repository::{id, next_pack, note_number, signed, unsigned};
use super::snapshots::{Inserted, insert_snapshot};
use super::{Catalog, CatalogError};
use crate::repository::protocol::{PackState, SnapshotState};

/// A snapshot found in the bucket.
#[derive(Debug, Clone)]
pub struct FoundSnapshot<'a> {
    pub id: SnapshotId,
    pub commit_number: u64,
    pub created_ms: i64,
    pub body: &'a SnapshotBody,
    pub body_bytes: &'a [u8],
    pub frames: &'a RoaringTreemap,
}

impl Catalog {
    pub async fn all_packs(&self) -> Result<Vec<PackRecord>, CatalogError> {
        let rows = sqlx::query("select * from packs").fetch_all(self.pool()).await?;
        rows.iter().map(read_pack).collect()
    }

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
    pub async fn import_pack(
        &self,
        id: &PackId,
        host: HostId,
        length: u64,
        table: &[PackEntry],
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let number = match pack(&mut tx, id).await? {
            Some(row) => row.number,
            None => {
                let number = next_pack(&mut tx).await?;
                insert_pack(&mut tx, number, id, host, 0, PackState::Live, length).await?;
                number
            }
        };
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

    /// Gives a host frames that lie in a pack which counts as another's.
    pub async fn import_frames(
        &self,
        host: HostId,
        id: &PackId,
        frames: &[PackEntry],
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        if let Some(row) = pack(&mut tx, id).await? {
            add_frames(&mut tx, host, row.number, frames).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Writes the row of a snapshot that is in the bucket. False where its
    /// commit number is another's.
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
            body: found.body,
            body_bytes: found.body_bytes,
            frames: found.frames,
        };
        insert_snapshot(&mut tx, &row).await?;
        note_number(&mut tx, found.id.host, found.id.source, found.id.number).await?;
        sqlx::query("update repository set commit_number = max(commit_number, $1)")
            .bind(signed(found.commit_number))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Replaces what a known snapshot was believed to reach, and makes it
    /// committed where it was committing: its object is in the bucket.
    pub async fn renew_snapshot(
        &self,
        commit_number: u64,
        frames: &RoaringTreemap,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("update snapshot_blobs set frames = $2 where commit_number = $1")
            .bind(signed(commit_number))
            .bind(super::repository::bitmap_bytes(frames))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "update snapshots set state = 'committed' where commit_number = $1 and state = 'committing'",
        )
        .bind(signed(commit_number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Drops rows of a pack that is not in the bucket.
    pub async fn drop_absent_pack(&self, number: u64) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("delete from frames where pack = $1").bind(signed(number)).execute(&mut *tx).await?;
        sqlx::query("delete from packs where number = $1").bind(signed(number)).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Drops the row of a snapshot that is not in the bucket.
    pub async fn drop_absent_snapshot(&self, commit_number: u64) -> Result<(), CatalogError> {
        sqlx::query("delete from snapshots where commit_number = $1")
            .bind(signed(commit_number))
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Before a reconciliation: no lease goes on, and nothing cached of pages
    /// is believed.
    pub async fn begin_reconciliation(&self) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("update leases set ended_tick = (select ticks from repository) where ended_tick is null")
            .execute(&mut *tx)
            .await?;
        for statement in ["delete from page_refs", "delete from orphans"] {
            sqlx::query(statement).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub async fn set_repository_owner(&self, owner: &str) -> Result<(), CatalogError> {
        sqlx::query("update repository set owner = $1").bind(owner).execute(self.pool()).await?;
        Ok(())
    }
}
