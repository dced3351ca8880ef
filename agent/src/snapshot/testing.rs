//! A controller's repository in memory, for tests of sessions and jobs.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use holdfast_archive::ids::{AllocationId, FrameId, HostId, PackId, RepositoryId, SnapshotId, SourceId};
use holdfast_archive::snapshot::{Names, SnapshotBody, SnapshotHeader, decode_body, encode_object};
use holdfast_proto::ids::LeaseId;
use holdfast_proto::v1;
use holdfast_proto::v1::repository_service_server::{RepositoryService, RepositoryServiceServer};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::session::{DataPlane, Line};

/// Holds what agents sent, and does as it is told to misbehave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repository {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    packs: HashMap<String, Vec<u8>>,
    frames: HashMap<FrameId, v1::FrameLocation>,
    snapshots: HashMap<SourceId, Vec<(SnapshotId, Vec<u8>)>>,
    leases: HashMap<String, SourceId>,
    host: Option<HostId>,
    /// Calls to fail with this status before they are answered, by name.
    pub(crate) failures: HashMap<&'static str, Vec<Status>>,
    /// Commits to answer with "missing" after losing every data frame.
    pub(crate) lose_frames: usize,
    pub(crate) calls: HashMap<&'static str, usize>,
    /// Where packs are to be PUT instead of being relayed.
    pub(crate) presigned: Option<String>,
    /// Frames that agents said are gone or damaged.
    pub(crate) reported_lost: Vec<Vec<u8>>,
    /// Frames that are damaged, told so many at a time.
    pub(crate) damaged: Vec<FrameId>,
    pub(crate) damaged_page: usize,
    /// Commits answer with this: what an attempt before committed.
    pub(crate) committed_before: Option<v1::CommittedSnapshot>,
    /// Calls of this name wait while it stands here.
    pub(crate) stuck: Option<&'static str>,
}

