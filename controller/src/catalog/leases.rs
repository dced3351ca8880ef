//! Leases of the data plane. Their age is counted in ticks of a running
//! controller: no clock that jumps ends one.

use holdfast_archive::ids::{HostId, SourceId};
use holdfast_proto::ids::{JobId, LeaseId};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::repository::{id, next_lease, signed, ticks, unsigned};
use super::{Catalog, CatalogError};
use crate::model::protocol::LeaseFacts;

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseKind {
    Upload { source: SourceId },
    Restore,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Grows with each lease, so it tells which was opened first.
    pub number: u64,
    pub id: LeaseId,
    pub kind: LeaseKind,
    pub job: JobId,
    pub generation: u64,
    pub host: HostId,
    /// Commit number of the base, or of what is restored.
    pub snapshot: Option<u64>,
    pub facts: LeaseFacts,
}

/// A lease to be opened.
#[derive(Debug, Clone, Copy)]
pub struct NewLease {
    pub kind: LeaseKind,
    pub job: JobId,
    pub generation: u64,
    pub host: HostId,
    /// Of a restore; an upload's base is chosen here.
    pub snapshot: Option<u64>,
    /// Whether an upload may build on the newest snapshot of its source.
    pub with_base: bool,
}

/// What became of opening one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    Lease(LeaseRecord),
    /// The job opened one under a higher generation before.
    Superseded,
}

