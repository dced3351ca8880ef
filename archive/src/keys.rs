//! Names of objects in a repository. Nothing else builds or takes apart one.
//!
//! Every part is an id or a number of ours, never a name a user gave, so no
//! name needs escaping and none can point elsewhere.

use std::fmt;

use crate::ids::{HostId, PackId, SnapshotId, SourceId};

/// The name of one object, relative to the repository's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKey {
    /// `repo.json`
    Repository,
    /// `RECOVERY/<name>`
    Recovery(RecoveryFile),
    /// `packs/<first two digits>/<sha256>-<allocation id>`
    Pack(PackId),
    /// `snapshots/<host id>/<source id>/<number>`
    Snapshot(SnapshotId),
    /// `index/<n>`
    Index(u64),
    /// `state/<name>`
    State(StateFile),
    /// `probe/<n>`: what the probe of a store writes and removes.
    Probe(u64),
}

/// What a person with nothing but the bucket needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecoveryFile {
    Readme,
    Format,
    Script,
}

/// What a lost controller needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateFile {
    /// Commit number and the highest snapshot number of each source.
    Head,
    Policies,
    Hosts,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository => f.write_str("repo.json"),
            Self::Recovery(RecoveryFile::Readme) => f.write_str("RECOVERY/README"),
            Self::Recovery(RecoveryFile::Format) => f.write_str("RECOVERY/format.proto"),
            Self::Recovery(RecoveryFile::Script) => f.write_str("RECOVERY/recover.py"),
            Self::Pack(id) => write!(f, "packs/{:02x}/{id}", id.sha256[0]),
            Self::Snapshot(id) => write!(f, "snapshots/{id}"),
            Self::Index(n) => write!(f, "index/{n}"),
            Self::State(StateFile::Head) => f.write_str("state/head"),
            Self::State(StateFile::Policies) => f.write_str("state/policies"),
            Self::State(StateFile::Hosts) => f.write_str("state/hosts"),
            Self::Probe(n) => write!(f, "probe/{n}"),
        }
    }
}

impl ObjectKey {
    /// The key a listed name stands for; `None` for a name that is not ours.
    pub fn parse(name: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|n| n.to_string() == text);
        let key = match name.split_once('/') {
            None => (name == "repo.json").then_some(Self::Repository)?,
            Some(("RECOVERY", "README")) => Self::Recovery(RecoveryFile::Readme),
            Some(("RECOVERY", "format.proto")) => Self::Recovery(RecoveryFile::Format),
            Some(("RECOVERY", "recover.py")) => Self::Recovery(RecoveryFile::Script),
            Some(("packs", rest)) => Self::Pack(rest.split_once('/')?.1.parse().ok()?),
            Some(("snapshots", rest)) => Self::Snapshot(rest.parse().ok()?),
            Some(("index", rest)) => Self::Index(number(rest)?),
            Some(("state", "head")) => Self::State(StateFile::Head),
            Some(("state", "policies")) => Self::State(StateFile::Policies),
            Some(("state", "hosts")) => Self::State(StateFile::Hosts),
            Some(("probe", rest)) => Self::Probe(number(rest)?),
            Some(_) => return None,
        };
        (key.to_string() == name).then_some(key)
    }
}

/// A group of objects that can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    All,
    Packs,
    Snapshots,
    SnapshotsOf(HostId, SourceId),
    Index,
    State,
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => Ok(()),
            Self::Packs => f.write_str("packs/"),
            Self::Snapshots => f.write_str("snapshots/"),
            Self::SnapshotsOf(host, source) => write!(f, "snapshots/{host}/{source}/"),
            Self::Index => f.write_str("index/"),
            Self::State => f.write_str("state/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AllocationId;

    #[test]
    fn every_key_is_read_back() {
        let keys = [
            ObjectKey::Repository,
            ObjectKey::Recovery(RecoveryFile::Readme),
            ObjectKey::Recovery(RecoveryFile::Format),
            ObjectKey::Recovery(RecoveryFile::Script),
            ObjectKey::Pack(PackId { sha256: [0x0f; 32], allocation: AllocationId::generate() }),
            ObjectKey::Snapshot(SnapshotId {
                host: HostId::generate(),
                source: SourceId::generate(),
                number: 1,
            }),
            ObjectKey::Index(12),
            ObjectKey::State(StateFile::Head),
            ObjectKey::State(StateFile::Policies),
            ObjectKey::State(StateFile::Hosts),
            ObjectKey::Probe(3),
        ];
        for key in keys {
            assert_eq!(ObjectKey::parse(&key.to_string()), Some(key.clone()), "{key}");
        }
    }

    #[test]
    fn foreign_names_are_no_keys() {
        for name in ["", "packs/", "packs/../repo.json", "index/007", "state/other", "repo.json/x"] {
            assert_eq!(ObjectKey::parse(name), None, "{name}");
        }
        let pack = PackId { sha256: [0x0f; 32], allocation: AllocationId::generate() };
        assert_eq!(ObjectKey::parse(&format!("packs/aa/{pack}")), None);
    }
}
