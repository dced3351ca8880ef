//! How a source is taken: what keeps it still meanwhile, and what is made of
//! what could not be taken as it was.

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// What is done with the containers that use a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Consistency {
    #[default]
    None,
    Pause,
    Stop,
}

/// What a file is to a snapshot that changed while it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum TornPolicy {
    /// Marked, and the snapshot is good.
    #[default]
    Accept,
    /// No snapshot.
    Fail,
}

/// What a filesystem mounted inside a source is to a snapshot, which never
/// has what is in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum NestedMounts {
    /// A part that is missing.
    #[default]
    Partial,
    /// Nothing of it.
    LeaveOut,
}

impl Consistency {
    /// The word for it in policies and snapshots.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
