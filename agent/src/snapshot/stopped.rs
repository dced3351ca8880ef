//! A job that ends before its work is done, as it is told to people.

use std::fmt;

use holdfast_proto::ErrorCode;

use crate::cancel::{Cancel, CancelReason};

/// The job was cancelled, for this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped(CancelReason);

impl Stopped {
    /// None while it goes on.
    pub(super) fn of(cancel: &Cancel) -> Option<Self> {
        cancel.reason().map(Self)
    }

    /// Of a job whose cancellation was waited for.
    pub(super) fn surely(cancel: &Cancel) -> Self {
        Self(cancel.reason().unwrap_or(CancelReason::Asked))
    }

    /// # Errors
    /// When the work is to end.
    pub(super) fn check(cancel: &Cancel) -> Result<(), Self> {
        Self::of(cancel).map_or(Ok(()), Err)
    }

    /// Error code for events.
    pub(super) fn code(self) -> ErrorCode {
        match self.0 {
            CancelReason::Asked => ErrorCode::Cancelled,
            CancelReason::MaxDowntime => ErrorCode::MaxDowntime,
            CancelReason::Shutdown => ErrorCode::Shutdown,
        }
    }
}

impl std::error::Error for Stopped {}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            CancelReason::Asked => "the job was cancelled",
            CancelReason::MaxDowntime => {
                "the containers were quiesced for as long as they may be, and resumed before the data was read; \
                 allow more downtime, or back up less at once"
            }
            CancelReason::Shutdown => "the agent was stopped; the next run goes on from here",
        })
    }
}
