//! The plan of an upgrade, as the host made it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::source::SourceKind;

/// What an upgrade would do. The JSON is kept in the catalogue: names stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradePlan {
    /// Of everything the plan depends on: equal as long as the world is.
    pub fingerprint: String,
    pub container_id: String,
    pub container_name: String,
    pub running: bool,
    pub from_image: String,
    pub from_image_id: String,
    pub to_image: String,
    pub to_image_id: String,
    /// As the registry knows it; empty for an image that came from none.
    pub to_digest: String,
    /// In words, a line each.
    pub stays: Vec<String>,
    pub changes: Vec<UpgradeChange>,
    /// Names of what stops, in this order.
    pub stops: Vec<String>,
    pub expected_downtime_seconds: u32,
    pub losses: Vec<UpgradeLoss>,
    pub sources: Vec<UpgradeSource>,
    /// What forbids the upgrade and no option allows, a sentence each.
    pub refusals: Vec<String>,
    pub warnings: Vec<String>,
    /// How it will be known that the new container is well.
    pub health: String,
    /// Nothing forbids it and every loss is allowed.
    pub runnable: bool,
    pub container_labels: BTreeMap<String, String>,
    /// What the container may do beyond itself, in words.
    pub powers: Vec<String>,
}

/// What the new image makes different.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeChange {
    pub what: String,
    pub from: String,
    pub to: String,
}

/// Data, or a promise about data, that the upgrade would not keep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeLoss {
    /// What to allow.
    pub name: String,
    pub text: String,
    pub allowed: bool,
}

/// Writable data of the container, which is snapshotted and cloned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeSource {
    /// `None`: of a kind that this version does not know, and cannot back up.
    pub kind: Option<SourceKind>,
    /// Volume name or absolute path.
    pub name: String,
    pub target: String,
    pub size_bytes: u64,
    /// "reflink" or "copy".
    pub clone: String,
    pub free_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan as rows of the first version have it.
    const GOLDEN: &str = include_str!("golden/plan-1.json");

    fn plan() -> UpgradePlan {
        let source = UpgradeSource {
            kind: Some(SourceKind::Directory),
            name: "/srv".into(),
            target: "/data".into(),
            size_bytes: 1,
            clone: "reflink".into(),
            free_bytes: 2,
        };
        UpgradePlan {
            fingerprint: "f".into(),
            container_id: "c".into(),
            container_name: "db".into(),
            running: true,
            from_image: "postgres:16.3".into(),
            from_image_id: "sha256:a".into(),
            to_image: "postgres:16.4".into(),
            to_image_id: "sha256:b".into(),
            to_digest: "sha256:d".into(),
            stays: vec!["the network".into()],
            changes: vec![UpgradeChange { what: "user".into(), from: "1".into(), to: "2".into() }],
            stops: vec!["db".into()],
            expected_downtime_seconds: 3,
            losses: vec![UpgradeLoss {
                name: "tmpfs:/run".into(),
                text: "it is in memory".into(),
                allowed: true,
            }],
            sources: vec![source],
            refusals: vec!["it is a swarm task".into()],
            warnings: vec!["the image is old".into()],
            health: "its health check".into(),
            runnable: true,
            container_labels: [("app".to_owned(), "db".to_owned())].into(),
            powers: vec!["privileged".into()],
        }
    }

    /// A controller that is upgraded reads the rows of the one before. Who
    /// changes what is written adds a file, and goes on to read this one.
    #[test]
    fn rows_are_read_and_written_as_they_ever_were() {
        let row: serde_json::Value = serde_json::from_str(GOLDEN).expect("JSON");
        let read: UpgradePlan = serde_json::from_value(row.clone()).expect("reads");
        assert_eq!(read, plan());
        assert_eq!(serde_json::to_value(plan()).expect("JSON"), row);
    }
}
