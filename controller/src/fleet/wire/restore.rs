//! Restores on a host.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::restore_event::Event;
use holdfast_proto::v1::restore_snapshot_request::Target;

use crate::model::event::RestoreEvent;
use crate::model::job::parameters::{RestoreParameters, RestoreTarget};
use crate::model::job::restore::{RestoreFinished, RestorePhase, RestoreProgress};

pub(in crate::fleet) fn request(
    job: JobId,
    generation: u64,
    restore: RestoreParameters,
) -> v1::RestoreSnapshotRequest {
    let RestoreParameters { snapshot, target, devices, setuid, strict, salvage, paths } = restore;
    v1::RestoreSnapshotRequest {
        job_id: job.to_string(),
        generation,
        snapshot_id: snapshot,
        target: Some(target.into()),
        devices,
        setuid,
        strict,
        salvage,
        paths,
    }
}

impl From<RestoreTarget> for Target {
    fn from(target: RestoreTarget) -> Self {
        match target {
            RestoreTarget::NewVolume { name, driver, options, labels } => Self::NewVolume(v1::NewVolume {
                name,
                driver,
                options: options.into_iter().collect(),
                labels: labels.into_iter().collect(),
            }),
            RestoreTarget::Directory(path) => Self::Directory(path),
        }
    }
}

impl From<v1::RestoreEvent> for RestoreEvent {
    fn from(event: v1::RestoreEvent) -> Self {
        match event.event {
            Some(Event::Progress(progress)) => Self::Progress(progress.into()),
            Some(Event::Finished(finished)) => Self::Finished(finished.into()),
            None => Self::Unknown,
        }
    }
}

impl From<v1::RestoreProgress> for RestoreProgress {
    fn from(progress: v1::RestoreProgress) -> Self {
        let phase = match progress.phase() {
            v1::RestorePhase::Unspecified => None,
            v1::RestorePhase::Preparing => Some(RestorePhase::Preparing),
            v1::RestorePhase::Writing => Some(RestorePhase::Writing),
            v1::RestorePhase::Verifying => Some(RestorePhase::Verifying),
        };
        let v1::RestoreProgress { phase: _, entries, files, bytes, total_entries, total_bytes } = progress;
        Self { phase, entries, files, bytes, total_entries, total_bytes }
    }
}

impl From<v1::RestoreFinished> for RestoreFinished {
    fn from(finished: v1::RestoreFinished) -> Self {
        let v1::RestoreFinished {
            ok,
            cancelled,
            entries,
            files,
            bytes,
            duration_ms,
            differences,
            difference_list,
            left_out,
            left_out_list,
            error_code,
            error,
            lost,
            lost_list,
        } = finished;
        Self {
            ok,
            cancelled,
            entries,
            files,
            bytes,
            duration_ms,
            differences,
            difference_list,
            left_out,
            left_out_list,
            error_code,
            error,
            lost,
            lost_list,
        }
    }
}
