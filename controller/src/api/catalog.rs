//! `CatalogService`: snapshots of the fleet, and what is in them.
//!
//! Manifests are read by blocking code on threads of its own; what it finds
//! goes through a short channel, so a slow reader holds the walk back, and one
//! that goes away or stalls ends it.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, StreamExt as _};
use holdfast_archive::entry::{Entry, EntryKind, FileData};
use holdfast_archive::fetch::FrameFetcher;
use holdfast_archive::ids::FrameId;
use holdfast_archive::manifest::ManifestReader;
use holdfast_archive::pack_io::PackSource;
use holdfast_archive::snapshot::SnapshotBody;
use holdfast_archive::store::{StoreError, StoreErrorKind};
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::catalog_service_server::CatalogService;
use holdfast_proto::v1::{
    self, BrowseSnapshotRequest, Consistency, ForgetSnapshotRequest, GetSnapshotRequest, HoldSnapshotRequest,
    ListSnapshotsRequest, ReadFileRequest, ReadFileResponse, Snapshot, SourceKind, UndeleteSnapshotRequest,
};
use tonic::{Request, Response, Status};

use super::reading::{ReaderGone, Readings, Sender};
use super::scope::shown_hosts;
use super::status_map::catalog_failed;
use super::status_map::{repository_failed as refused, store_code};
use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::jobs::Jobs;
use crate::model::caller::Caller;
use crate::model::job::source::SnapshotStats;
use crate::model::protocol::SnapshotState;
use crate::operations::names;
use crate::policy::definition::pattern;
use crate::repository::RepositoryError;
use holdfast_archive::text::causes;
use holdfast_proto::ErrorCode;

/// Raw pages kept while one snapshot is read.
const PAGE_CACHE_BYTES: usize = 8 << 20;

/// Longest piece of a file in one message.
const PIECE_BYTES: usize = 1 << 20;

/// Most links that are followed to a file's content; the format allows one.
const LINKS: usize = 4;

/// Answers for snapshots.
#[derive(Debug, Clone)]
pub struct CatalogApi {
    jobs: Jobs,
    readings: Readings,
}

/// A committed snapshot by reference.
async fn resolve(jobs: &Jobs, reference: &str) -> Result<SnapshotRecord, Status> {
    jobs.repository().resolve(reference).await.map_err(refused)
}

/// What the agent said about a snapshot.
async fn body(jobs: &Jobs, record: &SnapshotRecord) -> Result<SnapshotBody, Status> {
    jobs.repository().body(&record.id).await.map_err(refused)
}

impl CatalogApi {
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs, readings: Readings::default() }
    }

    async fn encode(&self, record: SnapshotRecord) -> Result<Snapshot, Status> {
        let body = body(&self.jobs, &record).await?;
        Ok(snapshot(record, body))
    }

    /// What is needed to read a snapshot's content, on a blocking thread.
    async fn reader(&self, reference: &str) -> Result<(FrameId, FrameFetcher), Status> {
        let record = resolve(&self.jobs, reference).await?;
        let (root, source) = self.jobs.repository().reader(&record.id).await.map_err(refused)?;
        let source: Arc<dyn PackSource> = source;
        Ok((root, FrameFetcher::new(source, PAGE_CACHE_BYTES)))
    }
}

fn snapshot(record: SnapshotRecord, body: SnapshotBody) -> Snapshot {
    let SnapshotBody { stats, source, consistency, problems, downtime_ms, .. } = body;
    Snapshot {
        id: record.id.to_string(),
        host: record.host_name,
        source: record.source_name,
        source_kind: match record.source_kind.as_str() {
            "volume" => SourceKind::Volume.into(),
            "directory" => SourceKind::Directory.into(),
            _ => SourceKind::Unspecified.into(),
        },
        number: record.id.number,
        created_unix_ms: record.created_ms,
        state: match record.state {
            SnapshotState::Committed | SnapshotState::Committing => v1::SnapshotState::Committed.into(),
            SnapshotState::Forgotten | SnapshotState::Purging => v1::SnapshotState::Forgotten.into(),
        },
        purge_after_unix_ms: record.purge_after_ms.unwrap_or(0),
        partial: record.partial,
        held: record.held,
        consistency: match consistency.as_str() {
            "none" => Consistency::None.into(),
            "pause" => Consistency::Pause.into(),
            "stop" => Consistency::Stop.into(),
            _ => Consistency::Unspecified.into(),
        },
        stats: Some(SnapshotStats::from(stats).into()),
        policy: record.policy,
        job_id: record.job,
        downtime_ms,
        problems,
        volume_driver: source.driver,
        volume_labels: source.labels.into_iter().collect(),
    }
}

