//! Kinds of jobs.

use strum::IntoStaticStr;

/// What a job does. The words are kept in rows, and queries name them: they
/// stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum JobKind {
    Backup,
    Restore,
    Prune,
    /// One container replaced; its snapshots are children.
    Upgrade,
    /// A committed upgrade undone.
    Rollback,
    /// Upgrades of many containers, a child each.
    Rollout,
}

impl JobKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
