//! What a reconciliation missed, and what of it an operator has given up.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::repository::{signed, unsigned};
use super::{Catalog, CatalogError};

/// How much of one object is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossRow {
    /// Frames it lacks; [`LossRow::WHOLE`] where the object itself is missing.
    pub frames: u64,
    /// Up to so many were given up.
    pub accepted: u64,
}

impl LossRow {
    /// Not frames, but the object is missing.
    pub const WHOLE: u64 = i64::MAX as u64;
}

impl Catalog {
    /// What the last reconciliation missed, by object.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn losses(&self) -> Result<BTreeMap<String, LossRow>, CatalogError> {
        let rows = sqlx::query("select object, frames, accepted from losses").fetch_all(self.pool()).await?;
        rows.iter()
            .map(|row| {
                let frames = unsigned(row.try_get("frames")?);
                let accepted = unsigned(row.try_get("accepted")?);
                Ok((row.try_get("object")?, LossRow { frames, accepted }))
            })
            .collect()
    }

    /// The end of a reconciliation: what it missed takes the place of what the
    /// one before did, the suspension is over, and collection is off for that
    /// reason, or on where it is empty.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn end_reconciliation(
        &self,
        losses: &BTreeMap<String, LossRow>,
        collection_off: &str,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        sqlx::query("delete from losses").execute(&mut *tx).await?;
        for (object, LossRow { frames, accepted }) in losses {
            sqlx::query("insert into losses (object, frames, accepted) values ($1, $2, $3)")
                .bind(object)
                .bind(signed(*frames))
                .bind(signed(*accepted))
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("update repository set suspended = '', collection_off = $1")
            .bind(collection_off)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}
