//! Frames: the unit that is stored, shared and proved.
//!
//! A frame is one ordinary zstd frame of 1 byte to 4 MiB: content size and
//! checksum set, no dictionary, window at most 8 MiB. Its id is BLAKE3-256 of
//! the raw bytes, so how well it was compressed is no part of its identity,
//! and a frame read from anywhere proves itself.
//!
//! Decoding is made for hostile input. The zstd header is looked at before
//! libzstd is: size, window and dictionary must be what the format allows and
//! what the pack's table says; then exactly the declared number of bytes is
//! allocated and the decoder cannot write past it.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter};

use crate::ids::FrameId;
use crate::pack_io::{FrameKind, PackEntry};

/// Most raw bytes a frame may hold.
pub const MAX_RAW: usize = 4 << 20;

/// Most bytes a frame may take in a pack: what zstd may add to bytes that do
/// not compress, and room for a seal.
pub const MAX_STORED: usize = MAX_RAW + MAX_RAW / 128 + 512;

/// The level frames are written with unless told otherwise.
pub const DEFAULT_LEVEL: i32 = 3;

const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
const MAX_WINDOW: u64 = 8 << 20;
const PROBE: usize = 64 << 10;
/// A probe that saves less than this many thousandths is not worth a level.
const WORTH_THOUSANDTHS: usize = 30;
const FAST_LEVEL: i32 = -5;

/// A frame ready to go into a pack.
#[derive(Debug, Clone)]
pub struct EncodedFrame {
    pub id: FrameId,
    pub kind: FrameKind,
    /// Bytes before compression.
    pub raw_len: u32,
    /// As stored.
    pub bytes: Bytes,
}

/// Stored bytes that are not the frame they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame takes {actual} bytes where its table says {expected}")]
    StoredLength { expected: u32, actual: usize },
    #[error("the frame's table gives it {0} raw bytes, more than a frame may have or none")]
    RawLength(u32),
    #[error("the bytes are not one plain zstd frame: {0}")]
    NotAFrame(&'static str),
    #[error("the frame declares {declared} bytes where its table says {expected}")]
    DeclaredLength { expected: u32, declared: u64 },
    #[error("the frame does not decompress: {0}")]
    Corrupt(String),
    #[error("the frame's bytes are those of frame {0}")]
    WrongId(FrameId),
    #[error("the frame is sealed with key epoch {0}, and this program has no keys")]
    Sealed(u32),
}

/// The id of a frame with these raw bytes.
pub fn frame_id(raw: &[u8]) -> FrameId {
    FrameId(*blake3::hash(raw).as_bytes())
}

/// Compresses `raw` into a frame. Bytes that a probe finds incompressible are
/// not given much time.
///
/// # Panics
/// If `raw` is empty or longer than [`MAX_RAW`]: whoever cuts frames knows.
pub fn encode(kind: FrameKind, raw: &[u8], level: i32) -> EncodedFrame {
    encode_as(frame_id(raw), kind, raw, level)
}

/// [`encode`] for a caller who has hashed the bytes already.
///
/// # Panics
/// As [`encode`] does.
pub fn encode_as(id: FrameId, kind: FrameKind, raw: &[u8], level: i32) -> EncodedFrame {
    assert!(!raw.is_empty() && raw.len() <= MAX_RAW, "a frame holds 1 byte to 4 MiB, not {}", raw.len());
    // A sample tells whether a level is worth its time. The bytes go through zstd all the same: a
    // frame is a zstd frame, with its checksum.
    let level = if raw.len() > PROBE && level > 0 && !compressible(raw) { FAST_LEVEL } else { level };
    EncodedFrame { id, kind, raw_len: raw.len() as u32, bytes: compress(raw, level).into() }
}

/// Whether 64 KiB, taken as four pieces spread over the bytes, shrink at level 1.
fn compressible(raw: &[u8]) -> bool {
    let piece = PROBE / 4;
    // Spread over the whole: a file that begins with a header may be a video behind it.
    let step = (raw.len() - piece) / 3;
    let mut sample = Vec::with_capacity(PROBE);
    for n in 0..4 {
        sample.extend_from_slice(&raw[n * step..n * step + piece]);
    }
    let saved = PROBE.saturating_sub(compress(&sample, 1).len());
    saved * 1000 >= PROBE * WORTH_THOUSANDTHS
}

fn compress(raw: &[u8], level: i32) -> Vec<u8> {
    thread_local! {
        // A context is some MiB, and costs more to make than a small frame to compress: one a
        // thread.
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        let mut attempt = || -> std::io::Result<Vec<u8>> {
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(Compressor::new(level)?),
            };
            compressor.set_compression_level(level)?;
            compressor.set_parameter(CParameter::ChecksumFlag(true))?;
            compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
            compressor.compress(raw)
        };
        attempt().expect("zstd compresses any bytes into a buffer of its own bound, short of memory")
    })
}

