//! What goes over the data plane, as messages and as this crate's own types.

use holdfast_archive::ids::FrameId;
use holdfast_archive::pack_io::{FrameKind, FrameLocation, PackEntry, PackIoError};
use holdfast_archive::snapshot::{Extent, Stats};
use holdfast_proto::ErrorCode;
use holdfast_proto::v1::{self, commit_snapshot_response::Outcome};

use super::plane::{BaseSnapshot, UploadParameters};

/// What became of a snapshot offered.
#[derive(Debug, Clone, PartialEq)]
pub enum Commit {
    Committed(Committed),
    /// These frames are not in the repository; what uses them must be read again.
    Missing(Vec<FrameId>),
}

/// A snapshot as it is in the repository.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    pub snapshot: String,
    /// None: of a controller that does not tell.
    pub stored: Option<Stored>,
}

/// What a committed snapshot says of itself. It may be of an earlier attempt of
/// the job, and of what that one read.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub stats: Stats,
    pub partial: bool,
    pub problems: Vec<String>,
}

pub(super) fn wire_ids(frames: &[FrameId]) -> Vec<Vec<u8>> {
    frames.iter().map(|id| id.as_bytes().to_vec()).collect()
}

pub(super) fn frame_ids(frames: &[Vec<u8>]) -> Result<Vec<FrameId>, PackIoError> {
    frames
        .iter()
        .map(|bytes| FrameId::from_slice(bytes).ok_or_else(|| nonsense("a frame id that is not 32 bytes")))
        .collect()
}

pub(super) fn wire_frame(entry: &PackEntry) -> v1::PackFrame {
    let PackEntry { id, kind, key_epoch, offset, stored_len, raw_len } = entry;
    v1::PackFrame {
        id: id.as_bytes().to_vec(),
        kind: match kind {
            FrameKind::Data => v1::FrameKind::Data,
            FrameKind::Page => v1::FrameKind::Page,
        }
        .into(),
        key_epoch: *key_epoch,
        offset: *offset,
        stored_bytes: *stored_len,
        raw_bytes: *raw_len,
    }
}

pub(super) fn parse_location(
    id: FrameId,
    location: v1::FrameLocation,
) -> Result<Option<FrameLocation>, PackIoError> {
    if location.pack_id.is_empty() {
        return Ok(None);
    }
    let kind = match location.kind() {
        v1::FrameKind::Data => FrameKind::Data,
        v1::FrameKind::Page => FrameKind::Page,
        v1::FrameKind::Unspecified => return Err(nonsense("a frame of no kind")),
    };
    let v1::FrameLocation { pack_id, kind: _, key_epoch, offset, stored_bytes, raw_bytes } = location;
    let pack = pack_id.parse().map_err(|_| nonsense("a pack id that is none"))?;
    let entry = PackEntry { id, kind, key_epoch, offset, stored_len: stored_bytes, raw_len: raw_bytes };
    Ok(Some(FrameLocation { pack, entry }))
}

pub(super) fn parse_base(base: v1::BaseSnapshot) -> BaseSnapshot {
    let v1::BaseSnapshot { snapshot_id, root, started_unix_ns, entries, size_bytes } = base;
    BaseSnapshot {
        id: snapshot_id,
        root: FrameId::from_slice(&root),
        started_unix_ns,
        extent: Extent { entries, size_bytes },
    }
}

pub(super) fn parse_parameters(parameters: v1::UploadParameters) -> UploadParameters {
    let v1::UploadParameters { compression_level, pack_bytes, upload_concurrency } = parameters;
    // On the wire 0 says nothing.
    let said = |number: u32| (number > 0).then_some(number);
    UploadParameters {
        compression_level: said(compression_level),
        pack_bytes: said(pack_bytes),
        upload_concurrency: said(upload_concurrency),
    }
}

pub(super) fn parse_commit(answer: v1::CommitSnapshotResponse) -> Result<Commit, PackIoError> {
    match answer.outcome {
        Some(Outcome::Committed(committed)) => Ok(Commit::Committed(parse_committed(committed))),
        Some(Outcome::Missing(missing)) => Ok(Commit::Missing(frame_ids(&missing.frames)?)),
        None => Err(nonsense("an outcome of a commit this agent does not know")),
    }
}

fn parse_committed(committed: v1::CommittedSnapshot) -> Committed {
    let v1::CommittedSnapshot { snapshot_id, number: _, created_unix_ms: _, partial, stats, problems } =
        committed;
    let stored = stats.map(|stats| Stored { stats: parse_stats(stats), partial, problems });
    Committed { snapshot: snapshot_id, stored }
}

fn parse_stats(stats: v1::SnapshotStats) -> Stats {
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
        // Calls made again are not the snapshot's, but the job's that tells them.
        retries: _,
    } = stats;
    Stats {
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
    }
}

pub(super) fn nonsense(what: &str) -> PackIoError {
    PackIoError::new(
        ErrorCode::Protocol.as_str(),
        format!("the controller's answer holds {what}: are agent and controller of versions that fit?"),
    )
}
