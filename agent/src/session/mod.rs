//! The agent's side of the data plane: a session with the controller's
//! `RepositoryService`, as the sink and source that capture and restore use.
//!
//! Every call is idempotent, so a call whose answer was lost is simply made
//! again: with jittered, growing pauses, on whatever connection there is by
//! then, until the timeout has passed without an answer. A pack that is
//! allocated twice that way leaves an intent nobody uses, never a pack that
//! lies. What the controller *refuses* is not repeated.
//!
//! Called by jobs of `snapshot`. It touches nothing on the host: bytes come from
//! captures and go to restores.
//!
//! Capture and restore run on plain threads; the methods of [`pack_io`](holdfast_archive::pack_io) block those
//! on the runtime and must never be called from one of its own threads.

mod call;
mod lost;
mod plane;
mod presigned;
mod wire;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use holdfast_archive::ids::{FrameId, PackId};
use holdfast_archive::pack_io::{FrameLocation, PackIoError, PackSink, PackSource, SealedPack};
use holdfast_proto::ErrorCode;
use holdfast_proto::v1::{self, alloc_pack_response::Way};
use tokio::runtime::Handle;

use crate::failpoint::failpoint;
use crate::store_pin::NotPinned;

use self::call::Caller;
pub(crate) use self::call::{Line, code_of};
use self::lost::Lost;
pub(crate) use self::plane::{BaseSnapshot, Damaged, DataPlane, JobRun, UploadParameters};
use self::presigned::PutError;
pub(crate) use self::wire::{Commit, Committed, Stored};
use self::wire::{nonsense, parse_commit, parse_location, wire_frame, wire_ids};

/// Bytes of a pack in one message.
const MESSAGE_BYTES: usize = 1 << 20;

/// How long a transfer may go without moving a byte.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// How long giving a lease back may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// How long the controller may look at what it was told is damaged.
const REPORT_LIMIT: Duration = Duration::from_secs(60);

/// How often a pack whose upload the store did not take is tried anew.
const PACK_ATTEMPTS: u32 = 4;

/// One open lease. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Session {
    caller: Caller,
    lease: Arc<str>,
    runtime: Handle,
    retries: Arc<AtomicU64>,
    lost: Arc<Lost>,
    /// It was told that packs do not go where the controller says.
    refusal_told: Arc<AtomicBool>,
}

impl Session {
    fn new(caller: Caller, lease: String, retries: Arc<AtomicU64>) -> Self {
        Self {
            caller,
            lease: lease.into(),
            runtime: Handle::current(),
            retries,
            lost: Arc::default(),
            refusal_told: Arc::default(),
        }
    }

    /// Calls made again so far.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Offers the finished snapshot.
    ///
    /// # Errors
    /// When the controller refuses it or cannot be reached. Not knowing the
    /// answer is an error too; offering the same body again is harmless.
    pub async fn commit(&self, body: Bytes) -> Result<Commit, PackIoError> {
        failpoint("agent.commit.before");
        let answer = self
            .caller
            .call("commit a snapshot", |mut client| {
                let request =
                    v1::CommitSnapshotRequest { lease_id: self.lease.to_string(), body: body.clone() };
                async move { client.commit_snapshot(request).await }
            })
            .await?;
        failpoint("agent.commit.after");
        parse_commit(answer)
    }

    /// Gives the lease back. One that is not given back ends by itself, so a
    /// failure is only logged, and one attempt is enough.
    pub async fn close(&self) {
        self.report_lost().await;
        let lease_id = self.lease.to_string();
        let closing = self.caller.attempt("close a lease", |mut client| async move {
            client.close_lease(v1::CloseLeaseRequest { lease_id }).await
        });
        match tokio::time::timeout(CLOSE_LIMIT, closing).await {
            Ok(Ok(v1::CloseLeaseResponse {})) => {}
            Ok(Err(problem)) => {
                tracing::debug!(lease.id = %self.lease, %problem, "lease is left to end by itself")
            }
            Err(_) => tracing::debug!(lease.id = %self.lease, "lease is left to end by itself"),
        }
    }

    /// Tells what was found gone or damaged since it was told last. Only an
    /// aid to the next backup, so one attempt is enough.
    async fn report_lost(&self) {
        for frames in self.lost.take() {
            let request =
                v1::ReportLostRequest { lease_id: self.lease.to_string(), frames: wire_ids(&frames) };
            let telling = self.caller.attempt("report what is damaged", |mut client| async move {
                client.report_lost(request).await
            });
            match tokio::time::timeout(REPORT_LIMIT, telling).await {
                Ok(Ok(v1::ReportLostResponse { confirmed })) => {
                    tracing::warn!(lease.id = %self.lease, frames = frames.len(), confirmed, "damage reported");
                }
                Ok(Err(problem)) => {
                    tracing::warn!(lease.id = %self.lease, %problem, "damage could not be reported");
                }
                Err(_) => tracing::warn!(lease.id = %self.lease, "damage could not be reported in time"),
            }
        }
    }

