//! What is in the way of containers that have to stay quiesced.

use holdfast_proto::ErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum Disturbed {
    #[error("containers that an earlier job left quiesced have not resumed yet")]
    CleanupPending,
    #[error("container `{container}` was started by somebody else while it had to stay quiesced")]
    Started { container: String },
    #[error("{} uses the same data by now: stop it first", quoted(containers))]
    ExternalWriters { containers: Vec<String> },
}

impl Disturbed {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::CleanupPending => ErrorCode::CleanupPending,
            Self::Started { .. } | Self::ExternalWriters { .. } => ErrorCode::Disturbed,
        }
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
