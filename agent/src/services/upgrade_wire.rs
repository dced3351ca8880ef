//! Plans, records and events of upgrades, as messages. Every field is named, so
//! that a new one cannot be forgotten here.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, upgrade_event::Event};

use crate::clone::Means;
use crate::upgrade::plan::changes::Change;
use crate::upgrade::plan::{Planned, PlannedLoss, PlannedSource, Summary};
use crate::upgrade::record::{Phase, Record, Source, SourceKind, Step};
use crate::upgrade::{Finished, Stopped, UpgradeEvent};

pub(super) fn plan(planned: Planned) -> v1::UpgradePlan {
    let Planned { summary, spec: _, old, to_image, to_image_id, stops: _, sources } = planned;
    let Summary {
        fingerprint,
        running,
        to_digest,
        stays,
        changes,
        stops,
        expected_downtime_seconds,
        losses,
        refusals,
        warnings,
        health,
        runnable,
        powers,
    } = summary;
    let change = |Change { what, from, to }| v1::UpgradeChange { what, from, to };
    let loss = |PlannedLoss { loss, allowed }| v1::UpgradeLoss { name: loss.name, text: loss.text, allowed };
    v1::UpgradePlan {
        fingerprint,
        container_id: old.id,
        container_name: old.name,
        running,
        from_image: old.image,
        from_image_id: old.image_id,
        to_image,
        to_image_id,
        to_digest,
        stays,
        changes: changes.into_iter().map(change).collect(),
        stops,
        expected_downtime_seconds,
        losses: losses.into_iter().map(loss).collect(),
        sources: sources.iter().map(planned_source).collect(),
        refusals,
        warnings,
        health,
        runnable,
        container_labels: old.labels.into_iter().collect(),
        powers,
    }
}

pub(super) fn event(job: JobId, event: UpgradeEvent) -> v1::UpgradeEvent {
    let event = match event {
        UpgradeEvent::Step(line) => Event::Step(step(&line)),
        UpgradeEvent::Stopped(Stopped { sources, until_unix_ms }) => {
            let sources = sources.iter().map(source).collect();
            Event::Stopped(v1::UpgradeStopped { sources, until_unix_ms })
        }
        UpgradeEvent::Finished(finished) => Event::Finished(self::finished(*finished)),
    };
    v1::UpgradeEvent { job_id: job.to_string(), event: Some(event) }
}

pub(super) fn upgrade(record: &Record) -> v1::Upgrade {
    let target = record.target();
    let recreation = target.recreation.as_ref();
    let is_kept = matches!(
        record.phase(),
        Phase::Committed | Phase::Finishing | Phase::Committing | Phase::AwaitingRollbackSnapshot
    );
    v1::Upgrade {
        job_id: record.job.to_string(),
        state: state(record.phase()).into(),
        container_name: target.name.clone(),
        from_image: record.from_image.clone(),
        from_image_id: record.from_image_id.clone(),
        to_image: record.to_image.clone(),
        to_image_id: record.to_image_id.clone(),
        old_container_id: target.id.clone(),
        old_container_name: match recreation {
            Some(recreation) if is_kept => record.kept_name(recreation).to_owned(),
            _ => String::new(),
        },
        new_container_id: recreation.map(|recreation| recreation.new_id.clone()).unwrap_or_default(),
        started_unix_ms: record.started_unix_ms,
        ended_unix_ms: record.ended_unix_ms,
        grace_until_unix_ms: record.grace_until_unix_ms,
        downtime_ms: record.downtime_ms,
        sources: record.sources.iter().map(source).collect(),
        error_code: record.error_code.clone(),
        error: record.error.clone(),
        steps: record.steps.iter().map(step).collect(),
    }
}

fn finished(finished: Finished) -> v1::UpgradeFinished {
    let Finished { ok, rolled_back, cancelled, downtime_ms, error_code, error, upgrade: record } = finished;
    let upgrade = record.as_ref().map(upgrade);
    v1::UpgradeFinished { ok, rolled_back, cancelled, downtime_ms, error_code, error, upgrade }
}

fn step(step: &Step) -> v1::UpgradeStep {
    let Step { phase, text, unix_ms } = step;
    v1::UpgradeStep { state: state(*phase).into(), text: text.clone(), unix_ms: *unix_ms }
}

fn state(phase: Phase) -> v1::UpgradeState {
    match phase {
        Phase::Preparing => v1::UpgradeState::Preparing,
        Phase::Stopping => v1::UpgradeState::Stopping,
        Phase::Stopped => v1::UpgradeState::Stopped,
        Phase::Switching => v1::UpgradeState::Switching,
        Phase::Gating => v1::UpgradeState::Gating,
        Phase::Committing => v1::UpgradeState::Committing,
        // That the old container is being removed is no state of its own for others.
        Phase::Committed | Phase::Finishing => v1::UpgradeState::Committed,
        Phase::Finished => v1::UpgradeState::Finished,
        Phase::RollingBack => v1::UpgradeState::RollingBack,
        Phase::RolledBack => v1::UpgradeState::RolledBack,
        Phase::AwaitingRollbackSnapshot => v1::UpgradeState::AwaitingRollbackSnapshot,
    }
}

fn source(source: &Source) -> v1::UpgradeSource {
    v1::UpgradeSource {
        kind: source_kind(source.kind).into(),
        name: source.name.clone(),
        target: source.target.clone(),
        size_bytes: source.size_bytes,
        clone: means(source.means).to_owned(),
        // Looked at for the plan alone.
        free_bytes: 0,
    }
}

fn planned_source(source: &PlannedSource) -> v1::UpgradeSource {
    v1::UpgradeSource {
        kind: source_kind(source.kind()).into(),
        name: source.name.to_string(),
        target: source.target.clone(),
        size_bytes: source.size_bytes,
        clone: means(source.means).to_owned(),
        free_bytes: source.free_bytes,
    }
}

fn source_kind(kind: SourceKind) -> v1::SourceKind {
    match kind {
        SourceKind::Volume => v1::SourceKind::Volume,
        SourceKind::Directory => v1::SourceKind::Directory,
    }
}

fn means(means: Means) -> &'static str {
    match means {
        Means::Reflink => "reflink",
        Means::Copy => "copy",
    }
}
