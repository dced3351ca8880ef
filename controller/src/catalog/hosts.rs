//! Hosts, their certificates, and the join tokens that lead to one.
//!
//! Enrolment is one transaction: the token is used up, the host made or found
//! by name, and its older certificates denied, all or nothing. A name that is
//! taken keeps its id, and with it its history. After a renewal both
//! certificates count until the newer one is first seen: an answer lost on the
//! way must not lock a host out.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::json::{from_json, to_json};
use super::leases::end_leases_of_host;
use super::{Catalog, CatalogError};
use crate::model::agent::Agent;

/// Longest life of a join token, milliseconds.
pub const TOKEN_LIFE_MS: i64 = 3_600_000;

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

/// A join token that was made; the secret itself is not kept.
#[derive(Debug, Clone)]
pub struct NewJoinToken<'a> {
    /// SHA-256 of the secret, hexadecimal.
    pub hash: &'a str,
    pub host_name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    pub created_ms: i64,
    pub expires_ms: i64,
}

/// A name that join tokens were made for, none of them used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedHost {
    pub name: String,
    /// Of the newest token.
    pub created_ms: i64,
    pub expires_ms: i64,
}

/// A host that shows a join token.
#[derive(Debug, Clone)]
pub struct Enrolment<'a> {
    pub token_hash: &'a str,
    /// The name in the token that was shown, which must be the recorded one.
    pub host_name: &'a str,
    pub serial: &'a str,
    pub not_after_ms: i64,
    pub instance_id: &'a str,
    pub now_ms: i64,
}

/// What became of a shown join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolled {
    Host {
        id: HostId,
        /// The name was known: this is the same host again.
        again: bool,
    },
    /// Never made, or made for another name.
    Unknown,
    /// Used before: somebody else has, or had, this token.
    Used {
        used_ms: i64,
    },
    Expired {
        expired_ms: i64,
    },
}

/// Whether a certificate still speaks for its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Good {
        name: String,
    },
    Unknown,
    Revoked {
        name: String,
    },
    /// Replaced by a newer certificate, refused by hand, or none that this
    /// controller knows of.
    Denied {
        name: String,
    },
}

const HOST_COLUMNS: &str = "select h.*, (select count(*) from sources s where s.host_id = h.id
    and s.kind = 'volume' and s.gone_ms is null) as volumes from hosts h";

impl Catalog {
    /// Makes a host that another controller knew. It has no certificate of
    /// this one, so it must join; under its name it is then the same host
    /// again. False: its id or name is taken.
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

