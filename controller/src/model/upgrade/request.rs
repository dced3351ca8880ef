//! What a host is asked to plan.

use serde::{Deserialize, Serialize};

use crate::model::job::parameters::{UpgradeOptions, UpgradeParameters};
use crate::policy::Consistency;

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

impl UpgradeRequest {
    /// What a job makes of it. Quiesced by pausing unless something else is
    /// asked for.
    pub fn parameters(&self, plan_id: &str, consistency: Option<Consistency>) -> UpgradeParameters {
        let Self { container, image, pull, options } = self.clone();
        UpgradeParameters {
            container,
            image,
            pull,
            options,
            plan_id: plan_id.to_owned(),
            consistency: consistency.unwrap_or(Consistency::Pause),
        }
    }
}
