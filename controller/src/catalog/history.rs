//! Removal of rows by age. One page a transaction: a writer that waits for
//! this waits for little.

use holdfast_archive::ids::HostId;
use sqlx::sqlite::SqliteConnection;

use super::{Catalog, CatalogError};

impl Catalog {
    /// Removes ended jobs with their event logs; gives how many. The newest of
    /// each kind, policy and host that ended by itself stays, for it says how things stand, and one
    /// made under a clock that was ahead is not that; one
    /// whose snapshot is there stays, for it says which policy made that; a
    /// parent stays as long as its children.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn prune_jobs(
        &self,
        ended_before_ms: i64,
        now_ms: i64,
        most: u32,
    ) -> Result<u64, CatalogError> {
        let mut tx = self.pool().begin_with("begin immediate").await?;
        // Of each policy and host the newest run stays: coverage judges by it. A run dated in the
        // future, by a clock that was ahead, replaces none.
        let ids: Vec<String> = sqlx::query_scalar(
            "select j.id from jobs j where j.ended_ms < $1
             and not exists (select 1 from snapshots s where s.job_id = j.id)
             and not exists (select 1 from jobs c where c.parent_id = j.id)
             and (j.parent_id is not null or exists (
                 select 1 from jobs n where n.policy = j.policy and n.host_id is j.host_id
                 and n.kind = j.kind and n.parent_id is null and n.created_ms > j.created_ms
                 and n.created_ms <= $3
                 and n.state in ('succeeded', 'partial', 'failed')))
             order by j.ended_ms limit $2",
        )
        .bind(ended_before_ms)
        .bind(most)
        .bind(now_ms)
        .fetch_all(&mut *tx)
        .await?;
        for id in &ids {
            for statement in [
                "delete from job_events where job_id = $1",
                "delete from job_sources where job_id = $1",
                "delete from upgrade_plans where id = $1",
                "delete from jobs where id = $1",
            ] {
                sqlx::query(statement).bind(id).execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
        Ok(ids.len() as u64)
    }

    /// Removes volumes that have been gone for long and have no snapshot and
    /// no job; gives how many. Retired ones stay: that they are is all that is
    /// known of them.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn prune_sources(&self, gone_before_ms: i64, most: u32) -> Result<u64, CatalogError> {
        let mut connection = self.pool().acquire().await?;
        let done = sqlx::query(
            "delete from sources where id in (select s.id from sources s
                 where s.gone_ms < $1 and s.kind = 'volume' and s.retired_ms is null
                 and not exists (select 1 from snapshots n where n.source_id = s.id)
                 and not exists (select 1 from job_sources j where j.source_id = s.id)
                 order by s.gone_ms limit $2)",
        )
        .bind(gone_before_ms)
        .bind(most)
        .execute(&mut *connection)
        .await?;
        Ok(done.rows_affected())
    }

    /// Removes what was counted before that day.
    ///
    /// # Errors
    /// The catalogue fails.
    pub async fn prune_usage(&self, before_day: i64) -> Result<(), CatalogError> {
        sqlx::query("delete from host_usage where day < $1").bind(before_day).execute(self.pool()).await?;
        Ok(())
    }
}

