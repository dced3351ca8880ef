//! What a host is asked to plan.

use serde::{Deserialize, Serialize};

use super::UpgradeOptions;

/// Which container is to get which image, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeRequest {
    /// Name or id.
    pub container: String,
    /// Empty: the reference the container was made with.
    pub image: String,
    /// Fetch the image even where one of that name is there.
    pub pull: bool,
    pub options: UpgradeOptions,
}
