//! Which file under `index/` holds the table of which pack.

use holdfast_archive::ids::PackId;
use sqlx::Row as _;

use super::packs::{PackRecord, read};
use super::repository::{id, signed, unsigned};
use super::{Catalog, CatalogError};

/// A file under `index/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexFileRow {
    pub number: u64,
    /// Packs in it when it was written.
    pub packs: u64,
    /// Of these, the ones that still have a row which names it.
    pub used: u64,
}

impl Catalog {
    /// Packs that may be built upon and whose table no index file holds.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn packs_without_hint(&self, after: u64, limit: u32) -> Result<Vec<PackRecord>, CatalogError> {
        let rows = sqlx::query(
            "select * from packs where hint is null and state = 'live' and number > $1
             order by number limit $2",
        )
        .bind(signed(after))
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(read).collect()
    }

    /// The packs whose table is in that file.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn packs_of_index(&self, number: u64) -> Result<Vec<PackId>, CatalogError> {
        let ids: Vec<String> = sqlx::query_scalar("select id from packs where hint = $1")
            .bind(signed(number))
            .fetch_all(self.pool())
            .await?;
        ids.into_iter().map(|text| id(text, "pack id")).collect()
    }

    /// All index files, by number.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn index_files(&self) -> Result<Vec<IndexFileRow>, CatalogError> {
        let rows = sqlx::query(
            "select f.number, f.packs, (select count(*) from packs p where p.hint = f.number) as used
             from index_files f order by f.number",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(IndexFileRow {
                    number: unsigned(row.try_get("number")?),
                    packs: unsigned(row.try_get("packs")?),
                    used: unsigned(row.try_get("used")?),
                })
            })
            .collect()
    }

    /// A number for an index file that no other has had.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn next_index(&self) -> Result<u64, CatalogError> {
        let number: i64 =
            sqlx::query_scalar("update repository set next_index = next_index + 1 returning next_index - 1")
                .fetch_one(self.pool())
                .await?;
        Ok(unsigned(number))
    }

    /// Notes that a file with tables of so many packs is in the bucket, among
    /// them these.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn note_index(&self, number: u64, total: u64, packs: &[PackId]) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for pack in packs {
            sqlx::query("update packs set hint = $2 where id = $1")
                .bind(pack.to_string())
                .bind(signed(number))
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query(
            "insert into index_files (number, packs) values ($1, $2)
             on conflict (number) do update set packs = excluded.packs",
        )
        .bind(signed(number))
        .bind(signed(total))
        .execute(&mut *tx)
        .await?;
        // A file that was found in the bucket may have a number that this catalogue has not
        // given yet.
        sqlx::query("update repository set next_index = max(next_index, $1)")
            .bind(signed(number.saturating_add(1)))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Has the tables in that file written anew, elsewhere.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn dissolve_index(&self, number: u64) -> Result<(), CatalogError> {
        sqlx::query("update packs set hint = null where hint = $1")
            .bind(signed(number))
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Forgets a file that is not in the bucket any more.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn drop_index(&self, number: u64) -> Result<(), CatalogError> {
        // Not while a pack counts on it: its table would be in no file, and none would be
        // written.
        sqlx::query(
            "delete from index_files where number = $1 and not exists
                 (select 1 from packs where hint = $1)",
        )
        .bind(signed(number))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Before a reconciliation: nothing is believed about index files.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn forget_indexes(&self) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        for statement in ["update packs set hint = null where hint is not null", "delete from index_files"] {
            sqlx::query(statement).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
