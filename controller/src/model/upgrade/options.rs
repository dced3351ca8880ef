//! How an upgrade is carried out, and how its container shows that it is well.

use serde::{Deserialize, Serialize};

/// How a host upgrades. Numbers that are 0 leave it to the agent, which has a
/// default for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeOptions {
    pub health_timeout_seconds: u32,
    pub steady_seconds: u32,
    pub probe: Option<Probe>,
    pub grace_seconds: u32,
    pub stopped_seconds: u32,
    /// Names of what may be lost.
    pub allow_loss: Vec<String>,
}

/// How a new container is asked whether it is well. What cannot be is the
/// agent's to refuse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    Command(Vec<String>),
    Tcp(u32),
    Http { port: u32, path: String },
}
