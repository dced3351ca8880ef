//! What a new container did instead of showing that it is well.

use holdfast_proto::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum NotWell {
    /// With what its last check printed, escaped; empty: nothing.
    #[error("the new container is unhealthy{}", said(printed))]
    Unhealthy { printed: String },
    #[error("the new container became unhealthy")]
    BecameUnhealthy,
    #[error("the new container was not healthy within {seconds} s")]
    NotInTime { seconds: u64 },
    #[error("the new container ended with exit code {exit_code}")]
    Exited { exit_code: i64 },
    #[error("the new container restarted while it had to run steadily")]
    Restarted,
    /// With what came of the last attempt.
    #[error("the probe did not pass: {last}")]
    ProbeFailed { last: String },
    #[error(
        "the new container runs, but no agent in it has taken over the state of the old one: is that an image of the agent?"
    )]
    NoAgent,
}

impl NotWell {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unhealthy { .. } | Self::BecameUnhealthy | Self::NotInTime { .. } => ErrorCode::Unhealthy,
            Self::Exited { .. } => ErrorCode::Exited,
            Self::Restarted => ErrorCode::Restarted,
            Self::ProbeFailed { .. } => ErrorCode::ProbeFailed,
            Self::NoAgent => ErrorCode::NoAgent,
        }
    }
}

fn said(printed: &str) -> String {
    if printed.is_empty() { String::new() } else { format!(": its check says `{printed}`") }
}
