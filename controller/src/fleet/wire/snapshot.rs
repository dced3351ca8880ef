//! Backups on a host.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::snapshot_event::Event;

use crate::model::event::SnapshotEvent;
use crate::model::job::parameters::BackupParameters;
use crate::model::job::quiesced::ContainerQuiesced;
use crate::model::job::source::{
    JobEnded, JobSource, SnapshotStats, SourceFinished, SourcePhase, SourceProgress,
};
use crate::model::source::SourceKind;
use crate::policy::{Consistency, NestedMounts, TornPolicy};

pub(in crate::fleet) fn create_request(
    job: JobId,
    generation: u64,
    sources: &[JobSource],
    backup: &BackupParameters,
) -> v1::CreateSnapshotsRequest {
    let source = |source: &JobSource| v1::SnapshotSource {
        source_id: source.source_id.clone(),
        kind: v1::SourceKind::from(source.kind).into(),
        name: source.name.clone(),
    };
    v1::CreateSnapshotsRequest {
        job_id: job.to_string(),
        generation,
        sources: sources.iter().map(source).collect(),
        consistency: v1::Consistency::from(backup.consistency).into(),
        torn: v1::TornPolicy::from(backup.torn).into(),
        nested_mounts: v1::NestedMounts::from(backup.nested_mounts).into(),
        max_downtime_seconds: backup.max_downtime_seconds,
        allow_empty: backup.allow_empty,
    }
}

impl From<SourceKind> for v1::SourceKind {
    fn from(kind: SourceKind) -> Self {
        match kind {
            SourceKind::Volume => Self::Volume,
            SourceKind::Directory => Self::Directory,
        }
    }
}

impl From<Consistency> for v1::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::None => Self::None,
            Consistency::Pause => Self::Pause,
            Consistency::Stop => Self::Stop,
        }
    }
}

impl From<TornPolicy> for v1::TornPolicy {
    fn from(torn: TornPolicy) -> Self {
        match torn {
            TornPolicy::Accept => Self::Accept,
            TornPolicy::Fail => Self::Fail,
        }
    }
}

impl From<NestedMounts> for v1::NestedMounts {
    fn from(nested: NestedMounts) -> Self {
        match nested {
            NestedMounts::Partial => Self::Partial,
            NestedMounts::LeaveOut => Self::LeaveOut,
        }
    }
}

impl From<v1::SnapshotEvent> for SnapshotEvent {
    fn from(event: v1::SnapshotEvent) -> Self {
        match event.event {
            Some(Event::Progress(progress)) => Self::Progress(progress.into()),
            Some(Event::Source(finished)) => Self::Source(finished.into()),
            Some(Event::Quiesced(quiesced)) => Self::Quiesced(quiesced.into()),
            Some(Event::Ended(ended)) => Self::Ended(ended.into()),
            None => Self::Unknown,
        }
    }
}

impl From<v1::SourceProgress> for SourceProgress {
    fn from(progress: v1::SourceProgress) -> Self {
        let phase = match progress.phase() {
            v1::SourcePhase::Unspecified => None,
            v1::SourcePhase::Queued => Some(SourcePhase::Queued),
            v1::SourcePhase::FirstPass => Some(SourcePhase::FirstPass),
            v1::SourcePhase::Quiescing => Some(SourcePhase::Quiescing),
            v1::SourcePhase::SecondPass => Some(SourcePhase::SecondPass),
            v1::SourcePhase::Committing => Some(SourcePhase::Committing),
        };
        let v1::SourceProgress { source_id, phase: _, stats, expected_bytes } = progress;
        Self { source_id, phase, stats: stats.map(SnapshotStats::from), expected_bytes }
    }
}

impl From<v1::SourceFinished> for SourceFinished {
    fn from(finished: v1::SourceFinished) -> Self {
        let v1::SourceFinished {
            source_id,
            ok,
            snapshot_id,
            stats,
            partial,
            problems,
            duration_ms,
            error_code,
            error,
            shrunk,
        } = finished;
        Self {
            source_id,
            ok,
            snapshot_id,
            stats: stats.map(SnapshotStats::from),
            partial,
            problems,
            duration_ms,
            error_code,
            error,
            shrunk,
        }
    }
}

impl From<v1::SnapshotStats> for SnapshotStats {
    fn from(stats: v1::SnapshotStats) -> Self {
        let v1::SnapshotStats {
            entries,
            files,
            size_bytes,
            read_bytes,
            new_bytes,
            stored_bytes,
            changed_files,
            torn_files,
            vanished_entries,
            unreadable_entries,
            retries,
        } = stats;
        Self {
            entries,
            files,
            size_bytes,
            read_bytes,
            new_bytes,
            stored_bytes,
            changed_files,
            torn_files,
            vanished_entries,
            unreadable_entries,
            retries,
        }
    }
}

impl From<v1::ContainerQuiesced> for ContainerQuiesced {
    fn from(quiesced: v1::ContainerQuiesced) -> Self {
        let v1::ContainerQuiesced { container_id, container_name, how, downtime_ms, resumed, problem } =
            quiesced;
        Self { container_id, container_name, how, downtime_ms, resumed, problem }
    }
}

impl From<v1::JobEnded> for JobEnded {
    fn from(ended: v1::JobEnded) -> Self {
        let v1::JobEnded { ok, cancelled, error_code, error } = ended;
        Self { ok, cancelled, error_code, error }
    }
}
