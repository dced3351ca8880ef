//! Capture: a tree becomes a manifest and the frames it refers to.
//!
//! One thread walks and reads; the rest is the pipeline's. The walk is merged
//! with the entries of the base snapshot, both in the same order, so memory
//! does not grow with the tree. What has not changed since the base keeps its
//! extents and is not opened. Everything a manifest refers to is stored by
//! the time [`capture`] returns; committing a snapshot of it is the caller's.
//!
//! Nothing of the tree is changed, and of the repository nothing is removed.

mod base;
mod file;
mod output;
mod request;
mod run;
pub(super) mod unchanged;
mod visit;

pub use request::{
    CaptureBase, CaptureError, CaptureOptions, CaptureRequest, Captured, MIN_MEMORY_BYTES, NestedMounts,
    TornPolicy,
};
pub use run::capture;