impl Repository {
    /// A data plane that leads to this repository.
    pub(crate) async fn plane(&self) -> (DataPlane, watch::Sender<Option<Line>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = RepositoryServiceServer::new(self.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let (sender, receiver) = watch::channel(Some(Line { channel, store: None }));
        (DataPlane::new(receiver, Duration::from_secs(60)), sender)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn calls(&self, name: &str) -> usize {
        self.lock().calls.get(name).copied().unwrap_or_default()
    }

    /// Snapshots of one source, oldest first.
    pub(crate) fn snapshots(&self, source: SourceId) -> Vec<(SnapshotId, SnapshotBody)> {
        let state = self.lock();
        let snapshots = state.snapshots.get(&source).into_iter().flatten();
        snapshots.map(|(id, body)| (*id, decode_body(body).unwrap())).collect()
    }

    pub(crate) fn frames(&self) -> HashSet<FrameId> {
        self.lock().frames.keys().copied().collect()
    }

    pub(crate) fn packs(&self) -> usize {
        self.lock().packs.len()
    }

    fn enter(&self, name: &'static str) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.lock();
        *state.calls.entry(name).or_default() += 1;
        match state.failures.get_mut(name).and_then(Vec::pop) {
            Some(status) => Err(status),
            None => Ok(state),
        }
    }
}

impl State {
    pub(crate) fn data_frames(&self) -> Vec<FrameId> {
        let is_data = |at: &v1::FrameLocation| at.kind() == v1::FrameKind::Data;
        self.frames.iter().filter(|(_, at)| is_data(at)).map(|(id, _)| *id).collect()
    }

    fn damaged_from(&self, from: u64) -> (Vec<Vec<u8>>, u64) {
        let from = usize::try_from(from).unwrap();
        let to = (from + self.damaged_page).min(self.damaged.len());
        let frames = self.damaged[from..to].iter().map(|id| id.as_bytes().to_vec()).collect();
        (frames, if to < self.damaged.len() { to as u64 } else { 0 })
    }
}

fn frame_id(bytes: &[u8]) -> FrameId {
    FrameId::from_slice(bytes).unwrap()
}

#[tonic::async_trait]
impl RepositoryService for Repository {
    type ReadPackStream = Pin<Box<dyn Stream<Item = Result<v1::ReadPackResponse, Status>> + Send>>;

    async fn open_upload(
        &self,
        request: Request<v1::OpenUploadRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        let mut state = self.enter("open_upload")?;
        let source: SourceId = request.into_inner().source_id.parse().unwrap();
        let lease_id = LeaseId::generate().to_string();
        state.leases.insert(lease_id.clone(), source);
        let base = state.snapshots.get(&source).and_then(|all| all.last()).map(|(id, body)| {
            let body = decode_body(body).unwrap();
            v1::BaseSnapshot {
                snapshot_id: id.to_string(),
                root: body.root.as_bytes().to_vec(),
                started_unix_ns: body.started_unix_ns,
                entries: body.stats.entries,
                size_bytes: body.stats.size_bytes,
            }
        });
        let (damaged_frames, more_damaged) = state.damaged_from(0);
        Ok(Response::new(v1::OpenUploadResponse {
            lease_id,
            base,
            damaged_frames,
            more_damaged,
            ..Default::default()
        }))
    }

    async fn list_damaged(
        &self,
        request: Request<v1::ListDamagedRequest>,
    ) -> Result<Response<v1::ListDamagedResponse>, Status> {
        let state = self.enter("list_damaged")?;
        let (frames, next) = state.damaged_from(request.into_inner().from);
        Ok(Response::new(v1::ListDamagedResponse { frames, next }))
    }

    async fn open_restore(
        &self,
        request: Request<v1::OpenRestoreRequest>,
    ) -> Result<Response<v1::OpenRestoreResponse>, Status> {
        let state = self.enter("open_restore")?;
        let id: SnapshotId = request.into_inner().snapshot_id.parse().unwrap();
        let found = state.snapshots.get(&id.source).into_iter().flatten().find(|(found, _)| *found == id);
        let (_, body) = found.ok_or_else(|| Status::not_found("no such snapshot"))?;
        let header = SnapshotHeader {
            repository: RepositoryId::generate(),
            id,
            created_unix_ms: 1,
            commit_number: id.number,
            names: Names::default(),
        };
        Ok(Response::new(v1::OpenRestoreResponse {
            lease_id: LeaseId::generate().to_string(),
            snapshot_object: encode_object(&header, body).into(),
            same_host: true,
            ..Default::default()
        }))
    }

    async fn have(&self, request: Request<v1::HaveRequest>) -> Result<Response<v1::HaveResponse>, Status> {
        let state = self.enter("have")?;
        let frames = request.into_inner().frames;
        let mut bitmap = vec![0; frames.len().div_ceil(8)];
        for (i, id) in frames.iter().enumerate() {
            let id = frame_id(id);
            if state.frames.contains_key(&id) && !state.damaged.contains(&id) {
                bitmap[i / 8] |= 1 << (i % 8);
            }
        }
        Ok(Response::new(v1::HaveResponse { bitmap }))
    }

    async fn alloc_pack(
        &self,
        request: Request<v1::AllocPackRequest>,
    ) -> Result<Response<v1::AllocPackResponse>, Status> {
        let state = self.enter("alloc_pack")?;
        let sha256 = request.into_inner().sha256.try_into().unwrap();
        let pack_id = PackId { sha256, allocation: AllocationId::generate() }.to_string();
        let way = match &state.presigned {
            None => v1::alloc_pack_response::Way::Relay(v1::Relay {}),
            Some(base) => v1::alloc_pack_response::Way::Presigned(v1::PresignedPut {
                url: format!("{base}/packs/{}/{pack_id}?X-Amz-Signature=hush", &pack_id[..2]),
                headers: HashMap::from([("x-amz-checksum-sha256".to_owned(), "signed".to_owned())]),
                expires_unix_ms: 0,
            }),
        };
        Ok(Response::new(v1::AllocPackResponse { pack_id, way: Some(way) }))
    }

    async fn upload_pack(
        &self,
        request: Request<Streaming<v1::UploadPackRequest>>,
    ) -> Result<Response<v1::UploadPackResponse>, Status> {
        drop(self.enter("upload_pack")?);
        self.wait_while_stuck("upload_pack").await;
        let mut stream = request.into_inner();
        let (mut pack_id, mut bytes) = (String::new(), Vec::new());
        while let Some(message) = stream.message().await? {
            assert!(message.data.len() <= 1 << 20);
            if pack_id.is_empty() {
                pack_id = message.pack_id;
            }
            bytes.extend(message.data);
        }
        self.store_pack(&pack_id, bytes);
        Ok(Response::new(v1::UploadPackResponse {}))
    }

    async fn commit_pack(
        &self,
        request: Request<v1::CommitPackRequest>,
    ) -> Result<Response<v1::CommitPackResponse>, Status> {
        let mut state = self.enter("commit_pack")?;
        let v1::CommitPackRequest { lease_id: _, pack_id, frames } = request.into_inner();
        if !state.packs.contains_key(&pack_id) {
            return Err(Status::failed_precondition("the pack was not uploaded"));
        }
        for frame in frames {
            let location = v1::FrameLocation {
                pack_id: pack_id.clone(),
                kind: frame.kind,
                key_epoch: frame.key_epoch,
                offset: frame.offset,
                stored_bytes: frame.stored_bytes,
                raw_bytes: frame.raw_bytes,
            };
            let id = frame_id(&frame.id);
            state.damaged.retain(|damaged| *damaged != id);
            state.frames.insert(id, location);
        }
        Ok(Response::new(v1::CommitPackResponse {}))
    }

    async fn commit_snapshot(
        &self,
        request: Request<v1::CommitSnapshotRequest>,
    ) -> Result<Response<v1::CommitSnapshotResponse>, Status> {
        let mut state = self.enter("commit_snapshot")?;
        let v1::CommitSnapshotRequest { lease_id, body } = request.into_inner();
        if state.lose_frames > 0 {
            state.lose_frames -= 1;
            let is_data = |location: &v1::FrameLocation| location.kind() == v1::FrameKind::Data;
            let lost: Vec<FrameId> =
                state.frames.iter().filter(|(_, at)| is_data(at)).map(|(id, _)| *id).collect();
            state.frames.retain(|_, at| !is_data(at));
            let frames = lost.iter().map(|id| id.as_bytes().to_vec()).collect();
            let outcome = v1::commit_snapshot_response::Outcome::Missing(v1::MissingFrames { frames });
            return Ok(Response::new(v1::CommitSnapshotResponse { outcome: Some(outcome) }));
        }
        if let Some(committed) = state.committed_before.clone() {
            let outcome = v1::commit_snapshot_response::Outcome::Committed(committed);
            return Ok(Response::new(v1::CommitSnapshotResponse { outcome: Some(outcome) }));
        }
        let source = state.leases[&lease_id];
        let host = *state.host.get_or_insert_with(HostId::generate);
        let snapshots = state.snapshots.entry(source).or_default();
        let number = snapshots.len() as u64 + 1;
        let id = SnapshotId { host, source, number };
        let account = decode_body(&body).unwrap();
        snapshots.push((id, body.to_vec()));
        let committed = v1::CommittedSnapshot {
            snapshot_id: id.to_string(),
            number,
            created_unix_ms: 1,
            partial: account.partial,
            stats: Some(crate::services::snapshot_stats(crate::snapshot::Counts {
                stats: account.stats,
                retries: 0,
            })),
            problems: account.problems,
        };
        let outcome = v1::commit_snapshot_response::Outcome::Committed(committed);
        Ok(Response::new(v1::CommitSnapshotResponse { outcome: Some(outcome) }))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        drop(self.enter("locate")?);
        self.wait_while_stuck("locate").await;
        let state = self.lock();
        let frames = request.into_inner().frames;
        let at = |id: &Vec<u8>| state.frames.get(&frame_id(id)).cloned().unwrap_or_default();
        Ok(Response::new(v1::LocateResponse { locations: frames.iter().map(at).collect() }))
    }

    async fn read_pack(
        &self,
        request: Request<v1::ReadPackRequest>,
    ) -> Result<Response<Self::ReadPackStream>, Status> {
        let state = self.enter("read_pack")?;
        let v1::ReadPackRequest { lease_id: _, pack_id, offset, length } = request.into_inner();
        let from = usize::try_from(offset).unwrap();
        let bytes = &state.packs[&pack_id][from..from + usize::try_from(length).unwrap()];
        let messages: Vec<_> = bytes
            .chunks(1 << 20)
            .map(|data| Ok(v1::ReadPackResponse { data: Bytes::copy_from_slice(data) }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }

    async fn report_lost(
        &self,
        request: Request<v1::ReportLostRequest>,
    ) -> Result<Response<v1::ReportLostResponse>, Status> {
        let mut state = self.enter("report_lost")?;
        let frames = request.into_inner().frames;
        let confirmed = frames.len() as u32;
        state.reported_lost.extend(frames);
        Ok(Response::new(v1::ReportLostResponse { confirmed }))
    }

    async fn close_lease(
        &self,
        request: Request<v1::CloseLeaseRequest>,
    ) -> Result<Response<v1::CloseLeaseResponse>, Status> {
        let mut state = self.enter("close_lease")?;
        state.leases.remove(&request.into_inner().lease_id);
        Ok(Response::new(v1::CloseLeaseResponse {}))
    }
}

impl Repository {
    /// As a store that checks what it takes.
    pub(crate) fn store_pack(&self, pack_id: &str, bytes: Vec<u8>) {
        let id: PackId = pack_id.parse().unwrap();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&bytes)), id.sha256);
        self.lock().packs.insert(pack_id.to_owned(), bytes);
    }

    async fn wait_while_stuck(&self, call: &str) {
        while self.lock().stuck == Some(call) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn open_leases(&self) -> usize {
        self.lock().leases.len()
    }
}

/// A store that takes PUTs with the signed header into its bucket, whose URL it
/// gives; its first answer is "slow down".
pub(crate) async fn store(repository: Repository) -> String {
    use http_body_util::{BodyExt, Empty};
    use hyper::service::service_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (repository, seen) = (repository.clone(), seen.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (repository, seen) = (repository.clone(), seen.clone());
                async move {
                    let signed = request.headers().get("x-amz-checksum-sha256");
                    let signed = signed.is_some_and(|value| value == "signed");
                    let pack = request.uri().path().rsplit('/').next().unwrap().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let status = match (signed, seen.fetch_add(1, Ordering::SeqCst)) {
                        (false, _) => 403,
                        (true, 0) => 503,
                        (true, _) => {
                            repository.store_pack(&pack, body.to_vec());
                            200
                        }
                    };
                    http::Response::builder().status(status).body(Empty::<bytes::Bytes>::new())
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    format!("http://{address}/bucket")
}
