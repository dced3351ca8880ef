//! Who did what: a chain of rows, each carrying a hash over itself and the one
//! before, so that an edited or removed row is found and named.
//!
//! The newest row's number and hash are kept a second time in `settings`,
//! written in the same transaction: without that, cutting rows off the end
//! would leave a shorter but perfect chain. Somebody who may write the whole
//! database can still forge all of it; that needs a copy elsewhere, which the
//! log lines of the same events are.

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::{Catalog, CatalogError};

const HEAD: &str = "audit_head";

/// Number and hash of the last row that was removed by age.
const BASE: &str = "audit_base";

/// What became of an audited call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Recorded before the call is made; a `Failed` row follows if it fails.
    Allowed,
    Ok,
    Denied,
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// One row to be written.
#[derive(Debug, Clone)]
pub struct AuditEntry<'a> {
    pub at_ms: i64,
    pub actor: &'a str,
    /// The RPC or command.
    pub action: &'a str,
    pub subject: &'a str,
    pub outcome: Outcome,
    pub detail: &'a str,
}

/// One row as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    pub number: i64,
    pub at_ms: i64,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub outcome: String,
    pub detail: String,
    chain: String,
}

/// What a check of the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditCheck {
    Intact {
        rows: u64,
    },
    /// The first row that is not what was written, or is not there.
    Broken {
        number: i64,
        reason: &'static str,
    },
}

impl Catalog {
    /// Appends one row.
    pub async fn audit(&self, entry: &AuditEntry<'_>) -> Result<(), CatalogError> {
        // Immediate: two writers reading the same head would fork the chain.
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let last = sqlx::query("select number, chain from audit order by number desc limit 1")
            .fetch_optional(&mut *tx)
            .await?;
        let (previous, before) = match last {
            Some(row) => (row.try_get::<i64, _>("number")?, row.try_get::<String, _>("chain")?),
            None => (0, String::new()),
        };
        let row = AuditRow {
            number: previous + 1,
            at_ms: entry.at_ms,
            actor: entry.actor.to_owned(),
            action: entry.action.to_owned(),
            subject: entry.subject.to_owned(),
            outcome: entry.outcome.as_str().to_owned(),
            detail: entry.detail.to_owned(),
            chain: String::new(),
        };
        let chain = link(&before, &row);
        sqlx::query(
            "insert into audit (number, at_ms, actor, action, subject, outcome, detail, chain)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(row.number)
        .bind(row.at_ms)
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.subject)
        .bind(&row.outcome)
        .bind(&row.detail)
        .bind(&chain)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into settings (name, value) values ($1, $2)
             on conflict (name) do update set value = excluded.value",
        )
        .bind(HEAD)
        .bind(format!("{} {chain}", row.number))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Rows after number `after`, oldest first, at most `limit`.
    pub async fn audit_rows(&self, after: i64, limit: u32) -> Result<Vec<AuditRow>, CatalogError> {
        let rows = sqlx::query("select * from audit where number > $1 order by number limit $2")
            .bind(after)
            .bind(limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(read).collect()
    }

    /// Removes rows from the beginning that are older than that, at most so
    /// many; gives how many. The hash of the last of them is kept: the chain
    /// goes on from it. The newest row always stays.
    pub async fn prune_audit(&self, before_ms: i64, most: u32) -> Result<u64, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let rows = sqlx::query("select number, at_ms, chain from audit order by number limit $1")
            .bind(i64::from(most) + 1)
            .fetch_all(&mut *tx)
            .await?;
        let mut base = None;
        let mut removed = 0;
        for row in rows.iter().take(rows.len().saturating_sub(1)) {
            // Clocks jump: only what lies before the first younger row goes.
            if row.try_get::<i64, _>("at_ms")? >= before_ms {
                break;
            }
            base = Some((row.try_get::<i64, _>("number")?, row.try_get::<String, _>("chain")?));
            removed += 1;
        }
        let Some((number, chain)) = base else { return Ok(0) };
        sqlx::query("delete from audit where number <= $1").bind(number).execute(&mut *tx).await?;
        sqlx::query(
            "insert into settings (name, value) values ($1, $2)
             on conflict (name) do update set value = excluded.value",
        )
        .bind(BASE)
        .bind(format!("{number} {chain}"))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// Where the chain begins: number and hash of the row before its first.
    async fn audit_base(&self) -> Result<(i64, String), CatalogError> {
        let Some(base) = self.setting(BASE).await? else { return Ok((0, String::new())) };
        let parsed = base.split_once(' ').and_then(|(number, chain)| Some((number.parse().ok()?, chain)));
        match parsed {
            Some((number, chain)) => Ok((number, chain.to_owned())),
            None => Err(CatalogError::Unreadable { what: "audit base", value: base }),
        }
    }

    /// Recomputes the chain from the first row on.
    pub async fn verify_audit(&self) -> Result<AuditCheck, CatalogError> {
        let (base, mut before) = self.audit_base().await?;
        let mut number = base;
        loop {
            let page = self.audit_rows(number, 1000).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                if row.number != number + 1 {
                    return Ok(AuditCheck::Broken { number: number + 1, reason: "the row is missing" });
                }
                if link(&before, &row) != row.chain {
                    return Ok(AuditCheck::Broken { number: row.number, reason: "the row was changed" });
                }
                number = row.number;
                before = row.chain;
            }
        }
        let head = self.setting(HEAD).await?.unwrap_or_else(|| "0 ".to_owned());
        if head != format!("{number} {before}") {
            return Ok(AuditCheck::Broken {
                number: number + 1,
                reason: "rows are missing at the end, or were added by another hand",
            });
        }
        Ok(AuditCheck::Intact { rows: (number - base).unsigned_abs() })
    }
}

