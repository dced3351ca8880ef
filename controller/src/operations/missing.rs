//! What a backup should have found on its host: recorded before the sources
//! are, and told.

use std::collections::BTreeSet;

use holdfast_archive::ids::{HostId, SourceId};

use super::backup::counted;
use super::{Failure, JobRun};
use crate::catalog::jobs::JobFilter;
use crate::catalog::snapshots::SnapshotFilter;
use crate::catalog::sources::SourceRecord;
use crate::coverage::expected::{Expectation, Missing};
use crate::coverage::kept::Kept;
use crate::model::job::parameters::{BackupParameters, Parameters};
use crate::model::job::state::State;

/// Runs of a policy that are looked at to find its last one with sources.
const RUNS_LOOKED_AT: u32 = 10;

/// Records and tells what should be there and is not.
pub(super) async fn note(
    run: &mut JobRun,
    host: HostId,
    backup: &BackupParameters,
    sources: &[SourceRecord],
) -> Result<(), Failure> {
    let catalog = run.jobs.catalog();
    let filter = SnapshotFilter { host: Some(host), ..SnapshotFilter::default() };
    let snapshots = catalog.snapshots(&filter).await?;
    let last = last_run(run, host, backup).await?;
    let missing =
        Expectation { selector: &backup.selector(), sources, kept: &Kept::of(&snapshots), last: &last }
            .missing();
    run.job.result.missing_sources = missing.iter().map(|missing| missing.name.clone()).collect();
    run.record(&run.job.result).await?;
    let host_name = run.jobs.host_name(host).await?;
    for missing in missing {
        run.log_event(&line(&host_name, &missing)).await?;
    }
    Ok(())
}

fn line(host: &str, missing: &Missing) -> String {
    let Missing { name, why, known } = missing;
    let next = if *known {
        format!("if it was removed on purpose: holdfast source retire {host}/{name}")
    } else {
        format!("holdfast volume ls --host {host}")
    };
    format!("volume `{name}` is MISSING: it {why}; {next}")
}

/// The sources that the last run of the same policy had, if that selected
/// volumes as this one does: an edited policy may well mean fewer.
async fn last_run(
    run: &JobRun,
    host: HostId,
    backup: &BackupParameters,
) -> Result<BTreeSet<SourceId>, Failure> {
    let catalog = run.jobs.catalog();
    if run.job.policy.is_empty() {
        return Ok(BTreeSet::new());
    }
    let filter = JobFilter {
        host: Some(host),
        policy: Some(run.job.policy.clone()),
        states: vec![State::Succeeded, State::Partial, State::Failed],
        limit: RUNS_LOOKED_AT,
        ..JobFilter::default()
    };
    for job in catalog.jobs(&filter).await? {
        let Parameters::Backup(before) = &job.parameters else { continue };
        // The policy was edited between the two: what older runs had is no measure.
        if !before.selects_like(backup) {
            break;
        }
        let sources = catalog.job_sources(job.id).await?;
        // A run that failed before it recorded its sources says nothing; an older one may.
        if !sources.is_empty() {
            return Ok(sources.iter().filter_map(|source| source.source_id.parse().ok()).collect());
        }
    }
    Ok(BTreeSet::new())
}

/// What was missed, for the sentence of how a job ended.
pub(super) fn sentence(missing: &[String]) -> String {
    format!(
        "{} missing: {}; `holdfast status --problems` says what to do",
        counted(missing.len(), "source"),
        missing.join(", ")
    )
}
