//! Jobs as they are shown.

use holdfast_proto::v1;

use crate::jobs::view::{ChildView, JobView};
use crate::model::job::result::JobResult;
use crate::model::job::{JobKind, PlannedBackup, State};

impl From<JobView> for v1::Job {
    fn from(view: JobView) -> Self {
        let JobView { record, host, sources, children, restore: _ } = view;
        let JobResult { restore, prune, upgrade, quiesced, missing_sources } = record.result;
        Self {
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
            sources: sources.into_iter().map(v1::JobSource::from).collect(),
            error_code: record.error_code,
            error: record.error,
            step: record.step,
            restore: restore.map(v1::RestoreFinished::from),
            prune: prune.map(v1::PruneReport::from),
            quiesced: quiesced.into_iter().map(v1::ContainerQuiesced::from).collect(),
            upgrade: upgrade.map(v1::UpgradeReport::from),
            parent_id: record.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            children: children.into_iter().map(v1::JobChild::from).collect(),
            missing_sources,
        }
    }
}

impl From<ChildView> for v1::JobChild {
    fn from(child: ChildView) -> Self {
        let ChildView { record, host } = child;
        Self {
            id: record.id.to_string(),
            kind: v1::JobKind::from(record.parameters.kind()).into(),
            state: v1::JobState::from(record.state).into(),
            host,
            container: record.parameters.container().to_owned(),
            error: record.error,
        }
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
            sources: sources.into_iter().map(v1::JobSource::from).collect(),
            ..Self::default()
        }
    }
}

impl From<JobKind> for v1::JobKind {
    fn from(kind: JobKind) -> Self {
        match kind {
            JobKind::Backup => Self::Backup,
            JobKind::Restore => Self::Restore,
            JobKind::Prune => Self::Prune,
            JobKind::Upgrade => Self::Upgrade,
            JobKind::Rollback => Self::Rollback,
            JobKind::Rollout => Self::Rollout,
        }
    }
}

impl From<State> for v1::JobState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Partial => Self::Partial,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
        }
    }
}

/// The state a list is narrowed to; `None` for a number that is none.
pub(in crate::api) fn state(number: i32) -> Option<State> {
    let wanted = v1::JobState::try_from(number).ok()?;
    State::ALL.into_iter().find(|state| v1::JobState::from(*state) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_go_both_ways() {
        for one in State::ALL {
            assert_eq!(state(v1::JobState::from(one).into()), Some(one));
        }
        assert_eq!((state(v1::JobState::Unspecified.into()), state(77)), (None, None));
    }
}
