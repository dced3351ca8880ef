//! Backups on a host.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::snapshot_event::Event;

use crate::model::event::SnapshotEvent;
use crate::model::job::parameters::BackupParameters;
use crate::model::job::source::{JobEnded, JobSource};
use crate::policy::{Consistency, NestedMounts, TornPolicy};

pub(crate) fn create_request(
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

same_words!(Consistency, Consistency { None, Pause, Stop });

same_words!(TornPolicy, TornPolicy { Accept, Fail });

same_words!(NestedMounts, NestedMounts { Partial, LeaveOut });

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

from_message!(JobEnded { ok, cancelled, error_code, error });
