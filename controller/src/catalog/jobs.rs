//! Jobs: claimed, handed on and ended by compare-and-set.
//!
//! Every write of a driver names the generation it holds the job under. A
//! driver that was superseded therefore writes nothing, whenever it comes
//! back; there is no lock that somebody would have to break.

use holdfast_archive::ids::{HostId, SnapshotId, SourceId};
use holdfast_proto::ids::{JobId, RunId};
use holdfast_proto::v1::{self, JobKind, JobSource};
use prost::Message as _;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::leases::end_leases_of_job;
use super::{Catalog, CatalogError};
use crate::limits::{JOB_LINES, clipped};
use crate::model::job::parameters::Parameters;
use crate::model::job::state::State;

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
    /// Only `restore`, `prune`, `quiesced` and `upgrade` are filled.
    pub result: v1::Job,
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
    pub result: v1::Job,
}

/// What a list of jobs is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub host: Option<HostId>,
    pub policy: Option<String>,
    /// Empty: all.
    pub states: Vec<State>,
    pub limit: u32,
}

/// What a running job may do with the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobGrant {
    pub job: JobId,
    pub host: HostId,
    pub generation: u64,
    pub kind: GrantKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantKind {
    Upload { sources: Vec<SourceId> },
    Restore { snapshot: SnapshotId },
}

/// A line of a job's event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    pub sequence: u64,
    pub at_ms: i64,
    pub message: String,
}

/// How many ended upgrades are looked at; older ones are history.
const MAX_ENDED_UPGRADES: u32 = 1000;

pub(super) const JOB_COLUMNS: &str = "select j.*, r.fire_ms from jobs j left join runs r on r.id = j.run_id";

