//! Policies and hosts as the bucket keeps them for a controller that lost its
//! own disk.
//!
//! JSON, because it must be readable by a person and by a version that does
//! not exist yet; unknown fields are left alone. What comes back from a
//! bucket is applied disabled: the world may have moved on, and two
//! controllers must not fire the same policy.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::catalog::hosts::HostRecord;
use crate::catalog::policies::PolicyRecord;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredPolicy {
    name: String,
    enabled: bool,
    toml: String,
}

/// A host as the bucket knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHost {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The content of `state/policies`.
pub fn policies_json(records: &[PolicyRecord]) -> Vec<u8> {
    let stored: Vec<StoredPolicy> = records
        .iter()
        .map(|record| StoredPolicy {
            name: record.policy.name.clone(),
            enabled: record.policy.enabled,
            toml: record.policy.toml.clone(),
        })
        .collect();
    serde_json::to_vec_pretty(&stored).expect("plain data is always JSON")
}

/// The content of `state/hosts`.
pub fn hosts_json(records: &[HostRecord]) -> Vec<u8> {
    let stored: Vec<KnownHost> = records
        .iter()
        .map(|record| KnownHost {
            id: record.id.to_string(),
            name: record.name.clone(),
            labels: record.labels.clone(),
        })
        .collect();
    serde_json::to_vec_pretty(&stored).expect("plain data is always JSON")
}

/// Policies from what [`policies_json`] wrote, each disabled. Those that this
/// version cannot read are named in the second list.
pub fn read_policies(content: &[u8]) -> Result<(Vec<Policy>, Vec<String>), serde_json::Error> {
    let stored: Vec<StoredPolicy> = serde_json::from_slice(content)?;
    let (mut policies, mut unreadable) = (Vec::new(), Vec::new());
    for StoredPolicy { name, toml, .. } in stored {
        match super::parse(&toml) {
            Ok(policy) => policies.push(Policy { enabled: false, ..policy }),
            Err(_) => unreadable.push(name),
        }
    }
    Ok((policies, unreadable))
}

/// Hosts from what [`hosts_json`] wrote: id, name and labels.
pub fn read_hosts(content: &[u8]) -> Result<Vec<KnownHost>, serde_json::Error> {
    serde_json::from_slice(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p21_policies_come_back_from_the_bucket_disabled() {
        let policy = super::super::parse(include_str!("example.toml")).expect("right");
        let record = PolicyRecord { policy, applied_ms: 1, since_ms: 1 };
        let (policies, unreadable) = read_policies(&policies_json(&[record])).expect("reads");
        assert!(unreadable.is_empty());
        assert_eq!((policies[0].name.as_str(), policies[0].enabled), ("nightly", false));
        let newer = br#"[{"name":"x","enabled":true,"toml":"name='x'\nfuture=1","more":2}]"#;
        assert_eq!(read_policies(newer).expect("reads").1, ["x"]);
    }
}
