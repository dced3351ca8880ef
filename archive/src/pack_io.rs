//! What capture, restore and verification need of whoever stores frames.
//!
//! Two implementors: a repository opened in place, and an agent's session
//! with its controller. Both are called from plain threads and block.

use std::ops::Range;

use bytes::Bytes;

use crate::ids::{FrameId, PackId};

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    Data = 1,
    Page = 2,
}

/// A row of a pack's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackEntry {
    pub id: FrameId,
    pub kind: FrameKind,
    pub key_epoch: u32,
    /// From the start of the pack, bytes.
    pub offset: u64,
    pub stored_len: u32,
    pub raw_len: u32,
}

/// Where a frame lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameLocation {
    pub pack: PackId,
    pub entry: PackEntry,
}

/// A finished pack, not yet stored.
#[derive(Debug, Clone)]
pub struct SealedPack {
    pub bytes: Bytes,
    pub sha256: [u8; 32],
    pub table: Vec<PackEntry>,
}

/// A failure of the other side of this interface. Retries have been made already.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PackIoError {
    /// What was asked for is gone or damaged, rather than out of reach for now.
    pub is_loss: bool,
    /// What the other side calls it, for programs: passed on, never decided upon here.
    pub code: &'static str,
    /// A sentence for people, cause included.
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl PackIoError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { is_loss: false, code, message: message.into(), source: None }
    }

    /// Of what is gone or damaged.
    pub fn loss(code: &'static str, message: impl Into<String>) -> Self {
        Self { is_loss: true, ..Self::new(code, message) }
    }
}

/// Takes frames.
pub trait PackSink: Send + Sync {
    /// Which of these need not be sent. At most 4096 at a time.
    ///
    /// # Errors
    /// The other side cannot be asked: none of them may count as there.
    fn have(&self, frames: &[FrameId]) -> Result<Vec<bool>, PackIoError>;

    /// Returns once the pack is stored and its frames may be referred to.
    /// Called from several threads at once, as many as uploads may run.
    ///
    /// # Errors
    /// The pack is not stored, or nobody knows whether it is.
    fn put_pack(&self, pack: SealedPack) -> Result<(), PackIoError>;
}

/// Gives frames.
pub trait PackSource: Send + Sync {
    /// Where each of these lies; `None` where it is not there. At most 4096
    /// at a time.
    ///
    /// # Errors
    /// The other side cannot be asked. A frame that is nowhere is `None`.
    fn locate(&self, frames: &[FrameId]) -> Result<Vec<Option<FrameLocation>>, PackIoError>;

    /// Where else this frame lies than in these packs, which did not give it.
    /// A source that knows one place a frame need not have this.
    ///
    /// # Errors
    /// The other side cannot be asked.
    fn elsewhere(&self, _frame: &FrameId, _not_in: &[PackId]) -> Result<Option<FrameLocation>, PackIoError> {
        Ok(None)
    }

    /// Exactly the bytes of that range of the pack.
    ///
    /// # Errors
    /// The pack is gone, damaged or ends before (a loss), or it is out of reach.
    fn read(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes, PackIoError>;

    /// Told of a frame that is gone or damaged where [`Self::locate`] said it
    /// lies, so that whoever keeps the books can have it sent again. May be
    /// told the same twice; must not fail and should not take long.
    fn lost(&self, _frame: &FrameId, _pack: &PackId) {}
}
