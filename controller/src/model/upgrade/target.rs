//! What a rollout is about.

/// A container that matches, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutTarget {
    /// Name.
    pub host: String,
    pub container: String,
    pub image: String,
    /// Why it cannot be upgraded; empty where it can.
    pub refusal: String,
}