fn read(row: &sqlx::sqlite::SqliteRow) -> Result<AuditRow, CatalogError> {
    Ok(AuditRow {
        number: row.try_get("number")?,
        at_ms: row.try_get("at_ms")?,
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        outcome: row.try_get("outcome")?,
        detail: row.try_get("detail")?,
        chain: row.try_get("chain")?,
    })
}

/// Lengths go in before texts: moving a character from one field to the next
/// must change the hash.
fn link(before: &str, row: &AuditRow) -> String {
    let mut hash = Sha256::new();
    hash.update(row.number.to_be_bytes());
    hash.update(row.at_ms.to_be_bytes());
    for text in [before, &row.actor, &row.action, &row.subject, &row.outcome, &row.detail] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    crate::identity::token::hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn catalog_with_rows(rows: i64) -> Catalog {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        for number in 0..rows {
            let entry = AuditEntry {
                at_ms: 1_700_000_000_000 + number,
                actor: "anna",
                action: "/holdfast.v1.HostService/RevokeHost",
                subject: "host=web-1",
                outcome: Outcome::Allowed,
                detail: "",
            };
            catalog.audit(&entry).await.expect("written");
        }
        catalog
    }

    async fn broken_at(catalog: &Catalog, change: &'static str) -> i64 {
        sqlx::query(change).execute(catalog.pool()).await.expect("change");
        match catalog.verify_audit().await.expect("checked") {
            AuditCheck::Broken { number, .. } => number,
            AuditCheck::Intact { .. } => panic!("the change was not found"),
        }
    }

    #[tokio::test]
    async fn x22_an_edited_row_is_located() {
        let catalog = catalog_with_rows(5).await;
        assert_eq!(catalog.verify_audit().await.expect("checked"), AuditCheck::Intact { rows: 5 });
        assert_eq!(broken_at(&catalog, "update audit set actor = 'bob' where number = 3").await, 3);
    }

    #[tokio::test]
    async fn x22_a_row_cut_from_the_middle_is_located() {
        let catalog = catalog_with_rows(5).await;
        assert_eq!(broken_at(&catalog, "delete from audit where number = 2").await, 2);
    }

    #[tokio::test]
    async fn x22_rows_cut_from_the_end_are_noticed() {
        let catalog = catalog_with_rows(5).await;
        assert_eq!(broken_at(&catalog, "delete from audit where number > 3").await, 4);
    }

    #[tokio::test]
    async fn x22_moving_text_between_fields_is_noticed() {
        let catalog = catalog_with_rows(2).await;
        let change = "update audit set actor = 'ann', action = 'a' || action where number = 1";
        assert_eq!(broken_at(&catalog, change).await, 1);
    }

    #[tokio::test]
    async fn x10_rows_removed_by_age_leave_a_chain_that_still_proves_itself() {
        let catalog = catalog_with_rows(6).await;
        let before = 1_700_000_000_003;
        assert_eq!(catalog.prune_audit(before, 2).await.expect("pruned"), 2);
        assert_eq!(catalog.prune_audit(before, 2).await.expect("pruned"), 1);
        assert_eq!(catalog.prune_audit(before, 2).await.expect("pruned"), 0);
        assert_eq!(catalog.verify_audit().await.expect("checked"), AuditCheck::Intact { rows: 3 });
        assert_eq!(catalog.prune_audit(i64::MAX, 100).await.expect("pruned"), 2, "the newest stays");
        assert_eq!(catalog.verify_audit().await.expect("checked"), AuditCheck::Intact { rows: 1 });
        assert_eq!(broken_at(&catalog, "update audit set actor = 'bob'").await, 6);
    }

    #[tokio::test]
    async fn x22_rows_cut_from_the_beginning_are_noticed() {
        let catalog = catalog_with_rows(5).await;
        assert_eq!(broken_at(&catalog, "delete from audit where number < 3").await, 1);
    }
}
