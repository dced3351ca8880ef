//! A restored tree is walked again and held against its manifest.
//!
//! Nothing is taken from the restore's own word: kinds, modes, owners, times,
//! attributes and names of one inode are read back, and content is hashed.
//! Frames are not fetched again, because what the manifest has says it all: a
//! hash of the content, or frame ids, which are hashes. Where the holes lie
//! does not matter, only that they read as zeros.
//!
//! Called after a restore, with the request that restore had. It writes nothing.

mod checks;
mod content;
mod node;
mod run;

pub use run::{CompareReport, compare};
