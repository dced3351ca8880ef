//! What jobs tell while they run and at their end, in this crate's own types.
//! `services` makes messages of them.

use std::time::Duration;

use holdfast_archive::ids::SourceId;
use holdfast_archive::snapshot::Stats;
use holdfast_proto::ErrorCode;

use crate::quiesce::QuiesceReport;

/// An error as events tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: ErrorCode,
    pub message: String,
}

/// What a backup job tells.
#[derive(Debug, Clone)]
pub enum BackupEvent {
    Progress(SourceProgress),
    Source(SourceFinished),
    Quiesced(QuiesceReport),
    /// The last one, with the worst of what failed.
    Ended(Result<(), Failure>),
}

/// Totals of one source since it was begun.
#[derive(Debug, Clone)]
pub struct SourceProgress {
    pub source: SourceId,
    pub phase: SourcePhase,
    pub stats: Stats,
    /// What the base snapshot suggests the total will be.
    pub expected_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourcePhase {
    Queued,
    /// Reading while the containers run.
    FirstPass,
    Quiescing,
    /// Reading what changed since, with the containers quiesced.
    SecondPass,
    Committing,
}

/// How one source ended.
#[derive(Debug, Clone)]
pub struct SourceFinished {
    pub source: SourceId,
    pub took: Duration,
    /// None: it was never begun.
    pub counts: Option<Counts>,
    pub result: Result<Taken, Failure>,
}

/// What was read and sent of a source.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    pub stats: Stats,
    /// Calls to the controller that were made again.
    pub retries: u64,
}

/// A snapshot that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub snapshot: String,
    pub partial: bool,
    /// Less than a tenth is left of the base.
    pub shrunk: bool,
    pub problems: Vec<String>,
}

/// What a restore job tells.
#[derive(Debug, Clone)]
pub enum RestoreEvent {
    Progress(RestoreProgress),
    /// The last one.
    Finished(RestoreFinished),
}

/// How far a restore is.
#[derive(Debug, Clone)]
pub struct RestoreProgress {
    pub phase: RestorePhase,
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    pub total_entries: u64,
    pub total_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePhase {
    Writing,
    Verifying,
}

/// How a restore ended.
#[derive(Debug, Clone, Default)]
pub struct RestoreFinished {
    pub took: Duration,
    pub restored: Restored,
    /// None: it is whole and has its name.
    pub failure: Option<Failure>,
}

/// What was written, and how it compares with the snapshot. The lists have the
/// first of each.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    pub entries: u64,
    pub files: u64,
    pub bytes: u64,
    pub differences: u64,
    pub difference_list: Vec<String>,
    /// On purpose: devices, setuid bits, what the target cannot hold.
    pub left_out: u64,
    pub left_out_list: Vec<String>,
    /// What the repository has lost.
    pub lost: u64,
    pub lost_list: Vec<String>,
}

impl Failure {
    /// Of a job whose own code failed.
    pub(super) fn panic() -> Self {
        let message = "the agent failed inside this job; see its log".to_owned();
        Self { code: ErrorCode::Panic, message }
    }
}

impl RestoreFinished {
    pub(super) fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), ..Self::default() }
    }
}
