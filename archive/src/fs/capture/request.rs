//! What a capture is asked, and what it answers.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::fs::CaptureProgress;
use crate::ids::FrameId;
use crate::manifest::ManifestError;
use crate::pack_io::{PackIoError, PackSink, PackSource};
use crate::snapshot::Stats;

/// The least a capture or a restore can work with, bytes.
pub const MIN_MEMORY_BYTES: usize = 48 << 20;

/// A tree to capture.
pub struct CaptureRequest<'a> {
    /// A handle of the root directory.
    pub root: OwnedFd,
    /// The snapshot this one follows, or the first pass of the same backup.
    pub base: Option<CaptureBase>,
    /// Frames reported damaged: files that use them are read again.
    pub damaged: &'a HashSet<FrameId>,
    pub options: CaptureOptions,
    pub sink: Arc<dyn PackSink>,
    /// Where the base's pages are read from.
    pub source: Arc<dyn PackSource>,
    pub progress: Arc<CaptureProgress>,
    /// Set by whoever wants the capture to end.
    pub cancel: Arc<AtomicBool>,
}

/// What is needed of an earlier snapshot of the same source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureBase {
    pub root: FrameId,
    /// [`Captured::started_unix_ns`] of that snapshot.
    pub started_unix_ns: i64,
}

/// What to do with a file that changed while it was read, twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TornPolicy {
    /// Keep what was read, mark it, and call the snapshot partial.
    #[default]
    Accept,
    /// Fail the capture.
    Fail,
}

/// What to do with other filesystems mounted inside the tree, nested subvolumes
/// included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NestedMounts {
    /// Leave out what is in them, mark the place, and call the snapshot partial.
    #[default]
    Partial,
    /// Leave out what is in them, and warn.
    LeaveOut,
    /// Go into them.
    Include,
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Those left out are empty directories or files, and counted.
    pub nested_mounts: NestedMounts,
    pub torn: TornPolicy,
    /// Compression level of zstd.
    pub level: i32,
    /// How large packs get, bytes; smaller where memory does not allow it.
    pub pack_bytes: usize,
    /// Threads that compress; 0 for half of the processors.
    pub workers: usize,
    /// All buffers together, bytes; at least [`MIN_MEMORY_BYTES`] are used.
    pub memory_bytes: usize,
    /// Packs uploaded at once.
    pub upload_concurrency: usize,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            nested_mounts: NestedMounts::default(),
            torn: TornPolicy::default(),
            level: crate::frame::DEFAULT_LEVEL,
            pack_bytes: 32 << 20,
            workers: 0,
            memory_bytes: 192 << 20,
            upload_concurrency: 2,
        }
    }
}

/// A finished capture, stored but not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The manifest's root page.
    pub root: FrameId,
    /// What was written before this moment of this host's clock is in the
    /// snapshot, nanoseconds since the Unix epoch. Given to the next capture.
    pub started_unix_ns: i64,
    pub stats: Stats,
    /// Something is torn, unreadable, was moved away meanwhile, or lies in a
    /// filesystem that was left out.
    pub partial: bool,
    /// The first of what made it partial, with escaped paths.
    pub problems: Vec<String>,
    /// What an operator should know and that makes nothing partial.
    pub warnings: Vec<String>,
    /// Filesystems mounted inside the tree that were not gone into.
    pub mounts_left_out: u64,
    /// Inodes with further names outside the tree.
    pub outside_links: u64,
}

/// Why a capture came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("the root of the tree cannot be read")]
    Root { source: std::io::Error },
    #[error("`/proc` is not mounted: extended attributes cannot be read safely without it")]
    NoProc { source: std::io::Error },
    #[error("the repository took no more frames")]
    Sink { source: PackIoError },
    #[error("the base snapshot cannot be read; try again, or without a base")]
    Source { source: ManifestError },
    #[error("the manifest cannot be written")]
    Manifest { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} changed while it was read, twice, and the policy is to fail then")]
    Torn {
        /// Escaped.
        path: String,
    },
    #[error("the capture was cancelled")]
    Cancelled,
}
