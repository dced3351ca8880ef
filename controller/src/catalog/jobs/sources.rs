//! Sources of jobs, and what a running job may therefore do with the repository.

use holdfast_archive::ids::{HostId, SnapshotId, SourceId};
use holdfast_proto::ids::JobId;

use crate::catalog::json::{from_json, to_json};
use crate::catalog::{Catalog, CatalogError};
use crate::model::job::parameters::Parameters;
use crate::model::job::source::JobSource;
use crate::model::job::state::State;

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

impl Catalog {
    /// Sources of a job in the order they were given.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn job_sources(&self, id: JobId) -> Result<Vec<JobSource>, CatalogError> {
        let rows: Vec<String> =
            sqlx::query_scalar("select state from job_sources where job_id = $1 order by rowid")
                .bind(id.to_string())
                .fetch_all(self.pool())
                .await?;
        rows.iter().map(|text| from_json(text, "job source")).collect()
    }

    /// Writes sources of a job, new or known.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn put_job_sources(&self, id: JobId, sources: &[JobSource]) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for source in sources {
            sqlx::query(
                "insert into job_sources (job_id, source_id, state) values ($1, $2, $3)
                 on conflict (job_id, source_id) do update set state = excluded.state",
            )
            .bind(id.to_string())
            .bind(&source.source_id)
            .bind(to_json(source))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// What a job may do with the repository; `None` unless it is running.
    ///
    /// # Errors
    /// The catalogue fails.
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
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn job_runs_on(&self, id: JobId, host: HostId) -> Result<bool, CatalogError> {
        let runs: Option<i64> =
            sqlx::query_scalar("select 1 from jobs where id = $1 and host_id = $2 and state = 'running'")
                .bind(id.to_string())
                .bind(host.to_string())
                .fetch_optional(self.pool())
                .await?;
        Ok(runs.is_some())
    }
}
