//! One kill: what goes on, and who is killed meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What goes on when somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    Backup,
    Restore,
    /// Forgotten snapshots are purged and their packs collected.
    Prune,
    /// A lost controller is recreated from the bucket.
    Rebuild,
    Upgrade,
    /// A committed upgrade is rolled back.
    Rollback,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Victim {
    Agent,
    Controller,
    Engine,
    /// The command that does it all by itself.
    Command,
}

impl Act {
    pub(crate) fn victims(self) -> &'static [Victim] {
        match self {
            Self::Prune => &[Victim::Controller],
            Self::Rebuild => &[Victim::Command],
            // An Engine takes twenty seconds to come back.
            _ => &[Victim::Agent, Victim::Agent, Victim::Controller, Victim::Controller, Victim::Engine],
        }
    }

    /// For how long the act takes at the least: the kill comes in this time.
    pub(crate) fn span(self) -> Duration {
        Duration::from_millis(match self {
            Self::Backup | Self::Restore => 700,
            Self::Prune => 250,
            // Release binaries rebuild so small a repository in less than 250 ms.
            Self::Rebuild => 60,
            Self::Upgrade => 6000,
            Self::Rollback => 5000,
        })
    }
}
