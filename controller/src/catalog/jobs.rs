//! Jobs: claimed, handed on and ended by compare-and-set.
//!
//! Every write of a driver names the generation it holds the job under. A
//! driver that was superseded therefore writes nothing, whenever it comes
//! back; there is no lock that somebody would have to break.

mod driver;
mod events;
mod sources;

use holdfast_archive::ids::HostId;
use holdfast_proto::ids::{JobId, RunId};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::json::{from_json, to_json};
use super::{Catalog, CatalogError};
use crate::model::job::parameters::Parameters;
use crate::model::job::result::JobResult;
use crate::model::job::state::State;
pub use events::EventRecord;
pub use sources::{GrantKind, JobGrant};

/// A job as its row says.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    pub id: JobId,
    pub run: Option<RunId>,
    /// The job that made this one.
    pub parent: Option<JobId>,
    /// What it is for its parent; empty without one.
    pub role: String,
    pub policy: String,
    pub fire_ms: Option<i64>,
    pub host: Option<HostId>,
    pub state: State,
    pub generation: u64,
    pub owner: Option<String>,
    pub attempt: u32,
    pub not_before_ms: i64,
    pub actor: String,
    pub parameters: Parameters,
    pub result: JobResult,
    pub step: String,
    pub error_code: String,
    pub error: String,
    pub cancel_requested: bool,
    pub created_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
}

/// A job to be made.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: JobId,
    pub policy: String,
    pub host: Option<HostId>,
    pub actor: String,
    pub parameters: Parameters,
    pub not_before_ms: i64,
}

/// Where a job comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    Alone,
    Run(RunId),
    Child { parent: JobId, role: &'a str },
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    pub state: State,
    pub error_code: String,
    pub error: String,
    pub result: JobResult,
}

/// What a list of jobs is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub host: Option<HostId>,
    /// Jobs of these hosts alone; `None`: of all, and those of no host.
    pub among: Option<Vec<HostId>>,
    pub policy: Option<String>,
    /// Empty: all.
    pub states: Vec<State>,
    pub limit: u32,
}

/// How many ended upgrades are looked at; older ones are history.
const MAX_ENDED_UPGRADES: u32 = 1000;

pub(super) const JOB_COLUMNS: &str = "select j.*, r.fire_ms from jobs j left join runs r on r.id = j.run_id";

impl Catalog {
    /// Makes a job that belongs to no run.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn create_job(&self, job: &NewJob, now_ms: i64) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        insert_job(&mut tx, Origin::Alone, job, None, now_ms).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The job with that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        job_in(&mut connection, id).await
    }

    /// Newest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, CatalogError> {
        let states = filter.states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(",");
        let among =
            filter.among.as_ref().map(|hosts| hosts.iter().map(HostId::to_string).collect::<Vec<_>>());
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where ($1 is null or j.host_id = $1) and ($2 is null or j.policy = $2)
             and ($3 = '' or instr(',' || $3 || ',', ',' || j.state || ',') > 0)
             and ($4 is null or instr(',' || $4 || ',', ',' || j.host_id || ',') > 0)
             order by j.created_ms desc, j.id desc limit $5"
        )))
        .bind(filter.host.map(|host| host.to_string()))
        .bind(&filter.policy)
        .bind(states)
        .bind(among.map(|hosts| hosts.join(",")))
        .bind(filter.limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Jobs waiting to be claimed whose time has come, oldest first, without the
    /// first `skip` of them. Children
    /// come before all others: a container may stand still for one. The time of
    /// a job made under a clock that was ahead has come: it would wait until
    /// then, and hold back every later run of its policy.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn claimable_jobs(
        &self,
        now_ms: i64,
        limit: u32,
        skip: u32,
    ) -> Result<Vec<JobRecord>, CatalogError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where j.state = 'queued' and (j.not_before_ms <= $1 or j.created_ms > $1)
             order by j.parent_id is null, j.not_before_ms, j.created_ms, j.id limit $2 offset $3"
        )))
        .bind(now_ms)
        .bind(limit)
        .bind(skip)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Running jobs, children aside: a child runs in its parent's place.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn running_count(&self) -> Result<u64, CatalogError> {
        let count: i64 =
            sqlx::query_scalar("select count(*) from jobs where state = 'running' and parent_id is null")
                .fetch_one(self.pool())
                .await?;
        Ok(count.unsigned_abs())
    }

    /// The newest ended job of each policy on each host; skipped ones aside,
    /// those that belong to an upgrade, which tells of them itself, and those of
    /// the future, which were made under a clock that was ahead.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn latest_backups(&self, now_ms: i64) -> Result<Vec<JobRecord>, CatalogError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where j.kind = 'backup' and j.parent_id is null and j.created_ms <= $1
             and j.state in ('succeeded', 'partial', 'failed')
             and not exists (select 1 from jobs n where n.kind = 'backup' and n.policy = j.policy and n.created_ms <= $1
                 and n.parent_id is null and n.host_id = j.host_id and n.state in ('succeeded', 'partial', 'failed')
                 and (n.created_ms > j.created_ms or (n.created_ms = j.created_ms and n.id > j.id)))"
        )))
        .bind(now_ms)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Upgrades and rollbacks that ended at or after a time, newest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn ended_upgrades(&self, since_ms: i64) -> Result<Vec<JobRecord>, CatalogError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where j.kind in ('upgrade', 'rollback') and j.ended_ms >= $1
             order by j.ended_ms desc, j.id desc limit $2"
        )))
        .bind(since_ms)
        .bind(MAX_ENDED_UPGRADES)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }
}

