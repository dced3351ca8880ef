//! Manifests: what a tree was, apart from its content.
//!
//! Entries are kept in pages, sorted by path, with index pages above them; a
//! long extent list and large attributes have pages of their own. Where pages
//! end is decided by the names in them, so an edit changes the pages on its
//! way to the root and no other.

mod page;
mod path;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use page::{MAX_EXTENTS, MAX_XATTR_BYTES, PageError, PageRefs, page_refs};
pub use path::{MAX_PATH_LEN, PathError, check_path, is_within, parent};
pub use reader::{Entries, ManifestError, ManifestReader};
pub use writer::{ManifestWriter, WriteError};

#[cfg(test)]
pub(crate) mod messages {
    pub(crate) use super::page::{
        ChildMessage, EntryMessage, ExtentChildMessage, LEAF, PageMessage, XattrMessage,
    };
}
