//! `RepositoryService` for agents: parse, one call, encode.
//!
//! The host of every call is the certificate's; no message names one.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use holdfast_archive::ids::{FrameId, HostId, PackId};
use holdfast_archive::pack_io::{FrameKind, FrameLocation, PackEntry};
use holdfast_proto::v1::repository_service_server::{RepositoryService, RepositoryServiceServer};
use holdfast_proto::v1::{self, alloc_pack_response, commit_snapshot_response};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::status_map::repository_failed as status;
use crate::catalog::snapshots::SnapshotRecord;
use crate::clock::now_ms;
use crate::limits::READ_STALL;
use crate::listen::Peer;
use crate::model::caller::Caller;
use crate::model::job::source::SnapshotStats;
use crate::repository::read::{PackReading, Piece};
use crate::repository::upload::Way;
use crate::repository::{Committed, Repository};
use holdfast_proto::ErrorCode;

/// Bytes of a pack in one message of an answer.
const MESSAGE: usize = 256 << 10;

/// How long an upload may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// The service for agents.
#[derive(Debug, Clone)]
pub struct RepositoryApi {
    repository: Repository,
}

impl RepositoryApi {
    pub fn new(repository: Repository) -> Self {
        Self { repository }
    }

    /// To be added to the controller's routes.
    pub fn service(repository: Repository) -> RepositoryServiceServer<Self> {
        RepositoryServiceServer::new(Self::new(repository))
            .max_decoding_message_size(holdfast_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(holdfast_proto::MAX_MESSAGE_BYTES)
    }

    async fn committed(&self, record: &SnapshotRecord) -> Result<v1::CommittedSnapshot, Status> {
        let account = self.repository.account(record).await.map_err(status)?;
        Ok(v1::CommittedSnapshot {
            snapshot_id: record.id.to_string(),
            number: record.id.number,
            created_unix_ms: record.created_ms,
            partial: record.partial || account.partial,
            stats: Some(SnapshotStats::from(account.stats).into()),
            problems: account.problems,
        })
    }
}

#[tonic::async_trait]
impl RepositoryService for RepositoryApi {
    async fn open_upload(
        &self,
        request: Request<v1::OpenUploadRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::OpenUploadRequest { job_id, generation, source_id } = request.into_inner();
        let opened = self
            .repository
            .open_upload(host, parse("job", &job_id)?, generation, parse("source", &source_id)?)
            .await
            .map_err(status)?;
        let settings = self.repository.settings();
        Ok(Response::new(v1::OpenUploadResponse {
            lease_id: opened.lease.to_string(),
            repository_id: opened.repository.to_string(),
            base: opened.base.map(|(record, body)| v1::BaseSnapshot {
                snapshot_id: record.id.to_string(),
                root: record.root.as_bytes().to_vec(),
                started_unix_ns: body.started_unix_ns,
                entries: body.stats.entries,
                size_bytes: body.stats.size_bytes,
            }),
            damaged_frames: wire_ids(&opened.damaged.frames),
            more_damaged: opened.damaged.next.unwrap_or(0),
            parameters: Some(v1::UploadParameters {
                compression_level: settings.compression_level,
                pack_bytes: settings.pack_bytes,
                upload_concurrency: settings.upload_concurrency,
            }),
        }))
    }

    async fn open_restore(
        &self,
        request: Request<v1::OpenRestoreRequest>,
    ) -> Result<Response<v1::OpenRestoreResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::OpenRestoreRequest { job_id, generation, snapshot_id } = request.into_inner();
        let opened = self
            .repository
            .open_restore(host, parse("job", &job_id)?, generation, parse("snapshot", &snapshot_id)?)
            .await
            .map_err(status)?;
        Ok(Response::new(v1::OpenRestoreResponse {
            lease_id: opened.lease.to_string(),
            repository_id: opened.repository.to_string(),
            snapshot_object: opened.object.into(),
            same_host: opened.same_host,
        }))
    }