    pub async fn put_join_token(&self, token: &NewJoinToken<'_>) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into join_tokens (hash, host_name, labels, created_ms, expires_ms)
             values ($1, $2, $3, $4, $5)",
        )
        .bind(token.hash)
        .bind(token.host_name)
        .bind(labels_text(token.labels))
        .bind(token.created_ms)
        .bind(token.expires_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Uses up a join token and makes, or finds again, its host.
    pub async fn enrol(&self, enrolment: &Enrolment<'_>) -> Result<Enrolled, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let token = sqlx::query("select * from join_tokens where hash = $1 and host_name = $2")
            .bind(enrolment.token_hash)
            .bind(enrolment.host_name)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(token) = token else { return Ok(Enrolled::Unknown) };
        if let Some(used_ms) = token.try_get("used_ms")? {
            return Ok(Enrolled::Used { used_ms });
        }
        if let Some(expired_ms) = token.try_get("retired_ms")? {
            return Ok(Enrolled::Expired { expired_ms });
        }
        let expired_ms: i64 = token.try_get("expires_ms")?;
        // One that is good for longer than any is made was made under a clock
        // that was ahead.
        let left = expired_ms - enrolment.now_ms;
        if !(1..=TOKEN_LIFE_MS).contains(&left) {
            return Ok(Enrolled::Expired { expired_ms: expired_ms.min(enrolment.now_ms) });
        }
        sqlx::query("update join_tokens set used_ms = $2 where hash = $1")
            .bind(enrolment.token_hash)
            .bind(enrolment.now_ms)
            .execute(&mut *tx)
            .await?;
        let labels: String = token.try_get("labels")?;
        let (id, again) = make_or_find(&mut tx, enrolment, &labels).await?;
        tx.commit().await?;
        Ok(Enrolled::Host { id, again })
    }

    /// Notes the certificate that renews the one with `old_serial`, which stays
    /// good until the new one is used. False: the old one is not current.
    pub async fn renew_certificate(
        &self,
        host: HostId,
        old_serial: &str,
        new_serial: &str,
        not_after_ms: i64,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // The last renewal's answer never arrived if its predecessor asks again.
        sqlx::query(
            "insert into denied_certificates (serial, host_id, denied_ms)
             select certificate_serial, id, $3 from hosts
             where id = $1 and previous_serial = $2 and certificate_serial is not null
             on conflict do nothing",
        )
        .bind(host.to_string())
        .bind(old_serial)
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        let renewed = sqlx::query(
            "update hosts set certificate_serial = $3, previous_serial = $2, certificate_not_after_ms = $4
             where id = $1 and revoked_ms is null and (certificate_serial = $2 or previous_serial = $2)",
        )
        .bind(host.to_string())
        .bind(old_serial)
        .bind(new_serial)
        .bind(not_after_ms)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Whether the certificate with this serial may speak for the host now:
    /// the host's newest, or the one before it until the newest is used. That
    /// this CA has signed it is not enough: whoever copied its key signs more.
    /// The first use of a renewed certificate denies the one before it.
    pub async fn certificate_standing(
        &self,
        host: HostId,
        serial: &str,
        now_ms: i64,
    ) -> Result<Standing, CatalogError> {
        let row = sqlx::query(
            "select name, revoked_ms, certificate_serial, previous_serial,
                exists (select 1 from denied_certificates d where d.serial = $2) as denied
             from hosts where id = $1",
        )
        .bind(host.to_string())
        .bind(serial)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(Standing::Unknown) };
        let name: String = row.try_get("name")?;
        if row.try_get::<Option<i64>, _>("revoked_ms")?.is_some() {
            return Ok(Standing::Revoked { name });
        }
        if row.try_get::<bool, _>("denied")? {
            return Ok(Standing::Denied { name });
        }
        let current: Option<String> = row.try_get("certificate_serial")?;
        let previous: Option<String> = row.try_get("previous_serial")?;
        if current.as_deref() != Some(serial) && previous.as_deref() != Some(serial) {
            return Ok(Standing::Denied { name });
        }
        if previous.is_some() && current.as_deref() == Some(serial) {
            self.retire_previous(host, serial, now_ms).await?;
        }
        Ok(Standing::Good { name })
    }

    async fn retire_previous(&self, host: HostId, serial: &str, now_ms: i64) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        deny_serials(&mut tx, host, "previous_serial", now_ms).await?;
        sqlx::query("update hosts set previous_serial = null where id = $1 and certificate_serial = $2")
            .bind(host.to_string())
            .bind(serial)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// From now on no certificate of this host is accepted, until it joins
    /// again; what it had open of the repository ends here, and does not come
    /// back with the host. False: unknown, or revoked before.
    pub async fn revoke_host(&self, host: HostId, now_ms: i64) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        deny_serials(&mut tx, host, "certificate_serial", now_ms).await?;
        deny_serials(&mut tx, host, "previous_serial", now_ms).await?;
        let done = sqlx::query("update hosts set revoked_ms = $2 where id = $1 and revoked_ms is null")
            .bind(host.to_string())
            .bind(now_ms)
            .execute(&mut *tx)
            .await?;
        end_leases_of_host(&mut tx, host).await?;
        tx.commit().await?;
        Ok(done.rows_affected() == 1)
    }

    /// Makes the unused join tokens for a name void; gives their number.
    pub async fn retire_tokens(&self, host_name: &str, now_ms: i64) -> Result<u64, CatalogError> {
        let done = sqlx::query(
            "update join_tokens set retired_ms = $2
             where host_name = $1 and used_ms is null and retired_ms is null",
        )
        .bind(host_name)
        .bind(now_ms)
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected())
    }

    /// Marks a revoked host as given up. False: it is not revoked (any more).
    pub async fn retire_host(&self, host: HostId, now_ms: i64) -> Result<bool, CatalogError> {
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

    /// Names with join tokens that are neither used nor void, expired or not.
    pub async fn awaited_hosts(&self) -> Result<Vec<AwaitedHost>, CatalogError> {
        let rows = sqlx::query(
            "select host_name, max(created_ms) as created_ms, max(expires_ms) as expires_ms
             from join_tokens where used_ms is null and retired_ms is null
             group by host_name order by host_name",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(AwaitedHost {
                    name: row.try_get("host_name")?,
                    created_ms: row.try_get("created_ms")?,
                    expires_ms: row.try_get("expires_ms")?,
                })
            })
            .collect()
    }

    /// All hosts by name.
    pub async fn hosts(&self) -> Result<Vec<HostRecord>, CatalogError> {
        let sql = sqlx::AssertSqlSafe(format!("{HOST_COLUMNS} order by h.name"));
        let rows = sqlx::query(sql).fetch_all(self.pool()).await?;
        rows.iter().map(read).collect()
    }

    /// The host with that id.
    pub async fn host(&self, id: HostId) -> Result<Option<HostRecord>, CatalogError> {
        self.host_where("h.id", &id.to_string()).await
    }

    /// The host with that name, or else that id.
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
    pub async fn host_names(&self) -> Result<Vec<String>, CatalogError> {
        Ok(sqlx::query_scalar("select name from hosts order by name").fetch_all(self.pool()).await?)
    }

    /// Replaces a host's labels.
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