impl Catalog {
    /// Makes a job that belongs to no run.
    pub async fn create_job(&self, job: &NewJob, now_ms: i64) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        insert_job(&mut tx, Origin::Alone, job, None, now_ms).await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn job(&self, id: JobId) -> Result<Option<JobRecord>, CatalogError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{JOB_COLUMNS} where j.id = $1")))
            .bind(id.to_string())
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, CatalogError> {
        let states = filter.states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(",");
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where ($1 is null or j.host_id = $1) and ($2 is null or j.policy = $2)
             and ($3 = '' or instr(',' || $3 || ',', ',' || j.state || ',') > 0)
             order by j.created_ms desc, j.id desc limit $4"
        )))
        .bind(filter.host.map(|host| host.to_string()))
        .bind(&filter.policy)
        .bind(states)
        .bind(filter.limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Jobs waiting to be claimed whose time has come, oldest first. Children
    /// come before all others: a container may stand still for one. The time of
    /// a job made under a clock that was ahead has come: it would wait until
    /// then, and hold back every later run of its policy.
    pub async fn claimable_jobs(&self, now_ms: i64, limit: u32) -> Result<Vec<JobRecord>, CatalogError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where j.state = 'queued' and (j.not_before_ms <= $1 or j.created_ms > $1)
             order by j.parent_id is null, j.not_before_ms, j.created_ms, j.id limit $2"
        )))
        .bind(now_ms)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Running jobs that `owner` does not drive: what a dead controller left.
    pub async fn orphaned_jobs(&self, owner: &str) -> Result<Vec<JobRecord>, CatalogError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where j.state = 'running' and coalesce(j.owner, '') <> $1 order by j.started_ms"
        )))
        .bind(owner)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// Running jobs, children aside: a child runs in its parent's place.
    pub async fn running_count(&self) -> Result<u64, CatalogError> {
        let count: i64 =
            sqlx::query_scalar("select count(*) from jobs where state = 'running' and parent_id is null")
                .fetch_one(self.pool())
                .await?;
        Ok(count.unsigned_abs())
    }

    /// Queued to running. One backup at a time on a host, and one prune at a
    /// time at all. One upgrade or rollback at a time on a host, and while it
    /// runs no backups there but its own: they would pause what it exchanges.
    /// `None`: somebody else was first, or must end first.
    pub async fn claim_job(&self, id: JobId, owner: &str, now_ms: i64) -> Result<Option<u64>, CatalogError> {
        let generation: Option<i64> = sqlx::query_scalar(
            "update jobs set state = 'running', owner = $2, generation = generation + 1,
                 attempt = attempt + 1, started_ms = coalesce(started_ms, $3)
             where id = $1 and state = 'queued' and cancel_requested = 0 and not exists (
                 select 1 from jobs b where b.state = 'running' and (
                     (jobs.kind = 'prune' and b.kind = 'prune')
                     or (b.host_id = jobs.host_id and (
                         (jobs.kind = 'backup' and b.kind = 'backup')
                         or (jobs.kind = 'backup' and jobs.parent_id is null
                             and b.kind in ('upgrade', 'rollback'))
                         or (jobs.kind in ('upgrade', 'rollback')
                             and b.kind in ('upgrade', 'rollback'))))))
             returning generation",
        )
        .bind(id.to_string())
        .bind(owner)
        .bind(now_ms)
        .fetch_optional(self.pool())
        .await?;
        Ok(generation.map(i64::unsigned_abs))
    }

    /// Takes a running job over from the owner that was seen. False: it is
    /// not his any more.
    pub async fn take_over_job(
        &self,
        id: JobId,
        seen_owner: Option<&str>,
        owner: &str,
    ) -> Result<bool, CatalogError> {
        let done =
            sqlx::query("update jobs set owner = $3 where id = $1 and state = 'running' and owner is $2")
                .bind(id.to_string())
                .bind(seen_owner)
                .bind(owner)
                .execute(self.pool())
                .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Raises the generation of a running job from the one its driver holds;
    /// `again` counts an attempt. False: the driver was superseded.
    pub async fn raise_generation(
        &self,
        id: JobId,
        held: u64,
        next: u64,
        again: bool,
    ) -> Result<bool, CatalogError> {
        let done = sqlx::query(
            "update jobs set generation = $3, attempt = attempt + $4
             where id = $1 and state = 'running' and generation = $2",
        )
        .bind(id.to_string())
        .bind(signed(held))
        .bind(signed(next))
        .bind(i64::from(again))
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// What the job is doing now, in words.
    pub async fn set_job_step(&self, id: JobId, generation: u64, step: &str) -> Result<bool, CatalogError> {
        let done =
            sqlx::query("update jobs set step = $3 where id = $1 and generation = $2 and state = 'running'")
                .bind(id.to_string())
                .bind(signed(generation))
                .bind(clipped(step))
                .execute(self.pool())
                .await?;
        Ok(done.rows_affected() > 0)
    }

    /// What is known of a running job's result so far.
    pub async fn set_job_result(
        &self,
        id: JobId,
        generation: u64,
        result: &v1::Job,
    ) -> Result<bool, CatalogError> {
        let done = sqlx::query(
            "update jobs set result = $3 where id = $1 and generation = $2 and state = 'running'",
        )
        .bind(id.to_string())
        .bind(signed(generation))
        .bind(result.encode_to_vec())
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Ends a job its driver holds, and its leases with it, and writes the last
    /// line of its event log: who sees the end sees the line. False: the driver was superseded.
    pub async fn finish_job(
        &self,
        id: JobId,
        generation: u64,
        ending: &Ending,
        line: &str,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        debug_assert!(State::Running.may_become(ending.state));
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let done = sqlx::query(
            "update jobs set state = $3, error_code = $4, error = $5, result = $6, ended_ms = $7, step = ''
             where id = $1 and generation = $2 and state = 'running'",
        )
        .bind(id.to_string())
        .bind(signed(generation))
        .bind(ending.state.as_str())
        .bind(clipped(&ending.error_code))
        .bind(clipped(&ending.error))
        .bind(ending.result.encode_to_vec())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        end_leases_of_job(&mut tx, id).await?;
        // The end is told however much was told before.
        add_event(&mut tx, id, now_ms, line, u64::MAX).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends a job that never ran. False: it runs or has ended.
    pub async fn end_queued_job(
        &self,
        id: JobId,
        state: State,
        error_code: &str,
        error: &str,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        debug_assert!(State::Queued.may_become(state) && state.ended());
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let done = sqlx::query(
            "update jobs set state = $2, error_code = $3, error = $4, ended_ms = $5
             where id = $1 and state = 'queued'",
        )
        .bind(id.to_string())
        .bind(state.as_str())
        .bind(error_code)
        .bind(error)
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        add_event(&mut tx, id, now_ms, error, u64::MAX).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Asks the driver of a running job to stop it. False: it is not running.
    pub async fn request_cancel(&self, id: JobId) -> Result<bool, CatalogError> {
        let done = sqlx::query("update jobs set cancel_requested = 1 where id = $1 and state = 'running'")
            .bind(id.to_string())
            .execute(self.pool())
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Sources of a job in the order they were given.
    pub async fn job_sources(&self, id: JobId) -> Result<Vec<JobSource>, CatalogError> {
        let rows: Vec<Vec<u8>> =
            sqlx::query_scalar("select state from job_sources where job_id = $1 order by rowid")
                .bind(id.to_string())
                .fetch_all(self.pool())
                .await?;
        rows.iter().map(|bytes| decode(bytes, "job source")).collect()
    }

    /// Writes sources of a job, new or known.
    pub async fn put_job_sources(&self, id: JobId, sources: &[JobSource]) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for source in sources {
            sqlx::query(
                "insert into job_sources (job_id, source_id, state) values ($1, $2, $3)
                 on conflict (job_id, source_id) do update set state = excluded.state",
            )
            .bind(id.to_string())
            .bind(&source.source_id)
            .bind(source.encode_to_vec())
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Adds a line to a job's event log; gives its sequence number, from 1. An event log
    /// that is as long as one may be stays as it is.
    pub async fn add_job_event(&self, id: JobId, at_ms: i64, message: &str) -> Result<u64, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        add_event(&mut connection, id, at_ms, message, JOB_LINES).await
    }

    pub async fn job_events(&self, id: JobId, after: u64) -> Result<Vec<EventRecord>, CatalogError> {
        let rows = sqlx::query(
            "select sequence, at_ms, message from job_events
             where job_id = $1 and sequence > $2 order by sequence",
        )
        .bind(id.to_string())
        .bind(signed(after))
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(EventRecord {
                    sequence: row.try_get::<i64, _>("sequence")?.unsigned_abs(),
                    at_ms: row.try_get("at_ms")?,
                    message: row.try_get("message")?,
                })
            })
            .collect()
    }

    /// What a job may do with the repository; `None` unless it is running.
    pub async fn job_grant(&self, id: JobId) -> Result<Option<JobGrant>, CatalogError> {
        let Some(job) = self.job(id).await? else { return Ok(None) };
        let Some(host) = job.host.filter(|_| job.state == State::Running) else { return Ok(None) };
        let kind = match &job.parameters {
            Parameters::Backup(_) => GrantKind::Upload {
                sources: self
                    .job_sources(id)
                    .await?
                    .iter()
                    .filter_map(|source| source.source_id.parse().ok())
                    .collect(),
            },
            Parameters::Restore(restore) => match restore.snapshot_id() {
                Some(snapshot) => GrantKind::Restore { snapshot },
                None => return Ok(None),
            },
            Parameters::Prune {}
            | Parameters::Upgrade(_)
            | Parameters::Rollback(_)
            | Parameters::Rollout(_) => return Ok(None),
        };
        Ok(Some(JobGrant { job: id, host, generation: job.generation, kind }))
    }

    /// Whether a job runs, on this host.
    pub async fn job_runs_on(&self, id: JobId, host: HostId) -> Result<bool, CatalogError> {
        let runs: Option<i64> =
            sqlx::query_scalar("select 1 from jobs where id = $1 and host_id = $2 and state = 'running'")
                .bind(id.to_string())
                .bind(host.to_string())
                .fetch_optional(self.pool())
                .await?;
        Ok(runs.is_some())
    }

    /// The newest ended job of each policy on each host; skipped ones aside,
    /// those that belong to an upgrade, which tells of them itself, and those of
    /// the future, which were made under a clock that was ahead.
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

async fn add_event(
    connection: &mut SqliteConnection,
    id: JobId,
    at_ms: i64,
    message: &str,
    most: u64,
) -> Result<u64, CatalogError> {
    let sequence: Option<i64> = sqlx::query_scalar(
        "insert into job_events (job_id, sequence, at_ms, message)
         select $1, coalesce(max(sequence), 0) + 1, $2, $3 from job_events where job_id = $1
         having coalesce(max(sequence), 0) < $4
         returning sequence",
    )
    .bind(id.to_string())
    .bind(at_ms)
    .bind(clipped(message))
    .bind(signed(most))
    .fetch_optional(connection)
    .await?;
    Ok(sequence.map_or(most, i64::unsigned_abs))
}

/// Writes a job's row; with `skipped_for`, as one that will not run.
pub(super) async fn insert_job(
    tx: &mut SqliteConnection,
    origin: Origin<'_>,
    job: &NewJob,
    skipped_for: Option<JobId>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let (state, code, error) = match skipped_for {
        None => (State::Queued, "", String::new()),
        Some(other) => (
            State::Cancelled,
            "overlap",
            format!("skipped: job {other} of this policy has not ended on this host"),
        ),
    };
    let parameters = serde_json::to_string(&job.parameters).expect("plain data is always JSON");
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
    .bind(kind_text(job.parameters.kind()))
    .bind(job.host.map(|host| host.to_string()))
    .bind(state.as_str())
    .bind(job.not_before_ms)
    .bind(&job.actor)
    .bind(parameters)
    .bind(code)
    .bind(error)
    .bind(now_ms)
    .bind(skipped_for.map(|_| now_ms))
    .execute(tx)
    .await?;
    Ok(())
}

fn kind_text(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Restore => "restore",
        JobKind::Prune => "prune",
        JobKind::Upgrade => "upgrade",
        JobKind::Rollback => "rollback",
        JobKind::Rollout => "rollout",
        JobKind::Backup | JobKind::Unspecified => "backup",
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn decode<M: prost::Message + Default>(
    bytes: &[u8],
    what: &'static str,
) -> Result<M, CatalogError> {
    M::decode(bytes).map_err(|error| CatalogError::Unreadable { what, value: error.to_string() })
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
    let result: Option<Vec<u8>> = row.try_get("result")?;
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
        parameters: serde_json::from_str(&parameters)
            .map_err(|error| CatalogError::Unreadable { what: "job", value: error.to_string() })?,
        result: result.map_or(Ok(v1::Job::default()), |bytes| decode(&bytes, "job result"))?,
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
