//! What could be backed up on each host, as last seen there.
//!
//! A source keeps its id for ever, also through a time in which it was gone:
//! its snapshots hang on it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use holdfast_archive::ids::{HostId, SnapshotId, SourceId};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::audit::{AuditEntry, Book, Outcome, append};
use super::history::bound_sources;
use super::{Catalog, CatalogError};
use crate::limits::SOURCES_OF_HOST;
use crate::model::source::SourceKind;

/// A source as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRecord {
    pub id: SourceId,
    pub host: HostId,
    pub kind: SourceKind,
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub anonymous: bool,
    pub used: bool,
    pub first_seen_ms: i64,
    pub last_seen_ms: i64,
    pub gone_ms: Option<i64>,
    /// Given up on purpose: it is not missed.
    pub retired_ms: Option<i64>,
    /// What of Holdfast itself it is, and therefore never backed up; empty for
    /// everybody else's.
    pub own: String,
}

/// A volume as a host just listed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenVolume {
    pub name: String,
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub anonymous: bool,
    pub used: bool,
    /// What of Holdfast itself it is; empty for everybody else's.
    pub own: String,
}

impl Catalog {
    /// Takes in a complete list of a host's volumes: what is not in it is gone.
    /// Gives the names of retired ones that are there again: they count again,
    /// and that is put on record with it.
    ///
    /// # Errors
    /// The catalogue fails; nothing of the list is then taken in.
    pub async fn record_volumes(
        &self,
        host: HostId,
        volumes: &[SeenVolume],
        now_ms: i64,
    ) -> Result<Vec<String>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let mut missing = names_there(&mut tx, host).await?;
        let retired = retired_volumes(&mut tx, host).await?;
        for volume in volumes {
            missing.remove(&volume.name);
            upsert_volume(&mut tx, host, volume, now_ms).await?;
        }
        for id in missing.values() {
            // Whether it was used stays: it says what a selector would have matched.
            sqlx::query("update sources set gone_ms = $2 where id = $1")
                .bind(id)
                .bind(now_ms)
                .execute(&mut *tx)
                .await?;
        }
        // A host that gives its volumes other names each time adds no more than this.
        bound_sources(&mut tx, host, SOURCES_OF_HOST).await?;
        let again = volumes.iter().map(|volume| &volume.name).filter(|name| retired.contains(*name));
        let again: Vec<String> = again.cloned().collect();
        put_returns_on_record(&mut tx, host, &again, now_ms).await?;
        tx.commit().await?;
        Ok(again)
    }

    /// Retires a source, or with `None` has it count again.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn retire_source(&self, id: SourceId, retired_ms: Option<i64>) -> Result<(), CatalogError> {
        sqlx::query("update sources set retired_ms = $2 where id = $1")
            .bind(id.to_string())
            .bind(retired_ms)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Makes a source that a snapshot in the bucket is of, so that the next one
    /// follows it. One of that host, kind and name that is there stays.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_source(
        &self,
        id: &SnapshotId,
        kind: &str,
        name: &str,
        seen_ms: i64,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into sources (id, host_id, kind, name, first_seen_ms, last_seen_ms)
             values ($1, $2, $3, $4, $5, $5) on conflict do nothing",
        )
        .bind(id.source.to_string())
        .bind(id.host.to_string())
        .bind(kind)
        .bind(name)
        .bind(seen_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Makes a source that was given up, with what else is known of it. One of
    /// that id, or of that host, kind and name, stays as it is.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn import_retired_source(
        &self,
        (host, id): (HostId, SourceId),
        kind: &str,
        name: &str,
        retired_ms: i64,
    ) -> Result<(), CatalogError> {
        // A volume is retired only once it is gone.
        sqlx::query(
            "insert into sources (id, host_id, kind, name, used, first_seen_ms, last_seen_ms, gone_ms, retired_ms)
             values ($1, $2, $3, $4, 1, $5, $5, case when $3 = 'volume' then $5 end, $5)
             on conflict do nothing",
        )
        .bind(id.to_string())
        .bind(host.to_string())
        .bind(kind)
        .bind(name)
        .bind(retired_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The id of a directory of a host, made on first use.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn directory_source(
        &self,
        host: HostId,
        path: &str,
        now_ms: i64,
    ) -> Result<SourceRecord, CatalogError> {
        sqlx::query(
            "insert into sources (id, host_id, kind, name, used, first_seen_ms, last_seen_ms)
             values ($1, $2, 'directory', $3, 1, $4, $4)
             on conflict (host_id, kind, name) do update
             set last_seen_ms = excluded.last_seen_ms, gone_ms = null, retired_ms = null",
        )
        .bind(SourceId::generate().to_string())
        .bind(host.to_string())
        .bind(path)
        .bind(now_ms)
        .execute(self.pool())
        .await?;
        let row =
            sqlx::query("select * from sources where host_id = $1 and kind = 'directory' and name = $2")
                .bind(host.to_string())
                .bind(path)
                .fetch_one(self.pool())
                .await?;
        read(&row)
    }

    /// Sources of one host or of all, gone ones included, by name.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn sources(&self, host: Option<HostId>) -> Result<Vec<SourceRecord>, CatalogError> {
        let rows =
            sqlx::query("select * from sources where $1 is null or host_id = $1 order by host_id, name")
                .bind(host.map(|host| host.to_string()))
                .fetch_all(self.pool())
                .await?;
        rows.iter().map(read).collect()
    }

    /// The source with that id.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn source(&self, id: SourceId) -> Result<Option<SourceRecord>, CatalogError> {
        let row = sqlx::query("select * from sources where id = $1")
            .bind(id.to_string())
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(read).transpose()
    }
}

