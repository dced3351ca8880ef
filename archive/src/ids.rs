//! Ids of what lies in a repository. All are checked when parsed and never
//! travel as plain strings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A text that is no id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind} id: {expected} expected")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
    expected: &'static str,
}

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(Ulid);

        impl $name {
            /// A new id: time-ordered, the rest random.
            pub fn generate() -> Self {
                Self(Ulid::generate())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // Only the one spelling that Display gives: an id is part of object names.
                Ulid::from_string(text).ok().filter(|id| id.to_string() == text).map(Self).ok_or_else(|| {
                    InvalidId {
                        kind: $kind,
                        text: text.to_owned(),
                        expected: "26 capital letters and digits are",
                    }
                })
            }
        }
    };
}

ulid_id!(
    /// A repository, for ever: a bucket that was swapped has another.
    RepositoryId,
    "repository"
);
ulid_id!(
    /// A machine with an Engine and an agent.
    HostId,
    "host"
);
ulid_id!(
    /// What snapshots are taken of: a volume or a directory of one host.
    SourceId,
    "source"
);
ulid_id!(
    /// One permission to write one pack, never given twice.
    AllocationId,
    "allocation"
);

/// Of 64 lower-case digits alone: a name has one form.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (!text.contains(|digit: char| digit.is_ascii_uppercase())).then_some(bytes)
}

/// BLAKE3-256 of a frame's raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub [u8; 32]);

impl FrameId {
    /// From the 32 bytes that pages, pack tables and the wire carry.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..6]))
    }
}

impl FromStr for FrameId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        unhex(text).map(Self).ok_or_else(|| InvalidId {
            kind: "frame",
            text: text.to_owned(),
            expected: "64 hexadecimal digits are",
        })
    }
}

/// A pack's content and its place: SHA-256 of its bytes and the allocation it
/// was written under, so that a delete of one never hits a later equal one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId {
    pub sha256: [u8; 32],
    pub allocation: AllocationId,
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.sha256))?;
        write!(f, "-{}", self.allocation)
    }
}

impl FromStr for PackId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.split_once('-')
            .and_then(|(hash, allocation)| {
                Some(Self { sha256: unhex(hash)?, allocation: allocation.parse().ok()? })
            })
            .ok_or_else(|| InvalidId {
                kind: "pack",
                text: text.to_owned(),
                expected: "64 hexadecimal digits, a dash and an allocation id are",
            })
    }
}

/// One point in time of one source. Numbers count from 1 and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId {
    pub host: HostId,
    pub source: SourceId,
    pub number: u64,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.source, self.number)
    }
}

impl FromStr for SnapshotId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let mut parts = text.split('/');
            let id = Self {
                host: parts.next()?.parse().ok()?,
                source: parts.next()?.parse().ok()?,
                number: parts.next().filter(|n| !n.starts_with(['0', '+']))?.parse().ok()?,
            };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| InvalidId {
            kind: "snapshot",
            text: text.to_owned(),
            expected: "<host id>/<source id>/<number> is",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_their_text() {
        let pack = PackId { sha256: [0xab; 32], allocation: AllocationId::generate() };
        assert_eq!(pack.to_string().parse(), Ok(pack));
        let snapshot = SnapshotId { host: HostId::generate(), source: SourceId::generate(), number: 118 };
        assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
        let frame = FrameId([7; 32]);
        assert_eq!(frame.to_string().parse(), Ok(frame));
    }

    #[test]
    fn only_the_canonical_spelling_is_an_id() {
        let host = HostId::generate().to_string();
        assert!(host.to_lowercase().parse::<HostId>().is_err());
        assert!(format!("{host}/{host}/007").parse::<SnapshotId>().is_err());
        assert!(format!("{host}/{host}/+7").parse::<SnapshotId>().is_err());
        assert!(format!("{host}/{host}/7/8").parse::<SnapshotId>().is_err());
        assert!("AB".repeat(32).parse::<FrameId>().is_err());
    }
}
