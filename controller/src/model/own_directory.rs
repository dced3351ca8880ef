//! Directories in which this controller keeps its own.

/// A directory in which the controller keeps its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDirectory {
    /// What it is, as the end of a sentence.
    pub what: String,
    /// As the controller sees it, which may be in a container.
    pub path: String,
    /// An agent on the same kernel knows the directory by these two.
    pub device: u64,
    pub inode: u64,
}