/// The raw bytes of a stored frame: of the length and id its table says.
///
/// # Errors
/// Whatever else the bytes are. Never allocates more than `raw_len`.
pub fn decode(stored: &[u8], entry: &PackEntry) -> Result<Bytes, FrameError> {
    if stored.len() != entry.stored_len as usize {
        return Err(FrameError::StoredLength { expected: entry.stored_len, actual: stored.len() });
    }
    if entry.key_epoch != 0 {
        return Err(FrameError::Sealed(entry.key_epoch));
    }
    // Before anything is allocated: the number comes from the store.
    let raw_len = entry.raw_len as usize;
    if raw_len == 0 || raw_len > MAX_RAW {
        return Err(FrameError::RawLength(entry.raw_len));
    }
    let declared = check_header(stored)?;
    if declared != u64::from(entry.raw_len) {
        return Err(FrameError::DeclaredLength { expected: entry.raw_len, declared });
    }
    // Exactly one frame: no hash would cover what follows it.
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(len) if len == stored.len() => {}
        Ok(_) => return Err(FrameError::NotAFrame("bytes follow it")),
        Err(code) => return Err(FrameError::Corrupt(zstd_safe::get_error_name(code).to_owned())),
    }
    let raw = decompress(stored, raw_len).map_err(|error| FrameError::Corrupt(error.to_string()))?;
    if raw.len() != raw_len {
        return Err(FrameError::DeclaredLength { expected: entry.raw_len, declared: raw.len() as u64 });
    }
    let id = frame_id(&raw);
    if id != entry.id {
        return Err(FrameError::WrongId(id));
    }
    Ok(raw.into())
}

/// The frame that `bytes` begin with, whatever follows it: its stored length
/// and its raw bytes. For packs whose table is lost; a frame found this way has
/// no id to be checked against but its own.
///
/// # Errors
/// If the bytes do not begin with one whole plain frame.
pub fn decode_first(bytes: &[u8]) -> Result<(u32, Bytes), FrameError> {
    let declared = check_header(bytes)?;
    let raw_len = u32::try_from(declared).unwrap_or(u32::MAX);
    if raw_len == 0 || raw_len as usize > MAX_RAW {
        return Err(FrameError::RawLength(raw_len));
    }
    let len = zstd_safe::find_frame_compressed_size(&bytes[..bytes.len().min(MAX_STORED)])
        .map_err(|code| FrameError::Corrupt(zstd_safe::get_error_name(code).to_owned()))?;
    let raw = decompress(&bytes[..len], raw_len as usize).map_err(|e| FrameError::Corrupt(e.to_string()))?;
    if raw.len() != raw_len as usize {
        return Err(FrameError::DeclaredLength { expected: raw_len, declared: raw.len() as u64 });
    }
    Ok((len as u32, raw.into()))
}

fn decompress(stored: &[u8], raw_len: usize) -> std::io::Result<Vec<u8>> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        // Into a buffer of our own: `decompress` may trust the header's size.
        let mut raw = Vec::with_capacity(raw_len);
        decompressor.decompress_to_buffer(stored, &mut raw)?;
        Ok(raw)
    })
}

