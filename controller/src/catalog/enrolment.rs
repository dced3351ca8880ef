//! Join tokens, and the hosts they lead to.
//!
//! Enrolment is one transaction: the token is used up, the host made or found
//! by name, its certificate signed, its older ones denied and all of it put on
//! record, all or nothing. A name that is taken keeps its id, and with it its history.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::audit::{AuditEntry, Book, Outcome, append};
use super::hosts::{host_id, labels_text};
use super::standing::deny_serials;
use super::{Catalog, CatalogError};

/// Longest life of a join token, milliseconds.
pub const TOKEN_LIFE_MS: i64 = 3_600_000;

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
    pub record: JoinRecord<'a>,
}

/// What the audit row of an enrolment is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct JoinRecord<'a> {
    pub actor: &'a str,
    /// The RPC.
    pub action: &'a str,
    /// As the host says.
    pub agent_version: &'a str,
}

/// What became of a shown join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolled<C> {
    Host {
        id: HostId,
        /// The name was known: this is the same host again.
        again: bool,
        certificate: C,
    },
    /// No certificate could be made: the token is as good as before.
    Uncertified,
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

impl Catalog {
    /// Keeps a join token until it is used, void or too old.
    ///
    /// # Errors
    /// The catalogue fails.
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

    /// Uses up a join token and makes, or finds again, its host, for which
    /// `certify` makes the certificate that the row names.
    ///
    /// # Errors
    /// The catalogue fails; the token is then as good as before.
    pub async fn enrol<C>(
        &self,
        enrolment: &Enrolment<'_>,
        certify: impl FnOnce(HostId) -> Option<C> + Send,
    ) -> Result<Enrolled<C>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let token = sqlx::query("select * from join_tokens where hash = $1 and host_name = $2")
            .bind(enrolment.token_hash)
            .bind(enrolment.host_name)
            .fetch_optional(&mut *tx)
            .await?;
        // With another name in it the token is another's: the same answer as to a guess.
        let Some(token) = token else { return Ok(Enrolled::Unknown) };
        if let Some(refused) = refusal(&token, enrolment.now_ms)? {
            return Ok(refused);
        }
        use_up(&mut tx, enrolment).await?;
        let labels: String = token.try_get("labels")?;
        let (id, again) = make_or_find(&mut tx, enrolment, &labels).await?;
        put_on_record(&mut tx, enrolment, again).await?;
        // After the token was judged: nobody without one makes the controller sign. Before
        // the commit: where nothing is signed, the host keeps the certificates it has, and
        // its token.
        let Some(certificate) = certify(id) else { return Ok(Enrolled::Uncertified) };
        tx.commit().await?;
        Ok(Enrolled::Host { id, again, certificate })
    }

    /// Makes the unused join tokens for a name void; gives their number.
    ///
    /// # Errors
    /// The catalogue fails.
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

    /// Names with join tokens that are neither used nor void, expired or not.
    ///
    /// # Errors
    /// The catalogue fails.
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
}

/// Why a token that was made for the host is no good any more.
fn refusal<C>(token: &SqliteRow, now_ms: i64) -> Result<Option<Enrolled<C>>, CatalogError> {
    if let Some(used_ms) = token.try_get("used_ms")? {
        return Ok(Some(Enrolled::Used { used_ms }));
    }
    if let Some(expired_ms) = token.try_get("retired_ms")? {
        return Ok(Some(Enrolled::Expired { expired_ms }));
    }
    let expired_ms: i64 = token.try_get("expires_ms")?;
    // One that is good for longer than any is made was made under a clock
    // that was ahead.
    let in_time = (1..=TOKEN_LIFE_MS).contains(&(expired_ms - now_ms));
    Ok((!in_time).then(|| Enrolled::Expired { expired_ms: expired_ms.min(now_ms) }))
}

async fn use_up(tx: &mut SqliteConnection, enrolment: &Enrolment<'_>) -> Result<(), CatalogError> {
    sqlx::query("update join_tokens set used_ms = $2 where hash = $1")
        .bind(enrolment.token_hash)
        .bind(enrolment.now_ms)
        .execute(tx)
        .await?;
    Ok(())
}

async fn put_on_record(
    tx: &mut SqliteConnection,
    enrolment: &Enrolment<'_>,
    again: bool,
) -> Result<(), CatalogError> {
    let JoinRecord { actor, action, agent_version } = enrolment.record;
    let subject = format!("host={}", enrolment.host_name);
    let detail = format!("{} version {agent_version}", if again { "joined again" } else { "joined" });
    let detail = detail.escape_debug().to_string();
    let (at_ms, outcome) = (enrolment.now_ms, Outcome::Ok);
    let entry = AuditEntry { at_ms, actor, action, subject: &subject, outcome, detail: &detail };
    append(tx, Book::Main, &entry).await
}

