//! The catalogue: the only SQL in Holdfast.
//!
//! SQLite in WAL mode with `synchronous = FULL`: what was acknowledged is
//! there after a power cut. One file a family of tables, domain types out.
//! SQL stays portable (`$1` placeholders, text ids, integer milliseconds). What
//! has structure is JSON of types of [`crate::model`], never a message of the
//! wire: that changes with every version of an agent, and rows have to outlast it.
//!
//! Called by everything above. It calls nothing: what a row means and whether it
//! may change is decided by `model`, or by the compare-and-set of the statement
//! itself. *The catalogue fails*, with [`CatalogError`], where the database does, or
//! where a row is not as this version writes it.

pub mod audit;
pub mod binds;
pub mod certificates;
pub mod children;
pub mod clock_marks;
pub mod commits;
pub mod enrolment;
pub mod frames;
pub mod hints;
mod history;
pub mod hosts;
pub mod import;
pub mod jobs;
mod json;
pub mod leases;
pub mod losses;
pub mod operators;
pub mod packs;
pub mod policies;
pub mod repository;
pub mod runs;
pub mod settings;
pub mod snapshots;
pub mod sources;
pub mod standing;
pub mod upgrades;
pub mod usage;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

/// In a state directory.
const FILE: &str = "catalog.db";

/// The catalogue's database of a state directory.
pub fn catalog_url(state_dir: &Path) -> String {
    format!("sqlite://{}", state_dir.join(FILE).display())
}

/// By number, in order, embedded: a binary needs no files beside it.
const MIGRATIONS: [(i64, &str, &str); 13] = [
    (1, "fleet", include_str!("../../migrations/0001_fleet.sql")),
    (2, "jobs", include_str!("../../migrations/0002_jobs.sql")),
    (3, "repository", include_str!("../../migrations/0003_repository.sql")),
    (4, "upgrades", include_str!("../../migrations/0004_upgrades.sql")),
    (10, "losses", include_str!("../../migrations/0010_losses.sql")),
    (13, "absence", include_str!("../../migrations/0013_absence.sql")),
    (14, "usage", include_str!("../../migrations/0014_usage.sql")),
    (15, "tokens", include_str!("../../migrations/0015_tokens.sql")),
    (16, "audit", include_str!("../../migrations/0016_audit.sql")),
    (17, "clock", include_str!("../../migrations/0017_clock.sql")),
    (40, "own", include_str!("../../migrations/0040_own.sql")),
    (41, "damage", include_str!("../../migrations/0041_damage.sql")),
    (42, "json", include_str!("../../migrations/0042_json.sql")),
];

fn migrator() -> Migrator {
    migrator_to(MIGRATIONS.len())
}

fn migrator_to(count: usize) -> Migrator {
    let migrations = MIGRATIONS.into_iter().take(count).map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// The database failed, or holds what this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the catalogue's database failed")]
    Database(#[from] sqlx::Error),
    #[error("the catalogue could not be brought to this version")]
    Migration(#[from] sqlx::migrate::MigrateError),
    #[error(
        "{} is gone, although a controller was made there: put a copy back and run `holdfast-controller reconcile`; \
         without one, move the state directory away and run `holdfast-controller rebuild`",
        .0.display()
    )]
    Gone(PathBuf),
    #[error(
        "{} cannot be opened; where it is damaged, put a copy back and run `holdfast-controller reconcile`, or move the \
         state directory away and run `holdfast-controller rebuild`",
        path.display()
    )]
    Open { path: PathBuf, source: Box<CatalogError> },
    #[error("the catalogue holds an unreadable {what}: {value}")]
    Unreadable { what: &'static str, value: String },
}

/// Cheap to clone; all clones share one pool.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: SqlitePool,
}

impl Catalog {
    /// Opens the catalogue of a state directory. Only `init` and `rebuild` make
    /// one: an empty one in the place of one that was lost would know no host and
    /// no token.
    ///
    /// # Errors
    /// It is gone, cannot be opened or cannot be brought to this version.
    pub async fn open_in(state_dir: &Path) -> Result<Self, CatalogError> {
        let path = state_dir.join(FILE);
        if !path.exists() {
            return Err(CatalogError::Gone(path));
        }
        let opened = Self::open(&catalog_url(state_dir)).await;
        opened.map_err(|source| CatalogError::Open { path, source: Box::new(source) })
    }

    /// Opens the database at `url` (`sqlite:///path/to/file` or
    /// `sqlite::memory:`), creating and migrating it as needed.
    ///
    /// # Errors
    /// The database cannot be opened, or not be brought to this version.
    pub async fn open(url: &str) -> Result<Self, CatalogError> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(30));
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .min_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options.clone())
        };
        // The file turns to WAL and is migrated over one connection: turning
        // takes a lock for which SQLite does not wait, so two connections that
        // both turn a new file make each other fail.
        let first = pool(1).await?;
        migrator().run(&first).await?;
        // A second connection to `:memory:` would see another, empty database.
        if url.contains(":memory:") {
            return Ok(Self { pool: first });
        }
        first.close().await;
        Ok(Self { pool: pool(8).await? })
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_catalogue_that_is_gone_or_damaged_is_not_replaced_by_an_empty_one() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let gone = Catalog::open_in(dir.path()).await.expect_err("gone");
        assert!(matches!(gone, CatalogError::Gone(_)), "{gone}");
        assert!(!dir.path().join(FILE).exists());
        std::fs::write(dir.path().join(FILE), vec![b'x'; 8192]).expect("written");
        let damaged = Catalog::open_in(dir.path()).await.expect_err("damaged");
        assert!(damaged.to_string().contains("catalog.db cannot be opened"), "{damaged}");
    }

    #[tokio::test]
    async fn jobs_from_before_upgrades_stand_alone_and_the_release_before_does_not_open_this() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let url = format!("sqlite://{}/catalog.db?mode=rwc", dir.path().display());
        let before = SqlitePoolOptions::new().connect(&url).await.expect("opens");
        migrator_to(3).run(&before).await.expect("migrates");
        let id = holdfast_proto::ids::JobId::generate();
        sqlx::query(
            "insert into jobs (id, kind, state, actor, parameters, created_ms)
             values ($1, 'prune', 'queued', 'anna', '{\"kind\":\"prune\"}', 7)",
        )
        .bind(id.to_string())
        .execute(&before)
        .await
        .expect("a row");
        before.close().await;
        let catalog = Catalog::open(&url).await.expect("migrates");
        let job = catalog.job(id).await.expect("reads").expect("there");
        assert_eq!((job.parent, job.role.as_str(), job.created_ms), (None, "", 7));
        assert!(migrator_to(3).run(catalog.pool()).await.is_err());
    }

    #[tokio::test]
    async fn opens_migrates_and_opens_again() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let url = format!("sqlite://{}/catalog.db", dir.path().display());
        for _ in 0..2 {
            let catalog = Catalog::open(&url).await.expect("opens");
            let hosts: i64 = sqlx::query_scalar("select count(*) from hosts")
                .fetch_one(catalog.pool())
                .await
                .expect("query");
            assert_eq!(hosts, 0);
        }
    }
}
