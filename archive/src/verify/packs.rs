//! Packs from end to end.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sha2::{Digest, Sha256};

use super::{Findings, Level, ProblemKind, VerifyProgress, chain};
use crate::frame::{self, FrameError};
use crate::ids::{FrameId, PackId};
use crate::keys::ObjectKey;
use crate::pack::{self, TableRead};
use crate::repository::{Index, PackFacts, Repository};

/// Packs held in memory at once.
const CONCURRENCY: usize = 2;

/// What reading one pack showed.
enum Outcome {
    Sound,
    /// Its hash is wrong; these of its frames do not decode.
    Damaged {
        frames: Vec<(FrameId, FrameError)>,
    },
    Unreadable {
        detail: String,
        missing: bool,
    },
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
    let mut bad: HashMap<FrameId, HashSet<PackId>> = HashMap::new();
    while let Some((pack, outcome)) = outcomes.next().await {
        VerifyProgress::add(&progress.packs_done, 1);
        VerifyProgress::add(&progress.bytes_done, pack.len);
        findings.report.packs_read += 1;
        findings.report.bytes_read += pack.len;
        match outcome {
            Outcome::Sound => {}
            Outcome::Damaged { frames } => {
                let detail = match frames.first() {
                    Some((id, error)) => format!(
                        "its SHA-256 is not the one in its name, and {} of its {} frames are damaged, {id} first: {error}",
                        frames.len(),
                        pack.frames
                    ),
                    None => "its SHA-256 is not the one in its name; its frames are sound".to_owned(),
                };
                let kind = if frames.is_empty() { ProblemKind::PackHash } else { ProblemKind::PackFrames };
                findings.add_pack(pack.id, kind, detail);
                for (id, _) in frames {
                    bad.entry(id).or_default().insert(pack.id);
                }
            }
            Outcome::Unreadable { detail, missing } => {
                let kind = if missing { ProblemKind::MissingPack } else { ProblemKind::PackFrames };
                findings.add_pack(pack.id, kind, detail);
                for id in table(repository, pack).await {
                    bad.entry(id).or_default().insert(pack.id);
                }
            }
        }
    }
    // A frame is lost only where every copy of it is.
    for (frame, packs) in bad {
        if index.locations(&frame).all(|location| packs.contains(&location.pack))
            && let Some(problem) = packs.iter().find_map(|pack| findings.packs.get(pack)).copied()
        {
            findings.lose(frame, problem);
        }
    }
}

async fn table(repository: &Repository, pack: PackFacts) -> Vec<FrameId> {
    match repository.read_table(pack.id, pack.len).await {
        Ok(table) => table.into_iter().map(|entry| entry.id).collect(),
        Err(_) => Vec::new(),
    }
}

async fn read(repository: &Repository, pack: PackFacts) -> Outcome {
    let bytes = match repository.store().get(&ObjectKey::Pack(pack.id)).await {
        Ok(bytes) => bytes,
        Err(error) => {
            return Outcome::Unreadable { detail: chain(&error), missing: error.is_not_found() };
        }
    };
    let checked = tokio::task::spawn_blocking(move || examine(&pack.id, &bytes)).await;
    checked.unwrap_or_else(|error| Outcome::Unreadable { detail: error.to_string(), missing: false })
}

fn examine(id: &PackId, bytes: &Bytes) -> Outcome {
    let sound = Sha256::digest(bytes)[..] == id.sha256;
    let table = match pack::read_table(bytes, bytes.len() as u64) {
        Ok(TableRead::Table(table)) => table,
        Ok(TableRead::NeedTail(_)) => {
            return Outcome::Unreadable { detail: "its table is cut off".into(), missing: false };
        }
        Err(error) => return Outcome::Unreadable { detail: error.to_string(), missing: false },
    };
    let mut frames = Vec::new();
    for entry in &table {
        let start = entry.offset as usize;
        if let Err(error) = frame::decode(&bytes[start..start + entry.stored_len as usize], entry) {
            frames.push((entry.id, error));
        }
    }
    if sound && frames.is_empty() { Outcome::Sound } else { Outcome::Damaged { frames } }
}