/// The host of that name, and whether it was known.
async fn make_or_find(
    tx: &mut SqliteConnection,
    enrolment: &Enrolment<'_>,
    labels: &str,
) -> Result<(HostId, bool), CatalogError> {
    let known: Option<String> = sqlx::query_scalar("select id from hosts where name = $1")
        .bind(enrolment.host_name)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(known) = known else { return Ok((insert_host(tx, enrolment, labels).await?, false)) };
    let id = host_id(known)?;
    readmit(tx, id, enrolment, labels).await?;
    Ok((id, true))
}

async fn insert_host(
    tx: &mut SqliteConnection,
    enrolment: &Enrolment<'_>,
    labels: &str,
) -> Result<HostId, CatalogError> {
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
    .execute(tx)
    .await?;
    Ok(id)
}

/// A host that was known joins again: with the new certificate alone, however it
/// was lost, revoked or retired before.
async fn readmit(
    tx: &mut SqliteConnection,
    id: HostId,
    enrolment: &Enrolment<'_>,
    labels: &str,
) -> Result<(), CatalogError> {
    // Before the row forgets their serials: both may be in the hands of whoever has the
    // disk that this host joins again without.
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
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::standing::Standing;
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
        Enrolment {
            token_hash,
            host_name: "db-1",
            serial,
            not_after_ms: 1_000_000,
            instance_id: "i",
            now_ms,
            record: JoinRecord { actor: "joining from 10.0.0.7", action: "join", agent_version: "1" },
        }
    }

    async fn enrol(catalog: &Catalog, token_hash: &str, serial: &str, now_ms: i64) -> Enrolled<()> {
        catalog.enrol(&enrolment(token_hash, serial, now_ms), |_| Some(())).await.expect("enrols")
    }

    async fn is_good(catalog: &Catalog, host: HostId, serial: &str) -> bool {
        let standing = catalog.certificate_standing(host, serial, 9).await.expect("standing");
        matches!(standing, Standing::Good { .. })
    }

    fn id(enrolled: &Enrolled<()>) -> HostId {
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
        assert_eq!(catalog.enrol(&wrong_host, |_| Some(())).await.expect("asked"), Enrolled::Unknown);
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
        let back = enrol(&catalog, "t2", "s2", 7).await;
        assert_eq!(back, Enrolled::Host { id: host, again: true, certificate: () });
        assert!(is_good(&catalog, host, "s2").await);
        assert!(!is_good(&catalog, host, "s1").await);
    }

    #[tokio::test]
    async fn where_no_certificate_is_signed_the_host_keeps_its_own_and_the_token() {
        let catalog = catalog_with_token("t1", 100).await;
        let host = id(&enrol(&catalog, "t1", "s1", 5).await);
        put_token(&catalog, "t2", 100).await;
        let failing = |known: HostId| {
            assert_eq!(known, host);
            None::<()>
        };
        let failed = catalog.enrol(&enrolment("t2", "s2", 6), failing).await.expect("asked");
        assert_eq!(failed, Enrolled::Uncertified);
        assert!(is_good(&catalog, host, "s1").await && !is_good(&catalog, host, "s2").await);
        assert_eq!(id(&enrol(&catalog, "t2", "s3", 7).await), host);
        assert!(is_good(&catalog, host, "s3").await && !is_good(&catalog, host, "s1").await);
    }

    #[tokio::test]
    async fn an_enrolment_that_cannot_be_put_on_record_leaves_the_token_good() {
        let catalog = catalog_with_token("t1", 100).await;
        let full = "create trigger full before insert on audit begin select raise(abort, 'disk full'); end";
        sqlx::query(full).execute(catalog.pool()).await.expect("a trigger");
        assert!(catalog.enrol(&enrolment("t1", "s1", 5), |_| Some(())).await.is_err());
        assert_eq!(catalog.host_by_name("db-1").await.expect("asked"), None);
        sqlx::query("drop trigger full").execute(catalog.pool()).await.expect("gone");
        let host = id(&enrol(&catalog, "t1", "s2", 6).await);
        assert!(is_good(&catalog, host, "s2").await);
        put_token(&catalog, "t2", 100).await;
        enrol(&catalog, "t2", "s3", 7).await;
        let rows = catalog.audit_rows(Book::Main, 0, 10).await.expect("rows");
        let rows: Vec<_> =
            rows.iter().map(|row| (row.at_ms, row.subject.as_str(), row.detail.as_str())).collect();
        assert_eq!(rows, [(6, "host=db-1", "joined version 1"), (7, "host=db-1", "joined again version 1")]);
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
        let joined = enrol(&catalog, "t3", "s3", 9).await;
        assert_eq!(joined, Enrolled::Host { id: host, again: true, certificate: () });
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
