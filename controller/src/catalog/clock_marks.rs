//! Two clocks for what goes by age.
//!
//! The wall clock may jump; ticks are counted by a running controller and do
//! not. A mark says what the wall clock said at a tick. What is older than some
//! age by the wall clock goes only if a controller has also run for that long
//! since the wall clock said so: a clock that jumps a year ahead removes
//! nothing, and one that stood still for a while delays.

use super::repository::{signed, unsigned};
use super::{Catalog, CatalogError};

impl Catalog {
    /// Notes what the wall clock says at this tick, unless that was noted
    /// within the last `every` ticks; marks older than `most` ticks go, but for
    /// the newest of them.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn mark_clock(
        &self,
        now_ms: i64,
        tick: u64,
        every: u64,
        most: u64,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let last: Option<i64> =
            sqlx::query_scalar("select max(tick) from clock_marks").fetch_one(&mut *tx).await?;
        if last.is_some_and(|last| tick < unsigned(last).saturating_add(every)) {
            return Ok(());
        }
        sqlx::query("insert into clock_marks (tick, at_ms) values ($1, $2)")
            .bind(signed(tick))
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "delete from clock_marks where tick < (select max(tick) from clock_marks where tick <= $1)",
        )
        .bind(signed(tick.saturating_sub(most)))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// What the wall clock said at least `age` ticks before this one, the
    /// latest; `None`: no controller has run for so long since it is noted.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn wall_clock_before(&self, tick: u64, age: u64) -> Result<Option<i64>, CatalogError> {
        let Some(until) = tick.checked_sub(age) else { return Ok(None) };
        Ok(sqlx::query_scalar("select at_ms from clock_marks where tick <= $1 order by tick desc limit 1")
            .bind(signed(until))
            .fetch_optional(self.pool())
            .await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn h07_a_mark_a_day_is_enough_and_old_ones_go() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        for tick in 0..100 {
            catalog.mark_clock(1000 + tick as i64, tick, 10, 30).await.expect("marked");
        }
        let marks: Vec<i64> = sqlx::query_scalar("select tick from clock_marks order by tick")
            .fetch_all(catalog.pool())
            .await
            .expect("asked");
        assert_eq!(marks, [60, 70, 80, 90], "one at least as old as asked for stays");
        let before = async |tick, age| catalog.wall_clock_before(tick, age).await.expect("asked");
        assert_eq!(before(99, 30).await, Some(1060));
        assert_eq!(before(99, 9).await, Some(1090));
        assert_eq!(before(99, 99).await, None);
        assert_eq!(before(5, 30).await, None);
    }
}
