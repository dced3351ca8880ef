//! What can go wrong between an agent or operator and the repository.

use holdfast_archive::ids::{InvalidId, SnapshotId};
use holdfast_archive::store::StoreError;

use crate::catalog::CatalogError;

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// The caller asked for what is not its own.
    #[error("{0}")]
    Denied(String),
    /// The lease was closed, superseded or never there.
    #[error("{0}")]
    LeaseLost(String),
    /// A newer attempt of the job has been seen.
    #[error("{0}")]
    Stale(String),
    /// The request makes no sense, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// The pack is not what was announced: allocate anew.
    #[error("{0}")]
    UploadFailed(String),
    /// Too much at once; later it may go.
    #[error("{0}")]
    TooMuch(String),
    /// The host has added as much as it may in a day.
    #[error("{0}")]
    Quota(String),
    #[error("snapshot {0} is held and is not forgotten while it is")]
    Held(SnapshotId),
    /// In a state in which this cannot be done.
    #[error("{0}")]
    Busy(String),
    #[error("the repository is suspended: {0}")]
    Suspended(String),
    #[error("{message}")]
    NotFound { message: String, nearest: Vec<String> },
    #[error("{message}")]
    Ambiguous { message: String, candidates: Vec<String> },
    #[error("{0}")]
    Damaged(String),
}

impl RepositoryError {
    pub(super) fn no_snapshot(id: &SnapshotId) -> Self {
        Self::NotFound { message: format!("there is no snapshot {id}"), nearest: Vec::new() }
    }
}
