//! Deletes for good: snapshots whose grace is over, then packs that nothing
//! reaches any more, round by round until a round finds nothing left to do.
//!
//! Deletion waits for uploads that were open when a pack was condemned, so a
//! prune may end with packs condemned and not yet deleted. The loop that does
//! the same in the background finishes them later.

use holdfast_proto::ErrorCode;

use super::{Failure, JobRun};
use crate::catalog::jobs::Ending;
use crate::model::job::prune::PruneReport;
use crate::model::job::state::State;
use crate::repository::{RepositoryError, gc};
use holdfast_archive::text::bytes;
use holdfast_archive::text::causes;

/// Rounds in one job; each is bounded.
const ROUNDS: usize = 64;

/// Deletes in rounds until one finds nothing left to do.
///
/// # Errors
/// The job is cancelled or another's by now, the repository is suspended, or
/// store or catalogue fail.
pub(crate) async fn run(run: &mut JobRun) -> Result<Ending, Failure> {
    run.step("looking for what nothing needs").await?;
    // What a former driver of this job has deleted counts as well.
    let mut total = run.job.result.prune.clone().unwrap_or_default();
    for _ in 0..ROUNDS {
        run.cancelled()?;
        let round = gc::round(run.jobs.repository()).await.map_err(failed)?;
        let idle = round.packs_deleted == 0 && round.snapshots_purged == 0;
        add(&mut total, round);
        // This also ends the driver between two rounds once another one has taken the job over.
        run.record(&total.clone().into()).await?;
        if idle {
            break;
        }
        run.log_event(&line(&total)).await?;
    }
    run.log_event(&line(&total)).await?;
    Ok(Ending {
        state: State::Succeeded,
        error_code: String::new(),
        error: String::new(),
        result: total.into(),
    })
}

fn failed(error: RepositoryError) -> Failure {
    match error {
        RepositoryError::Catalog(error) => Failure::Catalog(error),
        RepositoryError::Suspended(_) => Failure::failed(ErrorCode::RepositorySuspended, error.to_string()),
        RepositoryError::Store(error) => {
            Failure::Failed { code: error.kind().code().to_owned(), message: causes(&error) }
        }
        other => Failure::failed(ErrorCode::PruneFailed, causes(&other)),
    }
}

/// What is deleted adds up; what is kept is as the last round saw it.
fn add(total: &mut PruneReport, round: PruneReport) {
    let PruneReport {
        packs_deleted,
        bytes_deleted,
        packs_kept,
        bytes_kept,
        snapshots_purged,
        packs_condemned,
        packs_revived,
        notes,
    } = round;
    total.packs_deleted += packs_deleted;
    total.bytes_deleted += bytes_deleted;
    total.packs_kept = packs_kept;
    total.bytes_kept = bytes_kept;
    total.snapshots_purged += snapshots_purged;
    total.packs_condemned += packs_condemned;
    total.packs_revived += packs_revived;
    for note in notes {
        if !total.notes.contains(&note) {
            total.notes.push(note);
        }
    }
}

/// A report in one line.
pub(crate) fn line(report: &PruneReport) -> String {
    format!(
        "{} snapshots purged, {} packs deleted ({}), {} kept ({})",
        report.snapshots_purged,
        report.packs_deleted,
        bytes(report.bytes_deleted),
        report.packs_kept,
        bytes(report.bytes_kept)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_add_up_and_what_is_kept_does_not() {
        let round = PruneReport {
            packs_deleted: 2,
            bytes_deleted: 2048,
            packs_kept: 5,
            bytes_kept: 1024,
            notes: vec!["a".into()],
            ..PruneReport::default()
        };
        let mut total = PruneReport::default();
        add(&mut total, round.clone());
        add(&mut total, round);
        assert_eq!(line(&total), "0 snapshots purged, 4 packs deleted (4.0 KiB), 5 kept (1.0 KiB)");
        assert_eq!(total.notes, ["a"]);
    }
}
