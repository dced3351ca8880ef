//! Leases: one to upload a source, or to read a snapshot, and what the
//! controller says when it gives one.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use holdfast_archive::ids::{FrameId, SnapshotId, SourceId};
use holdfast_archive::pack_io::PackIoError;
use holdfast_archive::snapshot::Extent;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use tokio::sync::watch;

use crate::cancel::Cancel;

use super::Session;
use super::call::{Caller, Line};
use super::wire::{frame_ids, nonsense, parse_base, parse_parameters};

/// Damaged frames a session keeps: some 60 bytes each. Where there are more,
/// nothing of the base is relied on: all is read, and what the repository still
/// has is not sent.
const MAX_DAMAGED: usize = 1_000_000;

/// The way to the controller, as long as there is one.
#[derive(Debug, Clone)]
pub struct DataPlane {
    channel: watch::Receiver<Option<Line>>,
    timeout: Duration,
}

/// Who asks for a lease: a job, and the generation of the caller that drives it.
#[derive(Debug, Clone, Copy)]
pub struct JobRun {
    pub job: JobId,
    pub generation: u64,
}

/// What the controller says when an upload is opened.
#[derive(Debug)]
pub struct Upload {
    pub session: Session,
    pub base: Option<BaseSnapshot>,
    pub damaged: Damaged,
    pub parameters: UploadParameters,
}

/// The last snapshot of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseSnapshot {
    pub id: String,
    /// None: it is no frame's id, so the base cannot be followed.
    pub root: Option<FrameId>,
    pub started_unix_ns: i64,
    pub extent: Extent,
}

/// How packs are to be made, where the controller says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UploadParameters {
    pub compression_level: Option<u32>,
    pub pack_bytes: Option<u32>,
    pub upload_concurrency: Option<u32>,
}

/// What of the base is not to be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damaged {
    Frames(HashSet<FrameId>),
    /// More frames than this host keeps in memory.
    TooMany,
}

/// What the controller says when a restore is opened.
#[derive(Debug)]
pub struct Restore {
    pub session: Session,
    pub snapshot_object: Bytes,
}

impl DataPlane {
    /// `channel` holds a connection to the controller while there is one.
    /// `timeout`: how long one call is tried before it fails.
    pub fn new(channel: watch::Receiver<Option<Line>>, timeout: Duration) -> Self {
        Self { channel, timeout }
    }

    fn caller(&self, cancel: &Cancel) -> (Caller, Arc<AtomicU64>) {
        let retries = Arc::new(AtomicU64::new(0));
        (Caller::new(self.channel.clone(), self.timeout, cancel.clone(), retries.clone()), retries)
    }

    /// Opens an upload lease for one source of a job.
    ///
    /// # Errors
    /// When the controller refuses or cannot be reached.
    pub async fn open_upload(
        &self,
        run: JobRun,
        source: SourceId,
        cancel: &Cancel,
    ) -> Result<Upload, PackIoError> {
        let request = v1::OpenUploadRequest {
            job_id: run.job.to_string(),
            generation: run.generation,
            source_id: source.to_string(),
        };
        let (caller, retries) = self.caller(cancel);
        let answer = caller
            .call("open an upload", |mut client| {
                let request = request.clone();
                async move { client.open_upload(request).await }
            })
            .await?;
        let session = Session::new(caller, answer.lease_id, retries);
        let damaged = match session.all_damaged(&answer.damaged_frames, answer.more_damaged).await {
            Ok(damaged) => damaged,
            Err(error) => {
                // The lease is open at the controller and would hold packs until it ran out.
                session.close().await;
                return Err(error);
            }
        };
        Ok(Upload {
            session,
            base: answer.base.map(parse_base),
            damaged,
            parameters: answer.parameters.map(parse_parameters).unwrap_or_default(),
        })
    }

    /// Opens a lease to read one snapshot.
    ///
    /// # Errors
    /// When the controller refuses or cannot be reached.
    pub async fn open_restore(
        &self,
        run: JobRun,
        snapshot: SnapshotId,
        cancel: &Cancel,
    ) -> Result<Restore, PackIoError> {
        let request = v1::OpenRestoreRequest {
            job_id: run.job.to_string(),
            generation: run.generation,
            snapshot_id: snapshot.to_string(),
        };
        let (caller, retries) = self.caller(cancel);
        let answer = caller
            .call("open a restore", |mut client| {
                let request = request.clone();
                async move { client.open_restore(request).await }
            })
            .await?;
        Ok(Restore {
            session: Session::new(caller, answer.lease_id, retries),
            snapshot_object: answer.snapshot_object,
        })
    }
}

impl Session {
    /// The damaged frames of the base: those that came when the upload was
    /// opened, and what the controller has beyond them.
    async fn all_damaged(&self, first: &[Vec<u8>], mut next: u64) -> Result<Damaged, PackIoError> {
        let mut damaged: HashSet<FrameId> = frame_ids(first)?.into_iter().collect();
        while next != 0 {
            let from = next;
            let page = self
                .caller
                .call("list damaged frames", |mut client| {
                    let request = v1::ListDamagedRequest { lease_id: self.lease.to_string(), from };
                    async move { client.list_damaged(request).await }
                })
                .await?;
            damaged.extend(frame_ids(&page.frames)?);
            // The bound is checked page by page: an answer exceeds it by one page at most.
            if damaged.len() > MAX_DAMAGED {
                return Ok(Damaged::TooMany);
            }
            // A cursor that does not grow would make this loop endless.
            if page.next != 0 && page.next <= from {
                return Err(nonsense("a list of damaged frames that does not go on"));
            }
            next = page.next;
        }
        Ok(Damaged::Frames(damaged))
    }
}
