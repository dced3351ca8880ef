//! Keeps the Engine from filling an empty volume from the new image.
//!
//! The Engine copies an image's files into an empty volume whenever a
//! container is *created* on it, also while another one uses it. The old
//! container would then find files that it never wrote, and a rollback could
//! not tell them from its own. A volume that is not empty is left alone, so a
//! placeholder stands in an empty one for as long as the creation takes. Its
//! name is fixed, so that one left by a crash is found and removed.

use std::fs;
use std::io;
use std::path::Path;

const PLACEHOLDER: &str = ".holdfast-not-empty";

/// Puts the placeholder into a directory that has nothing in it.
pub(super) fn place(directory: &Path) -> io::Result<()> {
    if fs::read_dir(directory)?.next().is_none() {
        fs::File::create_new(directory.join(PLACEHOLDER))?;
    }
    Ok(())
}

/// Takes the placeholder away, if it is there. That is looked at first: on a
/// filesystem that has become read-only a removal fails also where there is
/// nothing to remove.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    let placeholder = directory.join(PLACEHOLDER);
    let removed = fs::symlink_metadata(&placeholder).and_then(|_| fs::remove_file(&placeholder));
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_gets_a_guard_and_removing_it_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        place(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        fs::write(dir.path().join("own"), "x").unwrap();
        place(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
