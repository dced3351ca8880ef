//! Policies as applied, and where each stands in time.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Catalog, CatalogError};
use crate::policy::{self, Policy};

/// A stored policy.
#[derive(Debug, Clone)]
pub struct PolicyRecord {
    pub policy: Policy,
    pub applied_ms: i64,
    /// Fires at or before this are none of its own: it was not there yet, or
    /// had another schedule.
    pub since_ms: i64,
}

impl Catalog {
    /// All policies by name.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn policies(&self) -> Result<Vec<PolicyRecord>, CatalogError> {
        let rows = sqlx::query("select * from policies order by name").fetch_all(self.pool()).await?;
        rows.iter().map(read).collect()
    }

    /// The policy of that name.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn policy(&self, name: &str) -> Result<Option<PolicyRecord>, CatalogError> {
        let row = sqlx::query("select * from policies where name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Creates or replaces all of these in one transaction. `since_ms` counts
    /// where the policy is new or `restart` says that its schedule is.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn put_policies(&self, policies: &[(Policy, bool)], now_ms: i64) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for (policy, restart) in policies {
            sqlx::query(
                "insert into policies (name, enabled, definition, applied_ms, since_ms)
                 values ($1, $2, $3, $4, $4)
                 on conflict (name) do update set enabled = excluded.enabled,
                     definition = excluded.definition, applied_ms = excluded.applied_ms,
                     since_ms = case when $5 then excluded.since_ms else policies.since_ms end",
            )
            .bind(&policy.name)
            .bind(policy.enabled)
            .bind(&policy.toml)
            .bind(now_ms)
            .bind(*restart)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// False: there was none. Runs and snapshots it made stay.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn delete_policy(&self, name: &str) -> Result<bool, CatalogError> {
        let done =
            sqlx::query("delete from policies where name = $1").bind(name).execute(self.pool()).await?;
        Ok(done.rows_affected() > 0)
    }
}

fn read(row: &SqliteRow) -> Result<PolicyRecord, CatalogError> {
    let toml: String = row.try_get("definition")?;
    let mut policy = policy::parse(&toml).map_err(|problems| CatalogError::Unreadable {
        what: "policy",
        value: problems.first().map(|problem| problem.message.clone()).unwrap_or_default(),
    })?;
    policy.enabled = row.try_get("enabled")?;
    Ok(PolicyRecord { policy, applied_ms: row.try_get("applied_ms")?, since_ms: row.try_get("since_ms")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_policy_keeps_its_place_in_time_unless_its_schedule_changed() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let policy = policy::parse("name = 'p'\nvolumes = ['*']").expect("right");
        catalog.put_policies(&[(policy.clone(), true)], 100).await.expect("put");
        catalog.put_policies(&[(policy.clone(), false)], 200).await.expect("put");
        let record = catalog.policy("p").await.expect("query").expect("there");
        assert_eq!((record.applied_ms, record.since_ms), (200, 100));
        catalog.put_policies(&[(policy, true)], 300).await.expect("put");
        assert_eq!(catalog.policies().await.expect("query")[0].since_ms, 300);
        assert!(catalog.delete_policy("p").await.expect("deleted"));
        assert!(!catalog.delete_policy("p").await.expect("asked"));
    }
}
