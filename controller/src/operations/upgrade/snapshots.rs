//! Snapshots that an upgrade depends on: backups of exactly its sources, as
//! children, and whether such a child will do. A partial snapshot does not.

use holdfast_proto::{ErrorCode, Exit};

use crate::catalog::CatalogError;
use crate::catalog::jobs::JobRecord;
use crate::jobs::Jobs;
use crate::model::job::parameters::{BackupParameters, Parameters};
use crate::model::job::source::JobSource;
use crate::model::job::state::State;
use crate::model::upgrade::{UpgradePlan, UpgradeSource};
use crate::policy::Consistency;

/// Roles of children. Kept in rows: they stay.
pub(in crate::operations) const BEFORE: &str = "before";
pub(in crate::operations) const AT_STOP: &str = "at-stop";
/// Of what a rollback will discard, while it is in use: most of the upload.
pub(in crate::operations) const DISCARDED: &str = "discarded";

/// The same with everything quiesced, once for each time it was quiesced: an
/// agent that was restarted meanwhile set everything going again, and what was
/// written then is in no earlier snapshot.
pub(super) fn discarded_at_stop(until_unix_ms: i64) -> String {
    format!("{DISCARDED}-{until_unix_ms}")
}

/// What the child is asked for. At the stop a source may be empty: programs
/// clear theirs when they stop, and the snapshot before has what was there.
pub(in crate::operations) fn parameters(
    plan: &UpgradePlan,
    consistency: Consistency,
    allow_empty: bool,
) -> Parameters {
    Parameters::Backup(BackupParameters::of_sources(&plan.sources, consistency, allow_empty))
}

/// What is wrong with an ended child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operations) struct Unfit {
    /// The rest of a sentence about the snapshot.
    pub(in crate::operations) why: String,
    /// The child's error code.
    code: String,
}

impl Unfit {
    /// The error code of a job that fails for this: what was out of reach or is
    /// damaged says more than that a snapshot failed.
    pub(in crate::operations) fn code_or(&self, otherwise: ErrorCode) -> ErrorCode {
        let code = ErrorCode::parse(&self.code);
        code.filter(|code| matches!(code.exit(), Exit::Unreachable | Exit::Damage)).unwrap_or(otherwise)
    }
}

/// The snapshots of an ended child, or what is wrong with it.
pub(in crate::operations) async fn judge(
    jobs: &Jobs,
    child: &JobRecord,
    wanted: &[UpgradeSource],
) -> Result<Result<Vec<String>, Unfit>, CatalogError> {
    let sources = jobs.catalog().job_sources(child.id).await?;
    let verdict = verdict(child.state, &child.error, &sources, wanted);
    Ok(verdict
        .map_err(|why| Unfit { why: format!("{why} (job {})", child.id), code: child.error_code.clone() }))
}

fn verdict(
    state: State,
    error: &str,
    sources: &[JobSource],
    wanted: &[UpgradeSource],
) -> Result<Vec<String>, String> {
    match state {
        State::Succeeded => {}
        State::Partial => return Err(format!("is partial: {error}")),
        State::Cancelled => return Err("was cancelled".to_owned()),
        State::Failed => return Err(format!("failed: {error}")),
        State::Queued | State::Running => return Err("has not ended".to_owned()),
    }
    // A backup is green also when nothing matched: each source is asked for.
    wanted.iter().map(|source| snapshot_of(sources, source)).collect()
}

fn snapshot_of(sources: &[JobSource], wanted: &UpgradeSource) -> Result<String, String> {
    let taken = sources.iter().find(|source| Some(source.kind) == wanted.kind && source.name == wanted.name);
    let finished = taken.and_then(|source| source.finished.as_ref());
    match finished {
        Some(finished) if finished.ok && !finished.partial && !finished.snapshot_id.is_empty() => {
            Ok(finished.snapshot_id.clone())
        }
        _ => Err(format!("does not hold {}", wanted.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::source::SourceFinished;
    use crate::model::source::SourceKind;

    fn wanted(name: &str) -> UpgradeSource {
        UpgradeSource { kind: Some(SourceKind::Volume), name: name.into(), ..UpgradeSource::default() }
    }

    fn taken(name: &str, partial: bool) -> JobSource {
        let finished = SourceFinished {
            ok: true,
            partial,
            snapshot_id: format!("{name}/1"),
            ..SourceFinished::default()
        };
        JobSource {
            name: name.into(),
            kind: SourceKind::Volume,
            finished: Some(finished),
            ..JobSource::default()
        }
    }

    #[test]
    fn u02_only_a_complete_snapshot_of_every_source_will_do() {
        let sources = [taken("a", false), taken("b", false)];
        let both = [wanted("a"), wanted("b")];
        assert_eq!(
            verdict(State::Succeeded, "", &sources, &both),
            Ok(vec!["a/1".to_owned(), "b/1".to_owned()])
        );
        for state in [State::Partial, State::Failed, State::Cancelled, State::Running, State::Queued] {
            assert!(verdict(state, "why", &sources, &both).is_err(), "{state:?}");
        }
        // Green, and yet not everything is in it.
        let missing = verdict(State::Succeeded, "", &sources[..1], &both).expect_err("b is not there");
        assert_eq!(missing, "does not hold b");
        assert!(verdict(State::Succeeded, "", &[taken("a", true)], &both[..1]).is_err());
        assert!(verdict(State::Succeeded, "", &[], &both[..1]).is_err());
        let directory = UpgradeSource { kind: Some(SourceKind::Directory), ..wanted("a") };
        assert!(verdict(State::Succeeded, "", &sources, &[directory]).is_err());
    }

    #[test]
    fn a_store_that_is_away_says_more_than_that_the_snapshot_failed() {
        let code = |code: &str| {
            Unfit { why: "failed".into(), code: code.into() }.code_or(ErrorCode::SnapshotBeforeFailed)
        };
        assert_eq!(code("store-unreachable"), ErrorCode::StoreUnreachable);
        assert_eq!(code("store-no-bucket"), ErrorCode::StoreNoBucket);
        assert_eq!(code("store-corrupt"), ErrorCode::StoreCorrupt);
        for other in ["source-shrunk", "cancelled", "", "of-another-version"] {
            assert_eq!(code(other), ErrorCode::SnapshotBeforeFailed, "{other}");
        }
    }
}
