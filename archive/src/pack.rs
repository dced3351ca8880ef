//! Packs: frames one after the other, then their table.
//!
//! ```text
//! frame … frame                      from offset 0, without gaps
//! 5C 2A 4D 18                        magic number of a skippable zstd frame
//! u32                                bytes that follow
//! row … row                          one for each frame, in their order
//!     [32] id   u8 kind   [3] zero   u32 key epoch   u64 offset   u32 stored length   u32 raw length
//! footer, 32 bytes
//!     "HOLDPACK"   u16 version = 1   u16 zero   u32 rows   [16] SHA-256 of rows and of the footer so far, its start
//! ```
//! Numbers are little-endian. Kind 1 is data, 2 is a manifest page. Key epoch
//! is 0 without encryption.
//!
//! Since frames lie without gaps and the table ends the pack, a pack has no
//! byte that neither a frame nor the table answers for, and a table alone,
//! also one an agent sent, can be checked against a length. Tools that know
//! zstd skip the table: `zstd -t` accepts a pack and `zstd -d` gives its raw
//! frames in order.

use std::collections::HashSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::frame::{EncodedFrame, MAX_RAW, MAX_STORED};
use crate::ids::FrameId;
use crate::pack_io::{FrameKind, PackEntry, SealedPack};

/// Bytes of the footer that ends a pack.
pub const FOOTER_LEN: usize = 32;

/// Bytes of one row of the table.
pub const ROW_LEN: usize = 56;

/// Longest pack a reader accepts. Writers aim far lower.
pub const MAX_PACK_LEN: u64 = 64 << 20;

const SKIPPABLE: [u8; 4] = 0x184D_2A5C_u32.to_le_bytes();
const SKIPPABLE_HEADER: usize = 8;
const FOOTER_MAGIC: &[u8; 8] = b"HOLDPACK";
const VERSION: u16 = 1;

/// A pack or table that is not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("{0} bytes are no pack: a pack holds a frame and a table, and at most 64 MiB")]
    Length(u64),
    #[error("the pack's footer is not one: {0}")]
    Footer(&'static str),
    #[error("the pack's table is of version {0}, which this program does not read: use a newer one")]
    Version(u16),
    #[error("the pack's table does not match its checksum")]
    Checksum,
    #[error("row {row} of the pack's table: {reason}")]
    Row { row: usize, reason: &'static str },
    #[error("the table's frames end at {frames_end}, the table begins at {table_start}")]
    Coverage { frames_end: u64, table_start: u64 },
    #[error("frame {0} is twice in one pack")]
    Duplicate(FrameId),
}

/// What the end of a pack gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableRead {
    /// The whole table, checked as [`check_table`] does.
    Table(Vec<PackEntry>),
    /// The table is longer than the bytes given: read this many from the end.
    NeedTail(u64),
}

/// A pack being filled.
#[derive(Debug, Default)]
pub struct PackBuilder {
    bytes: Vec<u8>,
    table: Vec<PackEntry>,
}

impl PackBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a frame. One pack must not get the same frame twice.
    pub fn push(&mut self, frame: EncodedFrame) {
        self.push_stored(frame.id, frame.kind, 0, frame.raw_len, &frame.bytes);
    }

    /// Appends a frame as it lies in another pack, seal and all.
    pub fn push_stored(&mut self, id: FrameId, kind: FrameKind, key_epoch: u32, raw_len: u32, stored: &[u8]) {
        self.table.push(PackEntry {
            id,
            kind,
            key_epoch,
            offset: self.bytes.len() as u64,
            stored_len: stored.len() as u32,
            raw_len,
        });
        self.bytes.extend_from_slice(stored);
    }

    /// How long the pack would be if it were finished now.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len() + table_len(self.table.len())
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Frames so far.
    pub fn frames(&self) -> usize {
        self.table.len()
    }

    /// The pack with its table and hash.
    pub fn finish(self) -> SealedPack {
        let mut bytes = self.bytes;
        bytes.extend_from_slice(&encode_table(&self.table));
        let sha256 = Sha256::digest(&bytes).into();
        SealedPack { bytes: Bytes::from(bytes), sha256, table: self.table }
    }
}

/// Bytes a table of so many rows takes at the end of a pack, header and footer included.
pub fn table_len(rows: usize) -> usize {
    SKIPPABLE_HEADER + rows * ROW_LEN + FOOTER_LEN
}

