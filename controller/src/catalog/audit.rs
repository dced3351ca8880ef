//! Who did what: a chain of rows, each carrying a hash over itself and the one
//! before, so that an edited or removed row is found and named.
//!
//! The newest row's number and hash are kept a second time in `settings`,
//! written in the same transaction: without that, cutting rows off the end
//! would leave a shorter but perfect chain. Somebody who may write the whole
//! database can still forge all of it. Against that the bucket has a copy: with
//! each commit `state/head` says which row was the newest, and its hash. The
//! log lines of the same events are another.
//!
//! What was refused to callers that nobody knows is in a book of its own.

use holdfast_archive::state::AuditMark;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::{Catalog, CatalogError};

/// A chain of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Book {
    /// What hosts, operators and the controller did, and were refused.
    Main,
    /// What was refused to anybody else.
    Anonymous,
}

impl Book {
    pub const ALL: [Self; 2] = [Self::Main, Self::Anonymous];

    fn table(self) -> &'static str {
        match self {
            Self::Main => "audit",
            Self::Anonymous => "audit_anonymous",
        }
    }

    /// The setting with number and hash of the newest row.
    fn head(self) -> &'static str {
        match self {
            Self::Main => "audit_head",
            Self::Anonymous => "audit_anonymous_head",
        }
    }

    /// The setting with number and hash of the last row removed by age.
    fn base(self) -> &'static str {
        match self {
            Self::Main => "audit_base",
            Self::Anonymous => "audit_anonymous_base",
        }
    }
}

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
    pub book: Book,
    pub number: i64,
    pub at_ms: i64,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub outcome: String,
    pub detail: String,
    chain: String,
}

/// Which rows to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// 0: from the beginning.
    pub since_ms: i64,
    /// Whole names; empty: any.
    pub actor: String,
    /// An RPC's path or its last part, or a command; empty: any.
    pub action: String,
    pub outcome: String,
    /// The newest so many.
    pub limit: u32,
}

/// What a check of the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditCheck {
    Intact {
        rows: u64,
    },
    /// The first row that is not what was written, or is not there.
    Broken {
        book: Book,
        number: i64,
        reason: &'static str,
    },
}

