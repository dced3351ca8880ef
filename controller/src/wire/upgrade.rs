//! Upgrades: what is asked for, what is planned, and what they came to.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::probe::Kind;
use holdfast_proto::v1::upgrade_event::Event;

use super::fields::{each, optional};
use super::number::{self, Number};
use crate::model::event::UpgradeEvent;
use crate::model::upgrade::{
    Probe, RolloutTarget, Upgrade, UpgradeChange, UpgradeFinished, UpgradeLoss, UpgradeOptions, UpgradePlan,
    UpgradeReport, UpgradeRequest, UpgradeSource, UpgradeState, UpgradeStep,
};
use crate::model::work::{RollBackWork, UpgradeWork};

pub(crate) fn run_request(job: JobId, generation: u64, upgrade: UpgradeWork) -> v1::RunUpgradeRequest {
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

pub(crate) fn roll_back_request(job: JobId, rollback: RollBackWork) -> v1::RollBackUpgradeRequest {
    let RollBackWork { upgrade, wait } = rollback;
    v1::RollBackUpgradeRequest { upgrade, job_id: job.to_string(), wait }
}

impl From<UpgradeRequest> for v1::PlanUpgradeRequest {
    fn from(request: UpgradeRequest) -> Self {
        let UpgradeRequest { container, image, pull, options } = request;
        Self { container, image, pull, options: Some(options.into()) }
    }
}

/// Without options none is asked for.
impl From<v1::PlanUpgradeRequest> for UpgradeRequest {
    fn from(request: v1::PlanUpgradeRequest) -> Self {
        let v1::PlanUpgradeRequest { container, image, pull, options } = request;
        Self { container, image, pull, options: options.unwrap_or_default().into() }
    }
}

both_ways!(UpgradeOptions {
    health_timeout_seconds,
    steady_seconds,
    probe: probe,
    grace_seconds,
    stopped_seconds,
    allow_loss,
});

mod probe {
    use super::*;

    /// A probe of no kind is none.
    pub(super) fn read(probe: Option<v1::Probe>) -> Option<Probe> {
        probe?.kind.map(|kind| match kind {
            Kind::Command(v1::ProbeCommand { argv }) => Probe::Command(argv),
            Kind::TcpPort(port) => Probe::Tcp(port),
            Kind::Http(v1::ProbeHttp { port, path }) => Probe::Http { port, path },
        })
    }

    pub(super) fn write(probe: Option<Probe>) -> Option<v1::Probe> {
        let kind = match probe? {
            Probe::Command(argv) => Kind::Command(v1::ProbeCommand { argv }),
            Probe::Tcp(port) => Kind::TcpPort(port),
            Probe::Http { port, path } => Kind::Http(v1::ProbeHttp { port, path }),
        };
        Some(v1::Probe { kind: Some(kind) })
    }
}

both_ways!(UpgradePlan {
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
    changes: each,
    stops,
    expected_downtime_seconds,
    losses: each,
    sources: each,
    refusals,
    warnings,
    health,
    runnable,
    container_labels: each,
    powers,
});

both_ways!(UpgradeChange { what, from, to });

both_ways!(UpgradeLoss { name, text, allowed });

both_ways!(UpgradeSource { kind: number, name, target, size_bytes, clone, free_bytes });

both_ways!(UpgradeStep { state: number, text, unix_ms });

impl Number for UpgradeState {
    fn known(number: i32) -> Option<Self> {
        Some(match v1::UpgradeState::try_from(number).ok()? {
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
        })
    }

    fn number(self) -> i32 {
        match self {
            Self::Unknown => v1::UpgradeState::Unspecified,
            Self::Preparing => v1::UpgradeState::Preparing,
            Self::Stopping => v1::UpgradeState::Stopping,
            Self::Stopped => v1::UpgradeState::Stopped,
            Self::Switching => v1::UpgradeState::Switching,
            Self::Gating => v1::UpgradeState::Gating,
            Self::Committing => v1::UpgradeState::Committing,
            Self::Committed => v1::UpgradeState::Committed,
            Self::Finished => v1::UpgradeState::Finished,
            Self::RollingBack => v1::UpgradeState::RollingBack,
            Self::RolledBack => v1::UpgradeState::RolledBack,
            Self::AwaitingRollbackSnapshot => v1::UpgradeState::AwaitingRollbackSnapshot,
        }
        .into()
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

from_message!(UpgradeFinished {
    ok,
    rolled_back,
    cancelled,
    downtime_ms,
    error_code,
    error,
    upgrade: optional,
});

impl From<v1::Upgrade> for Upgrade {
    fn from(upgrade: v1::Upgrade) -> Self {
        // The others are for who asks the host itself.
        let v1::Upgrade {
            job_id,
            state,
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
            state: number::read(state),
            container_name,
            from_image,
            to_image,
            grace_until_unix_ms,
            sources: each::read(sources),
            steps: each::read(steps),
        }
    }
}

to_message!(UpgradeReport {
    container,
    from_image,
    to_image,
    state: number,
    rolled_back,
    downtime_ms,
    grace_until_unix_ms,
    snapshots_before,
    snapshots_at_stop,
    steps: each,
    upgraded,
    failed,
    undone,
    not_begun,
});

to_message!(RolloutTarget { host, container, image, refusal });
