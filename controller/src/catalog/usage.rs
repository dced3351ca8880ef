//! What each host added on each day, against its quotas.

use holdfast_archive::ids::HostId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::repository::{id, signed, unsigned};
use super::{Catalog, CatalogError};
use crate::limits::clipped;
use crate::quota::{Quotas, Usage};

/// What a host was refused on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    pub host: HostId,
    pub day: i64,
    pub times: u64,
    /// The last of them.
    pub reason: String,
}

impl Catalog {
    /// Counts what a host is about to add; `Some`: the quota that it would
    /// pass, and nothing is counted.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn charge(
        &self,
        host: HostId,
        day: i64,
        add: Usage,
        quotas: &Quotas,
    ) -> Result<Option<(&'static str, u64)>, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // Added first and judged after, in one transaction: two packs that come at once
        // cannot both take the last of a quota.
        let usage = add_usage(&mut tx, host, day, add).await?;
        let exceeded = quotas.exceeded_by(&usage);
        if exceeded.is_none() {
            tx.commit().await?;
        }
        Ok(exceeded)
    }

    /// Notes that a host was refused something, for `status` to show.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn alarm(&self, host: HostId, day: i64, reason: &str) -> Result<(), CatalogError> {
        sqlx::query(
            "insert into host_usage (host_id, day, refused, alarm) values ($1, $2, 1, $3)
             on conflict (host_id, day) do update set refused = refused + 1, alarm = excluded.alarm",
        )
        .bind(host.to_string())
        .bind(day)
        .bind(clipped(reason))
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Alarms of that day and later.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn alarms(&self, since_day: i64) -> Result<Vec<Alarm>, CatalogError> {
        let rows = sqlx::query(
            "select host_id, day, refused, alarm from host_usage where day >= $1 and refused > 0
             order by host_id, day",
        )
        .bind(since_day)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Alarm {
                    host: id(row.try_get("host_id")?, "host id")?,
                    day: row.try_get("day")?,
                    times: unsigned(row.try_get("refused")?),
                    reason: row.try_get("alarm")?,
                })
            })
            .collect()
    }
}

/// Adds to what a host used on a day; gives the sums.
async fn add_usage(
    tx: &mut SqliteConnection,
    host: HostId,
    day: i64,
    add: Usage,
) -> Result<Usage, CatalogError> {
    // Added and read in one statement: of two calls at once, one sees the sum of both.
    let row = sqlx::query(
        "insert into host_usage (host_id, day, bytes, packs, frames, leases, renewals)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (host_id, day) do update set
             bytes = bytes + excluded.bytes, packs = packs + excluded.packs,
             frames = frames + excluded.frames, leases = leases + excluded.leases,
             renewals = renewals + excluded.renewals
         returning bytes, packs, frames, leases, renewals",
    )
    .bind(host.to_string())
    .bind(day)
    .bind(signed(add.bytes))
    .bind(signed(add.packs))
    .bind(signed(add.frames))
    .bind(signed(add.leases))
    .bind(signed(add.renewals))
    .fetch_one(tx)
    .await?;
    let count = |name| -> Result<u64, CatalogError> { Ok(unsigned(row.try_get(name)?)) };
    Ok(Usage {
        bytes: count("bytes")?,
        packs: count("packs")?,
        frames: count("frames")?,
        leases: count("leases")?,
        renewals: count("renewals")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn x10_what_passes_a_quota_is_refused_and_not_counted_and_the_next_day_is_new() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let (host, other) = (HostId::generate(), HostId::generate());
        let quotas = Quotas { bytes_per_day: 100, ..Quotas::default() };
        let add = async |host, day, bytes| {
            let add = Usage { bytes, packs: 1, ..Usage::default() };
            catalog.charge(host, day, add, &quotas).await.expect("counted")
        };
        assert_eq!(add(host, 1, 60).await, None);
        assert_eq!(add(host, 1, 60).await, Some(("bytes_per_day", 100)));
        assert_eq!(add(host, 1, 40).await, None, "what was refused does not count");
        assert_eq!(add(host, 1, 1).await, Some(("bytes_per_day", 100)));
        assert_eq!(add(other, 1, 100).await, None);
        assert_eq!(add(host, 2, 100).await, None);
    }

    #[tokio::test]
    async fn x10_alarms_are_told_with_their_number_and_last_reason() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = HostId::generate();
        catalog.charge(host, 7, Usage::default(), &Quotas::default()).await.expect("counted");
        assert!(catalog.alarms(0).await.expect("told").is_empty());
        catalog.alarm(host, 7, "first").await.expect("noted");
        catalog.alarm(host, 7, &"x".repeat(1 << 20)).await.expect("noted");
        let alarms = catalog.alarms(7).await.expect("told");
        assert_eq!((alarms.len(), alarms[0].host, alarms[0].times), (1, host, 2));
        assert_eq!(alarms[0].reason.len(), crate::limits::TEXT);
        assert!(catalog.alarms(8).await.expect("told").is_empty());
    }
}
