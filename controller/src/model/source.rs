//! Kinds of sources.

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

/// What a source is on its host. The words are kept in rows and in snapshots:
/// they stay.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum SourceKind {
    #[default]
    Volume,
    /// Known by its path, on a host that allows it.
    Directory,
}

impl SourceKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