impl Catalog {
    /// Opens a lease, or finds the open one of the same job and generation.
    /// Earlier uploads of the same source, and earlier restores of the same job,
    /// end here.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn open_lease(&self, new: NewLease) -> Result<Opened, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let source = match new.kind {
            LeaseKind::Upload { source } => source.to_string(),
            LeaseKind::Restore => String::new(),
        };
        let highest = highest_generation(&mut tx, new.job, &source).await?;
        // A driver that was superseded comes back late: what it would open is refused
        // here, whatever it believes.
        if highest.is_some_and(|highest| unsigned(highest) > new.generation) {
            return Ok(Opened::Superseded);
        }
        let now = ticks(&mut tx).await?;
        // The same attempt asks again, its answer was lost: it gets the lease it has.
        let number = match open_of_attempt(&mut tx, &new, &source).await? {
            Some(number) => {
                renew(&mut tx, number, now).await?;
                unsigned(number)
            }
            None => insert(&mut tx, &new, &source, now).await?,
        };
        let lease = by_number(&mut tx, number).await?;
        tx.commit().await?;
        Ok(Opened::Lease(lease))
    }

    /// The lease with that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<LeaseRecord>, CatalogError> {
        let row = sqlx::query("select * from leases where id = $1")
            .bind(id.to_string())
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Notes that a lease is in use, at most once in `every` ticks.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn renew_lease(&self, number: u64, every: u64) -> Result<(), CatalogError> {
        sqlx::query(
            "update leases set renewed_tick = (select ticks from repository)
             where number = $1 and renewed_tick + $2 <= (select ticks from repository)",
        )
        .bind(signed(number))
        .bind(signed(every))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Ends a lease; one that has ended stays so.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn end_lease(&self, number: u64) -> Result<(), CatalogError> {
        sqlx::query(
            "update leases set ended_tick = (select ticks from repository)
             where number = $1 and ended_tick is null",
        )
        .bind(signed(number))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Every lease that may still hold something.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn leases_since(&self, ended_since_tick: u64) -> Result<Vec<LeaseRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        leases_since(&mut connection, ended_since_tick).await
    }

    /// Forgets leases that ended before that tick and have nothing left.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_leases(&self, ended_before_tick: u64) -> Result<(), CatalogError> {
        sqlx::query(
            "delete from leases where ended_tick < $1
             and not exists (select 1 from packs where packs.lease = leases.number and state = 'intended')",
        )
        .bind(signed(ended_before_tick))
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

/// Ends what is open of a job. In the transaction that ends the job: a job that
/// does not run any more reads, sends and commits nothing.
pub(super) async fn end_leases_of_job(
    connection: &mut SqliteConnection,
    job: JobId,
) -> Result<(), CatalogError> {
    sqlx::query(
        "update leases set ended_tick = coalesce((select ticks from repository), 0)
         where job_id = $1 and ended_tick is null",
    )
    .bind(job.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends what is open of a host. In the transaction that takes its access away.
pub(super) async fn end_leases_of_host(
    connection: &mut SqliteConnection,
    host: HostId,
) -> Result<(), CatalogError> {
    sqlx::query(
        "update leases set ended_tick = coalesce((select ticks from repository), 0)
         where host_id = $1 and ended_tick is null",
    )
    .bind(host.to_string())
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn leases_since(
    connection: &mut SqliteConnection,
    ended_since_tick: u64,
) -> Result<Vec<LeaseRecord>, CatalogError> {
    let rows = sqlx::query("select * from leases where ended_tick is null or ended_tick >= $1")
        .bind(signed(ended_since_tick))
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

async fn by_number(tx: &mut SqliteConnection, number: u64) -> Result<LeaseRecord, CatalogError> {
    let row =
        sqlx::query("select * from leases where number = $1").bind(signed(number)).fetch_one(tx).await?;
    read(&row)
}

async fn highest_generation(
    tx: &mut SqliteConnection,
    job: JobId,
    source: &str,
) -> Result<Option<i64>, CatalogError> {
    let highest =
        sqlx::query_scalar("select max(generation) from leases where job_id = $1 and source_id = $2")
            .bind(job.to_string())
            .bind(source)
            .fetch_one(tx)
            .await?;
    Ok(highest)
}

/// The number of the open lease of the same job, source, generation and host.
async fn open_of_attempt(
    tx: &mut SqliteConnection,
    new: &NewLease,
    source: &str,
) -> Result<Option<i64>, CatalogError> {
    let open = sqlx::query_scalar(
        "select number from leases where job_id = $1 and source_id = $2 and generation = $3 and host_id = $4
         and ended_tick is null",
    )
    .bind(new.job.to_string())
    .bind(source)
    .bind(signed(new.generation))
    .bind(new.host.to_string())
    .fetch_optional(tx)
    .await?;
    Ok(open)
}

async fn renew(tx: &mut SqliteConnection, number: i64, now: u64) -> Result<(), CatalogError> {
    sqlx::query("update leases set renewed_tick = $2 where number = $1")
        .bind(number)
        .bind(signed(now))
        .execute(tx)
        .await?;
    Ok(())
}

async fn insert(
    tx: &mut SqliteConnection,
    new: &NewLease,
    source: &str,
    now: u64,
) -> Result<u64, CatalogError> {
    let mut snapshot = new.snapshot.map(signed);
    let kind = match new.kind {
        LeaseKind::Upload { .. } => {
            // One upload of a source at a time: an earlier attempt commits nothing any more.
            end_uploads_of_source(tx, new.host, source, now).await?;
            // Chosen in the transaction that makes the lease: what is a base now is held by
            // it before a purge can look.
            if new.with_base {
                snapshot = newest_committed(tx, new.host, source).await?;
            }
            "upload"
        }
        LeaseKind::Restore => {
            end_leases_of_job(tx, new.job).await?;
            "restore"
        }
    };
    let number = next_lease(tx).await?;
    sqlx::query(
        "insert into leases (number, id, kind, job_id, generation, host_id, source_id, snapshot, opened_tick,
             renewed_tick)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
    )
    .bind(signed(number))
    .bind(LeaseId::generate().to_string())
    .bind(kind)
    .bind(new.job.to_string())
    .bind(signed(new.generation))
    .bind(new.host.to_string())
    .bind(source)
    .bind(snapshot)
    .bind(signed(now))
    .execute(tx)
    .await?;
    Ok(number)
}

async fn end_uploads_of_source(
    tx: &mut SqliteConnection,
    host: HostId,
    source: &str,
    now: u64,
) -> Result<(), CatalogError> {
    sqlx::query(
        "update leases set ended_tick = $3 where host_id = $1 and source_id = $2 and ended_tick is null",
    )
    .bind(host.to_string())
    .bind(source)
    .bind(signed(now))
    .execute(tx)
    .await?;
    Ok(())
}

/// The commit number of the base that an upload of the source may build on.
async fn newest_committed(
    tx: &mut SqliteConnection,
    host: HostId,
    source: &str,
) -> Result<Option<i64>, CatalogError> {
    let newest = sqlx::query_scalar(
        "select commit_number from snapshots
         where host_id = $1 and source_id = $2 and state = 'committed' order by number desc limit 1",
    )
    .bind(host.to_string())
    .bind(source)
    .fetch_optional(tx)
    .await?;
    Ok(newest)
}

fn read(row: &SqliteRow) -> Result<LeaseRecord, CatalogError> {
    let kind: String = row.try_get("kind")?;
    let kind = match kind.as_str() {
        "upload" => LeaseKind::Upload { source: id(row.try_get("source_id")?, "source id")? },
        "restore" => LeaseKind::Restore,
        _ => return Err(CatalogError::Unreadable { what: "kind of lease", value: kind }),
    };
    Ok(LeaseRecord {
        number: unsigned(row.try_get("number")?),
        id: id(row.try_get("id")?, "lease id")?,
        kind,
        job: id(row.try_get("job_id")?, "job id")?,
        generation: unsigned(row.try_get("generation")?),
        host: id(row.try_get("host_id")?, "host id")?,
        snapshot: row.try_get::<Option<i64>, _>("snapshot")?.map(unsigned),
        facts: LeaseFacts {
            opened_tick: unsigned(row.try_get("opened_tick")?),
            renewed_tick: unsigned(row.try_get("renewed_tick")?),
            ended_tick: row.try_get::<Option<i64>, _>("ended_tick")?.map(unsigned),
            committed: row.try_get("committed")?,
        },
    })
}
