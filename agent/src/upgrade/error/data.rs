//! What could not be done with the data of an upgrade, or its clone.

use std::io;
use std::path::PathBuf;

use holdfast_proto::ErrorCode;

use crate::clone::CloneError;

#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("the data could not be cloned: {0}")]
    NotCloned(#[source] CloneError),
    #[error(transparent)]
    NotExchanged(CloneError),
    #[error("{} could not be removed: {source}", .clone.display())]
    CloneStays { clone: PathBuf, source: CloneError },
    #[error("the data at {} cannot be reached: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

impl DataError {
    /// Error code for records, events and statuses.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotCloned(_) => ErrorCode::CloneFailed,
            Self::NotExchanged(_) => ErrorCode::ExchangeFailed,
            Self::CloneStays { .. } => ErrorCode::CloneStays,
            Self::Unreadable { .. } => ErrorCode::Unreadable,
        }
    }
}
