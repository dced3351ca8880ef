//! What a verification found.

use std::collections::BTreeSet;

use crate::ids::SnapshotId;

/// Files listed for one problem; the rest are counted.
pub(super) const LISTED_FILES: usize = 100;

/// Which invariant is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// `repo.json` is not what it was.
    RepositoryInfo,
    /// A file under `RECOVERY/` is missing or changed.
    RecoveryFile,
    /// A file under `state/` is missing, damaged or behind the snapshots.
    State,
    /// A file under `index/` is damaged or says what no pack bears out.
    Index,
    /// An object whose name is none a repository has.
    UnknownObject,
    /// A snapshot object that cannot be read.
    SnapshotObject,
    /// A pack that should be there and is not.
    MissingPack,
    /// A pack that is not as long as it should be.
    PackLength,
    /// A pack whose table cannot be read.
    PackTable,
    /// A pack whose bytes do not have the hash in its name.
    PackHash,
    /// A pack that cannot be read, or frames in it that do not decode.
    PackFrames,
    /// Frames that snapshots use and no pack has.
    MissingFrames,
    /// A page of a manifest that is not one, or not in its place.
    ManifestPage,
    /// What the store did not give although nothing says that it is lost: it
    /// was not verified.
    NotRead,
}

impl ProblemKind {
    /// One error code.
    pub fn name(self) -> &'static str {
        match self {
            Self::RepositoryInfo => "repository-info",
            Self::RecoveryFile => "recovery-file",
            Self::State => "state",
            Self::Index => "index",
            Self::UnknownObject => "unknown-object",
            Self::SnapshotObject => "snapshot-object",
            Self::MissingPack => "missing-pack",
            Self::PackLength => "pack-length",
            Self::PackTable => "pack-table",
            Self::PackHash => "pack-hash",
            Self::PackFrames => "pack-frames",
            Self::MissingFrames => "missing-frames",
            Self::ManifestPage => "manifest-page",
            Self::NotRead => "not-read",
        }
    }
}

/// A file that cannot be restored as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AffectedFile {
    pub snapshot: SnapshotId,
    pub path: Vec<u8>,
}

/// One broken invariant and what it costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// Name of the object, or what stands for it.
    pub object: String,
    /// A sentence with the cause.
    pub detail: String,
    /// Frames that are lost by it, where that is known.
    pub lost_frames: u64,
    pub snapshots: BTreeSet<SnapshotId>,
    /// The first of the files it touches.
    pub files: Vec<AffectedFile>,
    /// How many more there are.
    pub more_files: u64,
}

impl Problem {
    /// One that costs no frame, as far as is known.
    pub fn new(kind: ProblemKind, object: impl ToString, detail: impl Into<String>) -> Self {
        Self {
            kind,
            object: object.to_string(),
            detail: detail.into(),
            lost_frames: 0,
            snapshots: BTreeSet::new(),
            files: Vec::new(),
            more_files: 0,
        }
    }

    pub(super) fn touch(&mut self, snapshot: SnapshotId, path: &[u8]) {
        self.snapshots.insert(snapshot);
        if self.files.len() < LISTED_FILES {
            self.files.push(AffectedFile { snapshot, path: path.to_vec() });
        } else {
            self.more_files += 1;
        }
    }
}

/// What was looked at and what was wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub objects: u64,
    pub packs: u64,
    /// Packs read from end to end.
    pub packs_read: u64,
    pub bytes_read: u64,
    /// Different frames in all packs.
    pub frames: u64,
    pub snapshots: u64,
    pub problems: Vec<Problem>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Snapshots that cannot be restored whole.
    pub fn damaged_snapshots(&self) -> BTreeSet<SnapshotId> {
        self.problems.iter().flat_map(|problem| &problem.snapshots).copied().collect()
    }
}
