//! Where large files are cut into frames: content-defined, so an insertion
//! moves few cuts. The parameters are part of the repository's contract;
//! golden tests pin the very offsets, because other cuts lose no data but
//! store everything once more.

use fastcdc::v2020::{self, Normalization};

/// Smallest chunk but for the last of a file, bytes.
pub const CHUNK_MIN: usize = 256 << 10;
/// What chunks are near to, bytes.
pub const CHUNK_AVERAGE: usize = 1 << 20;
/// Largest chunk, which is the largest frame, bytes.
pub const CHUNK_MAX: usize = 4 << 20;

/// Length of the first chunk of `bytes`. Unless they are all that is left,
/// they must be at least [`CHUNK_MAX`].
pub(crate) fn first_chunk(bytes: &[u8]) -> usize {
    let (strict, relaxed) = v2020::select_masks(CHUNK_AVERAGE, Normalization::Level1);
    let (_, len) =
        v2020::cut(bytes, CHUNK_MIN, CHUNK_AVERAGE, CHUNK_MAX, strict, relaxed, strict << 1, relaxed << 1);
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes from a generator written out here, so that no crate can change them.
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn chunks(mut bytes: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while !bytes.is_empty() {
            let len = first_chunk(bytes);
            lens.push(len);
            bytes = &bytes[len..];
        }
        lens
    }

    #[test]
    fn cut_points_are_pinned() {
        assert_eq!(chunks(&noise(16 << 20, 42)), GOLDEN);
        assert_eq!(chunks(&vec![0; 9 << 20]), [4 << 20, 4 << 20, 1 << 20]);
        assert_eq!(chunks(&noise(CHUNK_MIN, 1)), [CHUNK_MIN]);
    }

    const GOLDEN: [usize; 14] = [
        1689120, 1600023, 1184901, 1735177, 1106366, 634539, 640133, 1566828, 1843929, 1307916, 834493,
        381920, 1075622, 1176249,
    ];

    #[test]
    fn a_cut_depends_on_what_follows_by_at_most_the_largest_chunk() {
        let bytes = noise(16 << 20, 7);
        assert_eq!(first_chunk(&bytes), first_chunk(&bytes[..CHUNK_MAX]));
    }

    #[test]
    fn an_insertion_moves_few_cuts() {
        let bytes = noise(24 << 20, 3);
        let mut edited = bytes.clone();
        edited.splice(5_000_000..5_000_000, *b"inserted");
        let (before, after) = (chunks(&bytes), chunks(&edited));
        let kept = before.iter().filter(|len| after.contains(len)).count();
        assert!(kept + 3 >= before.len(), "{before:?} {after:?}");
    }
}
