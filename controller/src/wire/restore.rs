//! Restores on a host.

use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::restore_event::Event;
use holdfast_proto::v1::restore_snapshot_request::Target;

use super::number;
use crate::model::event::RestoreEvent;
use crate::model::job::parameters::{RestoreParameters, RestoreTarget};
use crate::model::job::restore::{RestoreFinished, RestorePhase, RestoreProgress};

pub(crate) fn request(job: JobId, generation: u64, restore: RestoreParameters) -> v1::RestoreSnapshotRequest {
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

same_words!(RestorePhase, RestorePhase { Preparing, Writing, Verifying });

both_ways!(RestoreProgress { phase: number, entries, files, bytes, total_entries, total_bytes });

both_ways!(RestoreFinished {
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
});
