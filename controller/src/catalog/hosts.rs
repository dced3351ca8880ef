//! Hosts: who they are, and how they were last seen.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::json::{from_json, to_json};
use super::leases::end_leases_of_host;
use super::standing::deny_serials;
use super::{Catalog, CatalogError};
use crate::model::agent::Agent;

/// A host as the catalogue knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRecord {
    pub id: HostId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub joined_ms: i64,
    pub revoked_ms: Option<i64>,
    /// Given up on purpose, and revoked: it is not missed.
    pub retired_ms: Option<i64>,
    pub last_seen_ms: Option<i64>,
    pub certificate_not_after_ms: Option<i64>,
    pub instance_id: Option<String>,
    /// As last reported.
    pub agent: Option<Agent>,
    pub clock_skew_ms: i64,
    /// Volumes known to be on it.
    pub volumes: u32,
}

const HOST_COLUMNS: &str = "select h.*, (select count(*) from sources s where s.host_id = h.id
    and s.kind = 'volume' and s.gone_ms is null) as volumes from hosts h";

impl Catalog {
    /// Makes a host that another controller knew. It has no certificate of
    /// this one, so it must join; under its name it is then the same host
    /// again. False: its id or name is taken.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_host(
        &self,
        id: HostId,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<bool, CatalogError> {
        let done = sqlx::query(
            "insert into hosts (id, name, labels, joined_ms) values ($1, $2, $3, 0) on conflict do nothing",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(labels_text(labels))
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Revokes, and perhaps retires, a host as another controller had: for one
    /// that was imported. What it was before stays.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_standing(
        &self,
        id: HostId,
        revoked_ms: Option<i64>,
        retired_ms: Option<i64>,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "update hosts set revoked_ms = coalesce(revoked_ms, $2), retired_ms = coalesce(retired_ms, $3)
             where id = $1",
        )
        .bind(id.to_string())
        .bind(revoked_ms)
        .bind(retired_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// From now on no certificate of this host is accepted, until it joins
    /// again; what it had open of the repository ends here, and does not come
    /// back with the host. False: unknown, or revoked before.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn revoke_host(&self, host: HostId, now_ms: i64) -> Result<bool, CatalogError> {
        // Immediate: no renewal can give the host another serial between the denial and the mark.
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // Both: the previous one counts until its successor is first used.
        deny_serials(&mut tx, host, "certificate_serial", now_ms).await?;
        deny_serials(&mut tx, host, "previous_serial", now_ms).await?;
        let done = sqlx::query("update hosts set revoked_ms = $2 where id = $1 and revoked_ms is null")
            .bind(host.to_string())
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
        // In the same transaction, so that no lease outlives the host's certificate.
        end_leases_of_host(&mut tx, host).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Marks a revoked host as given up. False: it is not revoked (any more).
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn retire_host(&self, host: HostId, now_ms: i64) -> Result<bool, CatalogError> {
        // A second request leaves the time of the first.
        let done = sqlx::query(
            "update hosts set retired_ms = coalesce(retired_ms, $2)
             where id = $1 and revoked_ms is not null",
        )
        .bind(host.to_string())
        .bind(now_ms)
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// All hosts by name.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn hosts(&self) -> Result<Vec<HostRecord>, CatalogError> {
        let sql = sqlx::AssertSqlSafe(format!("{HOST_COLUMNS} order by h.name"));
        let rows = sqlx::query(sql).fetch_all(self.pool()).await?;
        rows.iter().map(read).collect()
    }

    /// The host with that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn host(&self, id: HostId) -> Result<Option<HostRecord>, CatalogError> {
        self.host_where("h.id", &id.to_string()).await
    }

    /// The host with that name, or else that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn host_by_name(&self, name_or_id: &str) -> Result<Option<HostRecord>, CatalogError> {
        match self.host_where("h.name", name_or_id).await? {
            Some(host) => Ok(Some(host)),
            None => self.host_where("h.id", name_or_id).await,
        }
    }

    async fn host_where(
        &self,
        column: &'static str,
        value: &str,
    ) -> Result<Option<HostRecord>, CatalogError> {
        sqlx::query(sqlx::AssertSqlSafe(format!("{HOST_COLUMNS} where {column} = $1")))
            .bind(value)
            .fetch_optional(self.pool())
            .await?
            .map(|row| read(&row))
            .transpose()
    }

    /// Names of all hosts, for suggestions.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn host_names(&self) -> Result<Vec<String>, CatalogError> {
        Ok(sqlx::query_scalar("select name from hosts order by name").fetch_all(self.pool()).await?)
    }

    /// Replaces a host's labels.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn set_host_labels(
        &self,
        host: HostId,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), CatalogError> {
        sqlx::query("update hosts set labels = $2 where id = $1")
            .bind(host.to_string())
            .bind(labels_text(labels))
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Notes that a host answered, and what its agent said about itself.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn host_seen(
        &self,
        host: HostId,
        now_ms: i64,
        agent: &Agent,
        clock_skew_ms: i64,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "update hosts set last_seen_ms = $2, agent = $3, clock_skew_ms = $4, instance_id = $5
             where id = $1",
        )
        .bind(host.to_string())
        .bind(now_ms)
        .bind(to_json(agent))
        .bind(clock_skew_ms)
        .bind(&agent.instance_id)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

pub(super) fn host_id(text: String) -> Result<HostId, CatalogError> {
    text.parse().map_err(|_| CatalogError::Unreadable { what: "host id", value: text })
}

pub(super) fn labels_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_string(labels).expect("a map of strings is always JSON")
}

fn read(row: &SqliteRow) -> Result<HostRecord, CatalogError> {
    let labels: String = row.try_get("labels")?;
    let agent: Option<String> = row.try_get("agent")?;
    Ok(HostRecord {
        id: host_id(row.try_get("id")?)?,
        name: row.try_get("name")?,
        labels: serde_json::from_str(&labels)
            .map_err(|_| CatalogError::Unreadable { what: "label map", value: labels })?,
        joined_ms: row.try_get("joined_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
        retired_ms: row.try_get("retired_ms")?,
        last_seen_ms: row.try_get("last_seen_ms")?,
        certificate_not_after_ms: row.try_get("certificate_not_after_ms")?,
        instance_id: row.try_get("instance_id")?,
        agent: agent.map(|text| from_json(&text, "agent description")).transpose()?,
        clock_skew_ms: row.try_get("clock_skew_ms")?,
        volumes: u32::try_from(row.try_get::<i64, _>("volumes")?).unwrap_or(u32::MAX),
    })
}
