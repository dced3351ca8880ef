//! What the driver of a job writes: from the claim to the end, each write under
//! the generation it holds the job by.

use holdfast_proto::ids::JobId;
use sqlx::Row as _;

use super::events::add_event;
use super::{Ending, JobRecord, id, job_in, signed};
use crate::catalog::json::to_json;
use crate::catalog::leases::end_leases_of_job;
use crate::catalog::{Catalog, CatalogError};
use crate::limits::{JOB_LINES, clipped};
use crate::model::job::result::JobResult;
use crate::model::job::state::State;

impl Catalog {
    /// Queued to running, with the first line of its event log; gives the row as it is
    /// then. One backup at a time on a host, and one prune at a time at all. One upgrade
    /// or rollback at a time on a host, and while it runs no backups there but its own:
    /// they would pause what it exchanges.
    /// `None`: somebody else was first, or must end first.
    ///
    /// # Errors
    /// The catalogue fails; the job is then still queued, unless it was the answer that was lost.
    pub async fn claim_job(
        &self,
        id: JobId,
        owner: &str,
        now_ms: i64,
    ) -> Result<Option<JobRecord>, CatalogError> {
        // All or nothing: a claim whose row cannot be given back would be a job that
        // runs for the catalogue and that nobody drives.
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let done = sqlx::query(
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
                             and b.kind in ('upgrade', 'rollback'))))))",
        )
        .bind(id.to_string())
        .bind(owner)
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        add_event(&mut tx, id, now_ms, "started", JOB_LINES).await?;
        let job = job_in(&mut tx, id).await?;
        tx.commit().await?;
        Ok(job)
    }

    /// Running jobs, each with the owner that drives it or did.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn running_jobs(&self) -> Result<Vec<(JobId, Option<String>)>, CatalogError> {
        // No more of a row than it takes to find it: one that cannot be read is in
        // nobody's way.
        let rows = sqlx::query("select id, owner from jobs where state = 'running' order by started_ms")
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(|row| Ok((id(row.try_get("id")?, "job id")?, row.try_get("owner")?))).collect()
    }

    /// Takes a running job over from the owner that was seen, with a line of its event
    /// log; gives its row. `None`: it is not his any more, or has ended.
    ///
    /// # Errors
    /// The catalogue fails; the owner is then the same as before, unless it was the answer that was lost.
    pub async fn take_over_job(
        &self,
        id: JobId,
        seen_owner: Option<&str>,
        owner: &str,
        line: &str,
        now_ms: i64,
    ) -> Result<Option<JobRecord>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let done =
            sqlx::query("update jobs set owner = $3 where id = $1 and state = 'running' and owner is $2")
                .bind(id.to_string())
                .bind(seen_owner)
                .bind(owner)
                .execute(&mut *tx)
                .await?;
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        add_event(&mut tx, id, now_ms, line, JOB_LINES).await?;
        let job = job_in(&mut tx, id).await?;
        tx.commit().await?;
        Ok(job)
    }

    /// Raises the generation of a running job from the one its driver holds;
    /// `again` counts an attempt. False: the driver was superseded.
    ///
    /// # Errors
    /// The catalogue fails.
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
    ///
    /// # Errors
    /// The catalogue fails.
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
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn set_job_result(
        &self,
        id: JobId,
        generation: u64,
        result: &JobResult,
    ) -> Result<bool, CatalogError> {
        let done = sqlx::query(
            "update jobs set result = $3 where id = $1 and generation = $2 and state = 'running'",
        )
        .bind(id.to_string())
        .bind(signed(generation))
        .bind(to_json(result))
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Ends a job its driver holds, and its leases with it, and writes the last
    /// line of its event log: who sees the end sees the line. False: the driver was superseded.
    ///
    /// # Errors
    /// The catalogue fails.
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
        .bind(to_json(&ending.result))
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        // Together with the end: an agent that is still at work commits nothing any more.
        end_leases_of_job(&mut tx, id).await?;
        // The end is told however much was told before.
        add_event(&mut tx, id, now_ms, line, u64::MAX).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ends a job that never ran. False: it runs or has ended.
    ///
    /// # Errors
    /// The catalogue fails.
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

    /// Asks the driver of a running job to stop it, with a line of its event log. False: it
    /// is not running.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn request_cancel(&self, id: JobId, line: &str, now_ms: i64) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let done = sqlx::query("update jobs set cancel_requested = 1 where id = $1 and state = 'running'")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        // Together: a request that is refused for its line alone would be in the row, and
        // nobody would tell the driver of it.
        add_event(&mut tx, id, now_ms, line, JOB_LINES).await?;
        tx.commit().await?;
        Ok(true)
    }
}