/// Keeps the volumes known of a host at no more than `most`: those that have
/// been gone for longest and have no snapshot and no job make room.
pub(super) async fn bound_sources(
    tx: &mut SqliteConnection,
    host: HostId,
    most: usize,
) -> Result<(), CatalogError> {
    let known: i64 =
        sqlx::query_scalar("select count(*) from sources where host_id = $1 and kind = 'volume'")
            .bind(host.to_string())
            .fetch_one(&mut *tx)
            .await?;
    let over = known.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX));
    if over <= 0 {
        return Ok(());
    }
    // Where all are in use there are more of them: none that is needed goes.
    sqlx::query(
        "delete from sources where id in (select s.id from sources s
             where s.host_id = $1 and s.kind = 'volume' and s.gone_ms is not null and s.retired_ms is null
             and not exists (select 1 from snapshots n where n.source_id = s.id)
             and not exists (select 1 from job_sources j where j.source_id = s.id)
             order by s.gone_ms limit $2)",
    )
    .bind(host.to_string())
    .bind(over)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use holdfast_proto::ids::JobId;

    use super::*;
    use crate::catalog::jobs::{Ending, NewJob};
    use crate::catalog::sources::{SeenVolume, add_host};
    use crate::model::job::parameters::{BackupParameters, Parameters};
    use crate::model::job::result::JobResult;
    use crate::model::job::source::JobSource;
    use crate::model::job::state::State;

    const NOW: i64 = 10_000;

    async fn ended_job(catalog: &Catalog, host: HostId, policy: &str, at_ms: i64) -> JobId {
        let job = NewJob {
            id: JobId::generate(),
            policy: policy.into(),
            host: Some(host),
            actor: "schedule".into(),
            parameters: Parameters::Backup(BackupParameters::default()),
            not_before_ms: 0,
        };
        catalog.create_job(&job, at_ms).await.expect("made");
        let generation =
            catalog.claim_job(job.id, "me", at_ms).await.expect("asked").expect("claimed").generation;
        let ending = Ending {
            state: State::Succeeded,
            error_code: String::new(),
            error: String::new(),
            result: JobResult::default(),
        };
        assert!(catalog.finish_job(job.id, generation, &ending, "done", at_ms).await.expect("ended"));
        job.id
    }

    fn volume(name: &str) -> SeenVolume {
        SeenVolume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            labels: BTreeMap::new(),
            anonymous: false,
            used: true,
            own: String::new(),
        }
    }

    #[tokio::test]
    async fn x10_old_jobs_go_with_their_stories_and_those_that_are_needed_stay() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let source = catalog.directory_source(host, "/srv", 1).await.expect("made").id;
        let first = ended_job(&catalog, host, "nightly", 10).await;
        let source = JobSource { source_id: source.to_string(), ..JobSource::default() };
        catalog.put_job_sources(first, &[source]).await.expect("written");
        let with_snapshot = ended_job(&catalog, host, "nightly", 20).await;
        sqlx::query(
            "insert into snapshots (commit_number, host_id, source_id, number, state, job_id, created_ms,
                 root, host_name, source_kind, source_name, partial)
             values (1, 'h', 's', 1, 'committed', $1, 1, x'00', 'h', 'volume', 's', 0)",
        )
        .bind(with_snapshot.to_string())
        .execute(catalog.pool())
        .await
        .expect("a snapshot");
        let young = ended_job(&catalog, host, "nightly", 1000).await;
        let newest_of_another = ended_job(&catalog, host, "weekly", 30).await;
        assert_eq!(catalog.prune_jobs(500, NOW, 10).await.expect("pruned"), 1);
        let there = async |id| catalog.job(id).await.expect("asked").is_some();
        assert!(!there(first).await && catalog.job_events(first, 0).await.expect("asked").is_empty());
        for kept in [with_snapshot, young, newest_of_another] {
            assert!(there(kept).await);
        }
        assert_eq!(catalog.prune_jobs(500, NOW, 10).await.expect("pruned"), 0);
        // One that was called off says nothing of how things stand.
        let called_off = ended_job(&catalog, host, "weekly", 40).await;
        sqlx::query("update jobs set state = 'cancelled' where id = $1")
            .bind(called_off.to_string())
            .execute(catalog.pool())
            .await
            .expect("cancelled");
        catalog.prune_jobs(35, NOW, 10).await.expect("pruned");
        assert!(there(newest_of_another).await);
    }

    #[tokio::test]
    async fn h07_a_job_of_the_future_takes_no_place_of_the_newest() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let newest = ended_job(&catalog, host, "nightly", 10).await;
        ended_job(&catalog, host, "nightly", NOW + 1).await;
        assert_eq!(catalog.prune_jobs(500, NOW, 10).await.expect("pruned"), 0);
        assert!(catalog.job(newest).await.expect("asked").is_some());
    }

    #[tokio::test]
    async fn x10_volumes_that_are_gone_make_room_first_and_go_by_age() {
        let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
        let host = add_host(&catalog, "web-1").await;
        let names = async || -> Vec<String> {
            let sources = catalog.sources(Some(host)).await.expect("listed");
            sources.into_iter().map(|source| source.name).collect()
        };
        for (now, name) in [(1, "a"), (2, "b"), (3, "c")] {
            catalog.record_volumes(host, &[volume(name)], now).await.expect("recorded");
        }
        assert_eq!(names().await, ["a", "b", "c"], "gone, and not for long");
        let mut tx = catalog.pool().begin().await.expect("begins");
        bound_sources(&mut tx, host, 2).await.expect("bounded");
        tx.commit().await.expect("written");
        assert_eq!(names().await, ["b", "c"], "what has been gone for longest went");
        assert_eq!(catalog.prune_sources(100, 10).await.expect("pruned"), 1);
        assert_eq!(names().await, ["c"], "what is there stays");
        catalog.record_volumes(host, &[volume("d")], 4).await.expect("recorded");
        sqlx::query("update sources set retired_ms = 5 where name = 'c'")
            .execute(catalog.pool())
            .await
            .expect("retired");
        assert_eq!(catalog.prune_sources(100, 10).await.expect("pruned"), 0);
        assert_eq!(names().await, ["c", "d"], "that it is retired is remembered");
    }
}