    async fn have_async(&self, frames: &[FrameId]) -> Result<Vec<bool>, PackIoError> {
        // First: the answer is another one for what is lost.
        self.report_lost().await;
        let frame_bytes = wire_ids(frames);
        let answer = self
            .caller
            .call("ask which frames are there", |mut client| {
                let request =
                    v1::HaveRequest { lease_id: self.lease.to_string(), frames: frame_bytes.clone() };
                async move { client.have(request).await }
            })
            .await?;
        if answer.bitmap.len() != frames.len().div_ceil(8) {
            return Err(nonsense("a bitmap of another length than asked for"));
        }
        Ok((0..frames.len()).map(|i| answer.bitmap[i / 8] & (1 << (i % 8)) != 0).collect())
    }

    /// Allocates, stores and commits one pack. A store that does not take the
    /// bytes gets a fresh allocation: an address may have expired.
    async fn put(&self, pack: &SealedPack) -> Result<(), PackIoError> {
        let mut attempt = 1;
        loop {
            match self.put_once(pack).await {
                Err(error) if attempt < PACK_ATTEMPTS && code_of(&error) == ErrorCode::UploadFailed => {
                    tracing::debug!(lease.id = %self.lease, %error, attempt, "pack is sent again");
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    self.caller.pause(attempt).await?;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn put_once(&self, pack: &SealedPack) -> Result<(), PackIoError> {
        let allocated = self
            .caller
            .call("allocate a pack", |mut client| {
                let request = v1::AllocPackRequest {
                    lease_id: self.lease.to_string(),
                    length: pack.bytes.len() as u64,
                    sha256: pack.sha256.to_vec(),
                };
                async move { client.alloc_pack(request).await }
            })
            .await?;
        failpoint("agent.pack.before-put");
        match allocated.way {
            Some(Way::Presigned(presigned)) => {
                self.put_presigned(&allocated.pack_id, presigned, pack).await?
            }
            Some(Way::Relay(v1::Relay {})) => self.relay(&allocated.pack_id, pack).await?,
            None => return Err(nonsense("a way to store packs this agent does not know")),
        }
        // The bytes are stored; that they count is for the commit. Dying here leaves an
        // object without frames that count, which the controller's collection removes.
        failpoint("agent.pack.after-put");
        let frames: Vec<v1::PackFrame> = pack.table.iter().map(wire_frame).collect();
        self.caller
            .call("commit a pack", |mut client| {
                let request = v1::CommitPackRequest {
                    lease_id: self.lease.to_string(),
                    pack_id: allocated.pack_id.clone(),
                    frames: frames.clone(),
                };
                async move { client.commit_pack(request).await }
            })
            .await?;
        Ok(())
    }

    /// Straight to the store, or through the controller where this host cannot
    /// reach it, or is told to send the pack anywhere but to the store it keeps.
    async fn put_presigned(
        &self,
        pack_id: &str,
        presigned: v1::PresignedPut,
        pack: &SealedPack,
    ) -> Result<(), PackIoError> {
        let id: PackId = pack_id.parse().map_err(|_| nonsense("a pack id that is none"))?;
        let put = match self.caller.store() {
            None => Err(NotPinned::None.into()),
            Some(pin) => {
                let put = presigned::put(&pin, presigned, &id, pack.bytes.clone());
                self.caller.unless_cancelled(put).await?
            }
        };
        match put {
            Ok(()) => Ok(()),
            // Nothing was sent, so nothing has to be allocated again.
            Err(PutError::Unreachable(cause)) => {
                tracing::debug!(%cause, "store cannot be reached from this host; pack goes through the controller");
                self.relay(pack_id, pack).await
            }
            Err(PutError::NotPinned(refusal)) => {
                self.tell_refusal(&refusal);
                self.relay(pack_id, pack).await
            }
            Err(error) => Err(PackIoError::new(ErrorCode::UploadFailed.as_str(), error.to_string())),
        }
    }

    /// Once in a session: it is the same for each pack.
    fn tell_refusal(&self, refusal: &NotPinned) {
        if !self.refusal_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %refusal,
                "packs go through the controller; where the store was moved on purpose, join again: \
                 holdfast host token NAME there, holdfast-agent join TOKEN-FILE here"
            );
        }
    }

    async fn relay(&self, pack_id: &str, pack: &SealedPack) -> Result<(), PackIoError> {
        let moved = Arc::new(AtomicU64::new(0));
        let sending = self.caller.call("upload a pack", |mut client| {
            let messages = upload_messages(&self.lease, pack_id, &pack.bytes, moved.clone());
            let moved = moved.clone();
            async move {
                tokio::select! {
                    answer = client.upload_pack(tokio_stream::iter(messages)) => answer,
                    () = stalled(&moved) => Err(tonic::Status::deadline_exceeded(
                        format!("no byte moved for {} s", STALL_LIMIT.as_secs()),
                    )),
                }
            }
        });
        sending.await.map(|v1::UploadPackResponse {}| ())
    }

    async fn locate_async(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        let frame_bytes = wire_ids(frames);
        let answer = self
            .caller
            .call("locate frames", |mut client| {
                let request =
                    v1::LocateRequest { lease_id: self.lease.to_string(), frames: frame_bytes.clone() };
                async move { client.locate(request).await }
            })
            .await?;
        if answer.locations.len() != frames.len() {
            return Err(nonsense("another number of locations than asked for"));
        }
        frames.iter().zip(answer.locations).map(|(id, location)| parse_location(*id, location)).collect()
    }

    async fn read_async(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).map_err(|_| {
            PackIoError::new(ErrorCode::InvalidRequest.as_str(), "a range longer than memory was asked for")
        })?;
        self.caller
            .call("read a pack", |mut client| {
                let request = v1::ReadPackRequest {
                    lease_id: self.lease.to_string(),
                    pack_id: pack.to_string(),
                    offset: range.start,
                    length: wanted as u64,
                };
                async move {
                    let mut stream = client.read_pack(request).await?.into_inner();
                    let mut bytes = BytesMut::with_capacity(wanted.min(32 << 20));
                    while let Some(message) = next(&mut stream).await? {
                        if bytes.len() + message.data.len() > wanted {
                            return Err(tonic::Status::aborted("more bytes came than were asked for"));
                        }
                        bytes.extend_from_slice(&message.data);
                    }
                    if bytes.len() < wanted {
                        return Err(tonic::Status::aborted("the answer ended early"));
                    }
                    Ok(tonic::Response::new(bytes.freeze()))
                }
            })
            .await
    }
}

impl PackSink for Session {
    fn have(&self, frames: &[FrameId]) -> Result<Vec<bool>, PackIoError> {
        self.runtime.block_on(self.have_async(frames))
    }

