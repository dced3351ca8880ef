//! Which rollback is asked for.

/// What is to be undone.
#[derive(Debug, Clone)]
pub struct RollbackRequest {
    /// Name or id.
    pub host: String,
    /// Job id of the upgrade, or the container's name.
    pub upgrade: String,
    /// Discard what was written since without a snapshot of it.
    pub without_snapshot: bool,
}
