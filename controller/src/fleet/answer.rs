//! What a host answered, for people, and what is said where it did not.

use std::time::Duration;

use holdfast_proto::ErrorCode;
use tonic::Status;

/// What is said of a host that is connected and does not answer: the agent
/// itself is there, and waits for its Engine.
pub fn unanswered(asked: &str, within: Duration) -> Status {
    ErrorCode::HostTimeout.status(format!(
        "the host was asked {asked}, and there was no answer within {} s: its agent is connected, so most likely \
         its Docker Engine hangs, or a volume plugin for which that waits",
        within.as_secs()
    ))
}

/// A status as part of a sentence.
pub fn plain(status: &Status) -> &str {
    if status.message().is_empty() { status.code().description() } else { status.message() }
}