fn wire_entry(entry: Entry) -> v1::Entry {
    let Entry { path, kind, mode, uid, gid, mtime_ns, flags, .. } = entry;
    let (kind, size_bytes, target) = match kind {
        EntryKind::File(data) => (v1::EntryKind::File, data.size, Vec::new()),
        EntryKind::Directory => (v1::EntryKind::Directory, 0, Vec::new()),
        EntryKind::Symlink { target } => (v1::EntryKind::Symlink, 0, target),
        EntryKind::Hardlink { target } => (v1::EntryKind::Hardlink, 0, target),
        EntryKind::Fifo => (v1::EntryKind::Fifo, 0, Vec::new()),
        EntryKind::Socket => (v1::EntryKind::Socket, 0, Vec::new()),
        EntryKind::CharDevice { .. } => (v1::EntryKind::CharDevice, 0, Vec::new()),
        EntryKind::BlockDevice { .. } => (v1::EntryKind::BlockDevice, 0, Vec::new()),
    };
    v1::Entry {
        path,
        kind: kind.into(),
        mode,
        uid,
        gid,
        size_bytes,
        mtime_unix_ns: i64::try_from(mtime_ns).unwrap_or(if mtime_ns < 0 { i64::MIN } else { i64::MAX }),
        target,
        torn: flags.torn,
        unreadable: flags.unreadable,
    }
}

fn unreadable(error: &(dyn std::error::Error + 'static)) -> Status {
    let text = format!("the snapshot could not be read: {}", causes(error));
    match out_of_reach(error) {
        Some(kind) => store_code(kind).tag(Status::unavailable(text), "holdfast status"),
        None => ErrorCode::Damaged.status(text),
    }
}

/// The kind of the store's error behind this one, if that says nothing of what
/// is stored.
fn out_of_reach(error: &(dyn std::error::Error + 'static)) -> Option<StoreErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_repository = match error.downcast_ref::<RepositoryError>() {
            Some(RepositoryError::Store(error)) => Some(error),
            _ => None,
        };
        if let Some(error) = error.downcast_ref::<StoreError>().or(of_repository) {
            // These two are about what is stored, and then it is damage.
            let kind = error.kind();
            return (!matches!(kind, StoreErrorKind::Corrupt | StoreErrorKind::NotFound)).then_some(kind);
        }
        next = error.source();
    }
    None
}

fn no_such_path(path: &[u8]) -> Status {
    ErrorCode::PathUnknown.status(format!("`{}` is not in the snapshot", String::from_utf8_lossy(path)))
}

/// Lists a directory, or everything from it down.
fn browse(
    root: FrameId,
    fetcher: &FrameFetcher,
    path: &[u8],
    recursive: bool,
    sender: &Sender<v1::Entry>,
) -> Result<(), Status> {
    let manifest = ManifestReader::open(fetcher, root);
    if manifest.lookup(path).map_err(|error| unreadable(&error))?.is_none() {
        return Err(no_such_path(path));
    }
    let entries = if recursive { manifest.subtree(path) } else { manifest.children(path) };
    for entry in entries {
        // After an error the entries behind the bad page still follow, but a
        // list with a hole in it must not look whole: the error ends it.
        let entry = entry.map_err(|error| unreadable(&error))?;
        sender.send(Ok(wire_entry(entry))).map_err(gone)?;
    }
    Ok(())
}

