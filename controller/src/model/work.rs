//! What an agent is asked to do for a job.

use crate::model::job::parameters::{BackupParameters, RestoreParameters};
use crate::model::job::source::JobSource;
use crate::model::upgrade::UpgradeOptions;

/// By kind of job. The job's id and generation are given with the call.
#[derive(Debug, Clone)]
pub enum Work {
    Backup { sources: Vec<JobSource>, backup: BackupParameters },
    Restore(RestoreParameters),
    Upgrade(UpgradeWork),
    RollBack(RollBackWork),
}

/// A container replaced, as a plan has it.
#[derive(Debug, Clone)]
pub struct UpgradeWork {
    pub container: String,
    pub image: String,
    /// Of the plan; the agent refuses when the world has changed since.
    pub fingerprint: String,
    pub options: UpgradeOptions,
}

/// A committed upgrade undone.
#[derive(Debug, Clone)]
pub struct RollBackWork {
    /// Job id of the upgrade.
    pub upgrade: String,
    /// Stop everything, say so, and go back only when told to proceed.
    pub wait: bool,
}

impl Work {
    /// Only the agent can say how it ends, once it may have begun.
    pub fn must_await_outcome(&self) -> bool {
        match self {
            Self::Backup { .. } | Self::Restore(_) => false,
            Self::Upgrade(_) | Self::RollBack(_) => true,
        }
    }
}
