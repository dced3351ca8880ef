//! Manifests: what a tree was, apart from its content.
//!
//! Entries are kept in pages, sorted by path, with index pages above them; a
//! long extent list and large attributes have pages of their own. Where pages
//! end is decided by the names in them, so an edit changes the pages on its
//! way to the root and no other.
//!
//! Captures write manifests, restores and browsing read them, a commit follows
//! their references. Pages go out through a callback and come in through
//! [`crate::fetch`]: nothing here touches a file or a store.

mod error;
mod open_page;
mod other_pages;
mod page;
mod path;
mod reader;
mod scope;
mod writer;

#[cfg(test)]
mod tests;

pub use error::ManifestError;
pub use page::{MAX_EXTENTS, MAX_XATTR_BYTES, PageError, PageRefs, page_refs};
pub use path::{MAX_PATH_LEN, PathError, check_path, is_within, parent};
pub use reader::{Entries, ManifestReader};
pub use writer::{ManifestWriter, WriteError};

/// Extended attributes, a name and a value each, sorted by name.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[cfg(test)]
pub(crate) mod messages {
    pub(crate) use super::page::{
        ChildMessage, EntryMessage, ExtentChildMessage, LEAF, PageMessage, XattrMessage,
    };
}
