//! Why something that is asked for by hand is not begun.

use holdfast_proto::ErrorCode;
use tonic::Status;

use crate::catalog::CatalogError;
use crate::repository::RepositoryError;

/// Refused before there is a job. How it travels is `api`'s matter.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("{message}")]
    Refused {
        code: ErrorCode,
        /// Names the thing and the cause.
        message: String,
        /// What to try next; empty where only the message can say it.
        hint: String,
    },
    /// The host's own answer, or that it gave none in time.
    #[error("{}", .0.message())]
    Host(Box<Status>),
    #[error("the catalogue failed")]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl RequestError {
    /// Refused with the hint that goes with the code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::with_hint(code, message, code.hint())
    }

    /// Refused with a hint made for the occasion.
    pub fn with_hint(code: ErrorCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into(), hint: hint.into() }
    }
}

impl From<Status> for RequestError {
    fn from(answer: Status) -> Self {
        Self::Host(Box::new(answer))
    }
}
