//! Upgrades as they are asked for and shown.

use holdfast_proto::v1;
use holdfast_proto::v1::probe::Kind;

use crate::model::upgrade::{
    Probe, RolloutTarget, UpgradeChange, UpgradeLoss, UpgradeOptions, UpgradePlan, UpgradeReport,
    UpgradeRequest, UpgradeSource, UpgradeState, UpgradeStep,
};

/// What a host is to plan; without a message nothing is asked for.
pub(in crate::api) fn plan_request(request: Option<v1::PlanUpgradeRequest>) -> UpgradeRequest {
    let v1::PlanUpgradeRequest { container, image, pull, options } = request.unwrap_or_default();
    UpgradeRequest { container, image, pull, options: upgrade_options(options.unwrap_or_default()) }
}

fn upgrade_options(options: v1::UpgradeOptions) -> UpgradeOptions {
    let v1::UpgradeOptions {
        health_timeout_seconds,
        steady_seconds,
        probe,
        grace_seconds,
        stopped_seconds,
        allow_loss,
    } = options;
    let probe = probe.and_then(|probe| probe.kind).map(|kind| match kind {
        Kind::Command(command) => Probe::Command(command.argv),
        Kind::TcpPort(port) => Probe::Tcp(port),
        Kind::Http(v1::ProbeHttp { port, path }) => Probe::Http { port, path },
    });
    UpgradeOptions {
        health_timeout_seconds,
        steady_seconds,
        probe,
        grace_seconds,
        stopped_seconds,
        allow_loss,
    }
}

impl From<UpgradePlan> for v1::UpgradePlan {
    fn from(plan: UpgradePlan) -> Self {
        let UpgradePlan {
            fingerprint,
            container_id,
            container_name,
            running,
            from_image,
            from_image_id,
            to_image,
            to_image_id,
            to_digest,
            stays,
            changes,
            stops,
            expected_downtime_seconds,
            losses,
            sources,
            refusals,
            warnings,
            health,
            runnable,
            container_labels,
            powers,
        } = plan;
        Self {
            fingerprint,
            container_id,
            container_name,
            running,
            from_image,
            from_image_id,
            to_image,
            to_image_id,
            to_digest,
            stays,
            changes: changes.into_iter().map(v1::UpgradeChange::from).collect(),
            stops,
            expected_downtime_seconds,
            losses: losses.into_iter().map(v1::UpgradeLoss::from).collect(),
            sources: sources.into_iter().map(v1::UpgradeSource::from).collect(),
            refusals,
            warnings,
            health,
            runnable,
            container_labels: container_labels.into_iter().collect(),
            powers,
        }
    }
}

impl From<UpgradeChange> for v1::UpgradeChange {
    fn from(change: UpgradeChange) -> Self {
        let UpgradeChange { what, from, to } = change;
        Self { what, from, to }
    }
}

impl From<UpgradeLoss> for v1::UpgradeLoss {
    fn from(loss: UpgradeLoss) -> Self {
        let UpgradeLoss { name, text, allowed } = loss;
        Self { name, text, allowed }
    }
}

impl From<UpgradeSource> for v1::UpgradeSource {
    fn from(source: UpgradeSource) -> Self {
        let UpgradeSource { kind, name, target, size_bytes, clone, free_bytes } = source;
        let kind = kind.map_or(v1::SourceKind::Unspecified, v1::SourceKind::from);
        Self { kind: kind.into(), name, target, size_bytes, clone, free_bytes }
    }
}

impl From<UpgradeReport> for v1::UpgradeReport {
    fn from(report: UpgradeReport) -> Self {
        let UpgradeReport {
            container,
            from_image,
            to_image,
            state,
            rolled_back,
            downtime_ms,
            grace_until_unix_ms,
            snapshots_before,
            snapshots_at_stop,
            steps,
            upgraded,
            failed,
            undone,
            not_begun,
        } = report;
        Self {
            container,
            from_image,
            to_image,
            state: v1::UpgradeState::from(state).into(),
            rolled_back,
            downtime_ms,
            grace_until_unix_ms,
            snapshots_before,
            snapshots_at_stop,
            steps: steps.into_iter().map(v1::UpgradeStep::from).collect(),
            upgraded,
            failed,
            undone,
            not_begun,
        }
    }
}

