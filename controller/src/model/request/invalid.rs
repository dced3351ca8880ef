//! Requests that ask for nothing a job can do.

/// What a message can say and no job can mean, as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRequest(pub String);