async fn names_there(
    tx: &mut SqliteConnection,
    host: HostId,
) -> Result<BTreeMap<String, String>, CatalogError> {
    let rows = sqlx::query(
        "select id, name from sources where host_id = $1 and kind = 'volume' and gone_ms is null",
    )
    .bind(host.to_string())
    .fetch_all(tx)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("id")?))).collect()
}

async fn retired_volumes(tx: &mut SqliteConnection, host: HostId) -> Result<BTreeSet<String>, CatalogError> {
    let names: Vec<String> = sqlx::query_scalar(
        "select name from sources where host_id = $1 and kind = 'volume' and retired_ms is not null",
    )
    .bind(host.to_string())
    .fetch_all(tx)
    .await?;
    Ok(names.into_iter().collect())
}

/// Audit rows for retired volumes that are there again.
async fn put_returns_on_record(
    tx: &mut SqliteConnection,
    host: HostId,
    names: &[String],
    now_ms: i64,
) -> Result<(), CatalogError> {
    if names.is_empty() {
        return Ok(());
    }
    let host_name: Option<String> = sqlx::query_scalar("select name from hosts where id = $1")
        .bind(host.to_string())
        .fetch_optional(&mut *tx)
        .await?;
    let host_name = host_name.unwrap_or_else(|| host.to_string());
    for name in names {
        let entry = AuditEntry {
            at_ms: now_ms,
            actor: "inventory",
            action: "source.returned",
            subject: &format!("host={host_name} source={name}"),
            outcome: Outcome::Ok,
            detail: "it was retired and is there again: it counts again",
        };
        append(tx, Book::Main, &entry).await?;
    }
    Ok(())
}

async fn upsert_volume(
    tx: &mut SqliteConnection,
    host: HostId,
    volume: &SeenVolume,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let labels = serde_json::to_string(&volume.labels).expect("a map of strings is always JSON");
    sqlx::query(
        "insert into sources (id, host_id, kind, name, driver, labels, anonymous, used,
                              first_seen_ms, last_seen_ms, own)
         values ($1, $2, 'volume', $3, $4, $5, $6, $7, $8, $8, $9)
         on conflict (host_id, kind, name) do update
         set driver = excluded.driver, labels = excluded.labels, anonymous = excluded.anonymous,
             used = excluded.used, own = excluded.own, last_seen_ms = excluded.last_seen_ms, gone_ms = null,
             retired_ms = null",
    )
    .bind(SourceId::generate().to_string())
    .bind(host.to_string())
    .bind(&volume.name)
    .bind(&volume.driver)
    .bind(labels)
    .bind(volume.anonymous)
    .bind(volume.used)
    .bind(now_ms)
    .bind(&volume.own)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) fn read(row: &SqliteRow) -> Result<SourceRecord, CatalogError> {
    let unreadable = |what, value: &str| CatalogError::Unreadable { what, value: value.to_owned() };
    let id: String = row.try_get("id")?;
    let host: String = row.try_get("host_id")?;
    let kind: String = row.try_get("kind")?;
    let labels: String = row.try_get("labels")?;
    Ok(SourceRecord {
        id: id.parse().map_err(|_| unreadable("source id", &id))?,
        host: host.parse().map_err(|_| unreadable("host id", &host))?,
        kind: SourceKind::from_str(&kind).map_err(|_| unreadable("source kind", &kind))?,
        name: row.try_get("name")?,
        driver: row.try_get("driver")?,
        labels: serde_json::from_str(&labels).map_err(|_| unreadable("label map", &labels))?,
        anonymous: row.try_get("anonymous")?,
        used: row.try_get("used")?,
        first_seen_ms: row.try_get("first_seen_ms")?,
        last_seen_ms: row.try_get("last_seen_ms")?,
        gone_ms: row.try_get("gone_ms")?,
        retired_ms: row.try_get("retired_ms")?,
        own: row.try_get("own")?,
    })
}

