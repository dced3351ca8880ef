//! Removes rows that nothing refers to any more, by their age.
//!
//! By two clocks: see [`crate::catalog::clock_marks`].

use std::time::Duration;

use super::driver::{LoopError, Pass};
use crate::catalog::audit::Book;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::limits::{ANONYMOUS_AUDIT_AGE, AUDIT_AGE, JOB_AGE, PRUNE_PAGE, SOURCE_AGE, USAGE_AGE};
use crate::quota::day_of;
use crate::repository::TICK;

/// The wall clock is noted so often.
const MARK_EVERY: Duration = Duration::from_hours(24);

/// One page of each kind of row; more follow at once while there are.
///
/// # Errors
/// The catalogue fails.
pub(crate) async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    prune(jobs.catalog(), now_ms()).await
}

async fn prune(catalog: &Catalog, now_ms: i64) -> Result<Pass, LoopError> {
    let tick = catalog.repository().await?.map_or(0, |row| row.ticks);
    catalog.mark_clock(now_ms, tick, ticks(MARK_EVERY), ticks(AUDIT_AGE)).await?;
    let before = async |age| before(catalog, now_ms, tick, age).await;
    let ended = catalog.prune_jobs(before(JOB_AGE).await?, now_ms, PRUNE_PAGE).await?;
    let sources = catalog.prune_sources(before(SOURCE_AGE).await?, PRUNE_PAGE).await?;
    let audit = catalog.prune_audit(Book::Main, before(AUDIT_AGE).await?, PRUNE_PAGE).await?;
    let anonymous = before(ANONYMOUS_AUDIT_AGE).await?;
    let anonymous = catalog.prune_audit(Book::Anonymous, anonymous, PRUNE_PAGE).await?;
    catalog.prune_usage(day_of(before(USAGE_AGE).await?)).await?;
    let summary =
        format!("{ended} jobs, {sources} volumes that are gone and {} audit rows removed", audit + anonymous);
    let more = [ended, sources, audit, anonymous].iter().any(|&removed| removed >= u64::from(PRUNE_PAGE));
    Ok(Pass { more, ..Pass::done(summary) })
}

/// Until when rows are old enough by both clocks; long ago while no controller
/// has run for so long.
async fn before(catalog: &Catalog, now_ms: i64, tick: u64, age: Duration) -> Result<i64, CatalogError> {
    let by_the_wall = now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let by_ticks = catalog.wall_clock_before(tick, ticks(age)).await?;
    Ok(by_ticks.map_or(0, |at| at.min(by_the_wall)))
}

const fn ticks(time: Duration) -> u64 {
    time.as_secs() / TICK.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::audit::{AuditEntry, Outcome};

    const DAY_MS: i64 = 86_400_000;
    const NOW: i64 = 1_795_521_600_000;

    async fn rows(catalog: &Catalog) -> usize {
        catalog.audit_rows(Book::Main, 0, 10_000).await.expect("rows").len()
    }

    #[tokio::test]
    async fn h07_a_clock_that_jumps_ahead_removes_no_row() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        catalog
            .adopt_repository(holdfast_archive::ids::RepositoryId::generate(), "me")
            .await
            .expect("adopted");
        let audit = async |at_ms| {
            let entry = AuditEntry {
                at_ms,
                actor: "anna",
                action: "x",
                subject: "",
                outcome: Outcome::Allowed,
                detail: "",
            };
            catalog.audit(&entry).await.expect("written");
        };
        audit(NOW).await;
        audit(NOW).await;
        prune(&catalog, NOW).await.expect("a pass");
        // A year and a half ahead, and the controller has run for a minute.
        catalog.advance_ticks(6).await.expect("counted");
        prune(&catalog, NOW + 550 * DAY_MS).await.expect("a pass");
        assert_eq!(rows(&catalog).await, 2, "the wall clock alone says they are old");
        // The time passes in which it runs.
        let days = AUDIT_AGE.as_secs() / 86_400 + 2;
        for day in 1..=days {
            catalog.advance_ticks(ticks(MARK_EVERY)).await.expect("counted");
            prune(&catalog, NOW + day as i64 * DAY_MS).await.expect("a pass");
        }
        assert_eq!(rows(&catalog).await, 1, "the newest stays");
    }
}
