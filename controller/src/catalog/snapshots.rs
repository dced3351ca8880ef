//! Snapshots: the two transactions of a commit, and the way out.

use holdfast_archive::ids::{FrameId, HostId, SnapshotId, SourceId};
use holdfast_archive::snapshot::{Extent, Names, SnapshotBody, SnapshotHeader};
use holdfast_proto::ids::JobId;
use roaring::RoaringTreemap;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::frames::{conditions, frame_details, frame_facts};
use super::repository::{bitmap, bitmap_bytes, id, next_commit_number, note_number, signed, ticks, unsigned};
use super::{Catalog, CatalogError};
use crate::model::job::parameters::Parameters;
use crate::model::protocol::{Protocol, PurgeFacts, Reference, SnapshotState};

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
    pub verified_ms: Option<i64>,
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

/// A snapshot to be committed.
#[derive(Debug, Clone)]
pub struct NewSnapshot<'a> {
    pub lease: u64,
    pub job: JobId,
    pub host: HostId,
    pub source: SourceId,
    pub names: &'a Names,
    pub body: &'a SnapshotBody,
    pub body_bytes: &'a [u8],
    pub frames: &'a RoaringTreemap,
    pub created_ms: i64,
}

/// What transaction 1 came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    Committing(SnapshotRecord),
    /// The job has a snapshot of this source already.
    Before(SnapshotRecord),
    /// Frames that are not there, as far as their ids are known, and the
    /// numbers of those that have no row any more.
    Missing(Vec<FrameId>, RoaringTreemap),
    /// The lease was closed or superseded meanwhile.
    LeaseLost,
}

/// Host, source and number of a snapshot, with its object's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    pub header: SnapshotHeader,
    pub body: Vec<u8>,
}

const COLUMNS: &str = "select s.*, coalesce(h.name, s.host_name) as host_now,
        coalesce(o.name, s.source_name) as source_now, coalesce(j.policy, '') as policy
    from snapshots s left join hosts h on h.id = s.host_id left join sources o on o.id = s.source_id
        left join jobs j on j.id = s.job_id";

impl Catalog {
    /// Transaction 1: checks every reference, makes condemned packs live
    /// again, gives the snapshot its numbers.
    pub async fn begin_commit(&self, new: &NewSnapshot<'_>) -> Result<Begun, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let open: Option<i64> =
            sqlx::query_scalar("select number from leases where number = $1 and ended_tick is null")
                .bind(signed(new.lease))
                .fetch_optional(&mut *tx)
                .await?;
        if let Some(before) = of_job(&mut tx, new.job, new.source).await? {
            return Ok(Begun::Before(before));
        }
        if open.is_none() {
            return Ok(Begun::LeaseLost);
        }
        let (missing, absent) = check_references(&mut tx, new.frames).await?;
        if !missing.is_empty() || !absent.is_empty() {
            return Ok(Begun::Missing(missing, absent));
        }
        let id = insert_committing(&mut tx, new).await?;
        let record = get(&mut tx, &id).await?;
        tx.commit().await?;
        record
            .map(Begun::Committing)
            .ok_or(CatalogError::Unreadable { what: "snapshot", value: id.to_string() })
    }

    /// Transaction 2: the object is in the bucket. False where the row is not
    /// committing any more.
    pub async fn set_committed(&self, commit_number: u64) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let done = sqlx::query(
            "update snapshots set state = 'committed' where commit_number = $1 and state = 'committing'",
        )
        .bind(signed(commit_number))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "update leases set committed = 1, ended_tick = coalesce(ended_tick, (select ticks from repository))
             where kind = 'upload' and (job_id, source_id) =
                 (select job_id, source_id from snapshots where commit_number = $1)",
        )
        .bind(signed(commit_number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Newest first.
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

    pub async fn snapshot(&self, id: &SnapshotId) -> Result<Option<SnapshotRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        get(&mut connection, id).await
    }

    pub async fn snapshot_by_commit(&self, number: u64) -> Result<Option<SnapshotRecord>, CatalogError> {
        let row = sqlx::query(AssertSqlSafe(format!("{COLUMNS} where s.commit_number = $1")))
            .bind(signed(number))
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// The snapshot a job made of a source, whatever its state.
    pub async fn snapshot_of_job(
        &self,
        job: JobId,
        source: SourceId,
    ) -> Result<Option<SnapshotRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        of_job(&mut connection, job, source).await
    }

    /// The body of a snapshot, as the agent encoded it.
    pub async fn snapshot_body(&self, commit_number: u64) -> Result<Option<Vec<u8>>, CatalogError> {
        Ok(sqlx::query_scalar("select body from snapshot_blobs where commit_number = $1")
            .bind(signed(commit_number))
            .fetch_optional(self.pool())
            .await?)
    }

    /// What the snapshot's object holds.
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
    pub async fn snapshot_frames(&self, commit_number: u64) -> Result<RoaringTreemap, CatalogError> {
        let bytes: Option<Vec<u8>> =
            sqlx::query_scalar("select frames from snapshot_blobs where commit_number = $1")
                .bind(signed(commit_number))
                .fetch_optional(self.pool())
                .await?;
        bytes.map_or(Ok(RoaringTreemap::new()), |bytes| bitmap(&bytes))
    }

    /// All frames that snapshots keep, as of one moment.
    pub async fn kept_frames(&self) -> Result<RoaringTreemap, CatalogError> {
        self.kept_frames_without(&[]).await
    }

    /// What would be kept if these commits were gone.
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

    /// Notes when a snapshot was last proved readable.
    pub async fn set_verified(&self, id: &SnapshotId, at_ms: i64) -> Result<(), CatalogError> {
        sqlx::query(
            "update snapshots set verified_ms = $4 where host_id = $1 and source_id = $2 and number = $3",
        )
        .bind(id.host.to_string())
        .bind(id.source.to_string())
        .bind(signed(id.number))
        .bind(at_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Forgotten snapshots that the protocol lets go, at most so many. With
    /// `apply` they become purging and the commit number rises.
    pub async fn begin_purge(
        &self,
        now_ms: i64,
        grace_ticks: u64,
        holding: &[u64],
        limit: usize,
        apply: bool,
    ) -> Result<Vec<u64>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let now_tick = ticks(&mut tx).await?;
        let rows = sqlx::query(
            "select commit_number, held, purge_after_ms, forgotten_tick from snapshots
             where state = 'forgotten' order by commit_number",
        )
        .fetch_all(&mut *tx)
        .await?;
        let mut purged = Vec::new();
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
            if Protocol::WHOLE.may_purge(facts) && purged.len() < limit {
                purged.push(number);
            }
        }
        if apply && !purged.is_empty() {
            for number in &purged {
                sqlx::query("update snapshots set state = 'purging' where commit_number = $1")
                    .bind(signed(*number))
                    .execute(&mut *tx)
                    .await?;
            }
            next_commit_number(&mut tx).await?;
            tx.commit().await?;
        }
        Ok(purged)
    }

    /// Removes the row of a snapshot whose object is gone.
    pub async fn drop_snapshot(&self, commit_number: u64) -> Result<(), CatalogError> {
        sqlx::query("delete from snapshots where commit_number = $1 and state = 'purging'")
            .bind(signed(commit_number))
            .execute(self.pool())
            .await?;
        Ok(())
    }
}

