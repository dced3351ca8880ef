//! What can be wrong with a manifest that is read.

use super::page::PageError;
use crate::fetch::FetchError;
use crate::ids::FrameId;

/// A manifest that could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ManifestError {
    #[error("a page of the manifest could not be had")]
    Fetch(#[source] Box<FetchError>),
    #[error("manifest page {page} is invalid")]
    Page { page: FrameId, source: PageError },
}

impl From<FetchError> for ManifestError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Box::new(error))
    }
}

impl ManifestError {
    /// The page that is missing, damaged or invalid.
    pub fn page(&self) -> Option<FrameId> {
        match self {
            Self::Fetch(error) => error.frame(),
            Self::Page { page, .. } => Some(*page),
        }
    }

    /// Whether the page is gone or wrong, rather than out of reach for now.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_loss(),
            Self::Page { .. } => true,
        }
    }
}

/// What went wrong in a step: the page being read, or one it refers to.
pub(super) enum StepError {
    Page(PageError),
    Below(ManifestError),
}

impl From<PageError> for StepError {
    fn from(error: PageError) -> Self {
        Self::Page(error)
    }
}
