//! `SnapshotService`: starts jobs and tells how they go.

use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use holdfast_archive::fs::{NestedMounts, TornPolicy};
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use holdfast_proto::v1::snapshot_service_server::SnapshotService;
use tonic::{Request, Response, Status};

use super::job_events::{backup_event, known_job, restore_event};

use crate::quiesce::QuiesceMode;
use crate::snapshot::{
    AdmissionError, BackupRequest, RestoreRequest, RestoreTarget, Snapshots, SourceName, SourceRequest,
    VolumeTarget,
};

/// Sources one job may have.
const MAX_SOURCES: usize = 1024;

type Events<E> = Pin<Box<dyn Stream<Item = Result<E, Status>> + Send>>;

#[derive(Debug, Clone)]
pub(crate) struct SnapshotApi {
    snapshots: Snapshots,
}

impl SnapshotApi {
    pub(crate) fn new(snapshots: Snapshots) -> Self {
        Self { snapshots }
    }
}

#[tonic::async_trait]
impl SnapshotService for SnapshotApi {
    type CreateSnapshotsStream = Events<v1::SnapshotEvent>;
    type RestoreSnapshotStream = Events<v1::RestoreEvent>;

    async fn create_snapshots(
        &self,
        request: Request<v1::CreateSnapshotsRequest>,
    ) -> Result<Response<Self::CreateSnapshotsStream>, Status> {
        let request = parse_backup(request.into_inner())?;
        let job = request.job;
        let events = self.snapshots.back_up(request).map_err(admission_status)?;
        // `None`: the request to cancel came before the job did.
        let events = events.ok_or_else(cancelled_before)?;
        Ok(Response::new(Box::pin(events.map(move |event| Ok(backup_event(job, event))))))
    }

    async fn restore_snapshot(
        &self,
        request: Request<v1::RestoreSnapshotRequest>,
    ) -> Result<Response<Self::RestoreSnapshotStream>, Status> {
        let request = parse_restore(request.into_inner())?;
        let job = request.job;
        let events = self.snapshots.restore(request).map_err(admission_status)?;
        let events = events.ok_or_else(cancelled_before)?;
        Ok(Response::new(Box::pin(events.map(move |event| Ok(restore_event(job, event))))))
    }

    async fn list_running(
        &self,
        _request: Request<v1::ListRunningRequest>,
    ) -> Result<Response<v1::ListRunningResponse>, Status> {
        Ok(Response::new(v1::ListRunningResponse {
            jobs: self.snapshots.known().into_iter().map(known_job).collect(),
        }))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let was_running = self.snapshots.cancel(parse_job(&request.into_inner().job_id)?);
        Ok(Response::new(v1::CancelJobResponse { was_running }))
    }
}

fn parse_backup(request: v1::CreateSnapshotsRequest) -> Result<BackupRequest, Status> {
    // The accessors make `Unspecified` of a number that this agent does not know.
    let (consistency, torn, nested_mounts) = (request.consistency(), request.torn(), request.nested_mounts());
    let v1::CreateSnapshotsRequest {
        job_id,
        generation,
        sources,
        consistency: _,
        torn: _,
        max_downtime_seconds,
        allow_empty,
        nested_mounts: _,
    } = request;
    if sources.is_empty() || sources.len() > MAX_SOURCES {
        return Err(invalid(format!("a job has between 1 and {MAX_SOURCES} sources, not {}", sources.len())));
    }
    let mode = match consistency {
        v1::Consistency::None => None,
        v1::Consistency::Pause => Some(QuiesceMode::Pause),
        v1::Consistency::Stop => Some(QuiesceMode::Stop),
        // No default is safe here: the caller would take a snapshot for quieter than it is.
        v1::Consistency::Unspecified => return Err(invalid("a consistency this agent knows is needed")),
    };
    Ok(BackupRequest {
        job: parse_job(&job_id)?,
        generation,
        sources: sources.into_iter().map(parse_source).collect::<Result<_, _>>()?,
        mode,
        torn: match torn {
            v1::TornPolicy::Unspecified | v1::TornPolicy::Accept => TornPolicy::Accept,
            v1::TornPolicy::Fail => TornPolicy::Fail,
        },
        nested_mounts: match nested_mounts {
            v1::NestedMounts::Unspecified | v1::NestedMounts::Partial => NestedMounts::Partial,
            v1::NestedMounts::LeaveOut => NestedMounts::LeaveOut,
        },
        // 0 is the field's value where no limit was set.
        max_downtime: (max_downtime_seconds > 0)
            .then(|| Duration::from_secs(u64::from(max_downtime_seconds))),
        allow_empty,
    })
}

fn parse_source(source: v1::SnapshotSource) -> Result<SourceRequest, Status> {
    let kind = source.kind();
    let v1::SnapshotSource { source_id, kind: _, name } = source;
    let name = match kind {
        v1::SourceKind::Volume => SourceName::Volume(name),
        v1::SourceKind::Directory => SourceName::Directory(parse_path(&name)?),
        // An unknown kind must not be read as a volume of that name.
        v1::SourceKind::Unspecified => return Err(invalid("a kind of source this agent knows is needed")),
    };
    let id = source_id.parse().map_err(|error| invalid(format!("{error}")))?;
    Ok(SourceRequest { id, name })
}

