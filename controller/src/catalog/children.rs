//! Jobs that a job started: found by what they are for.
//!
//! A parent may be driven again at any point, by a controller that took it
//! over. What it made before is found by its role, so no step is done twice
//! and nothing about children needs to be written into the parent.

use holdfast_proto::ids::JobId;

use super::jobs::{JOB_COLUMNS, JobRecord, NewJob, Origin, insert_job, read, signed};
use super::{Catalog, CatalogError};

impl Catalog {
    /// The child of a running job in a role, made unless it is there. `None`:
    /// the parent is not driven under that generation any more.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn create_child(
        &self,
        parent: JobId,
        generation: u64,
        role: &str,
        job: &NewJob,
        now_ms: i64,
    ) -> Result<Option<JobId>, CatalogError> {
        // Immediate: of two drivers of one parent the second finds the child of the first.
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let held: Option<i64> =
            sqlx::query_scalar("select 1 from jobs where id = $1 and generation = $2 and state = 'running'")
                .bind(parent.to_string())
                .bind(signed(generation))
                .fetch_optional(&mut *tx)
                .await?;
        if held.is_none() {
            return Ok(None);
        }
        let there: Option<String> =
            sqlx::query_scalar("select id from jobs where parent_id = $1 and role = $2")
                .bind(parent.to_string())
                .bind(role)
                .fetch_optional(&mut *tx)
                .await?;
        if let Some(id) = there {
            let id = id.parse().map_err(|_| CatalogError::Unreadable { what: "job id", value: id })?;
            return Ok(Some(id));
        }
        insert_job(&mut tx, Origin::Child { parent, role }, job, None, now_ms).await?;
        tx.commit().await?;
        Ok(Some(job.id))
    }

    /// The child of a job in a role.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn child_job(&self, parent: JobId, role: &str) -> Result<Option<JobRecord>, CatalogError> {
        let row =
            sqlx::query(sqlx::AssertSqlSafe(format!("{JOB_COLUMNS} where j.parent_id = $1 and j.role = $2")))
                .bind(parent.to_string())
                .bind(role)
                .fetch_optional(self.pool())
                .await?;
        row.as_ref().map(read).transpose()
    }

    /// Children of a job, oldest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn child_jobs(&self, parent: JobId) -> Result<Vec<JobRecord>, CatalogError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{JOB_COLUMNS} where j.parent_id = $1 order by j.created_ms, j.id"
        )))
        .bind(parent.to_string())
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }
}
