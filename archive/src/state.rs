//! What lies under `state/` and `index/`: a lost controller's notes to its
//! successor.
//!
//! `head` says how far the repository has come. A controller whose catalogue
//! is behind it was restored from a copy and must not delete. Policies and
//! hosts are content this crate does not look into. An index file only saves
//! reading the ends of packs: nothing is believed because it is in one.

use std::collections::BTreeMap;

use prost::Message;

use crate::envelope::{Envelope, EnvelopeError};
use crate::ids::{HostId, InvalidId, PackId, SourceId};
use crate::pack::{self, PackError, TableRead};
use crate::pack_io::PackEntry;

/// `state/head`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Of the newest commit.
    pub commit_number: u64,
    /// Highest snapshot number given to each source, forgotten ones included.
    pub numbers: BTreeMap<(HostId, SourceId), u64>,
    /// The newest row of the controller's record of who did what; none in
    /// heads from before controllers wrote it.
    pub audit: Option<AuditMark>,
}

/// A row of a controller's audit chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditMark {
    pub row: u64,
    /// Its hash over itself and all rows before, hexadecimal.
    pub chain: String,
}

/// The table of one pack, as an index file carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    pub pack: PackId,
    /// Of the whole object, bytes.
    pub len: u64,
    pub table: Vec<PackEntry>,
}

/// A state or index object that is not what the format says.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the object's envelope is broken")]
    Envelope(#[from] EnvelopeError),
    #[error("the object does not decode")]
    Decode(#[from] prost::DecodeError),
    #[error("the object names no valid id")]
    Id(#[from] InvalidId),
    #[error("the index file's table of a pack is wrong")]
    Table(#[from] PackError),
    #[error("the index file's table of a pack is cut off")]
    TableCut,
}

/// `state/head` as it is stored.
pub fn encode_head(head: &Head) -> Vec<u8> {
    let sources = head.numbers.iter().map(|((host, source), number)| SourceNumberMessage {
        host: host.to_string(),
        source: source.to_string(),
        number: *number,
    });
    let audit = head.audit.clone();
    let message = HeadMessage {
        commit_number: head.commit_number,
        sources: sources.collect(),
        audit_row: audit.as_ref().map_or(0, |mark| mark.row),
        audit_chain: audit.map(|mark| mark.chain).unwrap_or_default(),
    };
    Envelope::Head.seal(&message.encode_to_vec())
}

/// Reads `state/head`.
///
/// # Errors
/// If the object is damaged or something else.
pub fn decode_head(object: &[u8]) -> Result<Head, StateError> {
    let message = HeadMessage::decode(Envelope::Head.open(object)?)?;
    let mut numbers = BTreeMap::new();
    for SourceNumberMessage { host, source, number } in &message.sources {
        numbers.insert((host.parse()?, source.parse()?), *number);
    }
    let HeadMessage { commit_number, audit_row, audit_chain, .. } = message;
    let audit = (!audit_chain.is_empty()).then_some(AuditMark { row: audit_row, chain: audit_chain });
    Ok(Head { commit_number, numbers, audit })
}

/// `state/policies` with this content.
pub fn encode_policies(content: &[u8]) -> Vec<u8> {
    Envelope::Policies.seal(content)
}

/// The content of `state/policies`.
///
/// # Errors
/// If the object is damaged or something else.
pub fn decode_policies(object: &[u8]) -> Result<&[u8], StateError> {
    Ok(Envelope::Policies.open(object)?)
}

/// `state/hosts` with this content.
pub fn encode_hosts(content: &[u8]) -> Vec<u8> {
    Envelope::Hosts.seal(content)
}

/// The content of `state/hosts`.
///
/// # Errors
/// If the object is damaged or something else.
pub fn decode_hosts(object: &[u8]) -> Result<&[u8], StateError> {
    Ok(Envelope::Hosts.open(object)?)
}

/// An index file with these packs.
pub fn encode_index(packs: &[IndexedPack]) -> Vec<u8> {
    let packs = packs.iter().map(|indexed| IndexedPackMessage {
        pack: indexed.pack.to_string(),
        len: indexed.len,
        table: pack::encode_table(&indexed.table),
    });
    Envelope::Index.seal(&IndexMessage { packs: packs.collect() }.encode_to_vec())
}

/// Reads an index file.
///
/// # Errors
/// If the object is damaged, or has a table that fits no pack of its length.
pub fn decode_index(object: &[u8]) -> Result<Vec<IndexedPack>, StateError> {
    let message = IndexMessage::decode(Envelope::Index.open(object)?)?;
    let read = |IndexedPackMessage { pack, len, table }| {
        let pack = pack.parse()?;
        match pack::read_table(&table, len)? {
            TableRead::Table(table) => Ok(IndexedPack { pack, len, table }),
            TableRead::NeedTail(_) => Err(StateError::TableCut),
        }
    };
    message.packs.into_iter().map(read).collect()
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeadMessage {
    #[prost(uint64, tag = "1")]
    pub(crate) commit_number: u64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sources: Vec<SourceNumberMessage>,
    #[prost(uint64, tag = "3")]
    pub(crate) audit_row: u64,
    #[prost(string, tag = "4")]
    pub(crate) audit_chain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SourceNumberMessage {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(uint64, tag = "3")]
    pub(crate) number: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IndexMessage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) packs: Vec<IndexedPackMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IndexedPackMessage {
    #[prost(string, tag = "1")]
    pub(crate) pack: String,
    #[prost(uint64, tag = "2")]
    pub(crate) len: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) table: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;
    use crate::ids::AllocationId;
    use crate::pack::PackBuilder;
    use crate::pack_io::FrameKind;

    #[test]
    fn a_head_round_trips() {
        let numbers = BTreeMap::from([
            ((HostId::generate(), SourceId::generate()), 3),
            ((HostId::generate(), SourceId::generate()), u64::MAX),
        ]);
        let audit = Some(AuditMark { row: 7, chain: "ab".repeat(32) });
        for head in [Head::default(), Head { commit_number: 12, numbers, audit }] {
            assert_eq!(decode_head(&encode_head(&head)).unwrap(), head);
        }
    }

    #[test]
    fn an_index_file_round_trips_and_a_lie_in_it_is_refused() {
        let mut builder = PackBuilder::new();
        builder.push(encode(FrameKind::Data, b"content", 3));
        let sealed = builder.finish();
        let pack = PackId { sha256: sealed.sha256, allocation: AllocationId::generate() };
        let indexed = IndexedPack { pack, len: sealed.bytes.len() as u64, table: sealed.table };
        assert_eq!(
            decode_index(&encode_index(std::slice::from_ref(&indexed))).unwrap(),
            std::slice::from_ref(&indexed)
        );

        let lying = IndexedPack { len: indexed.len + 1, ..indexed };
        assert!(matches!(decode_index(&encode_index(&[lying])), Err(StateError::Table(_))));
    }
}
