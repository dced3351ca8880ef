//! What a pack still holds when its table cannot be read.
//!
//! Frames are plain zstd frames without gaps, so a pack can be walked from its
//! first byte. Where a frame is damaged the walk goes on at the next place that
//! proves to be one. This gives everything about a frame but its kind, which
//! only the table says: bytes that read as a manifest page count as one.

use std::collections::HashSet;

use crate::frame::{decode_first, frame_id};
use crate::ids::FrameId;
use crate::manifest::page_refs;
use crate::pack_io::{FrameKind, PackEntry};

const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// The rows a table of these bytes would have for the frames that are whole.
/// Each was decoded, and its id computed from its content. Sealed frames are
/// not found.
pub fn walk_frames(pack: &[u8]) -> Vec<PackEntry> {
    let mut rows = Vec::new();
    let mut seen: HashSet<FrameId> = HashSet::new();
    let mut at = 0;
    while at < pack.len() {
        let Ok((stored_len, raw)) = decode_first(&pack[at..]) else {
            // Those four bytes may stand in a frame as well: what they begin has to decode and
            // match its checksum to count.
            at = next_magic(pack, at + 1);
            continue;
        };
        let id = frame_id(&raw);
        let kind = if page_refs(&raw).is_ok() { FrameKind::Page } else { FrameKind::Data };
        let raw_len = raw.len() as u32;
        // A table has no frame twice, and neither has what stands in for one.
        if seen.insert(id) {
            rows.push(PackEntry { id, kind, key_epoch: 0, offset: at as u64, stored_len, raw_len });
        }
        at += stored_len as usize;
    }
    rows
}

fn next_magic(pack: &[u8], from: usize) -> usize {
    let rest = pack.get(from..).unwrap_or_default();
    rest.windows(MAGIC.len()).position(|bytes| *bytes == MAGIC).map_or(pack.len(), |found| from + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::encode;
    use crate::pack::PackBuilder;

    fn pack(frames: usize) -> crate::pack_io::SealedPack {
        let mut builder = PackBuilder::new();
        for n in 0..frames {
            builder.push(encode(FrameKind::Data, format!("content {n} ").repeat(n + 1).as_bytes(), 3));
        }
        builder.finish()
    }

    #[test]
    fn h01_a_pack_without_its_table_is_walked_frame_by_frame() {
        let sealed = pack(20);
        let table = crate::pack::table_len(20);
        let frames_end = sealed.bytes.len() - table;
        assert_eq!(walk_frames(&sealed.bytes), sealed.table);
        assert_eq!(walk_frames(&sealed.bytes[..frames_end]), sealed.table);
        // Cut off within the last frame.
        assert_eq!(walk_frames(&sealed.bytes[..frames_end - 1]), sealed.table[..19]);
        assert_eq!(walk_frames(&[]), []);
    }

    #[test]
    fn h01_damage_costs_no_frame_but_the_one_it_hits() {
        let sealed = pack(20);
        let frames_end = sealed.bytes.len() - crate::pack::table_len(20);
        for at in 0..frames_end {
            let mut bytes = sealed.bytes.to_vec();
            bytes[at] ^= 0x41;
            let hit =
                sealed.table.iter().position(|row| at < (row.offset + u64::from(row.stored_len)) as usize);
            let left: Vec<PackEntry> = sealed
                .table
                .iter()
                .enumerate()
                .filter(|(n, _)| Some(*n) != hit)
                .map(|(_, row)| row.clone())
                .collect();
            assert_eq!(walk_frames(&bytes), left, "byte {at}");
        }
    }
}
