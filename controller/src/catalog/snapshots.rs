//! Snapshots: their rows, and the way out. How one comes in is in [`super::commits`].

use holdfast_archive::ids::{FrameId, HostId, SnapshotId, SourceId};
use holdfast_archive::snapshot::{Extent, Names, SnapshotBody, SnapshotHeader};
use holdfast_proto::ids::JobId;
use roaring::RoaringTreemap;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::repository::{bitmap, bitmap_bytes, id, next_commit_number, signed, ticks, unsigned};
use super::{Catalog, CatalogError};
use crate::model::protocol::{Protocol, PurgeFacts, SnapshotState};

/// A snapshot as its row says. Names are those of hosts and sources today
/// where the catalogue knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    pub id: SnapshotId,
    pub commit_number: u64,
    pub state: SnapshotState,
    /// Empty for one found in the bucket.
    pub job: String,
    pub policy: String,
    pub created_ms: i64,
    pub root: FrameId,
    pub host_name: String,
    /// "volume" or "directory".
    pub source_kind: String,
    pub source_name: String,
    pub partial: bool,
    pub held: bool,
    pub purge_after_ms: Option<i64>,
    /// `None`: not known, or not to be compared with others.
    pub extent: Option<Extent>,
    /// An operator accepted that the source is as small as this.
    pub shrink_accepted: bool,
}

/// What a list of snapshots is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct SnapshotFilter {
    pub host: Option<HostId>,
    pub source: Option<SourceId>,
    pub job: Option<JobId>,
    /// Empty: committed only.
    pub states: Vec<SnapshotState>,
    /// 0: all. Newest first.
    pub limit: u32,
}

/// Host, source and number of a snapshot, with its object's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    pub header: SnapshotHeader,
    pub body: Vec<u8>,
}

/// A row to be written as it is.
pub(super) struct Inserted<'a> {
    pub(super) id: SnapshotId,
    pub(super) commit_number: u64,
    pub(super) state: SnapshotState,
    pub(super) job: String,
    pub(super) created_ms: i64,
    pub(super) names: &'a Names,
    pub(super) body: &'a SnapshotBody,
    pub(super) body_bytes: &'a [u8],
    pub(super) frames: &'a RoaringTreemap,
    pub(super) extent: Option<Extent>,
    pub(super) shrink_accepted: bool,
}

const COLUMNS: &str = "select s.*, coalesce(h.name, s.host_name) as host_now,
        coalesce(o.name, s.source_name) as source_now, coalesce(j.policy, '') as policy
    from snapshots s left join hosts h on h.id = s.host_id left join sources o on o.id = s.source_id
        left join jobs j on j.id = s.job_id";

