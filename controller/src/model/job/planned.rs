//! Jobs that are not made yet.

use super::source::JobSource;

/// A backup as it would be.
#[derive(Debug, Clone)]
pub struct PlannedBackup {
    pub host: String,
    pub policy: String,
    pub actor: String,
    pub sources: Vec<JobSource>,
}
