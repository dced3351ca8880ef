//! Jobs that did not go well, and that nothing better came after.

use std::collections::BTreeSet;

use crate::model::job::JobKind;
use holdfast_proto::ErrorCode;

use super::{Facts, Problem, ProblemKind};
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::JobRecord;
use crate::model::job::state::State;

/// A job's host, unless that was revoked.
fn host_of<'f>(facts: &'f Facts, job: &JobRecord) -> Option<&'f HostRecord> {
    facts.hosts.iter().find(|host| Some(host.id) == job.host && host.revoked_ms.is_none())
}

pub(super) fn failed_jobs(facts: &Facts) -> Vec<Problem> {
    let bad = |job: &&JobRecord| matches!(job.state, State::Failed | State::Partial);
    facts
        .latest_backups
        .iter()
        .filter(bad)
        .filter_map(|job| {
            let host = host_of(facts, job)?;
            // A policy that is gone will not run better next time.
            let known = facts.policies.iter().any(|record| record.policy.name == job.policy);
            let told = (known || job.policy.is_empty()) && !excused(facts, host, job);
            told.then(|| failed_job(job, host.name.clone()))
        })
        .collect()
}

/// Whether all that the job missed was given up since.
fn excused(facts: &Facts, host: &HostRecord, job: &JobRecord) -> bool {
    let retired = |name: &String| {
        let same =
            |source: &&crate::catalog::sources::SourceRecord| source.host == host.id && source.name == *name;
        facts.sources.iter().filter(same).any(|source| source.retired_ms.is_some())
    };
    ErrorCode::SourceMissing.is(&job.error_code) && job.result.missing_sources.iter().all(retired)
}

fn failed_job(job: &JobRecord, host: String) -> Problem {
    let what = if job.policy.is_empty() {
        "the last backup by hand".to_owned()
    } else {
        format!("the last backup of policy {}", job.policy)
    };
    let how = if job.state == State::Partial { "was partial" } else { "failed" };
    Problem {
        kind: ProblemKind::FailedJob,
        host,
        source: String::new(),
        message: format!("{what} {how}: {}", job.error),
        hint: format!("holdfast job show {}", job.id),
    }
}

/// The last upgrade or rollback of a container, where it failed: what went
/// back, and above all what could not be brought to its end.
pub(super) fn failed_upgrades(facts: &Facts) -> Vec<Problem> {
    let mut told = BTreeSet::new();
    facts
        .ended_upgrades
        .iter()
        .filter(|job| told.insert((job.host, job.parameters.container())))
        .filter(|job| job.state == State::Failed)
        .filter_map(|job| {
            let what = if job.parameters.kind() == JobKind::Rollback { "rollback" } else { "upgrade" };
            Some(Problem {
                kind: ProblemKind::FailedJob,
                host: host_of(facts, job)?.name.clone(),
                source: String::new(),
                message: format!(
                    "the last {what} of container `{}` failed: {}",
                    job.parameters.container(),
                    job.error
                ),
                hint: format!("holdfast job show {}", job.id),
            })
        })
        .collect()
}
