//! Jobs as they are shown.

use holdfast_proto::v1;

use super::fields::{each, optional};
use super::number::Number;
use crate::catalog::jobs::JobRecord;
use crate::model::job::result::JobResult;
use crate::model::job::source::JobSource;
use crate::model::job::{JobKind, PlannedBackup, State};

/// A job with the name of its host, its sources and the jobs it made.
pub(crate) fn job(
    record: JobRecord,
    host: String,
    sources: Vec<JobSource>,
    children: Vec<v1::JobChild>,
) -> v1::Job {
    let JobResult { restore, prune, upgrade, quiesced, missing_sources } = record.result;
    v1::Job {
        id: record.id.to_string(),
        kind: v1::JobKind::from(record.parameters.kind()).into(),
        state: v1::JobState::from(record.state).into(),
        host,
        policy: record.policy,
        fire_unix_ms: record.fire_ms.unwrap_or_default(),
        created_unix_ms: record.created_ms,
        started_unix_ms: record.started_ms.unwrap_or_default(),
        ended_unix_ms: record.ended_ms.unwrap_or_default(),
        actor: record.actor,
        attempt: record.attempt,
        sources: each::write(sources),
        error_code: record.error_code,
        error: record.error,
        step: record.step,
        restore: optional::write(restore),
        prune: optional::write(prune),
        quiesced: each::write(quiesced),
        upgrade: optional::write(upgrade),
        parent_id: record.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        children,
        missing_sources,
    }
}

/// A job as its parent shows it, with the name of its host.
pub(crate) fn child(record: JobRecord, host: String) -> v1::JobChild {
    v1::JobChild {
        id: record.id.to_string(),
        kind: v1::JobKind::from(record.parameters.kind()).into(),
        state: v1::JobState::from(record.state).into(),
        host,
        container: record.parameters.container().to_owned(),
        error: record.error,
    }
}

/// A job that is not made yet has no id and no state.
impl From<PlannedBackup> for v1::Job {
    fn from(planned: PlannedBackup) -> Self {
        let PlannedBackup { host, policy, actor, sources } = planned;
        Self {
            kind: v1::JobKind::Backup.into(),
            state: v1::JobState::Unspecified.into(),
            host,
            policy,
            actor,
            sources: each::write(sources),
            ..Self::default()
        }
    }
}

same_words!(JobKind, JobKind { Backup, Restore, Prune, Upgrade, Rollback, Rollout });

same_words!(JobState, State { Queued, Running, Succeeded, Partial, Failed, Cancelled });

/// The state a list is narrowed to; `None` for a number that is none.
pub(crate) fn state(number: i32) -> Option<State> {
    Option::known(number).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::number;

    #[test]
    fn states_go_both_ways() {
        for one in State::ALL {
            assert_eq!(state(number::write(Some(one))), Some(one));
        }
        assert_eq!((state(v1::JobState::Unspecified.into()), state(77)), (None, None));
    }
}
