//! Removes rows that nothing refers to any more, by their age.

use std::time::Duration;

use super::driver::{LoopError, Pass};
use crate::catalog::audit::Book;
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::limits::{ANONYMOUS_AUDIT_AGE, AUDIT_AGE, JOB_AGE, PRUNE_PAGE, SOURCE_AGE, USAGE_AGE};
use crate::quota::day_of;

/// One page of each kind of row; more follow at once while there are.
pub async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    let (catalog, now) = (jobs.catalog(), now_ms());
    let before = |age: Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let ended = catalog.prune_jobs(before(JOB_AGE), PRUNE_PAGE).await?;
    let sources = catalog.prune_sources(before(SOURCE_AGE), PRUNE_PAGE).await?;
    let audit = catalog.prune_audit(Book::Main, before(AUDIT_AGE), PRUNE_PAGE).await?;
    let anonymous =
        catalog.prune_audit(Book::Anonymous, before(ANONYMOUS_AUDIT_AGE), PRUNE_PAGE).await?;
    catalog.prune_usage(day_of(before(USAGE_AGE))).await?;
    let summary = format!(
        "{ended} jobs, {sources} volumes that are gone and {} audit rows removed",
        audit + anonymous
    );
    let more = [ended, sources, audit, anonymous].iter().any(|&removed| removed >= u64::from(PRUNE_PAGE));
    Ok(Pass { summary, more })
}
