//! The repository's one row: how far it has come, the counters nothing is
//! ever given twice from, and why it is suspended, if it is.

use std::collections::BTreeMap;

use holdfast_archive::ids::{HostId, RepositoryId, SourceId};
use holdfast_archive::state::Head;
use roaring::RoaringTreemap;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::audit::mark;
use super::{Catalog, CatalogError};

/// What the catalogue knows of its repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryRow {
    pub repository: RepositoryId,
    pub owner: String,
    pub commit_number: u64,
    pub ticks: u64,
    /// Empty: not suspended.
    pub suspended: String,
    /// Why nothing is deleted although the repository is not suspended; empty:
    /// things are deleted.
    pub collection_off: String,
}

/// Counts for the status page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RepositoryCounts {
    pub snapshots: u64,
    pub packs: u64,
    pub stored_bytes: u64,
}

impl Catalog {
    /// The repository that this catalogue is of; `None`: none yet.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn repository(&self) -> Result<Option<RepositoryRow>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        row(&mut connection).await
    }

    /// Notes which repository this catalogue is of. Does nothing when it is
    /// noted already, also of another one.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn adopt_repository(&self, id: RepositoryId, owner: &str) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into repository (one, repository_id, owner) values (1, $1, $2) on conflict do nothing",
        )
        .bind(id.to_string())
        .bind(owner)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Counts one tick of a running controller; gives the count.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn advance_ticks(&self, by: u64) -> Result<u64, CatalogError> {
        let ticks: Option<i64> =
            sqlx::query_scalar("update repository set ticks = ticks + $1 returning ticks")
                .bind(signed(by))
                .fetch_optional(self.pool())
                .await?;
        Ok(unsigned(ticks.unwrap_or(0)))
    }

    /// Raises the commit number without a commit; gives the new one.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn raise_commit_number(&self) -> Result<u64, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        next_commit_number(&mut connection).await
    }

    /// The highest number of a snapshot that was acknowledged and still has a
    /// row; 0 where there is none.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn newest_commit(&self) -> Result<u64, CatalogError> {
        let number: i64 = sqlx::query_scalar(
            "select coalesce(max(commit_number), 0) from snapshots
              where state in ('committed', 'forgotten', 'purging')",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(unsigned(number))
    }

    /// What `state/head` is to say.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn head(&self) -> Result<Head, CatalogError> {
        // In one transaction: a commit between the readings would leave a head whose commit
        // number covers a snapshot number that it lacks.
        let mut tx = self.pool().begin().await?;
        let commit_number = row(&mut tx).await?.map_or(0, |row| row.commit_number);
        let rows = sqlx::query("select host_id, source_id, highest from snapshot_numbers")
            .fetch_all(&mut *tx)
            .await?;
        let mut numbers = BTreeMap::new();
        for row in rows {
            let host: HostId = id(row.try_get("host_id")?, "host id")?;
            let source: SourceId = id(row.try_get("source_id")?, "source id")?;
            numbers.insert((host, source), unsigned(row.try_get("highest")?));
        }
        let audit = mark(&mut tx).await?;
        Ok(Head { commit_number, numbers, audit })
    }

    /// Switches collection and deduplication off, and takes over numbers from
    /// a head that is ahead, so that none is given again.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn suspend(&self, reason: &str, head: Option<&Head>) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("update repository set suspended = $1").bind(reason).execute(&mut *tx).await?;
        // A suspect pack is offered to no upload: it may be gone from the bucket, so what is in
        // it is sent again.
        sqlx::query("update packs set suspect = 1").execute(&mut *tx).await?;
        if let Some(head) = head {
            take_numbers(&mut tx, head).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Takes over numbers of a head that is further than this catalogue.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn take_head(&self, head: &Head) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        take_numbers(&mut tx, head).await?;
        tx.commit().await?;
        Ok(())
    }

    /// How much is in the repository, as far as rows say.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn repository_counts(&self) -> Result<RepositoryCounts, CatalogError> {
        let packs = sqlx::query(
            "select count(*) as packs, coalesce(sum(length), 0) as bytes from packs
             where state in ('live', 'condemned', 'deleting')",
        )
        .fetch_one(self.pool())
        .await?;
        let snapshots: i64 = sqlx::query_scalar("select count(*) from snapshots where state = 'committed'")
            .fetch_one(self.pool())
            .await?;
        Ok(RepositoryCounts {
            snapshots: unsigned(snapshots),
            packs: unsigned(packs.try_get("packs")?),
            stored_bytes: unsigned(packs.try_get("bytes")?),
        })
    }
}