    async fn list_damaged(
        &self,
        request: Request<v1::ListDamagedRequest>,
    ) -> Result<Response<v1::ListDamagedResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::ListDamagedRequest { lease_id, from } = request.into_inner();
        let page =
            self.repository.list_damaged(host, parse("lease", &lease_id)?, from).await.map_err(status)?;
        let (frames, next) = (wire_ids(&page.frames), page.next.unwrap_or(0));
        Ok(Response::new(v1::ListDamagedResponse { frames, next }))
    }

    async fn have(&self, request: Request<v1::HaveRequest>) -> Result<Response<v1::HaveResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::HaveRequest { lease_id, frames } = request.into_inner();
        let frames = frame_ids(&frames)?;
        let have = self.repository.have(host, parse("lease", &lease_id)?, &frames).await.map_err(status)?;
        let mut bitmap = vec![0_u8; have.len().div_ceil(8)];
        for (at, _) in have.iter().enumerate().filter(|(_, have)| **have) {
            bitmap[at / 8] |= 1 << (at % 8);
        }
        Ok(Response::new(v1::HaveResponse { bitmap }))
    }

    async fn alloc_pack(
        &self,
        request: Request<v1::AllocPackRequest>,
    ) -> Result<Response<v1::AllocPackResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::AllocPackRequest { lease_id, length, sha256 } = request.into_inner();
        let sha256 = sha256.try_into().map_err(|_| invalid("a SHA-256 has 32 bytes"))?;
        let (pack, way) = self
            .repository
            .alloc_pack(host, parse("lease", &lease_id)?, length, sha256)
            .await
            .map_err(status)?;
        let way = match way {
            Way::Relay => alloc_pack_response::Way::Relay(v1::Relay {}),
            Way::Direct { request, expires } => {
                let expires_ms = i64::try_from(expires.as_millis()).unwrap_or(i64::MAX);
                alloc_pack_response::Way::Presigned(v1::PresignedPut {
                    url: request.url,
                    headers: request.headers.into_iter().collect(),
                    expires_unix_ms: now_ms().saturating_add(expires_ms),
                })
            }
        };
        Ok(Response::new(v1::AllocPackResponse { pack_id: pack.to_string(), way: Some(way) }))
    }

    async fn upload_pack(
        &self,
        request: Request<Streaming<v1::UploadPackRequest>>,
    ) -> Result<Response<v1::UploadPackResponse>, Status> {
        let host = Caller::host(&request)?;
        let mut messages = request.into_inner();
        let first = next(&mut messages).await?.ok_or_else(|| invalid("an upload without a message"))?;
        let v1::UploadPackRequest { lease_id, pack_id, data } = first;
        let mut incoming = self
            .repository
            .begin_upload(host, parse("lease", &lease_id)?, parse("pack", &pack_id)?)
            .await
            .map_err(status)?;
        incoming.push(&data).map_err(status)?;
        // Copied: for as long as the upload takes it would be in memory twice.
        drop(data);
        // A byte now and then is no standstill: the whole has a deadline, too.
        let deadline = incoming.deadline();
        let receiving = async {
            while let Some(message) = next(&mut messages).await? {
                incoming.push(&message.data).map_err(status)?;
            }
            Ok(())
        };
        tokio::time::timeout_at(deadline, receiving).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded("the pack did not come in the time its length may take"))
        })?;
        self.repository.finish_upload(incoming).await.map_err(status)?;
        Ok(Response::new(v1::UploadPackResponse {}))
    }

    async fn commit_pack(
        &self,
        request: Request<v1::CommitPackRequest>,
    ) -> Result<Response<v1::CommitPackResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::CommitPackRequest { lease_id, pack_id, frames } = request.into_inner();
        let table = frames.into_iter().map(pack_entry).collect::<Result<Vec<_>, _>>()?;
        let pack: PackId = parse("pack", &pack_id)?;
        self.repository.commit_pack(host, parse("lease", &lease_id)?, pack, &table).await.map_err(status)?;
        Ok(Response::new(v1::CommitPackResponse {}))
    }

    async fn commit_snapshot(
        &self,
        request: Request<v1::CommitSnapshotRequest>,
    ) -> Result<Response<v1::CommitSnapshotResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::CommitSnapshotRequest { lease_id, body } = request.into_inner();
        let committed =
            self.repository.commit_snapshot(host, parse("lease", &lease_id)?, &body).await.map_err(status)?;
        let outcome = match committed {
            // What the first one said, also to a repetition: the agent counts by it.
            Committed::Snapshot(record) => {
                commit_snapshot_response::Outcome::Committed(self.committed(&record).await?)
            }
            Committed::Missing(frames) => {
                commit_snapshot_response::Outcome::Missing(v1::MissingFrames { frames: wire_ids(&frames) })
            }
        };
        Ok(Response::new(v1::CommitSnapshotResponse { outcome: Some(outcome) }))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::LocateRequest { lease_id, frames } = request.into_inner();
        let frames = frame_ids(&frames)?;
        let locations =
            self.repository.locate(host, parse("lease", &lease_id)?, &frames).await.map_err(status)?;
        let locations = locations.into_iter().map(wire_location).collect();
        Ok(Response::new(v1::LocateResponse { locations }))
    }

    type ReadPackStream = Pin<Box<dyn Stream<Item = Result<v1::ReadPackResponse, Status>> + Send>>;

    async fn read_pack(
        &self,
        request: Request<v1::ReadPackRequest>,
    ) -> Result<Response<Self::ReadPackStream>, Status> {
        let host = Caller::host(&request)?;
        let closing = request.extensions().get::<Peer>().map(|peer| peer.ticket.closing().clone());
        let v1::ReadPackRequest { lease_id, pack_id, offset, length } = request.into_inner();
        let end = offset.checked_add(length).ok_or_else(|| invalid("a range beyond all numbers"))?;
        let mut reading = self
            .repository
            .read_pack(host, parse("lease", &lease_id)?, parse("pack", &pack_id)?, offset..end)
            .await
            .map_err(status)?;
        // Before the answer begins: what cannot be read at all is an error of the call.
        let first = reading.next().await.map_err(status)?;
        // One piece is on its way and one waits: more would be memory that a slow reader holds.
        let (sender, receiver) = mpsc::channel(1);
        let turn = reading.turn();
        tokio::spawn(async move {
            if send(reading, first, sender).await.is_err() {
                // Nothing else ends a stream whose reader takes nothing.
                tracing::warn!(host.id = %host, "a host does not take what it asked for: its connection is closed");
                closing.unwrap_or_default().cancel();
            }
        });
        let answer = ReceiverStream::new(receiver).map(move |message| {
            let _open = &turn;
            message
        });
        Ok(Response::new(Box::pin(answer)))
    }

    async fn report_lost(
        &self,
        request: Request<v1::ReportLostRequest>,
    ) -> Result<Response<v1::ReportLostResponse>, Status> {
        let host = Caller::host(&request)?;
        let v1::ReportLostRequest { lease_id, frames } = request.into_inner();
        let frames = frame_ids(&frames)?;
        let lost =
            self.repository.report_lost(host, parse("lease", &lease_id)?, &frames).await.map_err(status)?;
        Ok(Response::new(v1::ReportLostResponse { confirmed: u32::try_from(lost).unwrap_or(u32::MAX) }))
    }

    async fn close_lease(
        &self,
        request: Request<v1::CloseLeaseRequest>,
    ) -> Result<Response<v1::CloseLeaseResponse>, Status> {
        let host: HostId = Caller::host(&request)?;
        let v1::CloseLeaseRequest { lease_id } = request.into_inner();
        self.repository.close_lease(host, parse("lease", &lease_id)?).await.map_err(status)?;
        Ok(Response::new(v1::CloseLeaseResponse {}))
    }
}

