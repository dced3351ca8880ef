//! What operators ask for, a file for each kind of job. Whether it can be done
//! is for `operations/start` to say.

pub mod backup;
pub mod invalid;
pub mod restore;
pub mod rollback;
pub mod rollout;
pub mod upgrade;

pub use backup::BackupRequest;
pub use invalid::InvalidRequest;
pub use restore::RestoreRequest;
pub use rollback::RollbackRequest;
pub use rollout::RolloutRequest;
pub use upgrade::{UpgradeChoice, UpgradeStartRequest};
