//! Which certificates speak for which host, for a catalogue that is put back
//! from a copy.
//!
//! Serial numbers are random and never given twice, so that one was denied
//! stays true for ever, whatever a copy remembers.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::repository::id;
use super::{Catalog, CatalogError};
use crate::identity::ca::HOST_CERTIFICATE_LIFETIME;

/// Serial numbers of one host's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Good until the current one is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Refused although they may not have expired.
    #[serde(default)]
    pub denied: Vec<String>,
}

impl Catalog {
    /// Of all hosts; denied ones as far as they may not have expired by `now_ms`.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn certificates(&self, now_ms: i64) -> Result<BTreeMap<HostId, Certificates>, CatalogError> {
        let mut all: BTreeMap<HostId, Certificates> = BTreeMap::new();
        let hosts = sqlx::query("select id, certificate_serial, previous_serial from hosts");
        for row in hosts.fetch_all(self.pool()).await? {
            let of = all.entry(id(row.try_get("id")?, "host id")?).or_default();
            of.current = row.try_get("certificate_serial")?;
            of.previous = row.try_get("previous_serial")?;
        }
        let lifetime = i64::try_from(HOST_CERTIFICATE_LIFETIME.as_millis()).unwrap_or(i64::MAX);
        let denied = sqlx::query(
            "select host_id, serial from denied_certificates where denied_ms > $1 order by host_id, serial",
        )
        .bind(now_ms.saturating_sub(lifetime));
        for row in denied.fetch_all(self.pool()).await? {
            let of = all.entry(id(row.try_get("host_id")?, "host id")?).or_default();
            of.denied.push(row.try_get("serial")?);
        }
        Ok(all)
    }

    /// Takes in what the bucket knows of a host's certificates: what was denied
    /// is denied, and where the current one was replaced since, its successor is
    /// the current one. False: nothing of that was news.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn take_certificates(
        &self,
        host: HostId,
        known: &Certificates,
        now_ms: i64,
    ) -> Result<bool, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let mut news = deny(&mut tx, host, &known.denied, now_ms).await?;
        let ours = current_serial(&mut tx, host).await?;
        // Only along the chain of renewals: where ours is none that the bucket knows to be
        // replaced, ours is the newer one.
        let replaced = ours
            .as_ref()
            .is_some_and(|ours| known.previous.as_ref() == Some(ours) || known.denied.contains(ours));
        if replaced && known.current.is_some() && known.current != ours {
            let done =
                sqlx::query("update hosts set certificate_serial = $2, previous_serial = $3 where id = $1")
                    .bind(host.to_string())
                    .bind(&known.current)
                    .bind(&known.previous)
                    .execute(&mut *tx)
                    .await?;
            news += done.rows_affected();
        }
        tx.commit().await?;
        Ok(news > 0)
    }
}

async fn current_serial(tx: &mut SqliteConnection, host: HostId) -> Result<Option<String>, CatalogError> {
    let serial: Option<Option<String>> =
        sqlx::query_scalar("select certificate_serial from hosts where id = $1")
            .bind(host.to_string())
            .fetch_optional(tx)
            .await?;
    Ok(serial.flatten())
}

/// Gives how many of them were not denied yet.
async fn deny(
    tx: &mut SqliteConnection,
    host: HostId,
    serials: &[String],
    now_ms: i64,
) -> Result<u64, CatalogError> {
    let mut news = 0;
    for serial in serials {
        let done = sqlx::query(
            "insert into denied_certificates (serial, host_id, denied_ms) values ($1, $2, $3)
             on conflict do nothing",
        )
        .bind(serial)
        .bind(host.to_string())
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        news += done.rows_affected();
    }
    Ok(news)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::enrolment::{Enrolled, Enrolment, JoinRecord, NewJoinToken};
    use crate::catalog::standing::Standing;

    async fn joined(catalog: &Catalog, serial: &str) -> HostId {
        let labels = BTreeMap::new();
        let token =
            NewJoinToken { hash: serial, host_name: "web-1", labels: &labels, created_ms: 0, expires_ms: 9 };
        catalog.put_join_token(&token).await.expect("put");
        let enrolment = Enrolment {
            token_hash: serial,
            host_name: "web-1",
            serial,
            not_after_ms: 1_000,
            instance_id: "i",
            now_ms: 1,
            record: JoinRecord::default(),
        };
        match catalog.enrol(&enrolment, |_| Some(())).await.expect("enrols") {
            Enrolled::Host { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    async fn is_good(catalog: &Catalog, host: HostId, serial: &str) -> bool {
        let standing = catalog.certificate_standing(host, serial, 9).await.expect("standing");
        matches!(standing, Standing::Good { .. })
    }

    /// Two first uses of `s2` may be looked at together. The slower one comes when the
    /// host has renewed it, and has not got the answer.
    #[tokio::test]
    async fn v13_a_late_first_use_denies_no_certificate_that_may_be_the_last() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = joined(&catalog, "s1").await;
        assert!(catalog.renew_certificate(host, "s1", "s2", 2_000, 2).await.expect("renewed"));
        assert!(is_good(&catalog, host, "s2").await && !is_good(&catalog, host, "s1").await);
        assert!(catalog.renew_certificate(host, "s2", "s3", 3_000, 3).await.expect("renewed"));
        catalog.retire_previous(host, "s2", 4).await.expect("asked");
        assert!(is_good(&catalog, host, "s2").await);
    }

    #[tokio::test]
    async fn p21_an_old_copy_learns_what_was_denied_and_renewed_since() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = joined(&catalog, "s1").await;
        let known = Certificates {
            current: Some("s2".into()),
            previous: Some("s1".into()),
            denied: vec!["s0".into()],
        };
        assert!(catalog.take_certificates(host, &known, 2).await.expect("taken"));
        assert!(!catalog.take_certificates(host, &known, 2).await.expect("taken"), "it is no news twice");
        assert_eq!(catalog.certificates(3).await.expect("asked")[&host], known);
        assert!(is_good(&catalog, host, "s1").await && is_good(&catalog, host, "s2").await);

        // What the bucket knew before this catalogue changes nothing.
        let older = Certificates { current: Some("s1".into()), previous: None, denied: vec!["s0".into()] };
        assert!(!catalog.take_certificates(host, &older, 3).await.expect("taken"));
        assert!(is_good(&catalog, host, "s2").await && !is_good(&catalog, host, "s1").await);

        let revoked = Certificates { current: Some("s2".into()), previous: None, denied: vec!["s2".into()] };
        assert!(catalog.take_certificates(host, &revoked, 4).await.expect("taken"));
        assert!(!is_good(&catalog, host, "s2").await);
    }
}