/// Checks a zstd frame header (RFC 8878, 3.1.1.1) and gives the content size.
fn check_header(stored: &[u8]) -> Result<u64, FrameError> {
    let rest = stored.strip_prefix(&MAGIC).ok_or(FrameError::NotAFrame("its magic number is another"))?;
    let (&descriptor, mut rest) = rest.split_first().ok_or(FrameError::NotAFrame("it ends early"))?;
    let single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x03 != 0 {
        return Err(FrameError::NotAFrame("it names a dictionary"));
    }
    if descriptor & 0x08 != 0 {
        return Err(FrameError::NotAFrame("a reserved bit is set"));
    }
    if descriptor & 0x04 == 0 {
        return Err(FrameError::NotAFrame("it has no checksum"));
    }
    if !single_segment {
        let (&window, after) = rest.split_first().ok_or(FrameError::NotAFrame("it ends early"))?;
        rest = after;
        let base = 1_u64 << (10 + (window >> 3));
        if base + base / 8 * u64::from(window & 7) > MAX_WINDOW {
            return Err(FrameError::NotAFrame("its window is over 8 MiB"));
        }
    }
    let (size_len, bias) = match (descriptor >> 6, single_segment) {
        (0, false) => return Err(FrameError::NotAFrame("it declares no content size")),
        (0, true) => (1, 0),
        // By the RFC a size of two bytes begins at 256.
        (1, _) => (2, 256),
        (2, _) => (4, 0),
        _ => (8, 0),
    };
    let field = rest.get(..size_len).ok_or(FrameError::NotAFrame("it ends early"))?;
    let size = field.iter().rev().fold(0_u64, |size, &byte| size << 8 | u64::from(byte));
    Ok(size.saturating_add(bias))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry_of(frame: &EncodedFrame) -> PackEntry {
        PackEntry {
            id: frame.id,
            kind: frame.kind,
            key_epoch: 0,
            offset: 0,
            stored_len: frame.bytes.len() as u32,
            raw_len: frame.raw_len,
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn frames_round_trip_at_every_edge_of_their_size() {
        for len in [1, 255, 256, 257, 65_535, 65_536, 65_792, 1 << 20, MAX_RAW] {
            for raw in [vec![b'x'; len], noise(len)] {
                let frame = encode(FrameKind::Data, &raw, DEFAULT_LEVEL);
                assert!(frame.bytes.len() <= MAX_STORED);
                assert_eq!(decode(&frame.bytes, &entry_of(&frame)).unwrap(), raw, "{len}");
            }
        }
    }

    #[test]
    fn an_id_is_of_the_raw_bytes_alone() {
        let raw = b"some text, some text, some text".repeat(100);
        let quick = encode(FrameKind::Data, &raw, 1);
        let slow = encode(FrameKind::Page, &raw, 19);
        assert_eq!(quick.id, slow.id);
        assert_ne!(quick.bytes, slow.bytes);
    }

    #[test]
    fn x13_a_bomb_and_a_wide_window_are_refused_before_they_cost_memory() {
        let bomb = zstd::encode_all(std::io::Cursor::new(vec![0; 64 << 20]), 3).unwrap();
        let id = frame_id(&vec![0; MAX_RAW]);
        let entry = |stored: &[u8], raw_len| PackEntry {
            id,
            kind: FrameKind::Data,
            key_epoch: 0,
            offset: 0,
            stored_len: stored.len() as u32,
            raw_len,
        };
        assert!(matches!(decode(&bomb, &entry(&bomb, MAX_RAW as u32)), Err(FrameError::NotAFrame(_))));
        assert!(matches!(decode(&bomb, &entry(&bomb, 64 << 20)), Err(FrameError::RawLength(_))));

        // Content size cut down in the header, content as long as ever.
        let mut lying = encode(FrameKind::Data, &vec![0; MAX_RAW], 3).bytes.to_vec();
        let at = if lying[4] & 0x20 != 0 { 5 } else { 6 };
        lying[at..at + 4].copy_from_slice(&100_000_u32.to_le_bytes());
        assert!(matches!(decode(&lying, &entry(&lying, 100_000)), Err(FrameError::Corrupt(_))));

        // Window of 2 GiB: descriptor byte 0xA8 follows a header without single segment.
        let mut wide = vec![];
        wide.extend(MAGIC);
        wide.extend([0x84, 21 << 3]);
        wide.extend(1000_u32.to_le_bytes());
        wide.extend([1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            decode(&wide, &entry(&wide, 1000)),
            Err(FrameError::NotAFrame("its window is over 8 MiB"))
        );
    }

    #[test]
    fn another_frame_in_its_place_is_named() {
        let one = encode(FrameKind::Data, b"one", 3);
        let two = encode(FrameKind::Data, b"two", 3);
        assert_eq!(decode(&two.bytes, &entry_of(&one)), Err(FrameError::WrongId(two.id)));
        let sealed = PackEntry { key_epoch: 3, ..entry_of(&one) };
        assert_eq!(decode(&one.bytes, &sealed), Err(FrameError::Sealed(3)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_flipped_bit_goes_unseen(seed in any::<u64>(), len in 1_usize..3000, bit in any::<usize>()) {
            let raw: Vec<u8> = noise(len).iter().map(|b| b & (seed as u8 | 1)).collect();
            let frame = encode(FrameKind::Data, &raw, 3);
            let mut stored = frame.bytes.to_vec();
            let bit = bit % (stored.len() * 8);
            stored[bit / 8] ^= 1 << (bit % 8);
            // A bit that means nothing to zstd may decode; then to the same bytes.
            if let Ok(decoded) = decode(&stored, &entry_of(&frame)) {
                prop_assert_eq!(decoded, raw);
            }
        }

        #[test]
        fn garbage_never_panics(stored in proptest::collection::vec(any::<u8>(), 0..300), raw_len in any::<u32>()) {
            let mut framed = MAGIC.to_vec();
            framed.extend(stored);
            let entry = PackEntry {
                id: frame_id(b""), kind: FrameKind::Data, key_epoch: 0, offset: 0,
                stored_len: framed.len() as u32, raw_len: raw_len % (MAX_RAW as u32 * 2),
            };
            prop_assert!(decode(&framed, &entry).is_err());
        }
    }
}