async fn take_numbers(connection: &mut SqliteConnection, head: &Head) -> Result<(), CatalogError> {
    sqlx::query("update repository set commit_number = max(commit_number, $1)")
        .bind(signed(head.commit_number))
        .execute(&mut *connection)
        .await?;
    for ((host, source), number) in &head.numbers {
        note_number(connection, *host, *source, *number).await?;
    }
    Ok(())
}

pub(super) async fn note_number(
    connection: &mut SqliteConnection,
    host: HostId,
    source: SourceId,
    number: u64,
) -> Result<(), CatalogError> {
    sqlx::query(
        "insert into snapshot_numbers (host_id, source_id, highest) values ($1, $2, $3)
         on conflict (host_id, source_id) do update set highest = max(highest, excluded.highest)",
    )
    .bind(host.to_string())
    .bind(source.to_string())
    .bind(signed(number))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn row(connection: &mut SqliteConnection) -> Result<Option<RepositoryRow>, CatalogError> {
    let row = sqlx::query(
        "select repository_id, owner, commit_number, ticks, suspended, collection_off from repository",
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(RepositoryRow {
        repository: id(row.try_get("repository_id")?, "repository id")?,
        owner: row.try_get("owner")?,
        commit_number: unsigned(row.try_get("commit_number")?),
        ticks: unsigned(row.try_get("ticks")?),
        suspended: row.try_get("suspended")?,
        collection_off: row.try_get("collection_off")?,
    }))
}

pub(super) async fn ticks(connection: &mut SqliteConnection) -> Result<u64, CatalogError> {
    Ok(row(connection).await?.map_or(0, |row| row.ticks))
}

pub(super) async fn next_commit_number(connection: &mut SqliteConnection) -> Result<u64, CatalogError> {
    let number: i64 =
        sqlx::query_scalar("update repository set commit_number = commit_number + 1 returning commit_number")
            .fetch_one(connection)
            .await?;
    Ok(unsigned(number))
}

pub(super) async fn next_lease(connection: &mut SqliteConnection) -> Result<u64, CatalogError> {
    let number: i64 =
        sqlx::query_scalar("update repository set next_lease = next_lease + 1 returning next_lease - 1")
            .fetch_one(connection)
            .await?;
    Ok(unsigned(number))
}

pub(super) async fn next_pack(connection: &mut SqliteConnection) -> Result<u64, CatalogError> {
    let number: i64 =
        sqlx::query_scalar("update repository set next_pack = next_pack + 1 returning next_pack - 1")
            .fetch_one(connection)
            .await?;
    Ok(unsigned(number))
}

/// The first of `count` frame numbers.
pub(super) async fn next_frames(connection: &mut SqliteConnection, count: u64) -> Result<u64, CatalogError> {
    let number: i64 =
        sqlx::query_scalar("update repository set next_frame = next_frame + $1 returning next_frame - $1")
            .bind(signed(count))
            .fetch_one(connection)
            .await?;
    Ok(unsigned(number))
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn id<T: std::str::FromStr>(text: String, what: &'static str) -> Result<T, CatalogError> {
    text.parse().map_err(|_| CatalogError::Unreadable { what, value: text })
}

pub(super) fn bitmap_bytes(bitmap: &RoaringTreemap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("writing to memory does not fail");
    bytes
}

pub(super) fn bitmap(bytes: &[u8]) -> Result<RoaringTreemap, CatalogError> {
    RoaringTreemap::deserialize_from(bytes)
        .map_err(|error| CatalogError::Unreadable { what: "bitmap", value: error.to_string() })
}
