//! Upgrades on a host.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::probe::Kind;
use holdfast_proto::v1::upgrade_event::Event;

use crate::model::event::UpgradeEvent;
use crate::model::source::SourceKind;
use crate::model::upgrade::{
    Probe, Upgrade, UpgradeChange, UpgradeFinished, UpgradeLoss, UpgradeOptions, UpgradePlan, UpgradeRequest,
    UpgradeSource, UpgradeState, UpgradeStep,
};
use crate::model::work::{RollBackWork, UpgradeWork};

pub(in crate::fleet) fn run_request(
    job: JobId,
    generation: u64,
    upgrade: UpgradeWork,
) -> v1::RunUpgradeRequest {
    let UpgradeWork { container, image, fingerprint, options } = upgrade;
    v1::RunUpgradeRequest {
        job_id: job.to_string(),
        generation,
        container,
        image,
        fingerprint,
        options: Some(options.into()),
    }
}

pub(in crate::fleet) fn roll_back_request(job: JobId, rollback: RollBackWork) -> v1::RollBackUpgradeRequest {
    let RollBackWork { upgrade, wait } = rollback;
    v1::RollBackUpgradeRequest { upgrade, job_id: job.to_string(), wait }
}

pub(in crate::fleet) fn plan_request(request: UpgradeRequest) -> v1::PlanUpgradeRequest {
    let UpgradeRequest { container, image, pull, options } = request;
    v1::PlanUpgradeRequest { container, image, pull, options: Some(options.into()) }
}

impl From<UpgradeOptions> for v1::UpgradeOptions {
    fn from(options: UpgradeOptions) -> Self {
        let UpgradeOptions {
            health_timeout_seconds,
            steady_seconds,
            probe,
            grace_seconds,
            stopped_seconds,
            allow_loss,
        } = options;
        let kind = |probe| match probe {
            Probe::Command(argv) => Kind::Command(v1::ProbeCommand { argv }),
            Probe::Tcp(port) => Kind::TcpPort(port),
            Probe::Http { port, path } => Kind::Http(v1::ProbeHttp { port, path }),
        };
        Self {
            health_timeout_seconds,
            steady_seconds,
            probe: probe.map(|probe| v1::Probe { kind: Some(kind(probe)) }),
            grace_seconds,
            stopped_seconds,
            allow_loss,
        }
    }
}

impl From<v1::UpgradePlan> for UpgradePlan {
    fn from(plan: v1::UpgradePlan) -> Self {
        let v1::UpgradePlan {
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
            changes: changes.into_iter().map(UpgradeChange::from).collect(),
            stops,
            expected_downtime_seconds,
            losses: losses.into_iter().map(UpgradeLoss::from).collect(),
            sources: sources.into_iter().map(UpgradeSource::from).collect(),
            refusals,
            warnings,
            health,
            runnable,
            container_labels: container_labels.into_iter().collect(),
            powers,
        }
    }
}

impl From<v1::UpgradeChange> for UpgradeChange {
    fn from(change: v1::UpgradeChange) -> Self {
        let v1::UpgradeChange { what, from, to } = change;
        Self { what, from, to }
    }
}

impl From<v1::UpgradeLoss> for UpgradeLoss {
    fn from(loss: v1::UpgradeLoss) -> Self {
        let v1::UpgradeLoss { name, text, allowed } = loss;
        Self { name, text, allowed }
    }
}

impl From<v1::UpgradeSource> for UpgradeSource {
    fn from(source: v1::UpgradeSource) -> Self {
        let kind = match source.kind() {
            v1::SourceKind::Unspecified => None,
            v1::SourceKind::Volume => Some(SourceKind::Volume),
            v1::SourceKind::Directory => Some(SourceKind::Directory),
        };
        let v1::UpgradeSource { kind: _, name, target, size_bytes, clone, free_bytes } = source;
        Self { kind, name, target, size_bytes, clone, free_bytes }
    }
}

impl From<v1::UpgradeState> for UpgradeState {
    fn from(state: v1::UpgradeState) -> Self {
        match state {
            v1::UpgradeState::Unspecified => Self::Unknown,
            v1::UpgradeState::Preparing => Self::Preparing,
            v1::UpgradeState::Stopping => Self::Stopping,
            v1::UpgradeState::Stopped => Self::Stopped,
            v1::UpgradeState::Switching => Self::Switching,
            v1::UpgradeState::Gating => Self::Gating,
            v1::UpgradeState::Committing => Self::Committing,
            v1::UpgradeState::Committed => Self::Committed,
            v1::UpgradeState::Finished => Self::Finished,
            v1::UpgradeState::RollingBack => Self::RollingBack,
            v1::UpgradeState::RolledBack => Self::RolledBack,
            v1::UpgradeState::AwaitingRollbackSnapshot => Self::AwaitingRollbackSnapshot,
        }
    }
}

impl From<v1::UpgradeEvent> for UpgradeEvent {
    fn from(event: v1::UpgradeEvent) -> Self {
        match event.event {
            Some(Event::Step(step)) => Self::Step(step.into()),
            Some(Event::Stopped(stopped)) => Self::Stopped { until_unix_ms: stopped.until_unix_ms },
            Some(Event::Finished(finished)) => Self::Finished(finished.into()),
            None => Self::Unknown,
        }
    }
}

impl From<v1::UpgradeStep> for UpgradeStep {
    fn from(step: v1::UpgradeStep) -> Self {
        let state = step.state().into();
        let v1::UpgradeStep { state: _, text, unix_ms } = step;
        Self { state, text, unix_ms }
    }
}

impl From<v1::UpgradeFinished> for UpgradeFinished {
    fn from(finished: v1::UpgradeFinished) -> Self {
        let v1::UpgradeFinished { ok, rolled_back, cancelled, downtime_ms, error_code, error, upgrade } =
            finished;
        Self {
            ok,
            rolled_back,
            cancelled,
            downtime_ms,
            error_code,
            error,
            upgrade: upgrade.map(Upgrade::from),
        }
    }
}

impl From<v1::Upgrade> for Upgrade {
    fn from(upgrade: v1::Upgrade) -> Self {
        let state = upgrade.state().into();
        // The rest is for who asks the host itself.
        let v1::Upgrade {
            job_id,
            container_name,
            from_image,
            to_image,
            grace_until_unix_ms,
            sources,
            steps,
            ..
        } = upgrade;
        Self {
            job_id,
            state,
            container_name,
            from_image,
            to_image,
            grace_until_unix_ms,
            sources: sources.into_iter().map(UpgradeSource::from).collect(),
            steps: steps.into_iter().map(UpgradeStep::from).collect(),
        }
    }
}
