//! Exact local copies of directory trees, and the exchange of a tree with its
//! copy in one step.
//!
//! This is what a failed upgrade is rolled back with, so it must hold when the
//! controller and the store are away and when the agent is killed at any
//! point. A clone lies beside its tree, on the same filesystem, and is made in
//! two passes: the first while containers still write, so that the second,
//! with the data quiesced, has little left to do. Until [`second_pass`] has
//! returned a clone is worth nothing and [`remove`] is all there is to do with
//! it; from then on it is on disk. [`put_back`] then needs no space, copies
//! nothing, and is one `rename` that either happened or did not; which of the
//! two is known from the inodes ([`Identity`]), not from anybody's memory.
//!
//! What the first pass saw is kept in a file without a name. It goes away with
//! the process, so no later one can trust notes about a clone that a crash cut
//! short: a second pass without notes starts anew.
//!
//! Called by `upgrade`, and by `resume` and `snapshot` for removing trees. Touches
//! the tree, its clone and what lies beside them, and knows neither containers
//! nor records.
//!
//! All of it blocks, follows no link, enters no other filesystem, and opens
//! nothing but directories and regular files.

mod content;
mod error;
mod exchange;
mod flags;
mod make;
mod notes;
mod pass;
mod place;
mod remove;
mod run;
mod space;
#[cfg(test)]
mod tests;
mod trail;

pub(crate) use error::CloneError;
pub(crate) use exchange::{Identity, identity, put_back};
pub(crate) use pass::{FirstPass, first_pass, second_pass};
pub(crate) use place::clone_path;
pub(crate) use remove::{remove, remove_contents};
pub(crate) use space::{Means, Room, room};
