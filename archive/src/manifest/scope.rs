//! Which part of a tree a walk is about, and which pages can hold some of it.

use std::cmp::Ordering;

use super::path::{is_within, parent};
use crate::entry::path_order;

/// Which entries a walk gives.
pub(super) enum Scope {
    All,
    Exact(Vec<u8>),
    Children(Vec<u8>),
    Subtree(Vec<u8>),
}

impl Scope {
    pub(super) fn wants(&self, path: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Exact(wanted) => path == wanted,
            Self::Children(dir) => parent(path) == Some(dir),
            Self::Subtree(dir) => is_within(path, dir),
        }
    }

    /// Whether a page from `first` to `last` can hold anything wanted.
    pub(super) fn may_hold(&self, first: &[u8], last: &[u8]) -> bool {
        let within = |path: &[u8]| path_order(first, path).is_le() && path_order(path, last).is_le();
        match self {
            Self::All => true,
            Self::Exact(path) => within(path),
            Self::Subtree(dir) => within(dir) || is_within(first, dir),
            Self::Children(dir) => {
                let deep = |path: &[u8]| parent(path).is_some_and(|above| above != dir);
                let one_child = is_within(first, dir)
                    && is_within(last, dir)
                    && deep(first)
                    && child_of(first, dir) == child_of(last, dir);
                !one_child && (within(dir) || is_within(first, dir))
            }
        }
    }

    /// Whether nothing wanted comes at or after `path`.
    pub(super) fn ends_before(&self, path: &[u8]) -> bool {
        match self {
            Self::All => false,
            Self::Exact(wanted) => path_order(path, wanted) == Ordering::Greater,
            Self::Children(dir) | Self::Subtree(dir) => {
                !is_within(path, dir) && path_order(path, dir) == Ordering::Greater
            }
        }
    }
}

/// The first component of `path` below `dir`.
fn child_of<'p>(path: &'p [u8], dir: &[u8]) -> Option<&'p [u8]> {
    let below = path.strip_prefix(dir)?;
    let below = if dir.is_empty() { below } else { below.strip_prefix(b"/")? };
    below.split(|&byte| byte == b'/').next()
}
