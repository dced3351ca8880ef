//! Operators: a name, a role, and the hash of the token they show.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Catalog, CatalogError};
use crate::model::caller::{HostScope, Role};
use crate::policy::LabelMatch;

/// How often the use of a token is noted, at most.
const NOTED_EVERY_MS: i64 = 3_600_000;

/// An operator as the catalogue knows them; never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    pub role: Role,
    /// The hosts it is limited to.
    pub hosts: HostScope,
    pub created_ms: i64,
    /// `None`: never.
    pub expires_ms: Option<i64>,
    /// Within the last hour or so of use; `None`: it was never used.
    pub last_used_ms: Option<i64>,
    pub revoked_ms: Option<i64>,
}

impl Operator {
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms)
    }
}

/// A token that was made; the secret itself is not kept.
#[derive(Debug, Clone)]
pub struct NewOperator<'a> {
    pub name: &'a str,
    /// SHA-256, hexadecimal.
    pub token_hash: &'a str,
    pub role: Role,
    pub hosts: &'a HostScope,
    pub expires_ms: Option<i64>,
}

impl Catalog {
    /// Records an operator under the hash of a new token, replacing the token
    /// of one of the same name and all that was said of it.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn put_operator(&self, new: &NewOperator<'_>, now_ms: i64) -> Result<(), CatalogError> {
        // What was recorded of the old token goes: a revoked name counts again by the new one.
        sqlx::query(
            "insert into operators (name, token_hash, role, hosts, created_ms, expires_ms)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (name) do update set token_hash = excluded.token_hash, role = excluded.role,
                hosts = excluded.hosts, created_ms = excluded.created_ms,
                expires_ms = excluded.expires_ms, last_used_ms = null, revoked_ms = null",
        )
        .bind(new.name)
        .bind(new.token_hash)
        .bind(new.role.as_str())
        .bind(hosts_text(new.hosts))
        .bind(now_ms)
        .bind(new.expires_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Notes that an operator's token was used, unless that was noted not long
    /// ago: a call is not to wait for the disk because of this.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn note_use(&self, operator: &Operator, now_ms: i64) -> Result<(), CatalogError> {
        // A time ahead of the clock is one from before it was set back.
        let noted = operator.last_used_ms.is_some_and(|at| (0..NOTED_EVERY_MS).contains(&(now_ms - at)));
        if noted {
            return Ok(());
        }
        sqlx::query("update operators set last_used_ms = $2 where name = $1")
            .bind(&operator.name)
            .bind(now_ms)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// The operator whose token has this hash, unless revoked; the token may
    /// have expired. Looking up a hash tells an attacker who measures time
    /// nothing about a token.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn operator_by_token(&self, token_hash: &str) -> Result<Option<Operator>, CatalogError> {
        sqlx::query("select * from operators where token_hash = $1 and revoked_ms is null")
            .bind(token_hash)
            .fetch_optional(self.pool())
            .await?
            .map(|row| read(&row))
            .transpose()
    }

    /// The operator of that name, revoked or not.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn operator(&self, name: &str) -> Result<Option<Operator>, CatalogError> {
        sqlx::query("select * from operators where name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await?
            .map(|row| read(&row))
            .transpose()
    }

    /// All operators by name, revoked ones included.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn operators(&self) -> Result<Vec<Operator>, CatalogError> {
        let rows = sqlx::query("select * from operators order by name").fetch_all(self.pool()).await?;
        rows.iter().map(read).collect()
    }

    /// From now on the operator's token is refused. False: no such operator,
    /// or revoked before.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn revoke_operator(&self, name: &str, now_ms: i64) -> Result<bool, CatalogError> {
        let done = sqlx::query("update operators set revoked_ms = $2 where name = $1 and revoked_ms is null")
            .bind(name)
            .bind(now_ms)
            .execute(self.pool())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