async fn check_references(
    tx: &mut SqliteConnection,
    frames: &RoaringTreemap,
) -> Result<(Vec<FrameId>, RoaringTreemap), CatalogError> {
    let facts = frame_facts(tx, frames).await?;
    let counted: u64 = facts.iter().map(|(_, count)| count).sum();
    let all_usable =
        facts.iter().all(|(fact, _)| Protocol::WHOLE.reference(Some(*fact)) == Reference::Usable);
    if counted == frames.len() && all_usable {
        return Ok((Vec::new(), RoaringTreemap::new()));
    }
    let mut absent = frames.clone();
    let (mut missing, mut revive) = (Vec::new(), RoaringTreemap::new());
    for (number, id, pack, fact) in frame_details(tx, frames).await? {
        absent.remove(number);
        match Protocol::WHOLE.reference(Some(fact)) {
            Reference::Usable => {}
            Reference::Revive => {
                revive.insert(pack);
            }
            Reference::Missing => missing.push(id),
        }
    }
    // Only for a commit that goes through: one that is refused revives nothing.
    if missing.is_empty() && absent.is_empty() {
        for condition in conditions("number", &revive) {
            sqlx::query(AssertSqlSafe(format!(
                "update packs set state = 'live', condemned_lease = null
                 where state = 'condemned' and {condition}"
            )))
            .execute(&mut *tx)
            .await?;
        }
    }
    Ok((missing, absent))
}

async fn insert_committing(
    tx: &mut SqliteConnection,
    new: &NewSnapshot<'_>,
) -> Result<SnapshotId, CatalogError> {
    let highest: Option<i64> =
        sqlx::query_scalar("select highest from snapshot_numbers where host_id = $1 and source_id = $2")
            .bind(new.host.to_string())
            .bind(new.source.to_string())
            .fetch_optional(&mut *tx)
            .await?;
    let number = unsigned(highest.unwrap_or(0)) + 1;
    note_number(tx, new.host, new.source, number).await?;
    let commit_number = next_commit_number(tx).await?;
    let id = SnapshotId { host: new.host, source: new.source, number };
    let (extent, shrink_accepted) = measure(tx, new).await?;
    let row = Inserted {
        id,
        commit_number,
        state: SnapshotState::Committing,
        job: new.job.to_string(),
        created_ms: new.created_ms,
        names: new.names,
        body: new.body,
        body_bytes: new.body_bytes,
        frames: new.frames,
        extent,
        shrink_accepted,
    };
    insert_snapshot(tx, &row).await?;
    Ok(id)
}

/// The extent to compare with others of the source, and whether it was
/// accepted as small. An upgrade that accepts an empty source at the stop says
/// nothing about how large the source is otherwise.
async fn measure(
    tx: &mut SqliteConnection,
    new: &NewSnapshot<'_>,
) -> Result<(Option<Extent>, bool), CatalogError> {
    let row = sqlx::query("select parent_id is not null as child, parameters from jobs where id = $1")
        .bind(new.job.to_string())
        .fetch_optional(tx)
        .await?;
    let extent = Some(new.body.stats.extent());
    let Some(row) = row else { return Ok((extent, false)) };
    let parameters: String = row.try_get("parameters")?;
    let accepted = matches!(serde_json::from_str(&parameters),
        Ok(Parameters::Backup(backup)) if backup.allow_empty);
    Ok(match (accepted, row.try_get("child")?) {
        (true, true) => (None, false),
        (accepted, _) => (extent, accepted),
    })
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

async fn get(
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

async fn of_job(
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
        verified_ms: row.try_get("verified_ms")?,
        extent,
        shrink_accepted: row.try_get("shrink_accepted")?,
    })
}
