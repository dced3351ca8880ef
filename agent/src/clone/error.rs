//! Why a clone could not be made, exchanged or removed.

use std::io;
use std::path::Path;

use holdfast_archive::fs::escape_path;
use rustix::io::Errno;

use crate::usage::UsageError;

/// Paths are whole and escaped.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    #[error("{path} could not be {action}")]
    Io { path: String, action: &'static str, source: io::Error },
    #[error("no space is left to copy {path}: make room on its filesystem")]
    NoSpace { path: String, source: io::Error },
    #[error("{path} is no directory: only whole directories can be copied and put back")]
    NotADirectory { path: String },
    #[error("{path} is a mount point or a subvolume: no copy can be put in its place")]
    MountPoint { path: String },
    #[error("another filesystem or subvolume lies at {path}: a copy would not hold it, unmount it first")]
    MountInside { path: String },
    #[error("the filesystem of {path} cannot exchange two directories in one step")]
    NoExchange { path: String, source: io::Error },
    #[error("{path} is immutable or append-only: take that off with `chattr -i -a`")]
    Immutable { path: String },
    #[error("{path} has a project quota, which a copy in its place would not have")]
    Quota { path: String },
    #[error("{path} is there already: it is of an earlier attempt and must be removed first")]
    Exists { path: String },
    #[error("{path} changed while nothing should write to it: stop whatever still does")]
    Changing { path: String },
    #[error("the copy of {path} cannot be given {what}")]
    Lacks { path: String, what: String },
    #[error(
        "{root} and {clone} are not the two trees that were to be exchanged: {root} is {at_root}, {clone} is {at_clone}"
    )]
    Unexpected { root: String, clone: String, at_root: &'static str, at_clone: &'static str },
    #[error("{path} is not named like a copy of an upgrade and is not removed")]
    NotAClone { path: String },
    #[error("the space {path} takes could not be measured")]
    Measure { path: String, source: Box<UsageError> },
    #[error("the copy was cancelled")]
    Cancelled,
}

impl CloneError {
    /// What a failed call on `path` means.
    pub(super) fn of(path: String, action: &'static str, error: Errno) -> Self {
        let source = error.into();
        match error {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace { path, source },
            Errno::XDEV => Self::MountInside { path },
            _ => Self::Io { path, action, source },
        }
    }
}

/// A path as people read it.
pub(super) fn shown(path: &Path) -> String {
    escape_path(path.as_os_str().as_encoded_bytes())
}

/// A path below a root.
pub(super) fn shown_below(root: &Path, path: &[u8]) -> String {
    let root = shown(root);
    if path.is_empty() { root } else { format!("{root}/{}", escape_path(path)) }
}