#[cfg(test)]
pub(crate) async fn add_host(catalog: &Catalog, name: &str) -> HostId {
    let host = HostId::generate();
    sqlx::query("insert into hosts (id, name, joined_ms) values ($1, $2, 0)")
        .bind(host.to_string())
        .bind(name)
        .execute(catalog.pool())
        .await
        .expect("a host row");
    host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> SeenVolume {
        SeenVolume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            anonymous: false,
            used: true,
            own: String::new(),
        }
    }

    #[tokio::test]
    async fn a_volume_that_went_and_came_back_is_the_same_source() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let record = async |volumes: &[SeenVolume], now| {
            catalog.record_volumes(host, volumes, now).await.expect("recorded");
            catalog.sources(Some(host)).await.expect("listed")
        };
        let first = record(&[volume("a"), volume("b")], 1).await;
        assert_eq!(first.len(), 2);
        let without = record(&[volume("b")], 2).await;
        assert_eq!((without[0].gone_ms, without[1].gone_ms), (Some(2), None));
        let back = record(&[volume("a"), volume("b")], 3).await;
        assert_eq!((back[0].id, back[0].gone_ms, back[0].first_seen_ms), (first[0].id, None, 1));
        let directory = catalog.directory_source(host, "/srv", 4).await.expect("made");
        assert_eq!(catalog.directory_source(host, "/srv", 5).await.expect("found").id, directory.id);
        // A list of volumes says nothing about directories.
        let after = record(&[volume("b")], 6).await;
        assert!(after.iter().any(|source| source.id == directory.id && source.gone_ms.is_none()));
    }

    #[tokio::test]
    async fn h06_a_retired_source_that_is_there_again_counts_again() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let record = async |volumes: &[SeenVolume], now| {
            catalog.record_volumes(host, volumes, now).await.expect("recorded")
        };
        assert!(record(&[volume("a")], 1).await.is_empty());
        assert!(record(&[], 2).await.is_empty());
        let gone = catalog.sources(Some(host)).await.expect("listed").remove(0);
        assert!(gone.used, "what a selector would have matched is forgotten");
        catalog.retire_source(gone.id, Some(3)).await.expect("retired");
        assert!(record(&[volume("b")], 4).await.is_empty());
        let still = catalog.source(gone.id).await.expect("asked").expect("there");
        assert_eq!((still.gone_ms, still.retired_ms), (Some(2), Some(3)));
        assert_eq!(record(&[volume("a"), volume("b")], 5).await, ["a"]);
        let back = catalog.source(gone.id).await.expect("asked").expect("there");
        assert_eq!((back.gone_ms, back.retired_ms), (None, None));
        // A directory counts again when it is backed up again.
        let directory = catalog.directory_source(host, "/srv", 6).await.expect("made");
        catalog.retire_source(directory.id, Some(7)).await.expect("retired");
        assert_eq!(catalog.directory_source(host, "/srv", 8).await.expect("found").retired_ms, None);
    }

    #[tokio::test]
    async fn h06_a_return_that_cannot_be_put_on_record_is_news_again_in_the_next_list() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        catalog.record_volumes(host, &[volume("a")], 1).await.expect("recorded");
        catalog.record_volumes(host, &[], 2).await.expect("recorded");
        let gone = catalog.sources(Some(host)).await.expect("listed").remove(0);
        catalog.retire_source(gone.id, Some(3)).await.expect("retired");
        let full = "create trigger full before insert on audit begin select raise(abort, 'disk full'); end";
        sqlx::query(full).execute(catalog.pool()).await.expect("a trigger");
        assert!(catalog.record_volumes(host, &[volume("a")], 4).await.is_err());
        sqlx::query("drop trigger full").execute(catalog.pool()).await.expect("gone");
        assert_eq!(catalog.record_volumes(host, &[volume("a")], 5).await.expect("recorded"), ["a"]);
        let rows = catalog.audit_rows(Book::Main, 0, 10).await.expect("rows");
        let rows: Vec<_> = rows.iter().map(|row| (row.at_ms, row.subject.as_str())).collect();
        assert_eq!(rows, [(5, "host=web-1 source=a")]);
    }
}