fn parse_restore(request: v1::RestoreSnapshotRequest) -> Result<RestoreRequest, Status> {
    let v1::RestoreSnapshotRequest {
        job_id,
        generation,
        snapshot_id,
        devices,
        setuid,
        strict,
        paths,
        target,
        salvage,
    } = request;
    let target = match target {
        Some(v1::restore_snapshot_request::Target::NewVolume(volume)) => {
            let v1::NewVolume { name, driver, options, labels } = volume;
            RestoreTarget::Volume(VolumeTarget {
                name: name.parse().map_err(|error| invalid(format!("{error}")))?,
                driver,
                options: options.into_iter().collect(),
                labels: labels.into_iter().collect(),
            })
        }
        Some(v1::restore_snapshot_request::Target::Directory(path)) => {
            RestoreTarget::Directory(parse_path(&path)?)
        }
        None => return Err(invalid("a volume or a directory to restore into is needed")),
    };
    Ok(RestoreRequest {
        job: parse_job(&job_id)?,
        generation,
        snapshot: snapshot_id.parse().map_err(|error| invalid(format!("{error}")))?,
        target,
        devices,
        setuid,
        strict,
        salvage,
        paths,
    })
}

pub(super) fn parse_job(id: &str) -> Result<JobId, Status> {
    id.parse().map_err(|error| invalid(format!("{error}")))
}

fn parse_path(text: &str) -> Result<PathBuf, Status> {
    let path = Path::new(text);
    // `..` could lead out of a directory that the host allows, and no path of the kernel has a NUL.
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.contains('\0') {
        return Err(invalid(format!("`{}` is not an absolute path without `..`", text.escape_debug())));
    }
    Ok(path.to_owned())
}

fn invalid(message: impl Into<String>) -> Status {
    ErrorCode::InvalidRequest.status(message)
}

pub(super) fn cancelled_before() -> Status {
    ErrorCode::Cancelled.status("the job was cancelled before it was started here")
}

pub(super) fn admission_status(error: AdmissionError) -> Status {
    let code = match &error {
        AdmissionError::StaleGeneration { .. } => ErrorCode::StaleGeneration,
        AdmissionError::OtherKind { .. } => ErrorCode::InvalidRequest,
        AdmissionError::Stopping => ErrorCode::Shutdown,
    };
    code.status(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(sources: Vec<v1::SnapshotSource>) -> v1::CreateSnapshotsRequest {
        v1::CreateSnapshotsRequest {
            job_id: JobId::generate().to_string(),
            generation: 1,
            sources,
            consistency: v1::Consistency::Pause.into(),
            max_downtime_seconds: 30,
            ..Default::default()
        }
    }

    fn source(kind: v1::SourceKind, name: &str) -> v1::SnapshotSource {
        let source_id = holdfast_archive::ids::SourceId::generate().to_string();
        v1::SnapshotSource { source_id, kind: kind.into(), name: name.to_owned() }
    }

    #[test]
    fn a_backup_is_parsed_whole_or_refused() {
        let good = backup(vec![
            source(v1::SourceKind::Volume, "db_data"),
            source(v1::SourceKind::Directory, "/srv/data"),
        ]);
        let parsed = parse_backup(good.clone()).unwrap();
        assert_eq!(parsed.mode, Some(QuiesceMode::Pause));
        assert_eq!(parsed.max_downtime, Some(Duration::from_secs(30)));
        assert_eq!(parsed.sources.len(), 2);
        let refused = [
            backup(Vec::new()),
            backup(vec![source(v1::SourceKind::Unspecified, "x")]),
            backup(vec![source(v1::SourceKind::Directory, "/srv/../etc")]),
            backup(vec![source(v1::SourceKind::Directory, "srv")]),
            v1::CreateSnapshotsRequest { job_id: "x".into(), ..good.clone() },
            v1::CreateSnapshotsRequest { consistency: 0, ..good },
        ];
        for request in refused {
            assert_eq!(
                parse_backup(request.clone()).unwrap_err().code(),
                tonic::Code::InvalidArgument,
                "{request:?}"
            );
        }
    }

    #[test]
    fn x18_a_restore_into_a_name_docker_would_not_take_is_refused() {
        let request = |name: &str| v1::RestoreSnapshotRequest {
            job_id: JobId::generate().to_string(),
            snapshot_id: holdfast_archive::ids::SnapshotId {
                host: holdfast_archive::ids::HostId::generate(),
                source: holdfast_archive::ids::SourceId::generate(),
                number: 1,
            }
            .to_string(),
            target: Some(v1::restore_snapshot_request::Target::NewVolume(v1::NewVolume {
                name: name.to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        };
        assert!(parse_restore(request("db_data")).is_ok());
        for name in ["../etc", "", "-v", "a b"] {
            assert!(parse_restore(request(name)).is_err(), "{name}");
        }
    }
}
