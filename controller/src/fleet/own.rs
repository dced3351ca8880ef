//! Directories in which this controller keeps its own: an agent on the same
//! machine backs up none of them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use holdfast_archive::store::{Location, StoreConfig};

use crate::model::own_directory::OwnDirectory;

/// The state directory, and the repository where that is a directory. One that
/// cannot be looked at is left out and logged: it is then no source either.
pub fn own_directories(state_dir: &Path, repository: &StoreConfig) -> Vec<OwnDirectory> {
    let mut directories = vec![("the state of the controller", state_dir)];
    if let Location::Directory(path) = &repository.location {
        directories.push(("the repository", path));
    }
    directories.into_iter().filter_map(|(what, path)| describe(what, path)).collect()
}

fn describe(what: &str, path: &Path) -> Option<OwnDirectory> {
    let found = path.canonicalize().and_then(|path| Ok((path.metadata()?, path)));
    match found {
        Ok((metadata, path)) => Some(OwnDirectory {
            what: what.to_owned(),
            path: path.display().to_string(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "agents are not told of a directory that is Holdfast's own");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v21_the_state_and_a_repository_in_a_directory_are_told_and_a_bucket_is_not() {
        let base = tempfile::tempdir().expect("temporary folder");
        let (state, repository) = (base.path().join("state"), base.path().join("repository"));
        std::fs::create_dir(&state).expect("made");
        std::fs::create_dir(&repository).expect("made");
        let config = |place: &str| StoreConfig::new(place.parse().expect("a place"));
        let told = own_directories(&state, &config(repository.to_str().expect("text")));
        let paths: Vec<&str> = told.iter().map(|own| own.path.as_str()).collect();
        let real = base.path().canonicalize().expect("there");
        assert_eq!(
            paths,
            [real.join("state").to_str().expect("text"), real.join("repository").to_str().expect("text")]
        );
        let inode = std::fs::metadata(&repository).expect("there").ino();
        assert_eq!(told[1].inode, inode);
        assert_eq!(own_directories(&state, &config("s3://bucket/prefix")).len(), 1);
        assert_eq!(own_directories(&base.path().join("gone"), &config("s3://bucket/prefix")), []);
    }
}
