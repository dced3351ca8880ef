//! Event logs of jobs.

use holdfast_proto::ids::JobId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::signed;
use crate::catalog::{Catalog, CatalogError};
use crate::limits::{JOB_LINES, clipped};

/// A line of a job's event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    pub sequence: u64,
    pub at_ms: i64,
    pub message: String,
}

impl Catalog {
    /// Adds a line to a job's event log; gives its sequence number, from 1. An event log
    /// that is as long as one may be stays as it is.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn add_job_event(&self, id: JobId, at_ms: i64, message: &str) -> Result<u64, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        add_event(&mut connection, id, at_ms, message, JOB_LINES).await
    }

    /// Lines of a job's event log after number `after`, in order.
    ///
    /// # Errors
    /// The catalogue fails.
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
}

/// Adds a line unless there are `most` already; gives its number, or `most`.
pub(super) async fn add_event(
    connection: &mut SqliteConnection,
    id: JobId,
    at_ms: i64,
    message: &str,
    most: u64,
) -> Result<u64, CatalogError> {
    let sequence: Option<i64> = sqlx::query_scalar(
        // The number and the bound in one statement: two writers get two numbers.
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