impl Catalog {
    /// Appends one row to the main book.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn audit(&self, entry: &AuditEntry<'_>) -> Result<(), CatalogError> {
        self.audit_in(Book::Main, entry).await
    }

    /// Appends one row to a book.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn audit_in(&self, book: Book, entry: &AuditEntry<'_>) -> Result<(), CatalogError> {
        // Immediate: two writers reading the same head would fork the chain.
        let mut tx = self.pool().begin_with("begin immediate").await?;
        append(&mut tx, book, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Rows of a book after number `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn audit_rows(
        &self,
        book: Book,
        after: i64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, CatalogError> {
        let rows = format!("select * from {} where number > $1 order by number limit $2", book.table());
        let rows = sqlx::query(AssertSqlSafe(rows)).bind(after).bind(limit).fetch_all(self.pool()).await?;
        rows.iter().map(|row| read(book, row)).collect()
    }

    /// Rows of both books, oldest first.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn list_audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, CatalogError> {
        let mut all = Vec::new();
        for book in Book::ALL {
            all.extend(self.list_book(book, filter).await?);
        }
        // By number within a book: a clock that was set back does not mix it up.
        all.sort_by_key(|row| (row.at_ms, row.book == Book::Anonymous, row.number));
        // The newest of both books, which gave so many each.
        let over = all.len().saturating_sub(filter.limit as usize);
        Ok(all.split_off(over))
    }

    /// The newest rows of one book, in no order that counts.
    async fn list_book(&self, book: Book, filter: &AuditFilter) -> Result<Vec<AuditRow>, CatalogError> {
        let rows = format!(
            "select * from {} where at_ms >= $1 and ($2 = '' or actor = $2)
             and ($3 = '' or action = $3 or action like '%/' || $3) and ($4 = '' or outcome = $4)
             order by number desc limit $5",
            book.table()
        );
        let rows = sqlx::query(AssertSqlSafe(rows))
            .bind(filter.since_ms)
            .bind(&filter.actor)
            .bind(&filter.action)
            .bind(&filter.outcome)
            .bind(filter.limit)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(|row| read(book, row)).collect()
    }

    /// Removes rows from the beginning that are older than that, at most so
    /// many; gives how many. The hash of the last of them is kept: the chain
    /// goes on from it. The newest row always stays.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn prune_audit(&self, book: Book, before_ms: i64, most: u32) -> Result<u64, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        let rows = format!("select number, at_ms, chain from {} order by number limit $1", book.table());
        let rows = sqlx::query(AssertSqlSafe(rows)).bind(i64::from(most) + 1).fetch_all(&mut *tx).await?;
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
        let delete = format!("delete from {} where number <= $1", book.table());
        sqlx::query(AssertSqlSafe(delete)).bind(number).execute(&mut *tx).await?;
        keep(&mut tx, book.base(), number, &chain).await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// Number and hash that were kept under this name; of no row: 0 and nothing.
    async fn kept(&self, setting: &'static str) -> Result<(i64, String), CatalogError> {
        let Some(kept) = self.setting(setting).await? else { return Ok((0, String::new())) };
        parse(&kept).ok_or(CatalogError::Unreadable { what: "mark of the audit chain", value: kept })
    }

    /// Recomputes both chains from their first rows on, and holds the main one
    /// against what the bucket knows of it.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn verify_audit(&self, bucket: Option<&AuditMark>) -> Result<AuditCheck, CatalogError> {
        let mut rows = 0;
        for book in Book::ALL {
            match self.verify_book(book, bucket.filter(|_| book == Book::Main)).await? {
                AuditCheck::Intact { rows: more } => rows += more,
                broken => return Ok(broken),
            }
        }
        Ok(AuditCheck::Intact { rows })
    }

    async fn verify_book(&self, book: Book, bucket: Option<&AuditMark>) -> Result<AuditCheck, CatalogError> {
        let broken = |number, reason| Ok(AuditCheck::Broken { book, number, reason });
        let marked = bucket.map(|mark| (i64::try_from(mark.row).unwrap_or(i64::MAX), mark.chain.as_str()));
        let differs =
            |number: i64, chain: &str| marked.is_some_and(|(row, known)| row == number && known != chain);
        let (base, mut before) = self.kept(book.base()).await?;
        if differs(base, &before) {
            return broken(base, "the row is not the one that the bucket knows of");
        }
        let mut number = base;
        loop {
            let page = self.audit_rows(book, number, 1000).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                if row.number != number + 1 {
                    return broken(number + 1, "the row is missing");
                }
                if link(&before, &row) != row.chain {
                    return broken(row.number, "the row was changed");
                }
                if differs(row.number, &row.chain) {
                    return broken(row.number, "the row is not the one that the bucket knows of");
                }
                number = row.number;
                before = row.chain;
            }
        }
        // Rows cut off at the end leave a chain that is whole; only what was kept apart of
        // its end tells.
        if self.kept(book.head()).await? != (number, before) {
            return broken(number + 1, "rows are missing at the end, or were added by another hand");
        }
        if marked.is_some_and(|(row, _)| row > number) {
            return broken(number + 1, "rows are missing at the end: the bucket knows of later ones");
        }
        Ok(AuditCheck::Intact { rows: (number - base).unsigned_abs() })
    }
}

/// Appends one row to a book, in a transaction that was begun as immediate: what it
/// records is there with it or not at all.
pub(super) async fn append(
    tx: &mut SqliteConnection,
    book: Book,
    entry: &AuditEntry<'_>,
) -> Result<(), CatalogError> {
    let (previous, before) = newest(tx, book).await?;
    let row = AuditRow {
        book,
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
    insert(tx, &row, &chain).await?;
    // With the row: a head that named another row would be a broken chain.
    keep(tx, book.head(), row.number, &chain).await
}

/// What the bucket is to know of the main book.
pub(super) async fn mark(tx: &mut SqliteConnection) -> Result<Option<AuditMark>, CatalogError> {
    let kept: Option<String> = sqlx::query_scalar("select value from settings where name = $1")
        .bind(Book::Main.head())
        .fetch_optional(tx)
        .await?;
    let Some(kept) = kept else { return Ok(None) };
    match parse(&kept) {
        Some((row, chain)) => Ok(Some(AuditMark { row: row.unsigned_abs(), chain })),
        None => Err(CatalogError::Unreadable { what: "mark of the audit chain", value: kept }),
    }
}

/// Number and hash of a book's newest row; of no row: 0 and nothing.
async fn newest(tx: &mut SqliteConnection, book: Book) -> Result<(i64, String), CatalogError> {
    let newest = format!("select number, chain from {} order by number desc limit 1", book.table());
    let newest = sqlx::query(AssertSqlSafe(newest)).fetch_optional(&mut *tx).await?;
    let Some(row) = newest else { return Ok((0, String::new())) };
    Ok((row.try_get("number")?, row.try_get("chain")?))
}

async fn insert(tx: &mut SqliteConnection, row: &AuditRow, chain: &str) -> Result<(), CatalogError> {
    let insert = format!(
        "insert into {} (number, at_ms, actor, action, subject, outcome, detail, chain)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        row.book.table()
    );
    sqlx::query(AssertSqlSafe(insert))
        .bind(row.number)
        .bind(row.at_ms)
        .bind(&row.actor)
        .bind(&row.action)
        .bind(&row.subject)
        .bind(&row.outcome)
        .bind(&row.detail)
        .bind(chain)
        .execute(tx)
        .await?;
    Ok(())
}

fn parse(kept: &str) -> Option<(i64, String)> {
    let (number, chain) = kept.split_once(' ')?;
    Some((number.parse().ok()?, chain.to_owned()))
}

async fn keep(
    tx: &mut SqliteConnection,
    setting: &'static str,
    number: i64,
    chain: &str,
) -> Result<(), CatalogError> {
    sqlx::query(
        "insert into settings (name, value) values ($1, $2)
         on conflict (name) do update set value = excluded.value",
    )
    .bind(setting)
    .bind(format!("{number} {chain}"))
    .execute(tx)
    .await?;
    Ok(())
}

fn read(book: Book, row: &SqliteRow) -> Result<AuditRow, CatalogError> {
    Ok(AuditRow {
        book,
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
    hex::encode(hash.finalize())
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
        match catalog.verify_audit(None).await.expect("checked") {
            AuditCheck::Broken { number, .. } => number,
            AuditCheck::Intact { .. } => panic!("the change was not found"),
        }
    }

    #[tokio::test]
    async fn x22_an_edited_row_is_located() {
        let catalog = catalog_with_rows(5).await;
        assert_eq!(catalog.verify_audit(None).await.expect("checked"), AuditCheck::Intact { rows: 5 });
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
        assert_eq!(catalog.prune_audit(Book::Main, before, 2).await.expect("pruned"), 2);
        assert_eq!(catalog.prune_audit(Book::Main, before, 2).await.expect("pruned"), 1);
        assert_eq!(catalog.prune_audit(Book::Main, before, 2).await.expect("pruned"), 0);
        assert_eq!(catalog.verify_audit(None).await.expect("checked"), AuditCheck::Intact { rows: 3 });
        assert_eq!(
            catalog.prune_audit(Book::Main, i64::MAX, 100).await.expect("pruned"),
            2,
            "the newest stays"
        );
        assert_eq!(catalog.verify_audit(None).await.expect("checked"), AuditCheck::Intact { rows: 1 });
        assert_eq!(broken_at(&catalog, "update audit set actor = 'bob'").await, 6);
    }

    #[tokio::test]
    async fn x22_rows_cut_from_the_beginning_are_noticed() {
        let catalog = catalog_with_rows(5).await;
        assert_eq!(broken_at(&catalog, "delete from audit where number < 3").await, 1);
    }

    async fn broken_by(catalog: &Catalog, mark: &AuditMark) -> Option<(i64, &'static str)> {
        match catalog.verify_audit(Some(mark)).await.expect("checked") {
            AuditCheck::Broken { number, reason, .. } => Some((number, reason)),
            AuditCheck::Intact { .. } => None,
        }
    }

    #[tokio::test]
    async fn v11_a_forged_or_cut_chain_is_noticed_against_the_bucket() {
        let catalog = catalog_with_rows(5).await;
        let mark = catalog.head().await.expect("asked").audit.expect("a mark");
        assert_eq!(mark.row, 5);
        assert_eq!(broken_by(&catalog, &mark).await, None);
        catalog.prune_audit(Book::Main, 1_700_000_000_002, 100).await.expect("pruned");
        assert_eq!(broken_by(&catalog, &mark).await, None);

        // Whoever may write the database makes a chain that is right in itself.
        let forged = Catalog::open("sqlite::memory:").await.expect("opens");
        for number in 0..7 {
            let entry = AuditEntry {
                at_ms: number,
                actor: "bob",
                action: "x",
                subject: "",
                outcome: Outcome::Allowed,
                detail: "",
            };
            forged.audit(&entry).await.expect("written");
        }
        assert_eq!(forged.verify_audit(None).await.expect("checked"), AuditCheck::Intact { rows: 7 });
        let (row, reason) = broken_by(&forged, &mark).await.expect("noticed");
        assert!(row == 5 && reason.contains("bucket"), "{row}: {reason}");

        let cut = catalog_with_rows(3).await;
        let (row, reason) = broken_by(&cut, &mark).await.expect("noticed");
        assert!(row == 4 && reason.contains("later ones"), "{row}: {reason}");
        forged.prune_audit(Book::Main, 5, 100).await.expect("pruned");
        assert!(broken_by(&forged, &mark).await.is_some(), "what went by age last is held against it, too");
    }

    #[tokio::test]
    async fn v11_anonymous_rows_are_a_chain_of_their_own_and_go_sooner() {
        let catalog = catalog_with_rows(2).await;
        let entry = |number: i64| AuditEntry {
            at_ms: 1_700_000_000_000 + number,
            actor: "anonymous",
            action: "/holdfast.v1.HostService/ListHosts",
            subject: "",
            outcome: Outcome::Denied,
            detail: "no token",
        };
        for number in 0..4 {
            catalog.audit_in(Book::Anonymous, &entry(number)).await.expect("written");
        }
        let check = async || catalog.verify_audit(None).await.expect("checked");
        assert_eq!(check().await, AuditCheck::Intact { rows: 6 });
        assert_eq!(catalog.prune_audit(Book::Anonymous, i64::MAX, 100).await.expect("pruned"), 3);
        assert_eq!(check().await, AuditCheck::Intact { rows: 3 });
        assert_eq!(catalog.audit_rows(Book::Main, 0, 100).await.expect("rows").len(), 2);
        let change = "update audit_anonymous set detail = 'x'";
        sqlx::query(change).execute(catalog.pool()).await.expect("change");
        let broken = AuditCheck::Broken { book: Book::Anonymous, number: 4, reason: "the row was changed" };
        assert_eq!(check().await, broken);
    }

    #[tokio::test]
    async fn v11_rows_are_listed_by_time_caller_method_and_outcome() {
        let catalog = catalog_with_rows(5).await;
        let denied = AuditEntry {
            at_ms: 1_700_000_000_002,
            actor: "anonymous",
            action: "/holdfast.v1.HostService/ListHosts",
            subject: "",
            outcome: Outcome::Denied,
            detail: "",
        };
        catalog.audit_in(Book::Anonymous, &denied).await.expect("written");
        let list = async |filter: AuditFilter| {
            let rows = catalog.list_audit(&filter).await.expect("listed");
            rows.into_iter().map(|row| (row.book == Book::Main, row.number)).collect::<Vec<_>>()
        };
        let all = || AuditFilter { limit: 100, ..AuditFilter::default() };
        assert_eq!(list(all()).await, [(true, 1), (true, 2), (true, 3), (false, 1), (true, 4), (true, 5)]);
        assert_eq!(list(AuditFilter { limit: 2, ..all() }).await, [(true, 4), (true, 5)]);
        let since_ms = 1_700_000_000_003;
        assert_eq!(list(AuditFilter { since_ms, ..all() }).await, [(true, 4), (true, 5)]);
        assert_eq!(list(AuditFilter { actor: "anonymous".into(), ..all() }).await, [(false, 1)]);
        assert_eq!(list(AuditFilter { action: "RevokeHost".into(), ..all() }).await.len(), 5);
        assert_eq!(list(AuditFilter { action: "Host".into(), ..all() }).await, []);
        assert_eq!(list(AuditFilter { outcome: "denied".into(), ..all() }).await, [(false, 1)]);
    }
}