/// The reader took nothing for [`READ_STALL`].
struct Stalled;

/// Sends the pieces of a pack, as the reader takes them.
async fn send(
    mut reading: PackReading,
    first: Option<Piece>,
    to: mpsc::Sender<Result<v1::ReadPackResponse, Status>>,
) -> Result<(), Stalled> {
    let mut next = Ok(first);
    loop {
        let piece = match next {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(()),
            Err(error) => return deliver(&to, Err(status(error))).await,
        };
        let mut left = piece.bytes.clone();
        while !left.is_empty() {
            let data = left.split_to(left.len().min(MESSAGE));
            deliver(&to, Ok(v1::ReadPackResponse { data })).await?;
        }
        if to.is_closed() {
            return Ok(());
        }
        drop(piece);
        next = reading.next().await;
    }
}

async fn deliver(
    to: &mpsc::Sender<Result<v1::ReadPackResponse, Status>>,
    message: Result<v1::ReadPackResponse, Status>,
) -> Result<(), Stalled> {
    // An answer that was given up by its reader is no stall: the next look ends it.
    to.send_timeout(message, READ_STALL).await.or_else(|error| match error {
        SendTimeoutError::Timeout(_) => Err(Stalled),
        SendTimeoutError::Closed(_) => Ok(()),
    })
}

