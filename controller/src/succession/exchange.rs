//! Policies and hosts as the bucket keeps them for a controller that lost its
//! own disk, or whose catalogue was put back from a copy.
//!
//! JSON, because it must be readable by a person and by a version that does
//! not exist yet; unknown fields are left alone. What comes back from a
//! bucket is applied disabled: the world may have moved on, and two
//! controllers must not fire the same policy.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use serde::{Deserialize, Serialize};

use crate::catalog::binds::BindRecord;
use crate::catalog::certificates::Certificates;
use crate::catalog::hosts::HostRecord;
use crate::catalog::policies::PolicyRecord;
use crate::catalog::sources::SourceRecord;
use crate::catalog::{Catalog, CatalogError};
use crate::policy::{self, Policy};

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredPolicy {
    name: String,
    enabled: bool,
    toml: String,
}

/// A host as the bucket knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHost {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch; revoked hosts only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<i64>,
    /// Of hosts that were given up; they are revoked as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_ms: Option<i64>,
    #[serde(default)]
    pub certificates: Certificates,
    /// What of it was given up on purpose.
    #[serde(default)]
    pub retired: Vec<RetiredSource>,
}

/// A source that an operator has given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredSource {
    /// None: a directory that was never backed up and is not to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `volume` or `directory`.
    pub kind: String,
    pub name: String,
    pub retired_ms: i64,
}

/// What `state/hosts` is made of.
#[derive(Debug, Default)]
pub struct HostFacts {
    pub hosts: Vec<HostRecord>,
    pub certificates: BTreeMap<HostId, Certificates>,
    pub sources: Vec<SourceRecord>,
    pub binds: Vec<BindRecord>,
}

impl HostFacts {
    /// # Errors
    /// When the catalogue fails.
    pub async fn of(catalog: &Catalog, now_ms: i64) -> Result<Self, CatalogError> {
        Ok(Self {
            // Hosts first: what is read after of one that joins meanwhile is left out, and the
            // next export has it.
            hosts: catalog.hosts().await?,
            certificates: catalog.certificates(now_ms).await?,
            sources: catalog.sources(None).await?,
            binds: catalog.binds(None).await?,
        })
    }

    fn retired(&self, host: HostId) -> Vec<RetiredSource> {
        let sources = self.sources.iter().filter(|source| source.host == host).filter_map(|source| {
            Some(RetiredSource {
                id: Some(source.id.to_string()),
                kind: source.kind.as_str().to_owned(),
                name: source.name.clone(),
                retired_ms: source.retired_ms?,
            })
        });
        let binds = self.binds.iter().filter(|bind| bind.host == host).filter_map(|bind| {
            let retired_ms = bind.retired_ms?;
            Some(RetiredSource {
                id: None,
                kind: "directory".to_owned(),
                name: bind.path.clone(),
                retired_ms,
            })
        });
        sources.chain(binds).collect()
    }
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
pub fn hosts_json(facts: &HostFacts) -> Vec<u8> {
    let stored: Vec<KnownHost> = facts
        .hosts
        .iter()
        .map(|record| KnownHost {
            id: record.id.to_string(),
            name: record.name.clone(),
            labels: record.labels.clone(),
            revoked_ms: record.revoked_ms,
            retired_ms: record.retired_ms,
            certificates: facts.certificates.get(&record.id).cloned().unwrap_or_default(),
            retired: facts.retired(record.id),
        })
        .collect();
    serde_json::to_vec_pretty(&stored).expect("plain data is always JSON")
}

/// Policies from what [`policies_json`] wrote, each disabled. Those that this
/// version cannot read are named in the second list.
///
/// # Errors
/// It is not what a controller wrote.
pub fn read_policies(content: &[u8]) -> Result<(Vec<Policy>, Vec<String>), serde_json::Error> {
    let stored: Vec<StoredPolicy> = serde_json::from_slice(content)?;
    let (mut policies, mut unreadable) = (Vec::new(), Vec::new());
    for StoredPolicy { name, toml, .. } in stored {
        match policy::parse(&toml) {
            Ok(policy) => policies.push(Policy { enabled: false, ..policy }),
            Err(_) => unreadable.push(name),
        }
    }
    Ok((policies, unreadable))
}

/// Hosts from what [`hosts_json`] wrote, by this version or an older one.
///
/// # Errors
/// It is not what a controller wrote.
pub fn read_hosts(content: &[u8]) -> Result<Vec<KnownHost>, serde_json::Error> {
    serde_json::from_slice(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p21_policies_come_back_from_the_bucket_disabled() {
        let policy = policy::parse(include_str!("../../../deploy/examples/policy.toml")).expect("right");
        let record = PolicyRecord { policy, applied_ms: 1, since_ms: 1 };
        let (policies, unreadable) = read_policies(&policies_json(&[record])).expect("reads");
        assert!(unreadable.is_empty());
        assert_eq!((policies[0].name.as_str(), policies[0].enabled), ("nightly", false));
        let newer = br#"[{"name":"x","enabled":true,"toml":"name='x'\nfuture=1","more":2}]"#;
        assert_eq!(read_policies(newer).expect("reads").1, ["x"]);
    }

    #[test]
    fn p21_hosts_of_an_older_version_are_read() {
        let older = br#"[{"id":"a","name":"web-1","labels":{"rack":"7"}}]"#;
        let read = read_hosts(older).expect("reads");
        assert_eq!((read[0].name.as_str(), read[0].revoked_ms), ("web-1", None));
        assert!(read[0].retired.is_empty() && read[0].certificates == Certificates::default());
    }
}
