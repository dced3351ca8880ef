//! What is given to people cannot be made to end at a named place.

use std::path::Path;
use std::process::Command;

use e2e::binaries;

/// Only the code that ends a process reads this variable.
const FAIL_POINTS: &str = "HOLDFAST_FAILPOINT";

/// Whether the bytes of the file have the text among them.
fn holds(file: &Path, text: &str) -> bool {
    let searched = Command::new("grep").args(["-qF", text]).arg(file).status().expect("grep runs");
    match searched.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{} cannot be searched: {searched}", file.display()),
    }
}

/// `plain` is built without the feature in the profile of the tests, which
/// takes a minute; a release build, which takes ten, is searched where it is.
#[test]
fn only_builds_for_tests_have_fail_points() {
    let folders = [("debug", true), ("plain", false), ("release", false)];
    for (folder, expected) in folders {
        for name in ["holdfast-agent", "holdfast-controller"] {
            let binary = match binaries::built(folder, name) {
                Some(binary) => binary,
                None if folder == "release" => continue,
                None => panic!("{folder}/{name} is not there; tests/run builds it"),
            };
            // A search that would find nothing at all proves nothing. Not any text will
            // do: optimized code has short ones in its instructions.
            assert!(holds(&binary, "holdfast.v1.VolumeService"), "{} has no texts", binary.display());
            assert_eq!(holds(&binary, FAIL_POINTS), expected, "{}", binary.display());
        }
    }
}
