//! Plans of upgrades, kept so that exactly one of them can be run.

use holdfast_archive::ids::HostId;
use sqlx::Row as _;

use super::json::{from_json, to_json};
use super::{Catalog, CatalogError};
use crate::model::upgrade::{UpgradePlan, UpgradeRequest};

/// Plans of jobs that have ended, and plans nobody ran, go after this.
const KEPT_MS: i64 = 7 * 86_400_000;

/// A plan as it was made on its host.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanRecord {
    pub id: String,
    pub host: HostId,
    pub request: UpgradeRequest,
    pub plan: UpgradePlan,
    pub created_ms: i64,
    pub actor: String,
}

impl Catalog {
    /// Keeps a plan; one that is there under the id stays as it is. Old ones
    /// that no job needs any more go.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn put_upgrade_plan(&self, record: &PlanRecord) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query(
            "delete from upgrade_plans where created_ms < $1
             and id not in (select id from jobs where state in ('queued', 'running'))",
        )
        .bind(record.created_ms - KEPT_MS)
        .execute(&mut *tx)
        .await?;
        // What is there was shown, or is being run, and is not replaced behind anybody.
        sqlx::query(
            "insert into upgrade_plans (id, host_id, request, plan, fingerprint, created_ms, actor)
             values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
        )
        .bind(&record.id)
        .bind(record.host.to_string())
        .bind(to_json(&record.request))
        .bind(to_json(&record.plan))
        .bind(&record.plan.fingerprint)
        .bind(record.created_ms)
        .bind(&record.actor)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The plan under that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn upgrade_plan(&self, id: &str) -> Result<Option<PlanRecord>, CatalogError> {
        let row = sqlx::query("select * from upgrade_plans where id = $1")
            .bind(id)
            .fetch_optional(self.pool())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let host: String = row.try_get("host_id")?;
        Ok(Some(PlanRecord {
            id: row.try_get("id")?,
            host: host.parse().map_err(|_| CatalogError::Unreadable { what: "host id", value: host })?,
            request: from_json(row.try_get("request")?, "upgrade request")?,
            plan: from_json(row.try_get("plan")?, "upgrade plan")?,
            created_ms: row.try_get("created_ms")?,
            actor: row.try_get("actor")?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources::add_host;
    use super::*;

    #[tokio::test]
    async fn a_plan_stays_as_it_was_made_and_goes_when_it_is_old() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let plan = |id: &str, fingerprint: &str, created_ms| PlanRecord {
            id: id.into(),
            host,
            request: UpgradeRequest { container: "db".into(), ..UpgradeRequest::default() },
            plan: UpgradePlan { fingerprint: fingerprint.into(), ..UpgradePlan::default() },
            created_ms,
            actor: "anna".into(),
        };
        let first = plan("a", "1", 1000);
        catalog.put_upgrade_plan(&first).await.expect("kept");
        catalog.put_upgrade_plan(&plan("a", "2", 2000)).await.expect("kept");
        assert_eq!(catalog.upgrade_plan("a").await.expect("asked"), Some(first));
        catalog.put_upgrade_plan(&plan("b", "3", 1001 + KEPT_MS)).await.expect("kept");
        assert_eq!(catalog.upgrade_plan("a").await.expect("asked"), None);
        assert!(catalog.upgrade_plan("b").await.expect("asked").is_some());
    }
}
