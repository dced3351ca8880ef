//! What an upgrade, or its rollback, tells while it runs and at its end.
//! `services` makes messages of it.

use holdfast_proto::ErrorCode;

use crate::snapshot;

use super::UpgradeError;
use super::record::{Phase, Record, RecordedFailure, Source, Step};

#[derive(Debug, Clone)]
pub enum UpgradeEvent {
    /// A line of the event log.
    Step(Step),
    Stopped(Stopped),
    /// The last one.
    Finished(Box<Finished>),
}

/// Everything is quiesced: the caller takes its snapshots now.
#[derive(Debug, Clone)]
pub struct Stopped {
    pub sources: Vec<Source>,
    /// When it goes back, or resumes, by itself.
    pub until_unix_ms: i64,
}

/// How an upgrade, or a rollback, ended.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    pub ok: bool,
    /// The old container runs again on its data.
    pub rolled_back: bool,
    pub cancelled: bool,
    /// 0: nothing was stopped.
    pub downtime_ms: u64,
    /// An [`ErrorCode`] as text, also of another version; empty: nothing failed.
    pub error_code: String,
    pub error: String,
    /// None: nothing was begun.
    pub upgrade: Option<Record>,
}

impl snapshot::Event for UpgradeEvent {
    const KIND: &'static str = "upgrade";
}

impl Finished {
    /// Of one that is not under way any more.
    pub(super) fn of(record: &Record) -> Self {
        Self {
            ok: matches!(record.phase(), Phase::Committed | Phase::Finishing | Phase::Finished),
            rolled_back: record.phase() == Phase::RolledBack && record.stopped_unix_ms.is_some(),
            cancelled: record.error_code() == Some(ErrorCode::Cancelled),
            downtime_ms: record.downtime_ms,
            error_code: record.error_code.clone(),
            error: record.error.clone(),
            upgrade: Some(record.clone()),
        }
    }

    /// Of one that was not begun, or whose record has the last word later.
    pub(super) fn failed(error: &UpgradeError) -> Self {
        let RecordedFailure { code, message } = RecordedFailure::from(error);
        Self {
            cancelled: code == ErrorCode::Cancelled,
            error_code: code.as_str().to_owned(),
            error: message,
            ..Self::default()
        }
    }
}
