//! Which paths a manifest may hold, and in which order.
//!
//! Checked by writer and reader alike, so nothing behind the reader meets a
//! path that leaves the tree, comes twice, or hangs below something that is
//! no directory.

use std::cmp::Ordering;

use crate::entry::path_order;

/// Longest path of an entry, bytes. Deep trees have paths far beyond what one
/// system call takes.
pub const MAX_PATH_LEN: usize = 256 << 10;

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("it is longer than 256 KiB")]
    Long,
    #[error("it is absolute or has an empty component")]
    EmptyComponent,
    #[error("it has a component `.` or `..`")]
    Dots,
    #[error("it has a NUL byte")]
    Nul,
    #[error("it comes twice")]
    Duplicate,
    #[error("it is out of order")]
    OutOfOrder,
    #[error("what lies above it is not a directory of the tree")]
    NoParent,
    #[error("the tree begins with something else than its root directory")]
    NoRoot,
}

/// Checks one path: relative, `/` between components, the root empty.
///
/// # Errors
/// What the path has that none may have.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > MAX_PATH_LEN {
        return Err(PathError::Long);
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" => return Err(PathError::EmptyComponent),
            b"." | b".." => return Err(PathError::Dots),
            _ => {}
        }
    }
    Ok(())
}

/// The path of the directory that holds this entry; `None` for the root.
pub fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &path[..slash]))
}

/// Whether `path` is `dir` or lies below it.
pub fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Follows a stream of entries and refuses the first that does not make a
/// tree. Remembers one path and where its directories end.
#[derive(Debug, Default)]
pub(crate) struct TreeOrder {
    last: Option<Vec<u8>>,
    /// Lengths of those beginnings of `last` that are directories.
    directories: Vec<usize>,
}

impl TreeOrder {
    /// Takes the next path of a whole tree.
    ///
    /// # Errors
    /// The path is none that may be, does not come after the one before, or hangs below
    /// no directory that came.
    pub(crate) fn accept(&mut self, path: &[u8], is_directory: bool) -> Result<(), PathError> {
        check_path(path)?;
        let Some(last) = &self.last else {
            if !path.is_empty() || !is_directory {
                return Err(PathError::NoRoot);
            }
            self.last = Some(Vec::new());
            self.directories.push(0);
            return Ok(());
        };
        check_order(last, path)?;
        let above = parent(path).ok_or(PathError::OutOfOrder)?;
        // The directories that are open are beginnings of the last path, so a length names one of
        // them.
        let Ok(depth) = self.directories.binary_search(&above.len()) else {
            return Err(PathError::NoParent);
        };
        // As long as a directory that is open, and another one.
        if !last.starts_with(above) {
            return Err(PathError::NoParent);
        }
        self.directories.truncate(depth + 1);
        if is_directory {
            self.directories.push(path.len());
        }
        self.last = Some(path.to_vec());
        Ok(())
    }

    /// Takes the next path of a part of a tree.
    ///
    /// # Errors
    /// The path is none that may be, or does not come after the one before.
    pub(crate) fn accept_part(&mut self, path: &[u8]) -> Result<(), PathError> {
        check_path(path)?;
        if let Some(last) = &self.last {
            check_order(last, path)?;
        }
        self.last = Some(path.to_vec());
        Ok(())
    }
}

fn check_order(last: &[u8], path: &[u8]) -> Result<(), PathError> {
    match path_order(last, path) {
        Ordering::Less => Ok(()),
        Ordering::Equal => Err(PathError::Duplicate),
        Ordering::Greater => Err(PathError::OutOfOrder),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a02_paths_that_are_not_plain_are_refused() {
        let bad: [&[u8]; 11] =
            [b"/", b"/a", b"a/", b"a//b", b".", b"..", b"a/..", b"../a", b"a/./b", b"a\0b", b"\0"];
        for path in bad {
            assert!(check_path(path).is_err(), "{}", path.escape_ascii());
        }
        for path in [&b""[..], b"a", b"...", b".a", b"a..", b"-rf", b"\xff\n\x1b/b"] {
            assert_eq!(check_path(path), Ok(()), "{}", path.escape_ascii());
        }
        assert_eq!(check_path(&vec![b'a'; MAX_PATH_LEN + 1]), Err(PathError::Long));
    }

    #[test]
    fn a_tree_has_one_root_and_directories_above_everything() {
        let follow = |paths: &[(&str, bool)]| {
            let mut order = TreeOrder::default();
            paths.iter().try_for_each(|(path, directory)| order.accept(path.as_bytes(), *directory))
        };
        let good = [("", true), ("a", true), ("a/b", true), ("a/b/c", false), ("a/d", false), ("a.x", false)];
        assert_eq!(follow(&good), Ok(()));
        assert_eq!(follow(&[("a", false)]), Err(PathError::NoRoot));
        assert_eq!(follow(&[("", false)]), Err(PathError::NoRoot));
        assert_eq!(follow(&[("", true), ("", true)]), Err(PathError::Duplicate));
        assert_eq!(follow(&[("", true), ("a", false), ("a", false)]), Err(PathError::Duplicate));
        assert_eq!(follow(&[("", true), ("b", false), ("a", false)]), Err(PathError::OutOfOrder));
        assert_eq!(follow(&[("", true), ("evil", false), ("evil/passwd", false)]), Err(PathError::NoParent));
        assert_eq!(follow(&[("", true), ("a/b", false)]), Err(PathError::NoParent));
        let cousin = [("", true), ("a", true), ("a/b", true), ("ab/b/c", false)];
        assert_eq!(follow(&cousin), Err(PathError::NoParent));
        let sibling = [("", true), ("ab", true), ("ac/x", false)];
        assert_eq!(follow(&sibling), Err(PathError::NoParent));
    }

    #[test]
    fn within_ends_at_components() {
        assert!(is_within(b"a/b", b"a") && is_within(b"a", b"a") && is_within(b"a", b""));
        assert!(!is_within(b"ab", b"a") && !is_within(b"", b"a"));
    }
}