async fn job_in(connection: &mut SqliteConnection, id: JobId) -> Result<Option<JobRecord>, CatalogError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{JOB_COLUMNS} where j.id = $1")))
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Writes a job's row; with `skipped_for`, as one that will not run.
pub(super) async fn insert_job(
    tx: &mut SqliteConnection,
    origin: Origin<'_>,
    job: &NewJob,
    skipped_for: Option<JobId>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    // Also a job that is skipped gets its row: that a firing did nothing is on record.
    let (state, code, error) = match skipped_for {
        None => (State::Queued, "", String::new()),
        Some(other) => (
            State::Cancelled,
            "overlap",
            format!("skipped: job {other} of this policy has not ended on this host"),
        ),
    };
    // At most one of the two: a child belongs to its parent and to no firing.
    let (run, parent, role) = match origin {
        Origin::Alone => (None, None, ""),
        Origin::Run(run) => (Some(run), None, ""),
        Origin::Child { parent, role } => (None, Some(parent), role),
    };
    sqlx::query(
        "insert into jobs (id, run_id, parent_id, role, policy, kind, host_id, state, not_before_ms, actor,
                           parameters, error_code, error, created_ms, ended_ms)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(job.id.to_string())
    .bind(run.map(|run| run.to_string()))
    .bind(parent.map(|parent| parent.to_string()))
    .bind(role)
    .bind(&job.policy)
    .bind(job.parameters.kind().as_str())
    .bind(job.host.map(|host| host.to_string()))
    .bind(state.as_str())
    .bind(job.not_before_ms)
    .bind(&job.actor)
    .bind(to_json(&job.parameters))
    .bind(code)
    .bind(error)
    .bind(now_ms)
    .bind(skipped_for.map(|_| now_ms))
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn id<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, CatalogError> {
    text.parse().map_err(|_| CatalogError::Unreadable { what, value: text.to_owned() })
}

pub(super) fn read(row: &SqliteRow) -> Result<JobRecord, CatalogError> {
    let state: String = row.try_get("state")?;
    let parameters: String = row.try_get("parameters")?;
    let run: Option<String> = row.try_get("run_id")?;
    let parent: Option<String> = row.try_get("parent_id")?;
    let host: Option<String> = row.try_get("host_id")?;
    let result: Option<String> = row.try_get("result")?;
    Ok(JobRecord {
        id: id(row.try_get("id")?, "job id")?,
        run: run.as_deref().map(|run| id(run, "run id")).transpose()?,
        parent: parent.as_deref().map(|parent| id(parent, "job id")).transpose()?,
        role: row.try_get("role")?,
        policy: row.try_get("policy")?,
        fire_ms: row.try_get("fire_ms")?,
        host: host.as_deref().map(|host| id(host, "host id")).transpose()?,
        state: State::from_name(&state)
            .ok_or(CatalogError::Unreadable { what: "job state", value: state })?,
        generation: row.try_get::<i64, _>("generation")?.unsigned_abs(),
        owner: row.try_get("owner")?,
        attempt: u32::try_from(row.try_get::<i64, _>("attempt")?).unwrap_or(u32::MAX),
        not_before_ms: row.try_get("not_before_ms")?,
        actor: row.try_get("actor")?,
        parameters: from_json(&parameters, "job")?,
        result: result.map_or(Ok(JobResult::default()), |text| from_json(&text, "job result"))?,
        step: row.try_get("step")?,
        error_code: row.try_get("error_code")?,
        error: row.try_get("error")?,
        cancel_requested: row.try_get("cancel_requested")?,
        created_ms: row.try_get("created_ms")?,
        started_ms: row.try_get("started_ms")?,
        ended_ms: row.try_get("ended_ms")?,
    })
}

#[cfg(test)]
mod tests;
