//! Operators: a name, a role, and the hash of the token they show.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Catalog, CatalogError};
use crate::api::caller::Role;

/// An operator as the catalogue knows them; never the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    pub name: String,
    pub role: Role,
    pub created_ms: i64,
    pub revoked_ms: Option<i64>,
}

impl Catalog {
    /// Records an operator under the hash of a new token, replacing the token
    /// and role of one of the same name.
    pub async fn put_operator(
        &self,
        name: &str,
        token_hash: &str,
        role: Role,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into operators (name, token_hash, role, created_ms) values ($1, $2, $3, $4)
             on conflict (name) do update set token_hash = excluded.token_hash, role = excluded.role,
                created_ms = excluded.created_ms, revoked_ms = null",
        )
        .bind(name)
        .bind(token_hash)
        .bind(role.as_str())
        .bind(now_ms)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The operator whose token has this hash, unless revoked. Looking up a
    /// hash tells an attacker who measures time nothing about a token.
    pub async fn operator_by_token(&self, token_hash: &str) -> Result<Option<Operator>, CatalogError> {
        sqlx::query("select * from operators where token_hash = $1 and revoked_ms is null")
            .bind(token_hash)
            .fetch_optional(self.pool())
            .await?
            .map(|row| read(&row))
            .transpose()
    }

    /// The operator of that name, revoked or not.
    pub async fn operator(&self, name: &str) -> Result<Option<Operator>, CatalogError> {
        sqlx::query("select * from operators where name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await?
            .map(|row| read(&row))
            .transpose()
    }

    /// All operators by name, revoked ones included.
    pub async fn operators(&self) -> Result<Vec<Operator>, CatalogError> {
        let rows = sqlx::query("select * from operators order by name").fetch_all(self.pool()).await?;
        rows.iter().map(read).collect()
    }

    /// From now on the operator's token is refused. False: no such operator,
    /// or revoked before.
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
    Ok(Operator {
        name: row.try_get("name")?,
        role: role.parse().map_err(|_| CatalogError::Unreadable { what: "role", value: role })?,
        created_ms: row.try_get("created_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_counts_until_it_is_revoked_or_replaced() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        catalog.put_operator("anna", "hash-1", Role::Restorer, 1).await.expect("put");
        let anna = catalog.operator_by_token("hash-1").await.expect("query").expect("known");
        assert_eq!((anna.name.as_str(), anna.role), ("anna", Role::Restorer));

        catalog.put_operator("anna", "hash-2", Role::Viewer, 2).await.expect("put");
        assert_eq!(catalog.operator_by_token("hash-1").await.expect("query"), None);

        assert!(catalog.revoke_operator("anna", 3).await.expect("revoked"));
        assert!(!catalog.revoke_operator("anna", 4).await.expect("again"));
        assert_eq!(catalog.operator_by_token("hash-2").await.expect("query"), None);
        assert_eq!(catalog.operators().await.expect("list")[0].revoked_ms, Some(3));
    }
}
