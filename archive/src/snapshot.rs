//! Snapshot objects: the agent's account of one snapshot under the
//! controller's header.
//!
//! The body is bytes the agent made and the controller stores as they are:
//! under encryption it is sealed, and a controller without keys can still
//! list, expire and count snapshots by their headers. Time and number are the
//! header's alone, so no agent dates or numbers a snapshot. Whose it is, is the
//! header's as well: what the body says of that is the agent's word. The
//! repository's id in the header tells a snapshot copied from elsewhere.

use std::collections::BTreeMap;

use prost::Message;

use crate::envelope::{Envelope, EnvelopeError};
use crate::ids::{FrameId, InvalidId, RepositoryId, SnapshotId};

/// How the problem of a snapshot begins that has less than a tenth of the
/// entries or bytes of the one before it.
pub const SHRUNK_WORDS: &str = "less than a tenth is left of snapshot";

/// Longest snapshot object a reader accepts, bytes.
pub const MAX_OBJECT_LEN: usize = 4 << 20;

/// What the controller says of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    pub repository: RepositoryId,
    pub id: SnapshotId,
    /// By the controller's clock, milliseconds since the Unix epoch.
    pub created_unix_ms: i64,
    /// Counts every commit to the repository; grows by one with each.
    pub commit_number: u64,
    /// Whose it is, as the controller knows it.
    pub names: Names,
}

/// What a host and a source of it were called when a snapshot was committed.
/// All empty in objects from before controllers wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub host: String,
    /// "volume" or "directory".
    pub kind: String,
    /// A volume's name or a directory's path.
    pub source: String,
}

impl Names {
    /// These, or where the controller wrote none what the agent says of itself.
    pub fn or_of(&self, body: &SnapshotBody) -> Self {
        if *self != Self::default() {
            return self.clone();
        }
        let SnapshotBody { host_name, source, .. } = body;
        Self { host: host_name.clone(), kind: source.kind.clone(), source: source.name.clone() }
    }
}

/// What the agent says of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotBody {
    /// The root page of its manifest.
    pub root: FrameId,
    /// The agent's smallest wall time of the run, taken before `syncfs`: what
    /// changed since then is read again by the next run.
    pub started_unix_ns: i64,
    pub stats: Stats,
    pub source: SourceFacts,
    /// How the content was made consistent: "none", "pause", "stop", ...
    pub consistency: String,
    /// The host's name when the snapshot was made.
    pub host_name: String,
    /// Some entries are torn, unreadable or lost; never counts as a good one.
    pub partial: bool,
    /// The first things that went wrong, in sentences.
    pub problems: Vec<String>,
    /// How long containers stood still for it.
    pub downtime_ms: u64,
    pub agent_version: String,
    /// Those that used the source: enough to make them again.
    pub containers: Vec<ContainerFacts>,
}

/// A container as a person made it. What is in `spec` is the agent's to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFacts {
    pub name: String,
    /// The reference it was made with.
    pub image: String,
    /// Of the image it ran.
    pub image_id: String,
    /// One JSON object.
    pub spec: String,
}

/// Counts of one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub entries: u64,
    pub files: u64,
    /// Sum of the files' sizes, holes included.
    pub size_bytes: u64,
    /// Bytes of content read from the source.
    pub read_bytes: u64,
    /// Raw bytes of frames that were not in the repository.
    pub new_bytes: u64,
    /// What those took in packs.
    pub stored_bytes: u64,
    pub changed_files: u64,
    pub torn_files: u64,
    pub vanished_entries: u64,
    pub unreadable_entries: u64,
}

/// How large a source was when it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extent {
    pub entries: u64,
    /// Sum of the files' sizes, holes included.
    pub size_bytes: u64,
}

/// A source that is left with less than one part in this many is more likely
/// to have lost its content than to have changed.
const SHRUNK: u64 = 10;

impl Extent {
    /// Whether less than a tenth of the entries or of the bytes is left.
    pub fn shrank_from(self, before: Self) -> bool {
        let shrank = |now: u64, before: u64| now.saturating_mul(SHRUNK) < before;
        shrank(self.entries, before.entries) || shrank(self.size_bytes, before.size_bytes)
    }
}

impl Stats {
    pub fn extent(&self) -> Extent {
        Extent { entries: self.entries, size_bytes: self.size_bytes }
    }
}