/// Sends a file's content, holes as zeros.
fn read_file(
    root: FrameId,
    fetcher: &FrameFetcher,
    path: &[u8],
    sender: &Sender<ReadFileResponse>,
) -> Result<(), Status> {
    let data = file_at(&ManifestReader::open(fetcher, root), path)?;
    let mut extents = data.extents;
    // What lies between two extents is a hole and is sent as zeros, so they have to be in
    // order; a manifest promises none.
    extents.sort_by_key(|extent| extent.file_offset);
    let mut at = 0;
    for extent in extents {
        zeros(extent.file_offset.saturating_sub(at), sender)?;
        let frame = fetcher.get(extent.frame).map_err(|error| unreadable(&error))?;
        let (from, len) = (extent.frame_offset as usize, extent.len as usize);
        // The manifest came from a host: its numbers are checked and not believed.
        let Some(end) = from.checked_add(len).filter(|end| *end <= frame.len()) else {
            return Err(ErrorCode::Damaged.status("the manifest refers past the end of a frame"));
        };
        let mut rest = frame.slice(from..end);
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            send(piece, sender)?;
        }
        at = extent.file_offset + u64::from(extent.len);
    }
    zeros(data.size.saturating_sub(at), sender)
}

fn file_at(manifest: &ManifestReader<'_>, path: &[u8]) -> Result<FileData, Status> {
    let mut path = path.to_vec();
    for _ in 0..LINKS {
        let entry = manifest.lookup(&path).map_err(|error| unreadable(&error))?;
        match entry.ok_or_else(|| no_such_path(&path))?.kind {
            EntryKind::File(data) => return Ok(data),
            EntryKind::Hardlink { target } => path = target,
            _ => break,
        }
    }
    Err(ErrorCode::InvalidRequest.status(format!("`{}` is no regular file", String::from_utf8_lossy(&path))))
}

fn zeros(mut count: u64, sender: &Sender<ReadFileResponse>) -> Result<(), Status> {
    let piece = Bytes::from_static(&[0; 64 << 10]);
    while count > 0 {
        let len = count.min(piece.len() as u64);
        send(piece.slice(..usize::try_from(len).unwrap_or(piece.len())), sender)?;
        count -= len;
    }
    Ok(())
}

fn send(piece: Bytes, sender: &Sender<ReadFileResponse>) -> Result<(), Status> {
    sender.send(Ok(ReadFileResponse { data: piece })).map_err(gone)
}

