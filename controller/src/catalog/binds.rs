//! Directories of the hosts that running containers mount.
//!
//! They are in no list of volumes, and hold data all the same.

use std::collections::BTreeSet;

use holdfast_archive::ids::HostId;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::{Catalog, CatalogError};

/// A bind mount as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindRecord {
    pub host: HostId,
    pub path: String,
    /// No container that mounts it may write to it.
    pub read_only: bool,
    /// Names of the running containers that mount it.
    pub containers: Vec<String>,
    pub first_seen_ms: i64,
    pub last_seen_ms: i64,
    /// No running container mounts it any more; kept because it is retired.
    pub gone_ms: Option<i64>,
    /// An operator said that it is not to be protected.
    pub retired_ms: Option<i64>,
}

/// A bind mount as a host just listed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenBind {
    pub path: String,
    pub read_only: bool,
    pub containers: BTreeSet<String>,
}

impl Catalog {
    /// Takes in a complete list of what the running containers of a host bind.
    /// A path that is retired stays so while nothing mounts it: the decision
    /// is about the path.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn record_binds(
        &self,
        host: HostId,
        binds: &[SeenBind],
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // All are gone, those of the list come back, and what is left is removed: in one
        // transaction, so nobody sees a host without its binds.
        sqlx::query("update binds set gone_ms = $2 where host_id = $1 and gone_ms is null")
            .bind(host.to_string())
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
        for bind in binds {
            upsert(&mut tx, host, bind, now_ms).await?;
        }
        sqlx::query("delete from binds where host_id = $1 and gone_ms is not null and retired_ms is null")
            .bind(host.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes a path that was given up; no running container is known to mount it.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_retired_bind(
        &self,
        host: HostId,
        path: &str,
        retired_ms: i64,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into binds (host_id, path, read_only, containers, first_seen_ms, last_seen_ms, gone_ms,
                 retired_ms)
             values ($1, $2, 1, '[]', $3, $3, $3, $3) on conflict do nothing",
        )
        .bind(host.to_string())
        .bind(path)
        .bind(retired_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Bind mounts of one host or of all, by path.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn binds(&self, host: Option<HostId>) -> Result<Vec<BindRecord>, CatalogError> {
        let rows = sqlx::query("select * from binds where $1 is null or host_id = $1 order by host_id, path")
            .bind(host.map(|host| host.to_string()))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Retires a path, or with `None` has it count again. False: no running
    /// container is known to mount it.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn retire_bind(
        &self,
        host: HostId,
        path: &str,
        retired_ms: Option<i64>,
    ) -> Result<bool, CatalogError> {
        let done = sqlx::query("update binds set retired_ms = $3 where host_id = $1 and path = $2")
            .bind(host.to_string())
            .bind(path)
            .bind(retired_ms)
            .execute(self.pool())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

async fn upsert(
    tx: &mut SqliteConnection,
    host: HostId,
    bind: &SeenBind,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let containers = serde_json::to_string(&bind.containers).expect("a set of strings is always JSON");
    sqlx::query(
        "insert into binds (host_id, path, read_only, containers, first_seen_ms, last_seen_ms)
         values ($1, $2, $3, $4, $5, $5)
         on conflict (host_id, path) do update
         set read_only = excluded.read_only, containers = excluded.containers,
             last_seen_ms = excluded.last_seen_ms, gone_ms = null",
    )
    .bind(host.to_string())
    .bind(&bind.path)
    .bind(bind.read_only)
    .bind(containers)
    .bind(now_ms)
    .execute(tx)
    .await?;
    Ok(())
}

fn read(row: &SqliteRow) -> Result<BindRecord, CatalogError> {
    let host: String = row.try_get("host_id")?;
    let containers: String = row.try_get("containers")?;
    Ok(BindRecord {
        host: host.parse().map_err(|_| CatalogError::Unreadable { what: "host id", value: host })?,
        path: row.try_get("path")?,
        read_only: row.try_get("read_only")?,
        containers: serde_json::from_str(&containers)
            .map_err(|_| CatalogError::Unreadable { what: "list of containers", value: containers })?,
        first_seen_ms: row.try_get("first_seen_ms")?,
        last_seen_ms: row.try_get("last_seen_ms")?,
        gone_ms: row.try_get("gone_ms")?,
        retired_ms: row.try_get("retired_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sources::add_host;

    #[tokio::test]
    async fn h06_a_bind_is_there_while_it_is_mounted_and_retired_until_that_is_undone() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let bind = |path: &str| SeenBind {
            path: path.to_owned(),
            read_only: false,
            containers: BTreeSet::from(["web".to_owned()]),
        };
        let record = async |binds: &[SeenBind], now| {
            catalog.record_binds(host, binds, now).await.expect("recorded");
            let known = catalog.binds(Some(host)).await.expect("listed");
            known.into_iter().map(|bind| (bind.path, bind.gone_ms, bind.retired_ms)).collect::<Vec<_>>()
        };
        let both = record(&[bind("/srv/a"), bind("/srv/b")], 1).await;
        assert_eq!(both, [("/srv/a".to_owned(), None, None), ("/srv/b".to_owned(), None, None)]);
        assert!(catalog.retire_bind(host, "/srv/a", Some(2)).await.expect("retired"));
        assert!(!catalog.retire_bind(host, "/srv/c", Some(2)).await.expect("asked"));
        assert_eq!(record(&[], 3).await, [("/srv/a".to_owned(), Some(3), Some(2))]);
        assert_eq!(record(&[bind("/srv/a")], 4).await, [("/srv/a".to_owned(), None, Some(2))]);
        assert!(catalog.retire_bind(host, "/srv/a", None).await.expect("undone"));
        assert_eq!(record(&[bind("/srv/a")], 5).await, [("/srv/a".to_owned(), None, None)]);
    }
}
