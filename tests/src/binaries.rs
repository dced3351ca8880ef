//! Where the built binaries are: beside the test binary's folder, or where
//! [`FOLDER`] says.

use std::path::PathBuf;

/// Names the folder of other binaries to test, as those of a release build.
pub const FOLDER: &str = "HOLDFAST_TEST_BINARIES";

/// Path of `name` in the profile folder this test was built into, or in
/// [`FOLDER`].
///
/// Cargo gives a test of one package no hint of another's binaries, so
/// `tests/run` builds them first; a missing one says so.
pub fn path(name: &str) -> PathBuf {
    let binary = std::env::var_os(FOLDER).map_or_else(profile, PathBuf::from).join(name);
    assert!(
        binary.exists(),
        "{} is not there; build it first: cargo build --workspace --bins",
        binary.display()
    );
    binary
}

/// Path of `name` as built with the profile of that folder, if it was.
pub fn built(profile_folder: &str, name: &str) -> Option<PathBuf> {
    let binary = profile().with_file_name(profile_folder).join(name);
    binary.exists().then_some(binary)
}

fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test.ancestors().find(|dir| dir.join("deps").is_dir() && dir.join("build").is_dir());
    profile.unwrap_or_else(|| panic!("{} is not below a cargo target folder", test.display())).to_owned()
}
