//! Packs from end to end.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{Findings, Level, ProblemKind, VerifyProgress, chain};
use crate::frame::{self, FrameError};
use crate::ids::FrameId;
use crate::keys::ObjectKey;
use crate::pack::{self, TableRead};
use crate::repository::{Index, PackFacts, Repository};
use crate::store::{StoreError, StoreErrorKind};

/// Packs held in memory at once.
const CONCURRENCY: usize = 2;

/// What reading one pack showed.
enum Outcome {
    Sound,
    /// Something is wrong with it, by which these of its frames cannot be had.
    Damaged {
        kind: ProblemKind,
        detail: String,
        frames: Vec<FrameId>,
    },
}

impl Outcome {
    fn lost(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self::Damaged { kind, detail: detail.into(), frames: Vec::new() }
    }
}

pub(super) async fn check(
    repository: &Repository,
    index: &Index,
    level: Level,
    progress: &VerifyProgress,
    findings: &mut Findings,
) {
    for broken in index.broken() {
        findings.add_pack(broken.id, ProblemKind::PackTable, chain(&broken.error));
    }
    let Level::Packs(share) = level else { return };
    let chosen: Vec<PackFacts> =
        index.packs().iter().filter(|pack| share.covers(&pack.id)).copied().collect();
    VerifyProgress::add(&progress.packs_total, chosen.len() as u64);
    let mut outcomes = stream::iter(chosen)
        .map(|pack| async move { (pack, read(repository, pack).await) })
        .buffer_unordered(CONCURRENCY);
    while let Some((pack, outcome)) = outcomes.next().await {
        VerifyProgress::add(&progress.packs_done, 1);
        VerifyProgress::add(&progress.bytes_done, pack.len);
        findings.report.packs_read += 1;
        findings.report.bytes_read += pack.len;
        if let Outcome::Damaged { kind, detail, frames } = outcome {
            findings.add_pack(pack.id, kind, detail);
            for id in frames {
                findings.bad.entry(id).or_default().insert(pack.id);
            }
        }
    }
}

async fn read(repository: &Repository, pack: PackFacts) -> Outcome {
    let bytes = match repository.store().get(&ObjectKey::Pack(pack.id)).await {
        Ok(bytes) => bytes,
        // Which of its frames are lost by that, the walk of the snapshots sees.
        Err(error) if error.is_not_found() => return Outcome::lost(ProblemKind::MissingPack, chain(&error)),
        Err(error) if error.kind() == StoreErrorKind::Corrupt => {
            return frame_by_frame(repository, pack, &error).await;
        }
        Err(error) => return Outcome::lost(ProblemKind::NotRead, chain(&error)),
    };
    let checked = tokio::task::spawn_blocking(move || examine(&pack, &bytes)).await;
    // A panic is a finding about this pack: the others are read all the same.
    checked.unwrap_or_else(|error| Outcome::lost(ProblemKind::NotRead, error.to_string()))
}

/// A pack that does not come as a whole: what a bad sector costs is what lies
/// on it.
async fn frame_by_frame(repository: &Repository, pack: PackFacts, whole: &StoreError) -> Outcome {
    let table = match repository.read_table(pack.id, pack.len).await {
        Ok(table) => table,
        Err(error) => return Outcome::lost(ProblemKind::PackTable, chain(&error)),
    };
    let mut frames = Vec::new();
    for entry in &table {
        let range = entry.offset..entry.offset + u64::from(entry.stored_len);
        let read = repository.store().get_range(&ObjectKey::Pack(pack.id), range).await;
        if !read.is_ok_and(|bytes| frame::decode(&bytes, entry).is_ok()) {
            frames.push(entry.id);
        }
    }
    let detail = match frames.first() {
        Some(first) => format!(
            "{} of its {} frames cannot be read, {first} first: {}",
            frames.len(),
            pack.frames,
            chain(whole)
        ),
        None => format!("it cannot be read as a whole, its frames can: {}", chain(whole)),
    };
    Outcome::Damaged { kind: ProblemKind::PackFrames, detail, frames }
}

fn examine(pack: &PackFacts, bytes: &Bytes) -> Outcome {
    let sound = Sha256::digest(bytes)[..] == pack.id.sha256;
    let table = match pack::read_table(bytes, bytes.len() as u64) {
        Ok(TableRead::Table(table)) => table,
        Ok(TableRead::NeedTail(_)) => {
            return Outcome::lost(ProblemKind::PackTable, "its table is cut off");
        }
        Err(error) => return Outcome::lost(ProblemKind::PackTable, error.to_string()),
    };
    let mut damaged: Vec<(FrameId, FrameError)> = Vec::new();
    for entry in &table {
        let start = entry.offset as usize;
        if let Err(error) = frame::decode(&bytes[start..start + entry.stored_len as usize], entry) {
            damaged.push((entry.id, error));
        }
    }
    let (kind, detail) = match damaged.first() {
        None if sound => return Outcome::Sound,
        None => {
            (ProblemKind::PackHash, "its SHA-256 is not the one in its name; its frames are sound".to_owned())
        }
        Some((id, error)) => (
            ProblemKind::PackFrames,
            format!(
                "its SHA-256 is not the one in its name, and {} of its {} frames are damaged, {id} first: {error}",
                damaged.len(),
                pack.frames
            ),
        ),
    };
    Outcome::Damaged { kind, detail, frames: damaged.into_iter().map(|(id, _)| id).collect() }
}