fn read(row: &SqliteRow) -> Result<Operator, CatalogError> {
    let role: String = row.try_get("role")?;
    let hosts: String = row.try_get("hosts")?;
    Ok(Operator {
        name: row.try_get("name")?,
        role: role.parse().map_err(|_| CatalogError::Unreadable { what: "role", value: role })?,
        hosts: read_hosts(hosts)?,
        created_ms: row.try_get("created_ms")?,
        expires_ms: row.try_get("expires_ms")?,
        last_used_ms: row.try_get("last_used_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
    })
}

fn hosts_text(hosts: &HostScope) -> String {
    let labels: Vec<String> = hosts.0.iter().map(LabelMatch::to_string).collect();
    serde_json::to_string(&labels).expect("a list of strings is always JSON")
}

/// A limit that cannot be read is an error and not no limit.
fn read_hosts(text: String) -> Result<HostScope, CatalogError> {
    let labels: Option<Vec<LabelMatch>> = serde_json::from_str::<Vec<String>>(&text)
        .ok()
        .and_then(|labels| labels.iter().map(|label| LabelMatch::parse(label)).collect());
    labels.map(HostScope).ok_or(CatalogError::Unreadable { what: "limit of a token", value: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new<'a>(token_hash: &'a str, role: Role, hosts: &'a HostScope) -> NewOperator<'a> {
        NewOperator { name: "anna", token_hash, role, hosts, expires_ms: None }
    }

    #[tokio::test]
    async fn v08_a_tokens_limits_are_kept_and_its_use_is_noted_now_and_then() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let hosts = HostScope(vec![LabelMatch::parse("rack=7").expect("a label")]);
        let limited = NewOperator { expires_ms: Some(100), ..new("hash-1", Role::Restorer, &hosts) };
        catalog.put_operator(&limited, 1).await.expect("put");
        let anna = async || catalog.operator("anna").await.expect("query").expect("known");
        let made = anna().await;
        assert_eq!((&made.hosts, made.expires_ms, made.last_used_ms), (&hosts, Some(100), None));
        assert!(!made.has_expired(99) && made.has_expired(100));
        for (now, noted) in
            [(10, 10), (11, 10), (9 + NOTED_EVERY_MS, 10), (10 + NOTED_EVERY_MS, 10 + NOTED_EVERY_MS)]
        {
            catalog.note_use(&anna().await, now).await.expect("noted");
            assert_eq!(anna().await.last_used_ms, Some(noted), "at {now}");
        }
        catalog.note_use(&anna().await, 20).await.expect("noted");
        assert_eq!(anna().await.last_used_ms, Some(20), "the clock was set back");
        catalog.put_operator(&new("hash-2", Role::Viewer, &HostScope::default()), 30).await.expect("put");
        let anew = anna().await;
        assert_eq!((anew.expires_ms, anew.last_used_ms, anew.hosts.is_everything()), (None, None, true));
        sqlx::query("update operators set hosts = 'nonsense'")
            .execute(catalog.pool())
            .await
            .expect("written");
        assert!(catalog.operator("anna").await.is_err(), "a limit that cannot be read is no licence");
    }

    #[tokio::test]
    async fn a_token_counts_until_it_is_revoked_or_replaced() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        catalog.put_operator(&new("hash-1", Role::Restorer, &HostScope::default()), 1).await.expect("put");
        let anna = catalog.operator_by_token("hash-1").await.expect("query").expect("known");
        assert_eq!((anna.name.as_str(), anna.role), ("anna", Role::Restorer));

        catalog.put_operator(&new("hash-2", Role::Viewer, &HostScope::default()), 2).await.expect("put");
        assert_eq!(catalog.operator_by_token("hash-1").await.expect("query"), None);

        assert!(catalog.revoke_operator("anna", 3).await.expect("revoked"));
        assert!(!catalog.revoke_operator("anna", 4).await.expect("again"));
        assert_eq!(catalog.operator_by_token("hash-2").await.expect("query"), None);
        assert_eq!(catalog.operators().await.expect("list")[0].revoked_ms, Some(3));
    }
}
