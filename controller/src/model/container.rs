//! Containers as their host lists them.

use std::collections::BTreeMap;

/// A container, as far as somebody chooses by it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    /// The reference it was made with.
    pub image: String,
    pub labels: BTreeMap<String, String>,
}