/// What a source was when it was backed up: enough to make it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFacts {
    /// "volume" or "directory".
    pub kind: String,
    /// A volume's name or a directory's path.
    pub name: String,
    /// A volume's driver.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// A snapshot object or body that is not what the format says.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("a snapshot object of {0} bytes is longer than any may be (4 MiB)")]
    Long(usize),
    #[error("the snapshot object's envelope is broken")]
    Envelope(#[from] EnvelopeError),
    #[error("the snapshot object does not decode")]
    Decode(#[from] prost::DecodeError),
    #[error("the snapshot names no valid id")]
    Id(#[from] InvalidId),
    #[error("the snapshot's root is no frame id: it has {0} bytes, not 32")]
    Root(usize),
    #[error("the snapshot's body is sealed with key epoch {0}, and this program has no keys")]
    Sealed(u32),
}

/// The bytes an agent hands to the controller.
pub fn encode_body(body: &SnapshotBody) -> Vec<u8> {
    BodyMessage::from(body).encode_to_vec()
}

/// Reads what [`encode_body`] wrote.
///
/// # Errors
/// If the bytes are something else.
pub fn decode_body(bytes: &[u8]) -> Result<SnapshotBody, SnapshotError> {
    if bytes.len() > MAX_OBJECT_LEN {
        return Err(SnapshotError::Long(bytes.len()));
    }
    BodyMessage::decode(bytes)?.try_into()
}

/// The object as it lies in the repository.
pub fn encode_object(header: &SnapshotHeader, body: &[u8]) -> Vec<u8> {
    let message = ObjectMessage {
        repository: header.repository.to_string(),
        snapshot: header.id.to_string(),
        created_unix_ms: header.created_unix_ms,
        commit_number: header.commit_number,
        body_key_epoch: 0,
        body: body.to_vec(),
        host_name: header.names.host.clone(),
        source_kind: header.names.kind.clone(),
        source_name: header.names.source.clone(),
    };
    Envelope::Snapshot.seal(&message.encode_to_vec())
}

/// Reads a snapshot object. That it lies under its own name is the caller's
/// to check.
///
/// # Errors
/// If it is damaged, hostile or sealed.
pub fn decode_object(object: &[u8]) -> Result<(SnapshotHeader, SnapshotBody), SnapshotError> {
    if object.len() > MAX_OBJECT_LEN {
        return Err(SnapshotError::Long(object.len()));
    }
    // The checksum before the decoder: what a store has damaged never gets there.
    let message = ObjectMessage::decode(Envelope::Snapshot.open(object)?)?;
    // A body that is sealed would decode to something, or to nothing: it is told apart by the
    // header.
    if message.body_key_epoch != 0 {
        return Err(SnapshotError::Sealed(message.body_key_epoch));
    }
    let header = SnapshotHeader {
        repository: message.repository.parse()?,
        id: message.snapshot.parse()?,
        created_unix_ms: message.created_unix_ms,
        commit_number: message.commit_number,
        names: Names { host: message.host_name, kind: message.source_kind, source: message.source_name },
    };
    Ok((header, decode_body(&message.body)?))
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ObjectMessage {
    #[prost(string, tag = "1")]
    pub(crate) repository: String,
    #[prost(string, tag = "2")]
    pub(crate) snapshot: String,
    #[prost(int64, tag = "3")]
    pub(crate) created_unix_ms: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) commit_number: u64,
    #[prost(uint32, tag = "5")]
    pub(crate) body_key_epoch: u32,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) body: Vec<u8>,
    #[prost(string, tag = "7")]
    pub(crate) host_name: String,
    #[prost(string, tag = "8")]
    pub(crate) source_kind: String,
    #[prost(string, tag = "9")]
    pub(crate) source_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BodyMessage {
    #[prost(bytes = "vec", tag = "1")]
    root: Vec<u8>,
    #[prost(int64, tag = "2")]
    started_unix_ns: i64,
    #[prost(message, optional, tag = "3")]
    stats: Option<StatsMessage>,
    #[prost(message, optional, tag = "4")]
    source: Option<SourceMessage>,
    #[prost(string, tag = "5")]
    consistency: String,
    #[prost(string, tag = "6")]
    host_name: String,
    #[prost(bool, tag = "7")]
    partial: bool,
    #[prost(string, repeated, tag = "8")]
    problems: Vec<String>,
    #[prost(uint64, tag = "9")]
    downtime_ms: u64,
    #[prost(string, tag = "10")]
    agent_version: String,
    #[prost(message, repeated, tag = "30")]
    containers: Vec<ContainerMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    image: String,
    #[prost(string, tag = "3")]
    image_id: String,
    #[prost(string, tag = "4")]
    spec: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct StatsMessage {
    #[prost(uint64, tag = "1")]
    entries: u64,
    #[prost(uint64, tag = "2")]
    files: u64,
    #[prost(uint64, tag = "3")]
    size_bytes: u64,
    #[prost(uint64, tag = "4")]
    read_bytes: u64,
    #[prost(uint64, tag = "5")]
    new_bytes: u64,
    #[prost(uint64, tag = "6")]
    stored_bytes: u64,
    #[prost(uint64, tag = "7")]
    changed_files: u64,
    #[prost(uint64, tag = "8")]
    torn_files: u64,
    #[prost(uint64, tag = "9")]
    vanished_entries: u64,
    #[prost(uint64, tag = "10")]
    unreadable_entries: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SourceMessage {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    driver: String,
    #[prost(btree_map = "string, string", tag = "4")]
    options: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
}

impl From<&SnapshotBody> for BodyMessage {
    fn from(body: &SnapshotBody) -> Self {
        let SnapshotBody {
            root,
            started_unix_ns,
            stats,
            source,
            consistency,
            host_name,
            partial,
            problems,
            downtime_ms,
            agent_version,
            containers,
        } = body.clone();
        Self {
            root: root.0.to_vec(),
            started_unix_ns,
            stats: Some(stats.into()),
            source: Some(source.into()),
            consistency,
            host_name,
            partial,
            problems,
            downtime_ms,
            agent_version,
            containers: containers.into_iter().map(ContainerMessage::from).collect(),
        }
    }
}

impl TryFrom<BodyMessage> for SnapshotBody {
    type Error = SnapshotError;

    fn try_from(message: BodyMessage) -> Result<Self, SnapshotError> {
        Ok(Self {
            root: FrameId::from_slice(&message.root).ok_or(SnapshotError::Root(message.root.len()))?,
            started_unix_ns: message.started_unix_ns,
            stats: message.stats.unwrap_or_default().into(),
            source: message.source.unwrap_or_default().into(),
            consistency: message.consistency,
            host_name: message.host_name,
            partial: message.partial,
            problems: message.problems,
            downtime_ms: message.downtime_ms,
            agent_version: message.agent_version,
            containers: message.containers.into_iter().map(ContainerFacts::from).collect(),
        })
    }
}

macro_rules! mirror {
    ($domain:ident, $message:ident, $($field:ident),+) => {
        impl From<$domain> for $message {
            fn from($domain { $($field),+ }: $domain) -> Self {
                Self { $($field),+ }
            }
        }
        impl From<$message> for $domain {
            fn from($message { $($field),+ }: $message) -> Self {
                Self { $($field),+ }
            }
        }
    };
}

mirror!(
    Stats,
    StatsMessage,
    entries,
    files,
    size_bytes,
    read_bytes,
    new_bytes,
    stored_bytes,
    changed_files,
    torn_files,
    vanished_entries,
    unreadable_entries
);
mirror!(SourceFacts, SourceMessage, kind, name, driver, options, labels);
mirror!(ContainerFacts, ContainerMessage, name, image, image_id, spec);

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{HostId, SourceId};

    pub(crate) fn sample_body() -> SnapshotBody {
        SnapshotBody {
            root: FrameId([3; 32]),
            started_unix_ns: 1_790_000_000_123_456_789,
            stats: Stats { entries: 7, files: 3, size_bytes: 1 << 40, torn_files: 1, ..Stats::default() },
            source: SourceFacts {
                kind: "volume".into(),
                name: "db_data".into(),
                driver: "local".into(),
                options: BTreeMap::from([("type".into(), "nfs".into())]),
                labels: BTreeMap::from([("a".into(), "1".into()), ("b".into(), String::new())]),
            },
            consistency: "stop".into(),
            host_name: "web-1".into(),
            partial: true,
            problems: vec!["`a`: changed while it was read".into()],
            downtime_ms: 1200,
            agent_version: "0.1.0".into(),
            containers: vec![ContainerFacts {
                name: "db".into(),
                image: "postgres:16.4".into(),
                image_id: "sha256:ab".into(),
                spec: r#"{"config":{}}"#.into(),
            }],
        }
    }

    fn sample_header() -> SnapshotHeader {
        SnapshotHeader {
            repository: RepositoryId::generate(),
            id: SnapshotId { host: HostId::generate(), source: SourceId::generate(), number: 12 },
            created_unix_ms: 1_790_000_001_000,
            commit_number: 99,
            names: Names { host: "web-1".into(), kind: "volume".into(), source: "db_data".into() },
        }
    }

    #[test]
    fn v05_the_controllers_names_count_and_the_agents_where_there_are_none() {
        let body = SnapshotBody { host_name: "db-1".into(), ..sample_body() };
        assert_eq!(sample_header().names.or_of(&body), sample_header().names);
        let of_old = Names::default().or_of(&body);
        assert_eq!((of_old.host.as_str(), of_old.source.as_str()), ("db-1", "db_data"));
    }

    #[test]
    fn an_object_gives_back_header_and_body() {
        let (header, body) = (sample_header(), sample_body());
        let object = encode_object(&header, &encode_body(&body));
        assert_eq!(decode_object(&object).unwrap(), (header, body));
    }

    #[test]
    fn a_sealed_body_is_refused_by_its_key_epoch() {
        let message = ObjectMessage { body_key_epoch: 2, ..ObjectMessage::default() };
        let object = Envelope::Snapshot.seal(&message.encode_to_vec());
        assert!(matches!(decode_object(&object), Err(SnapshotError::Sealed(2))));
    }

    proptest! {
        #[test]
        fn s06_every_flipped_bit_is_seen(bit in any::<usize>()) {
            let mut object = encode_object(&sample_header(), &encode_body(&sample_body()));
            let bit = bit % (object.len() * 8);
            object[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_object(&object).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_body(&bytes);
            let _ = decode_object(&Envelope::Snapshot.seal(&bytes));
        }
    }
}
