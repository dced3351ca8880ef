//! What wraps every small object of ours: eight bytes that say what it is,
//! the content, and SHA-256 over all of that.
//!
//! A pack carries its hash in its name and a frame in its id; snapshots,
//! state and index files have neither, and a store that flips a bit in one of
//! them must not go unseen. SHA-256 because plain tools have it.

use sha2::{Digest, Sha256};

const CHECKSUM_LEN: usize = 32;

/// What an object is, by its first eight bytes. The last two are its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    Snapshot,
    Head,
    Policies,
    Hosts,
    Index,
}

/// An object whose envelope is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the object has {0} bytes, too few for its envelope: it was cut off")]
    Short(usize),
    #[error("the object does not begin as a {0:?} object of version 1 does")]
    Magic(Envelope),
    #[error("the object does not match its checksum: it was damaged")]
    Checksum,
}

impl Envelope {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Snapshot => b"HFSNAP01",
            Self::Head => b"HFHEAD01",
            Self::Policies => b"HFPOLI01",
            Self::Hosts => b"HFHOST01",
            Self::Index => b"HFINDX01",
        }
    }

    /// The object with this content.
    pub fn seal(self, content: &[u8]) -> Vec<u8> {
        let mut object = Vec::with_capacity(8 + content.len() + CHECKSUM_LEN);
        object.extend_from_slice(self.magic());
        object.extend_from_slice(content);
        let checksum = Sha256::digest(&object);
        object.extend_from_slice(&checksum);
        object
    }

    /// The content of an object of this kind.
    ///
    /// # Errors
    /// If it is another kind of object, cut off or damaged.
    pub fn open(self, object: &[u8]) -> Result<&[u8], EnvelopeError> {
        let magic = self.magic();
        if object.len() < magic.len() + CHECKSUM_LEN {
            return Err(EnvelopeError::Short(object.len()));
        }
        let (covered, checksum) = object.split_at(object.len() - CHECKSUM_LEN);
        // The magic bytes first: another kind of object is no damage, and is told apart.
        if !covered.starts_with(magic) {
            return Err(EnvelopeError::Magic(self));
        }
        if Sha256::digest(covered)[..] != *checksum {
            return Err(EnvelopeError::Checksum);
        }
        Ok(&covered[magic.len()..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let object = Envelope::Head.seal(b"content");
        assert_eq!(Envelope::Head.open(&object), Ok(&b"content"[..]));
        for bit in 0..object.len() * 8 {
            let mut damaged = object.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Envelope::Head.open(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..object.len() {
            assert!(Envelope::Head.open(&object[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn one_kind_is_not_taken_for_another() {
        let object = Envelope::Policies.seal(b"");
        assert_eq!(Envelope::Hosts.open(&object), Err(EnvelopeError::Magic(Envelope::Hosts)));
    }
}
