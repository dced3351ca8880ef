//! Sources whose snapshot was committed although their agent did not hear it.
//!
//! The answer to a commit can be lost with the connection. The snapshot counts
//! then for whoever restores or thins out; the job that made it must say so.

use holdfast_archive::ids::SourceId;

use super::{Failure, JobRun};
use crate::catalog::snapshots::SnapshotRecord;
use crate::model::job::source::{JobSource, SourceFinished};
use crate::model::protocol::SnapshotState;
use holdfast_archive::text::causes;

/// How a source ended by the catalogue: well, where this job has committed a
/// snapshot of it; `None` where it has not.
pub(super) async fn by_catalogue(
    run: &JobRun,
    source: &JobSource,
) -> Result<Option<SourceFinished>, Failure> {
    let Ok(id) = source.source_id.parse::<SourceId>() else { return Ok(None) };
    let Some(mut record) = of_job(run, id).await? else { return Ok(None) };
    if record.state == SnapshotState::Committing {
        // Nothing more is needed from the agent. A store that is out of reach
        // ends this; the loop goes on with it.
        if let Err(error) = run.jobs.repository().finish_committing().await {
            tracing::warn!(snapshot.id = %record.id, error = %causes(&error), "a commit is not finished yet");
        }
        let Some(now) = of_job(run, id).await? else { return Ok(None) };
        record = now;
    }
    match record.state {
        SnapshotState::Committed => Ok(Some(finished(run, source, &record).await)),
        SnapshotState::Committing => {
            let text = format!(
                "{}: its snapshot {} is complete and is committed as soon as the store answers",
                source.name, record.id.number
            );
            run.log_event(&text).await?;
            Ok(None)
        }
        SnapshotState::Forgotten | SnapshotState::Purging => Ok(None),
    }
}

async fn of_job(run: &JobRun, source: SourceId) -> Result<Option<SnapshotRecord>, Failure> {
    Ok(run.jobs.catalog().snapshot_of_job(run.job.id, source).await?)
}

async fn finished(run: &JobRun, source: &JobSource, record: &SnapshotRecord) -> SourceFinished {
    let account = run.jobs.repository().account(record).await.ok();
    let (stats, problems) = match account {
        Some(account) => (Some(account.stats.into()), account.problems),
        None => (source.stats, Vec::new()),
    };
    SourceFinished {
        source_id: source.source_id.clone(),
        ok: true,
        snapshot_id: record.id.to_string(),
        stats,
        partial: record.partial,
        problems,
        ..SourceFinished::default()
    }
}