/// The bytes that end a pack with these frames.
pub fn encode_table(table: &[PackEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(table_len(table.len()));
    bytes.extend_from_slice(&SKIPPABLE);
    bytes.extend_from_slice(&((table.len() * ROW_LEN + FOOTER_LEN) as u32).to_le_bytes());
    for entry in table {
        encode_row(entry, &mut bytes);
    }
    bytes.extend_from_slice(FOOTER_MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&(table.len() as u32).to_le_bytes());
    let checksum = Sha256::digest(&bytes[SKIPPABLE_HEADER..]);
    bytes.extend_from_slice(&checksum[..16]);
    bytes
}

fn encode_row(entry: &PackEntry, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&entry.id.0);
    bytes.extend_from_slice(&[entry.kind as u8, 0, 0, 0]);
    bytes.extend_from_slice(&entry.key_epoch.to_le_bytes());
    bytes.extend_from_slice(&entry.offset.to_le_bytes());
    bytes.extend_from_slice(&entry.stored_len.to_le_bytes());
    bytes.extend_from_slice(&entry.raw_len.to_le_bytes());
}

fn decode_row(row: usize, bytes: &[u8]) -> Result<PackEntry, PackError> {
    let refuse = |reason| PackError::Row { row, reason };
    let kind = match bytes[32] {
        1 => FrameKind::Data,
        2 => FrameKind::Page,
        _ => return Err(refuse("its kind is unknown")),
    };
    if bytes[33..36] != [0; 3] {
        return Err(refuse("reserved bytes are set"));
    }
    Ok(PackEntry {
        id: FrameId::from_slice(&bytes[..32]).ok_or_else(|| refuse("its id is short"))?,
        kind,
        key_epoch: u32_at(bytes, 36),
        offset: u64::from(u32_at(bytes, 40)) | u64::from(u32_at(bytes, 44)) << 32,
        stored_len: u32_at(bytes, 48),
        raw_len: u32_at(bytes, 52),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads the table from `tail`, the last bytes of a pack of `pack_len` bytes.
/// 64 KiB are enough for most packs.
///
/// # Errors
/// If the bytes do not end a pack of that length.
pub fn read_table(tail: &[u8], pack_len: u64) -> Result<TableRead, PackError> {
    if pack_len > MAX_PACK_LEN || pack_len < table_len(1) as u64 || tail.len() as u64 > pack_len {
        return Err(PackError::Length(pack_len));
    }
    if tail.len() < FOOTER_LEN {
        return Ok(TableRead::NeedTail(FOOTER_LEN as u64));
    }
    let rows = read_footer(&tail[tail.len() - FOOTER_LEN..])?;
    // The count is not covered by a checksum that was looked at yet: it is held against the length
    // first, and then asks for no more than the pack has.
    let whole = table_len(rows);
    if whole as u64 > pack_len {
        return Err(PackError::Footer("it counts more rows than the pack has room for"));
    }
    if tail.len() < whole {
        return Ok(TableRead::NeedTail(whole as u64));
    }
    let table = decode_table(&tail[tail.len() - whole..], rows)?;
    check_table(pack_len, &table)?;
    Ok(TableRead::Table(table))
}

fn read_footer(footer: &[u8]) -> Result<usize, PackError> {
    if &footer[..8] != FOOTER_MAGIC {
        return Err(PackError::Footer("its magic bytes are others"));
    }
    let version = u16::from_le_bytes([footer[8], footer[9]]);
    if version != VERSION {
        return Err(PackError::Version(version));
    }
    if footer[10..12] != [0; 2] {
        return Err(PackError::Footer("reserved bytes are set"));
    }
    Ok(u32_at(footer, 12) as usize)
}

fn decode_table(bytes: &[u8], rows: usize) -> Result<Vec<PackEntry>, PackError> {
    if bytes[..4] != SKIPPABLE || u32_at(bytes, 4) as usize != bytes.len() - SKIPPABLE_HEADER {
        return Err(PackError::Footer("no skippable frame of its length holds it"));
    }
    let (signed, checksum) = bytes[SKIPPABLE_HEADER..].split_at(rows * ROW_LEN + FOOTER_LEN - 16);
    if Sha256::digest(signed)[..16] != *checksum {
        return Err(PackError::Checksum);
    }
    signed[..rows * ROW_LEN].chunks(ROW_LEN).enumerate().map(|(row, bytes)| decode_row(row, bytes)).collect()
}

/// Checks that these frames and their table make a pack of `pack_len` bytes:
/// no gap, no overlap, no frame twice, no size a frame cannot have.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_table(pack_len: u64, table: &[PackEntry]) -> Result<(), PackError> {
    let tail = table_len(table.len()) as u64;
    if pack_len > MAX_PACK_LEN || table.is_empty() || tail > pack_len {
        return Err(PackError::Length(pack_len));
    }
    let mut end = 0_u64;
    let mut seen = HashSet::with_capacity(table.len());
    for (row, entry) in table.iter().enumerate() {
        // Without gaps there is no byte that belongs to nobody, and no two rows share one.
        if entry.offset != end {
            return Err(PackError::Row { row, reason: "it does not begin where the frame before it ends" });
        }
        if entry.raw_len == 0 || entry.raw_len as usize > MAX_RAW {
            return Err(PackError::Row { row, reason: "its raw length is none a frame can have" });
        }
        if entry.stored_len == 0 || entry.stored_len as usize > MAX_STORED {
            return Err(PackError::Row { row, reason: "its stored length is none a frame can have" });
        }
        // Twice in one pack helps nobody, and a table that repeats a row would count bytes twice.
        if !seen.insert(entry.id) {
            return Err(PackError::Duplicate(entry.id));
        }
        end += u64::from(entry.stored_len);
    }
    // A table that an agent sent is checked by this against the length of what it uploaded.
    if end + tail != pack_len {
        return Err(PackError::Coverage { frames_end: end, table_start: pack_len - tail });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{decode, encode};

    fn sample(frames: usize) -> SealedPack {
        let mut builder = PackBuilder::new();
        for n in 0..frames {
            let kind = if n % 3 == 0 { FrameKind::Page } else { FrameKind::Data };
            builder.push(encode(kind, format!("frame {n} ").repeat(n + 1).as_bytes(), 3));
        }
        assert_eq!(builder.frames(), frames);
        let expected = builder.len_bytes();
        let pack = builder.finish();
        assert_eq!(pack.bytes.len(), expected);
        pack
    }

    #[test]
    fn a_pack_is_read_back_by_its_tail_alone() {
        let pack = sample(40);
        let len = pack.bytes.len() as u64;
        let TableRead::NeedTail(need) = read_table(&pack.bytes[pack.bytes.len() - 40..], len).unwrap() else {
            panic!("40 bytes hold no table of 40 rows");
        };
        let tail = &pack.bytes[pack.bytes.len() - need as usize..];
        assert_eq!(read_table(tail, len), Ok(TableRead::Table(pack.table.clone())));
        assert_eq!(read_table(&pack.bytes, len), Ok(TableRead::Table(pack.table.clone())));
        for entry in &pack.table {
            let start = entry.offset as usize;
            decode(&pack.bytes[start..start + entry.stored_len as usize], entry).unwrap();
        }
    }

    #[test]
    fn x11_a_table_that_lies_is_refused() {
        let pack = sample(3);
        let len = pack.bytes.len() as u64;
        let lies: [fn(&mut Vec<PackEntry>); 6] = [
            |t| t[1].offset -= 1,
            |t| t[2].stored_len += 1,
            |t| t[0].raw_len = u32::MAX,
            |t| t[0].raw_len = 0,
            |t| t[1].id = t[0].id,
            |t| {
                t.pop();
            },
        ];
        check_table(len, &pack.table).unwrap();
        for (n, lie) in lies.iter().enumerate() {
            let mut table = pack.table.clone();
            lie(&mut table);
            assert!(check_table(len, &table).is_err(), "lie {n}");
        }
        assert!(check_table(len + 1, &pack.table).is_err());
        assert!(check_table(0, &[]).is_err());
    }

    #[test]
    fn no_flipped_bit_of_a_table_goes_unseen() {
        let pack = sample(3);
        let tail = table_len(3);
        for bit in 0..tail * 8 {
            let mut bytes = pack.bytes.to_vec();
            let at = bytes.len() - tail + bit / 8;
            bytes[at] ^= 1 << (bit % 8);
            let read = read_table(&bytes, bytes.len() as u64);
            assert!(!matches!(read, Ok(TableRead::Table(_))), "bit {bit}");
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let mut builder = PackBuilder::new();
        builder.push_stored(FrameId([0xab; 32]), FrameKind::Page, 7, 0x0102_0304, &[0xcc; 5]);
        let bytes = builder.finish().bytes;
        let mut expected = vec![0xcc; 5];
        expected.extend([0x5c, 0x2a, 0x4d, 0x18, 88, 0, 0, 0]);
        expected.extend([0xab; 32]);
        expected.extend([2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 4, 3, 2, 1]);
        expected.extend(b"HOLDPACK");
        expected.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        let checksum = Sha256::digest(&expected[13..]);
        expected.extend(&checksum[..16]);
        assert_eq!(bytes, expected);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), len in any::<u64>()) {
            let _ = read_table(&bytes, len % 1000);
            let mut footed = bytes;
            footed.extend(b"HOLDPACK\x01\0\0\0");
            footed.extend((len as u32 % 8).to_le_bytes());
            footed.extend([0; 16]);
            prop_assert!(!matches!(read_table(&footed, footed.len() as u64), Ok(TableRead::Table(_))));
        }
    }
}
