//! Whether a certificate speaks for its host.
//!
//! After a renewal both certificates count until the newer one is first seen: an
//! answer lost on the way must not lock a host out.

use holdfast_archive::ids::HostId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::{Catalog, CatalogError};

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

impl Catalog {
    /// Notes the certificate that renews the one with `old_serial`, which stays
    /// good until the new one is used. False: the old one is not current.
    ///
    /// # Errors
    /// The catalogue fails.
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
        // Either serial may ask: where an answer was lost, the host shows the former one.
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
    ///
    /// # Errors
    /// The catalogue fails.
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
        // Before denied: revoking denies the serials too, and is the reason to give.
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
        // The host has the new one: a copy of the one before must not stay good.
        if previous.is_some() && current.as_deref() == Some(serial) {
            self.retire_previous(host, serial, now_ms).await?;
        }
        Ok(Standing::Good { name })
    }

    /// Denies the certificate before the one with this serial, if that is still the newest.
    pub(super) async fn retire_previous(
        &self,
        host: HostId,
        serial: &str,
        now_ms: i64,
    ) -> Result<(), CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // The host may have renewed since its row was read: then the one before is the one
        // with this serial, and stays good until the newest is used.
        sqlx::query(
            "insert into denied_certificates (serial, host_id, denied_ms)
             select previous_serial, id, $3 from hosts
             where id = $1 and certificate_serial = $2 and previous_serial is not null
             on conflict do nothing",
        )
        .bind(host.to_string())
        .bind(serial)
        .bind(now_ms)
        .execute(&mut *tx)
        .await?;
        sqlx::query("update hosts set previous_serial = null where id = $1 and certificate_serial = $2")
            .bind(host.to_string())
            .bind(serial)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Denies the certificate that a host's row names in this column, if any.
pub(super) async fn deny_serials(
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