async fn next(
    messages: &mut Streaming<v1::UploadPackRequest>,
) -> Result<Option<v1::UploadPackRequest>, Status> {
    tokio::time::timeout(STALL_LIMIT, messages.message()).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("no byte came for {} s", STALL_LIMIT.as_secs())))
    })
}

fn invalid(message: impl Into<String>) -> Status {
    ErrorCode::InvalidRequest.status(message)
}

fn parse<T>(what: &str, text: &str) -> Result<T, Status>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| invalid(format!("{what}: {error}")))
}

fn frame_ids(frames: &[Vec<u8>]) -> Result<Vec<FrameId>, Status> {
    let id = |bytes: &Vec<u8>| FrameId::from_slice(bytes).ok_or_else(|| invalid("a frame id has 32 bytes"));
    frames.iter().map(id).collect()
}

fn wire_ids(frames: &[FrameId]) -> Vec<Vec<u8>> {
    frames.iter().map(|frame| frame.as_bytes().to_vec()).collect()
}

fn wire_kind(kind: FrameKind) -> v1::FrameKind {
    match kind {
        FrameKind::Data => v1::FrameKind::Data,
        FrameKind::Page => v1::FrameKind::Page,
    }
}

fn pack_entry(frame: v1::PackFrame) -> Result<PackEntry, Status> {
    let kind = match frame.kind() {
        v1::FrameKind::Data => FrameKind::Data,
        v1::FrameKind::Page => FrameKind::Page,
        v1::FrameKind::Unspecified => return Err(invalid("a frame without a kind")),
    };
    let v1::PackFrame { id, kind: _, key_epoch, offset, stored_bytes, raw_bytes } = frame;
    let id = FrameId::from_slice(&id).ok_or_else(|| invalid("a frame id has 32 bytes"))?;
    Ok(PackEntry { id, kind, key_epoch, offset, stored_len: stored_bytes, raw_len: raw_bytes })
}

fn wire_location(location: Option<FrameLocation>) -> v1::FrameLocation {
    let Some(FrameLocation { pack, entry }) = location else { return v1::FrameLocation::default() };
    let PackEntry { id: _, kind, key_epoch, offset, stored_len, raw_len } = entry;
    v1::FrameLocation {
        pack_id: pack.to_string(),
        kind: wire_kind(kind).into(),
        key_epoch,
        offset,
        stored_bytes: stored_len,
        raw_bytes: raw_len,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn x01_no_call_is_answered_without_a_certificate() {
        let request = Request::new(v1::HaveRequest::default());
        assert_eq!(Caller::host(&request).expect_err("refused").code(), Code::PermissionDenied);
    }
}