    fn put_pack(&self, pack: SealedPack) -> Result<(), PackIoError> {
        self.runtime.block_on(self.put(&pack))
    }
}

impl PackSource for Session {
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError> {
        self.runtime.block_on(self.locate_async(frames))
    }

    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError> {
        self.runtime.block_on(self.read_async(pack, range))
    }

    fn lost(&self, frame: &FrameId, _pack: &PackId) {
        self.lost.add(*frame);
    }
}

/// The next message, unless the stream stalls.
async fn next(
    stream: &mut tonic::Streaming<v1::ReadPackResponse>,
) -> Result<Option<v1::ReadPackResponse>, tonic::Status> {
    tokio::time::timeout(STALL_LIMIT, stream.message()).await.unwrap_or_else(|_| {
        Err(tonic::Status::deadline_exceeded(format!("no byte came for {} s", STALL_LIMIT.as_secs())))
    })
}

/// Ends once nothing has been taken off a stream for [`STALL_LIMIT`].
async fn stalled(moved: &AtomicU64) {
    let mut seen = moved.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(STALL_LIMIT).await;
        let now = moved.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}

fn upload_messages(
    lease: &str,
    pack_id: &str,
    bytes: &Bytes,
    moved: Arc<AtomicU64>,
) -> impl Iterator<Item = v1::UploadPackRequest> + Send + use<> {
    let (lease, pack_id, bytes) = (lease.to_owned(), pack_id.to_owned(), bytes.clone());
    let pieces = bytes.len().div_ceil(MESSAGE_BYTES).max(1);
    (0..pieces).map(move |piece| {
        let from = piece * MESSAGE_BYTES;
        let data = bytes.slice(from..(from + MESSAGE_BYTES).min(bytes.len()));
        moved.fetch_add(data.len() as u64 + 1, Ordering::Relaxed);
        let first = piece == 0;
        v1::UploadPackRequest {
            lease_id: if first { lease.clone() } else { String::new() },
            pack_id: if first { pack_id.clone() } else { String::new() },
            data,
        }
    })
}

#[cfg(test)]
mod tests;