impl From<UpgradeStep> for v1::UpgradeStep {
    fn from(step: UpgradeStep) -> Self {
        let UpgradeStep { state, text, unix_ms } = step;
        Self { state: v1::UpgradeState::from(state).into(), text, unix_ms }
    }
}

impl From<UpgradeState> for v1::UpgradeState {
    fn from(state: UpgradeState) -> Self {
        match state {
            UpgradeState::Unknown => Self::Unspecified,
            UpgradeState::Preparing => Self::Preparing,
            UpgradeState::Stopping => Self::Stopping,
            UpgradeState::Stopped => Self::Stopped,
            UpgradeState::Switching => Self::Switching,
            UpgradeState::Gating => Self::Gating,
            UpgradeState::Committing => Self::Committing,
            UpgradeState::Committed => Self::Committed,
            UpgradeState::Finished => Self::Finished,
            UpgradeState::RollingBack => Self::RollingBack,
            UpgradeState::RolledBack => Self::RolledBack,
            UpgradeState::AwaitingRollbackSnapshot => Self::AwaitingRollbackSnapshot,
        }
    }
}

impl From<RolloutTarget> for v1::RolloutTarget {
    fn from(target: RolloutTarget) -> Self {
        let RolloutTarget { host, container, image, refusal } = target;
        Self { host, container, image, refusal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::parameters::UpgradeParameters;
    use crate::policy::Consistency;

    #[test]
    fn options_come_back_as_they_were_given() {
        let kinds = [
            None,
            Some(Kind::Command(v1::ProbeCommand { argv: vec!["true".into()] })),
            Some(Kind::TcpPort(5432)),
            Some(Kind::Http(v1::ProbeHttp { port: 80, path: "/".into() })),
        ];
        for kind in kinds {
            let options = v1::UpgradeOptions {
                health_timeout_seconds: 1,
                steady_seconds: 2,
                probe: kind.map(|kind| v1::Probe { kind: Some(kind) }),
                grace_seconds: 3,
                stopped_seconds: 4,
                allow_loss: vec!["tmpfs:/run".into()],
            };
            let request = v1::PlanUpgradeRequest { options: Some(options.clone()), ..Default::default() };
            let parameters = UpgradeParameters::of(&plan_request(Some(request)), "", None);
            assert_eq!(v1::UpgradeOptions::from(parameters.options), options);
            assert_eq!(parameters.consistency, Consistency::Pause);
        }
    }

    /// A plan goes from the host to the operator as it is.
    #[test]
    fn a_plan_and_states_come_back_as_they_were_told() {
        let source = v1::UpgradeSource {
            kind: v1::SourceKind::Directory.into(),
            name: "/srv".into(),
            target: "/data".into(),
            size_bytes: 1,
            clone: "copy".into(),
            free_bytes: 2,
        };
        let plan = v1::UpgradePlan {
            fingerprint: "f".into(),
            container_name: "db".into(),
            to_digest: "sha256:d".into(),
            changes: vec![v1::UpgradeChange { what: "user".into(), from: "1".into(), to: "2".into() }],
            losses: vec![v1::UpgradeLoss { name: "tmpfs:/run".into(), text: "t".into(), allowed: true }],
            sources: vec![source, v1::UpgradeSource::default()],
            runnable: true,
            container_labels: [("app".to_owned(), "db".to_owned())].into(),
            powers: vec!["privileged".into()],
            ..v1::UpgradePlan::default()
        };
        assert_eq!(v1::UpgradePlan::from(UpgradePlan::from(plan.clone())), plan);
        let states = (0..=11).map(|number| v1::UpgradeState::try_from(number).expect("a state"));
        for state in states {
            assert_eq!(v1::UpgradeState::from(UpgradeState::from(state)), state);
        }
    }
}