async fn make_or_find(
    tx: &mut SqliteConnection,
    enrolment: &Enrolment<'_>,
    labels: &str,
) -> Result<(HostId, bool), CatalogError> {
    let known: Option<String> = sqlx::query_scalar("select id from hosts where name = $1")
        .bind(enrolment.host_name)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(known) = known else {
        let id = HostId::generate();
        sqlx::query(
            "insert into hosts (id, name, labels, joined_ms, certificate_serial,
                certificate_not_after_ms, instance_id) values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id.to_string())
        .bind(enrolment.host_name)
        .bind(labels)
        .bind(enrolment.now_ms)
        .bind(enrolment.serial)
        .bind(enrolment.not_after_ms)
        .bind(enrolment.instance_id)
        .execute(&mut *tx)
        .await?;
        return Ok((id, false));
    };
    let id = host_id(known)?;
    deny_serials(tx, id, "certificate_serial", enrolment.now_ms).await?;
    deny_serials(tx, id, "previous_serial", enrolment.now_ms).await?;
    sqlx::query(
        "update hosts set revoked_ms = null, retired_ms = null, certificate_serial = $2, previous_serial = null,
            certificate_not_after_ms = $3, instance_id = $4,
            labels = case when $5 = '{}' then labels else $5 end
         where id = $1",
    )
    .bind(id.to_string())
    .bind(enrolment.serial)
    .bind(enrolment.not_after_ms)
    .bind(enrolment.instance_id)
    .bind(labels)
    .execute(&mut *tx)
    .await?;
    Ok((id, true))
}