fn gone(_: ReaderGone) -> Status {
    Status::cancelled("the reader went away")
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl CatalogService for CatalogApi {
    type ListSnapshotsStream = Replies<Snapshot>;
    type BrowseSnapshotStream = Replies<v1::Entry>;
    type ReadFileStream = Replies<ReadFileResponse>;

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListSnapshotsStream>, Status> {
        let caller = Caller::of(&request);
        let ListSnapshotsRequest { host, source, job_id, with_forgotten, limit } = request.into_inner();
        let host = match host.as_str() {
            "" => None,
            name => Some(names::host(self.jobs.catalog(), name).await?.id),
        };
        let job: Option<JobId> = match job_id.as_str() {
            "" => None,
            id => Some(
                id.parse().map_err(|_| ErrorCode::JobUnknown.status(format!("job `{id}` is not known")))?,
            ),
        };
        let glob = match source.as_str() {
            "" => None,
            text => Some(pattern(text).map_err(|error| {
                ErrorCode::InvalidRequest.status(format!("`{text}` is no glob: {}", error.kind()))
            })?),
        };
        let states = if with_forgotten {
            vec![SnapshotState::Committed, SnapshotState::Forgotten]
        } else {
            vec![SnapshotState::Committed]
        };
        // Without a limit: it counts what is shown, and much is left out below.
        let filter = SnapshotFilter { host, source: None, job, states, limit: 0 };
        let records = self.jobs.repository().list(&filter).await.map_err(refused)?;
        let shown =
            shown_hosts(self.jobs.catalog(), &caller).await.map_err(|error| catalog_failed(&error))?;
        let most = if limit == 0 { usize::MAX } else { limit as usize };
        let chosen: Vec<SnapshotRecord> = records
            .into_iter()
            .filter(|record| shown.as_ref().is_none_or(|shown| shown.contains_key(&record.id.host)))
            .filter(|record| glob.as_ref().is_none_or(|glob| glob.is_match(&record.source_name)))
            .take(most)
            .collect();
        let api = self.clone();
        let snapshots = stream::iter(chosen).then(move |record| {
            let api = api.clone();
            async move { api.encode(record).await }
        });
        Ok(Response::new(Box::pin(snapshots)))
    }

    async fn get_snapshot(&self, request: Request<GetSnapshotRequest>) -> Result<Response<Snapshot>, Status> {
        let record = resolve(&self.jobs, &request.into_inner().snapshot).await?;
        Ok(Response::new(self.encode(record).await?))
    }

    async fn browse_snapshot(
        &self,
        request: Request<BrowseSnapshotRequest>,
    ) -> Result<Response<Self::BrowseSnapshotStream>, Status> {
        let place = self.readings.place(&Caller::of(&request).actor()).await?;
        let BrowseSnapshotRequest { snapshot, path, recursive } = request.into_inner();
        let (root, fetcher) = self.reader(&snapshot).await?;
        let read = move |sender: &Sender<v1::Entry>| browse(root, &fetcher, &path, recursive, sender);
        Ok(Response::new(self.readings.answer(place, 64, read)))
    }

    async fn read_file(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let place = self.readings.place(&Caller::of(&request).actor()).await?;
        let ReadFileRequest { snapshot, path } = request.into_inner();
        let (root, fetcher) = self.reader(&snapshot).await?;
        let read = move |sender: &Sender<ReadFileResponse>| read_file(root, &fetcher, &path, sender);
        Ok(Response::new(self.readings.answer(place, 8, read)))
    }

    async fn hold_snapshot(
        &self,
        request: Request<HoldSnapshotRequest>,
    ) -> Result<Response<Snapshot>, Status> {
        let HoldSnapshotRequest { snapshot, hold } = request.into_inner();
        let record = resolve(&self.jobs, &snapshot).await?;
        let record = self.jobs.repository().hold(&record.id, hold).await.map_err(refused)?;
        Ok(Response::new(self.encode(record).await?))
    }

    async fn forget_snapshot(
        &self,
        request: Request<ForgetSnapshotRequest>,
    ) -> Result<Response<Snapshot>, Status> {
        let record = resolve(&self.jobs, &request.into_inner().snapshot).await?;
        let record = self.jobs.repository().forget(&record.id).await.map_err(refused)?;
        Ok(Response::new(self.encode(record).await?))
    }

    async fn undelete_snapshot(
        &self,
        request: Request<UndeleteSnapshotRequest>,
    ) -> Result<Response<Snapshot>, Status> {
        let reference = request.into_inner().snapshot;
        let repository = self.jobs.repository();
        let record = repository.resolve(&reference).await.map_err(refused)?;
        let record = repository.undelete(&record.id).await.map_err(refused)?;
        Ok(Response::new(self.encode(record).await?))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_archive::fetch::FetchError;
    use holdfast_archive::ids::{AllocationId, PackId};
    use holdfast_archive::pack_io::PackIoError;
    use tonic::Code;

    use super::*;

    #[test]
    fn a_snapshot_whose_store_is_out_of_reach_is_not_damaged() {
        let code = |kind| {
            let pack = PackId { sha256: [1; 32], allocation: AllocationId::generate() };
            let source = Arc::new(PackIoError::from(StoreError::new(kind, "packs/1")));
            unreadable(&FetchError::Read { frame: FrameId([2; 32]), pack, source }).code()
        };
        assert_eq!(code(StoreErrorKind::Unreachable), Code::Unavailable);
        assert_eq!(code(StoreErrorKind::NotFound), Code::DataLoss);
        assert_eq!(code(StoreErrorKind::Corrupt), Code::DataLoss);
    }
}
