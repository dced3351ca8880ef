//! What an upgrade failed with, as its record and its last event have it.

use holdfast_proto::ErrorCode;

use super::Record;

/// A failure as text: an agent that goes on after a crash has no more of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedFailure {
    pub code: ErrorCode,
    /// A sentence with its causes.
    pub message: String,
}

impl Record {
    /// What the upgrade failed with; none while nothing has failed, and for a
    /// code of another version.
    pub fn failure(&self) -> Option<RecordedFailure> {
        Some(RecordedFailure { code: self.error_code()?, message: self.error.clone() })
    }

    /// Notes what the upgrade failed with.
    pub fn set_failure(&mut self, failure: &RecordedFailure) {
        failure.code.as_str().clone_into(&mut self.error_code);
        self.error.clone_from(&failure.message);
    }
}
