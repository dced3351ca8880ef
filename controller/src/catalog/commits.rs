//! Commits: the two transactions that make a snapshot of what an agent has sent.
//!
//! Between the two lies the object in the bucket. A row that stays `committing`
//! is what a controller that died there leaves to the next.

use holdfast_archive::ids::{FrameId, HostId, SnapshotId, SourceId};
use holdfast_archive::snapshot::{Extent, Names, SnapshotBody};
use holdfast_proto::ids::JobId;
use roaring::RoaringTreemap;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::frames::{conditions, frame_details, frame_facts};
use super::repository::{next_commit_number, note_number, signed, unsigned};
use super::snapshots::{Inserted, SnapshotRecord, get, insert_snapshot, of_job};
use super::{Catalog, CatalogError};
use crate::model::job::parameters::Parameters;
use crate::model::protocol::{Protocol, Reference, SnapshotState};

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

impl Catalog {
    /// Transaction 1: checks every reference, makes condemned packs live
    /// again, gives the snapshot its numbers.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn begin_commit(&self, new: &NewSnapshot<'_>) -> Result<Begun, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // Before the lease is judged: a commit whose answer was lost is asked for again, and
        // it has ended the lease.
        if let Some(before) = of_job(&mut tx, new.job, new.source).await? {
            return Ok(Begun::Before(before));
        }
        if !is_open(&mut tx, new.lease).await? {
            return Ok(Begun::LeaseLost);
        }
        // In this transaction as the row: a collection that decides between the two would
        // not yet find the snapshot, and delete what it needs.
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
    ///
    /// # Errors
    /// The catalogue fails.
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
}

async fn is_open(tx: &mut SqliteConnection, lease: u64) -> Result<bool, CatalogError> {
    let open: Option<i64> =
        sqlx::query_scalar("select number from leases where number = $1 and ended_tick is null")
            .bind(signed(lease))
            .fetch_optional(tx)
            .await?;
    Ok(open.is_some())
}

/// Frames that cannot be used, and the numbers of those without a row; makes the
/// condemned packs of a commit that goes through live again.
async fn check_references(
    tx: &mut SqliteConnection,
    frames: &RoaringTreemap,
) -> Result<(Vec<FrameId>, RoaringTreemap), CatalogError> {
    // The usual case, answered by counts: a snapshot may have millions of frames.
    if all_usable(tx, frames).await? {
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
        make_live(tx, &revive).await?;
    }
    Ok((missing, absent))
}

async fn all_usable(tx: &mut SqliteConnection, frames: &RoaringTreemap) -> Result<bool, CatalogError> {
    let facts = frame_facts(tx, frames).await?;
    // A frame without a row is in no count.
    let counted: u64 = facts.iter().map(|(_, count)| count).sum();
    let usable = |(fact, _): &_| Protocol::WHOLE.reference(Some(*fact)) == Reference::Usable;
    Ok(counted == frames.len() && facts.iter().all(usable))
}

async fn make_live(tx: &mut SqliteConnection, packs: &RoaringTreemap) -> Result<(), CatalogError> {
    for condition in conditions("number", packs) {
        sqlx::query(AssertSqlSafe(format!(
            "update packs set state = 'live', condemned_lease = null
             where state = 'condemned' and {condition}"
        )))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn insert_committing(
    tx: &mut SqliteConnection,
    new: &NewSnapshot<'_>,
) -> Result<SnapshotId, CatalogError> {
    let number = next_number(tx, new.host, new.source).await?;
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

/// The number of a source's next snapshot.
async fn next_number(tx: &mut SqliteConnection, host: HostId, source: SourceId) -> Result<u64, CatalogError> {
    let highest: Option<i64> =
        sqlx::query_scalar("select highest from snapshot_numbers where host_id = $1 and source_id = $2")
            .bind(host.to_string())
            .bind(source.to_string())
            .fetch_optional(&mut *tx)
            .await?;
    let number = unsigned(highest.unwrap_or(0)) + 1;
    // Kept apart from the rows of snapshots, which go: a number that was given twice would
    // name an object that is perhaps still being deleted.
    note_number(tx, host, source, number).await?;
    Ok(number)
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
