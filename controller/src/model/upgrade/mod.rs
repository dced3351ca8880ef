//! Upgrades of containers: what one is to do, where it stands, what it came to.

pub mod options;
pub mod plan;
pub mod record;
pub mod report;
pub mod request;
pub mod state;
pub mod target;

pub use options::{Probe, UpgradeOptions};
pub use plan::{UpgradeChange, UpgradeLoss, UpgradePlan, UpgradeSource};
pub use record::{Upgrade, UpgradeFinished};
pub use report::UpgradeReport;
pub use request::UpgradeRequest;
pub use state::{UpgradeState, UpgradeStep};
pub use target::RolloutTarget;
