//! Firings: one row for each policy and fire time, whatever became of it.
//!
//! The row is what makes a fire happen once: it is written in the same
//! transaction as its jobs, and a second attempt finds it taken. So a
//! controller that dies anywhere around a tick leaves either nothing or all.

use holdfast_archive::ids::HostId;
use holdfast_proto::ids::{JobId, RunId};
use sqlx::sqlite::SqliteConnection;

use super::jobs::{NewJob, Origin, insert_job};
use super::{Catalog, CatalogError};
use crate::policy::Overlap;

/// A row that was made this much later than now, or less, is none of the future:
/// the clock was set back to just before a fire that was run, and this time the
/// scheduler, which looks once a second, looks a moment sooner after it.
const SAME_MOMENT_MS: i64 = 10_000;

/// A job of a run on one host.
#[derive(Debug, Clone)]
pub struct RunJob {
    pub job: NewJob,
    /// What to do while an earlier job of the policy has not ended there;
    /// `None`: do not ask.
    pub overlap: Option<Overlap>,
}

/// What was made of a job of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeJob {
    pub id: JobId,
    pub host: Option<HostId>,
    /// The earlier job because of which this one was recorded as cancelled.
    pub skipped_for: Option<JobId>,
}

impl Catalog {
    /// Records a firing and its jobs, all or nothing. `None`: this fire time
    /// was recorded before. `fire_ms` is `None` for a run started by hand.
    ///
    /// A row made under a clock that was ahead gives up its fire time: it is no
    /// backup of that time.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn create_run(
        &self,
        policy: Option<&str>,
        fire_ms: Option<i64>,
        jobs: &[RunJob],
        now_ms: i64,
    ) -> Result<Option<Vec<MadeJob>>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        release_fire_time(&mut tx, policy, fire_ms, now_ms).await?;
        let run = RunId::generate();
        let done = sqlx::query(
            "insert into runs (id, policy, fire_ms, created_ms) values ($1, $2, $3, $4)
             on conflict do nothing",
        )
        .bind(run.to_string())
        .bind(policy)
        .bind(fire_ms)
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        // Policy and fire time are unique: of two passes one has the fire, also where a
        // controller died between them.
        if done.rows_affected() == 0 {
            return Ok(None);
        }
        let mut made = Vec::new();
        // Looked at in this transaction: a job that ends meanwhile has ended before or after,
        // and not in between.
        for RunJob { job, overlap } in jobs {
            let before = earlier_job(&mut tx, job, *overlap).await?;
            insert_job(&mut tx, Origin::Run(run), job, before, now_ms).await?;
            made.push(MadeJob { id: job.id, host: job.host, skipped_for: before });
        }
        tx.commit().await?;
        Ok(Some(made))
    }

    /// Records fire times that passed unserved. A row that says so already keeps
    /// the earlier moment of the two: it may have been made under a clock that
    /// was ahead.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn record_missed(
        &self,
        policy: &str,
        fires_ms: &[i64],
        detail: &str,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for fire_ms in fires_ms {
            sqlx::query(
                "insert into runs (id, policy, fire_ms, created_ms, outcome, detail)
                 values ($1, $2, $3, $4, 'missed', $5)
                 on conflict (policy, fire_ms) do update
                    set created_ms = min(runs.created_ms, excluded.created_ms)
                    where runs.outcome = 'missed'",
            )
            .bind(RunId::generate().to_string())
            .bind(policy)
            .bind(fire_ms)
            .bind(now_ms)
            .bind(detail)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The newest fire time of a policy that is not after `now_ms` and was not
    /// recorded after it: a row from the future comes from a clock that was
    /// ahead, and says nothing about what has run since it was set right.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn last_fire(&self, policy: &str, now_ms: i64) -> Result<Option<i64>, CatalogError> {
        Ok(sqlx::query_scalar(
            "select max(fire_ms) from runs where policy = $1 and fire_ms <= $2 and created_ms <= $3",
        )
        .bind(policy)
        .bind(now_ms)
        .bind(now_ms.saturating_add(SAME_MOMENT_MS))
        .fetch_one(self.pool())
        .await?)
    }

    /// Fire times of a policy that were missed at or after `since_ms`.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn missed_count(&self, policy: &str, since_ms: i64) -> Result<u64, CatalogError> {
        let count: i64 = sqlx::query_scalar(
            "select count(*) from runs where policy = $1 and outcome = 'missed' and fire_ms >= $2",
        )
        .bind(policy)
        .bind(since_ms)
        .fetch_one(self.pool())
        .await?;
        Ok(count.unsigned_abs())
    }
}

/// Takes the fire time from a row of the future. The row and its jobs stay, as
/// a run without a fire time.
async fn release_fire_time(
    tx: &mut SqliteConnection,
    policy: Option<&str>,
    fire_ms: Option<i64>,
    now_ms: i64,
) -> Result<(), CatalogError> {
    sqlx::query(
        "update runs set fire_ms = null
          where policy = $1 and fire_ms = $2 and created_ms > $3",
    )
    .bind(policy)
    .bind(fire_ms)
    .bind(now_ms.saturating_add(SAME_MOMENT_MS))
    .execute(tx)
    .await?;
    Ok(())
}

/// The job that stands in the way of a new one, if its policy lets it.
async fn earlier_job(
    tx: &mut SqliteConnection,
    job: &NewJob,
    overlap: Option<Overlap>,
) -> Result<Option<JobId>, CatalogError> {
    let states = match overlap {
        None => return Ok(None),
        Some(Overlap::Skip) => {
            "select id from jobs where policy = $1 and host_id = $2 and kind = 'backup'
                                and state in ('queued', 'running') order by created_ms limit 1"
        }
        // One may wait behind the one that runs, and no more: each would back up the same.
        Some(Overlap::Queue) => {
            "select id from jobs where policy = $1 and host_id = $2 and kind = 'backup'
                                and state = 'queued' order by created_ms limit 1"
        }
    };
    let id: Option<String> = sqlx::query_scalar(states)
        .bind(&job.policy)
        .bind(job.host.map(|host| host.to_string()))
        .fetch_optional(tx)
        .await?;
    id.map(|id| id.parse().map_err(|_| CatalogError::Unreadable { what: "job id", value: id })).transpose()
}