async fn deny_serials(
    tx: &mut SqliteConnection,
    host: HostId,
    column: &'static str,
    now_ms: i64,
) -> Result<(), CatalogError> {
    let sql = format!(
        "insert into denied_certificates (serial, host_id, denied_ms)
         select {column}, id, $2 from hosts where id = $1 and {column} is not null
         on conflict do nothing"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(host.to_string()).bind(now_ms).execute(&mut *tx).await?;
    Ok(())
}

fn host_id(text: String) -> Result<HostId, CatalogError> {
    text.parse().map_err(|_| CatalogError::Unreadable { what: "host id", value: text })
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn catalog_with_token(hash: &str, expires_ms: i64) -> Catalog {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        put_token(&catalog, hash, expires_ms).await;
        catalog
    }

    async fn put_token(catalog: &Catalog, hash: &str, expires_ms: i64) {
        let labels = BTreeMap::from([("role".to_owned(), "db".to_owned())]);
        let token = NewJoinToken { hash, host_name: "db-1", labels: &labels, created_ms: 0, expires_ms };
        catalog.put_join_token(&token).await.expect("put");
    }

    fn enrolment<'a>(token_hash: &'a str, serial: &'a str, now_ms: i64) -> Enrolment<'a> {
        Enrolment { token_hash, host_name: "db-1", serial, not_after_ms: 1_000_000, instance_id: "i", now_ms }
    }

    async fn enrol(catalog: &Catalog, token_hash: &str, serial: &str, now_ms: i64) -> Enrolled {
        catalog.enrol(&enrolment(token_hash, serial, now_ms)).await.expect("enrols")
    }

    async fn is_good(catalog: &Catalog, host: HostId, serial: &str) -> bool {
        let standing = catalog.certificate_standing(host, serial, 9).await.expect("standing");
        matches!(standing, Standing::Good { .. })
    }

    fn id(enrolled: &Enrolled) -> HostId {
        match enrolled {
            Enrolled::Host { id, .. } => *id,
            other => panic!("not enrolled: {other:?}"),
        }
    }

    #[tokio::test]
    async fn x02_a_token_works_once_and_in_time() {
        let catalog = catalog_with_token("t1", 100).await;
        assert_eq!(enrol(&catalog, "t0", "s1", 5).await, Enrolled::Unknown);
        let wrong_host = Enrolment { host_name: "db-2", ..enrolment("t1", "s1", 5) };
        assert_eq!(catalog.enrol(&wrong_host).await.expect("asked"), Enrolled::Unknown);
        assert_eq!(enrol(&catalog, "t1", "s1", 100).await, Enrolled::Expired { expired_ms: 100 });
        let first = enrol(&catalog, "t1", "s1", 6).await;
        assert_eq!(enrol(&catalog, "t1", "s2", 7).await, Enrolled::Used { used_ms: 6 });
        let host = catalog.host(id(&first)).await.expect("query").expect("known");
        assert_eq!(host.labels["role"], "db");
        assert_eq!(catalog.host_by_name("db-1").await.expect("query"), Some(host));
    }

    #[tokio::test]
    async fn h07_a_token_made_under_a_clock_that_was_ahead_is_no_good_for_a_year() {
        let catalog = catalog_with_token("t1", 365 * 24 * TOKEN_LIFE_MS).await;
        assert_eq!(enrol(&catalog, "t1", "s1", 5).await, Enrolled::Expired { expired_ms: 5 });
        put_token(&catalog, "t2", 5 + TOKEN_LIFE_MS).await;
        assert!(matches!(enrol(&catalog, "t2", "s1", 5).await, Enrolled::Host { .. }));
    }

    #[tokio::test]
    async fn o12_a_revoked_host_comes_back_with_its_id() {
        let catalog = catalog_with_token("t1", 100).await;
        let host = id(&enrol(&catalog, "t1", "s1", 5).await);
        assert!(is_good(&catalog, host, "s1").await);
        assert!(catalog.revoke_host(host, 6).await.expect("revoked"));
        assert!(!is_good(&catalog, host, "s1").await);

        put_token(&catalog, "t2", 100).await;
        assert_eq!(enrol(&catalog, "t2", "s2", 7).await, Enrolled::Host { id: host, again: true });
        assert!(is_good(&catalog, host, "s2").await);
        assert!(!is_good(&catalog, host, "s1").await);
    }

    #[tokio::test]
    async fn v13_a_serial_that_was_never_recorded_is_refused() {
        let catalog = catalog_with_token("t1", 100).await;
        let host = id(&enrol(&catalog, "t1", "s1", 5).await);
        // Signed by a copy of the CA's key; nothing denies it.
        assert!(!is_good(&catalog, host, "forged").await);
        assert!(catalog.renew_certificate(host, "s1", "s2", 2, 6).await.expect("renews"));
        assert!(is_good(&catalog, host, "s1").await && !is_good(&catalog, host, "forged").await);
        assert!(is_good(&catalog, host, "s2").await && !is_good(&catalog, host, "s1").await);
        let other = HostId::generate();
        assert!(catalog.import_host(other, "db-2", &BTreeMap::new()).await.expect("imported"));
        assert!(!is_good(&catalog, other, "s2").await, "a host without a certificate has none that is good");
    }

    #[tokio::test]
    async fn h06_a_retired_host_is_not_awaited_and_joins_again_by_a_new_token_only() {
        let catalog = catalog_with_token("t1", 100).await;
        let awaited = async || {
            let awaited = catalog.awaited_hosts().await.expect("asked");
            awaited.into_iter().map(|host| host.name).collect::<Vec<_>>()
        };
        assert_eq!(awaited().await, ["db-1"]);
        let host = id(&enrol(&catalog, "t1", "s1", 5).await);
        assert!(awaited().await.is_empty());
        assert!(!catalog.retire_host(host, 6).await.expect("asked"), "it is not revoked");
        put_token(&catalog, "t2", 100).await;
        assert_eq!(catalog.retire_tokens("db-1", 7).await.expect("voided"), 1);
        assert!(catalog.revoke_host(host, 7).await.expect("revoked"));
        assert!(catalog.retire_host(host, 7).await.expect("retired"));
        assert!(awaited().await.is_empty());
        assert_eq!(enrol(&catalog, "t2", "s2", 8).await, Enrolled::Expired { expired_ms: 7 });
        let retired = catalog.host(host).await.expect("asked").expect("known");
        assert_eq!((retired.revoked_ms, retired.retired_ms), (Some(7), Some(7)));

        put_token(&catalog, "t3", 100).await;
        assert_eq!(awaited().await, ["db-1"]);
        assert_eq!(enrol(&catalog, "t3", "s3", 9).await, Enrolled::Host { id: host, again: true });
        let back = catalog.host(host).await.expect("asked").expect("known");
        assert_eq!((back.revoked_ms, back.retired_ms), (None, None));
    }

    #[tokio::test]
    async fn a_renewed_certificate_replaces_the_old_one_on_first_use() {
        let catalog = catalog_with_token("t1", 100).await;
        let host = id(&enrol(&catalog, "t1", "s1", 5).await);
        let renew = async |old, new| catalog.renew_certificate(host, old, new, 2, 6).await.expect("renews");
        assert!(renew("s1", "s2").await);
        assert!(is_good(&catalog, host, "s1").await);
        // The answer was lost: asked again with the old one.
        assert!(renew("s1", "s3").await);
        assert!(!is_good(&catalog, host, "s2").await);
        assert!(is_good(&catalog, host, "s3").await);
        assert!(!is_good(&catalog, host, "s1").await);
        assert!(!renew("s1", "s4").await);
    }
}