impl Catalog {
    /// Newest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshots(&self, filter: &SnapshotFilter) -> Result<Vec<SnapshotRecord>, CatalogError> {
        let states = match filter.states.as_slice() {
            [] => SnapshotState::Committed.as_str().to_owned(),
            states => states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join("','"),
        };
        let rows = sqlx::query(AssertSqlSafe(format!(
            "{COLUMNS} where s.state in ('{states}') and ($1 is null or s.host_id = $1)
             and ($2 is null or s.source_id = $2) and ($3 is null or s.job_id = $3)
             order by s.commit_number desc limit $4"
        )))
        .bind(filter.host.map(|host| host.to_string()))
        .bind(filter.source.map(|source| source.to_string()))
        .bind(filter.job.map(|job| job.to_string()))
        .bind(if filter.limit == 0 { -1 } else { i64::from(filter.limit) })
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// The snapshot with that id, whatever its state.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        get(&mut connection, id).await
    }

    /// The snapshot with that commit number, whatever its state.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshot_by_commit(&self, number: u64) -> Result<Option<SnapshotRecord>, CatalogError> {
        let row = sqlx::query(AssertSqlSafe(format!("{COLUMNS} where s.commit_number = $1")))
            .bind(signed(number))
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The snapshot a job made of a source, whatever its state.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshot_of_job(
        &self,
        job: JobId,
        source: SourceId,
    ) -> Result<Option<SnapshotRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        of_job(&mut connection, job, source).await
    }

    /// The body of a snapshot, as the agent encoded it.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshot_body(&self, commit_number: u64) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(sqlx::query_scalar("select body from snapshot_blobs where commit_number = $1")
            .bind(signed(commit_number))
            .fetch_optional(self.pool())
            .await?)
    }

    /// What the snapshot's object holds.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn stored_snapshot(&self, commit_number: u64) -> Result<Option<StoredSnapshot>, CatalogError> {
        let Some(repository) = self.repository().await? else { return Ok(None) };
        let Some(record) = self.snapshot_by_commit(commit_number).await? else { return Ok(None) };
        let Some(body) = self.snapshot_body(commit_number).await? else { return Ok(None) };
        let header = SnapshotHeader {
            repository: repository.repository,
            id: record.id,
            created_unix_ms: record.created_ms,
            commit_number,
            names: self.snapshot_names(commit_number).await?,
        };
        Ok(Some(StoredSnapshot { header, body }))
    }

    /// What host and source of a snapshot were called when it was committed.
    async fn snapshot_names(&self, commit_number: u64) -> Result<Names, CatalogError> {
        let row =
            sqlx::query("select host_name, source_kind, source_name from snapshots where commit_number = $1")
                .bind(signed(commit_number))
                .fetch_optional(self.pool())
                .await?;
        let Some(row) = row else { return Ok(Names::default()) };
        Ok(Names {
            host: row.try_get("host_name")?,
            kind: row.try_get("source_kind")?,
            source: row.try_get("source_name")?,
        })
    }

    /// The numbers of all frames a snapshot reaches.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshot_frames(&self, commit_number: u64) -> Result<RoaringTreemap, CatalogError> {
        let bytes: Option<Vec<u8>> =
            sqlx::query_scalar("select frames from snapshot_blobs where commit_number = $1")
                .bind(signed(commit_number))
                .fetch_optional(self.pool())
                .await?;
        bytes.map_or(Ok(RoaringTreemap::new()), |bytes| bitmap(&bytes))
    }

    /// All frames that snapshots keep, as of one moment.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn kept_frames(&self) -> Result<RoaringTreemap, CatalogError> {
        self.kept_frames_without(&[]).await
    }

    /// What would be kept if these commits were gone.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn kept_frames_without(&self, gone: &[u64]) -> Result<RoaringTreemap, CatalogError> {
        let mut tx = self.pool().begin().await?;
        let rows = sqlx::query("select commit_number, state from snapshots").fetch_all(&mut *tx).await?;
        let mut kept = RoaringTreemap::new();
        for row in rows {
            let number: i64 = row.try_get("commit_number")?;
            let keeps = Protocol::WHOLE.keeps(state(row.try_get("state")?)?);
            if !keeps || gone.contains(&unsigned(number)) {
                continue;
            }
            let bytes: Vec<u8> =
                sqlx::query_scalar("select frames from snapshot_blobs where commit_number = $1")
                    .bind(number)
                    .fetch_one(&mut *tx)
                    .await?;
            kept |= bitmap(&bytes)?;
        }
        Ok(kept)
    }

    /// Commit numbers of snapshots in that state, oldest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn snapshots_in(&self, state: SnapshotState, limit: u32) -> Result<Vec<u64>, CatalogError> {
        let numbers: Vec<i64> = sqlx::query_scalar(
            "select commit_number from snapshots where state = $1 order by commit_number limit $2",
        )
        .bind(state.as_str())
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        Ok(numbers.into_iter().map(unsigned).collect())
    }

    /// Holds or releases a snapshot. False: there is none.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn hold_snapshot(&self, id: &SnapshotId, hold: bool) -> Result<bool, CatalogError> {
        let done = sqlx::query(
            "update snapshots set held = $4 where host_id = $1 and source_id = $2 and number = $3
             and state in ('committed', 'forgotten')",
        )
        .bind(id.host.to_string())
        .bind(id.source.to_string())
        .bind(signed(id.number))
        .bind(hold)
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Committed to forgotten. False where the protocol does not allow it.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn forget_snapshot(&self, id: &SnapshotId, purge_after_ms: i64) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let Some(record) = get(&mut tx, id).await? else { return Ok(false) };
        if !Protocol::WHOLE.may_forget(record.state, record.held) {
            return Ok(false);
        }
        sqlx::query(
            "update snapshots set state = 'forgotten', purge_after_ms = $2,
                 forgotten_tick = (select ticks from repository) where commit_number = $1",
        )
        .bind(signed(record.commit_number))
        .bind(purge_after_ms)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Forgotten to committed. False where it is too late.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn undelete_snapshot(&self, id: &SnapshotId) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let Some(record) = get(&mut tx, id).await? else { return Ok(false) };
        if !Protocol::WHOLE.may_undelete(record.state) {
            return Ok(false);
        }
        sqlx::query(
            "update snapshots set state = 'committed', purge_after_ms = null, forgotten_tick = null
             where commit_number = $1",
        )
        .bind(signed(record.commit_number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Forgotten snapshots that the protocol lets go, at most so many. With
    /// `apply` they become purging and the commit number rises.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn begin_purge(
        &self,
        now_ms: i64,
        grace_ticks: u64,
        holding: &[u64],
        limit: usize,
        apply: bool,
    ) -> Result<Vec<u64>, CatalogError> {
        // Judged and written in one transaction: a hold or an undelete comes before both or
        // finds the snapshot purging.
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let mut purged = purgeable(&mut tx, now_ms, grace_ticks, holding).await?;
        purged.truncate(limit);
        if apply && !purged.is_empty() {
            set_purging(&mut tx, &purged).await?;
            // A catalogue put back from before this believes in snapshots that are about to go:
            // it is told by the number.
            next_commit_number(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(purged)
    }

    /// Removes the row of a snapshot whose object is gone.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_snapshot(&self, commit_number: u64) -> Result<(), CatalogError> {
        sqlx::query("delete from snapshots where commit_number = $1 and state = 'purging'")
            .bind(signed(commit_number))
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

async fn set_purging(tx: &mut SqliteConnection, numbers: &[u64]) -> Result<(), CatalogError> {
    for number in numbers {
        sqlx::query("update snapshots set state = 'purging' where commit_number = $1")
            .bind(signed(*number))
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

/// Commit numbers of the forgotten snapshots that the protocol lets go, oldest first.
async fn purgeable(
    tx: &mut SqliteConnection,
    now_ms: i64,
    grace_ticks: u64,
    holding: &[u64],
) -> Result<Vec<u64>, CatalogError> {
    let now_tick = ticks(&mut *tx).await?;
    let rows = sqlx::query(
        "select commit_number, held, purge_after_ms, forgotten_tick from snapshots
         where state = 'forgotten' order by commit_number",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut purgeable = Vec::new();
    for row in rows {
        let number = unsigned(row.try_get("commit_number")?);
        let facts = PurgeFacts {
            state: SnapshotState::Forgotten,
            held: row.try_get("held")?,
            leased: holding.contains(&number),
            purge_after_ms: row.try_get::<Option<i64>, _>("purge_after_ms")?.unwrap_or(0),
            now_ms,
            forgotten_tick: unsigned(row.try_get::<Option<i64>, _>("forgotten_tick")?.unwrap_or(0)),
            now_tick,
            grace_ticks,
        };
        if Protocol::WHOLE.may_purge(facts) {
            purgeable.push(number);
        }
    }
    Ok(purgeable)
}

pub(super) async fn insert_snapshot(
    tx: &mut SqliteConnection,
    new: &Inserted<'_>,
) -> Result<(), CatalogError> {
    sqlx::query(
        "insert into snapshots (commit_number, host_id, source_id, number, state, job_id, created_ms, root,
             host_name, source_kind, source_name, partial, entries, size_bytes, shrink_accepted)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(signed(new.commit_number))
    .bind(new.id.host.to_string())
    .bind(new.id.source.to_string())
    .bind(signed(new.id.number))
    .bind(new.state.as_str())
    .bind(&new.job)
    .bind(new.created_ms)
    .bind(new.body.root.as_bytes().as_slice())
    .bind(&new.names.host)
    .bind(&new.names.kind)
    .bind(&new.names.source)
    .bind(new.body.partial)
    .bind(new.extent.map(|extent| signed(extent.entries)))
    .bind(new.extent.map(|extent| signed(extent.size_bytes)))
    .bind(new.shrink_accepted)
    .execute(&mut *tx)
    .await?;
    sqlx::query("insert into snapshot_blobs (commit_number, body, frames) values ($1, $2, $3)")
        .bind(signed(new.commit_number))
        .bind(new.body_bytes)
        .bind(bitmap_bytes(new.frames))
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn get(
    connection: &mut SqliteConnection,
    id: &SnapshotId,
) -> Result<Option<SnapshotRecord>, CatalogError> {
    let row = sqlx::query(AssertSqlSafe(format!(
        "{COLUMNS} where s.host_id = $1 and s.source_id = $2 and s.number = $3"
    )))
    .bind(id.host.to_string())
    .bind(id.source.to_string())
    .bind(signed(id.number))
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn of_job(
    connection: &mut SqliteConnection,
    job: JobId,
    source: SourceId,
) -> Result<Option<SnapshotRecord>, CatalogError> {
    let row = sqlx::query(AssertSqlSafe(format!("{COLUMNS} where s.job_id = $1 and s.source_id = $2")))
        .bind(job.to_string())
        .bind(source.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

fn state(text: String) -> Result<SnapshotState, CatalogError> {
    SnapshotState::parse(&text).ok_or(CatalogError::Unreadable { what: "state of a snapshot", value: text })
}

fn read(row: &SqliteRow) -> Result<SnapshotRecord, CatalogError> {
    let entries: Option<i64> = row.try_get("entries")?;
    let size_bytes: Option<i64> = row.try_get("size_bytes")?;
    let extent = entries
        .zip(size_bytes)
        .map(|(entries, size_bytes)| Extent { entries: unsigned(entries), size_bytes: unsigned(size_bytes) });
    let root: Vec<u8> = row.try_get("root")?;
    Ok(SnapshotRecord {
        id: SnapshotId {
            host: id(row.try_get("host_id")?, "host id")?,
            source: id(row.try_get("source_id")?, "source id")?,
            number: unsigned(row.try_get("number")?),
        },
        commit_number: unsigned(row.try_get("commit_number")?),
        state: state(row.try_get("state")?)?,
        job: row.try_get("job_id")?,
        policy: row.try_get("policy")?,
        created_ms: row.try_get("created_ms")?,
        root: FrameId::from_slice(&root)
            .ok_or_else(|| CatalogError::Unreadable { what: "root page", value: format!("{root:?}") })?,
        host_name: row.try_get("host_now")?,
        source_kind: row.try_get("source_kind")?,
        source_name: row.try_get("source_now")?,
        partial: row.try_get("partial")?,
        held: row.try_get("held")?,
        purge_after_ms: row.try_get("purge_after_ms")?,
        extent,
        shrink_accepted: row.try_get("shrink_accepted")?,
    })
}
