//! What a restore is asked, and what it answers.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::fetch::FetchError;
use crate::fs::RestoreProgress;
use crate::ids::FrameId;
use crate::manifest::ManifestError;
use crate::pack_io::PackSource;

/// A tree to restore.
pub struct RestoreRequest {
    /// The manifest's root page.
    pub root: FrameId,
    /// A handle of the directory to restore into.
    pub target: OwnedFd,
    pub options: RestoreOptions,
    pub source: Arc<dyn PackSource>,
    pub progress: Arc<RestoreProgress>,
    /// Set by whoever wants the restore to end.
    pub cancel: Arc<AtomicBool>,
}

/// How to restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Make device nodes. Else they are left out and listed.
    pub devices: bool,
    /// Set setuid and setgid bits and capabilities of files. Else they are
    /// left out and listed.
    pub setuid: bool,
    /// Fail when the target cannot hold something, instead of listing it.
    pub strict: bool,
    /// Leave out files of which the repository has lost something, whole, and
    /// list them, instead of failing.
    pub salvage: bool,
    /// Restore into a directory that is not empty. Existing directories are
    /// gone into; anything else that exists is an error.
    pub into_nonempty: bool,
    /// Only these entries with all below them, and the directories above.
    /// Everything when empty.
    pub paths: Vec<Vec<u8>>,
    /// Threads that write files; 0 for as many as there are processors.
    pub workers: usize,
    /// All buffers together, bytes.
    pub memory_bytes: usize,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            devices: false,
            setuid: false,
            strict: false,
            salvage: false,
            into_nonempty: false,
            paths: Vec::new(),
            workers: 0,
            memory_bytes: 192 << 20,
        }
    }
}

/// A finished restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    pub entries: u64,
    pub files: u64,
    /// Content written, holes left out.
    pub bytes: u64,
    /// The first of what the snapshot has and the target has not, escaped.
    pub left_out: Vec<String>,
    /// How much was left out in all.
    pub left_out_total: u64,
    /// When salvaging: the first of what the repository has lost, escaped. A
    /// file stands here under each of its names, and is not on the target under
    /// any.
    pub lost: Vec<String>,
    /// How much was lost in all: names of files, and pages of the manifest.
    pub lost_total: u64,
    /// What an operator should know besides.
    pub warnings: Vec<String>,
}

/// Why a restore failed. What was written until then is still there.
/// Paths are escaped.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("the target directory cannot be used")]
    Target { source: std::io::Error },
    #[error("the target directory is not empty: restore into an empty one")]
    NotEmpty,
    #[error("`/proc` is not mounted: metadata cannot be restored safely without it")]
    NoProc { source: std::io::Error },
    #[error("the snapshot's manifest cannot be read")]
    Manifest { source: ManifestError },
    #[error("content of {path} cannot be read")]
    Content { path: String, source: FetchError },
    #[error("the snapshot has nothing at {path}")]
    NotFound { path: String },
    #[error("the snapshot's entry {path} is refused: {reason}")]
    Refused { path: String, reason: &'static str },
    #[error("{path} could not be {action}")]
    Io { path: String, action: &'static str, source: std::io::Error },
    #[error("the target cannot hold {what} of {path}")]
    Strict { path: String, what: String },
    #[error("the restore was cancelled")]
    Cancelled,
}

// === impl RestoreError ===

impl RestoreError {
    /// Whether the repository has lost what is needed, rather than being out of
    /// reach for now: salvaging goes on without it.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Content { source, .. } => source.is_loss(),
            other => other.is_manifest_loss(),
        }
    }

    pub(in crate::fs) fn is_manifest_loss(&self) -> bool {
        matches!(self, Self::Manifest { source } if source.is_loss())
    }
}
