//! What captures and restores are made of, for other code that handles whole
//! trees on this host: a walk that no container can lead astray, the metadata
//! of one inode, and where a file's data lies.
//!
//! All of it works on handles and on one name below a handle. Errors are the
//! kernel's own; whoever calls knows the path and what was to be done.

pub use super::content::DataRange;
pub use super::links::Links;
pub use super::metadata::{
    Missing, Wanted, Xattrs, apply, apply_to_handle, changed, ctime_ns, entry, mark, mtime_ns, size_of,
    type_of, xattrs_at, xattrs_of_file,
};
pub use super::names::Names;
pub use super::open::{
    Mounts, create_file, descend, directory, handle, parent, reopen_directory, reopen_file, split_path,
};
pub use super::ranges::Ranges;
pub use super::walk::{OPEN, Step, Walk};
