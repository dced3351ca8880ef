//! Restore: a manifest becomes a tree below one directory handle.
//!
//! The calling thread makes directories, links and special files in the order
//! of the manifest; workers make the files, each complete with owner, mode,
//! attributes and times. A directory gets its own metadata when everything in
//! it is there. Nothing is followed and nothing existing is overwritten: every
//! name is created anew (`O_EXCL`) in a directory held by its handle, so what
//! a hostile manifest can reach is the inside of the target.
//!
//! `compare` selects entries as a restore does, and by the same code. Nothing is
//! written to the repository.

mod dirs;
mod file;
mod request;
mod run;
mod select;
mod shared;

pub use request::{RestoreError, RestoreOptions, RestoreReport, RestoreRequest};
pub use run::restore;
pub(in crate::fs) use select::{Found, Selection};
pub(in crate::fs) use shared::mode_mask;
