//! Which restore is asked for.

use crate::model::job::parameters::RestoreParameters;

/// What is to be restored, and where.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// Name or id.
    pub host: String,
    /// As the job keeps it, but that the snapshot is a reference of any form.
    pub restore: RestoreParameters,
    /// Resolve and say, start nothing.
    pub plan_only: bool,
}
