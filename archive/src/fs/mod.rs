//! Trees to and from the repository: walk, capture, restore, compare.
//!
//! All of it runs on plain threads and blocks. Everything under a root is
//! reached by handles ([`open`]), so neither a hostile manifest nor a
//! container that rearranges its volume meanwhile makes this code read or
//! write outside. Memory is a byte budget that does not depend on how many
//! files there are or how large they are, but for 64 bytes per inode with
//! several names and the names of one directory per level.
//!
//! Agents call it, and the command line for a repository alone. It touches the
//! tree whose root it is given, and reaches frames through [`crate::pack_io`]: it
//! knows no store and no connection.

mod budget;
mod capture;
mod compare;
mod content;
mod cut;
mod group;
mod handles;
mod links;
mod metadata;
mod names;
mod open;
pub mod parts;

mod pipeline;
mod progress;
mod queue;
mod ranges;
mod recent;
mod restore;
#[cfg(test)]
mod tests;
mod text;
mod walk;

pub use capture::{
    CaptureBase, CaptureError, CaptureOptions, CaptureRequest, Captured, MIN_MEMORY_BYTES, NestedMounts,
    TornPolicy, capture,
};
pub use compare::{CompareReport, compare};
pub use cut::{CHUNK_AVERAGE, CHUNK_MAX, CHUNK_MIN};
pub use group::SMALL;
pub use handles::raise_handle_limit;
pub use progress::{CaptureProgress, RestoreProgress};
pub use restore::{RestoreError, RestoreOptions, RestoreReport, RestoreRequest, restore};
pub use text::{LISTED, escape_path};
