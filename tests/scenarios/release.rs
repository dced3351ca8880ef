//! What is given to people can not be made to die at a named place.

use std::path::Path;
use std::process::Command;

use e2e::{binaries, skip};

const FAIL_POINTS: &str = "HOLDFAST_FAILPOINT";

/// One of the places, of agent and controller.
const NAMES: [&str; 2] = ["agent.upgrade.rollback-exchanged", "controller.upgrade.at-stop-snapshot"];

/// Whether the bytes of the file have the text among them.
fn holds(file: &Path, text: &str) -> bool {
    let searched = Command::new("grep").args(["-qF", text]).arg(file).status().expect("grep runs");
    match searched.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{} cannot be searched: {searched}", file.display()),
    }
}

#[test]
fn only_debug_builds_have_fail_points() {
    for (profile, expected) in [("debug", true), ("release", false)] {
        for name in ["holdfast-agent", "holdfast-controller"] {
            let Some(binary) = binaries::built(profile, name) else {
                return skip::record(&format!("{profile}/{name} is not built; tests/run builds it"));
            };
            // A search that would find nothing at all proves nothing. Not any text will
            // do: optimized code has short ones in its instructions.
            assert!(holds(&binary, "holdfast.v1.VolumeService"), "{} has no texts", binary.display());
            for text in [FAIL_POINTS, NAMES[usize::from(name == "holdfast-controller")]] {
                assert_eq!(holds(&binary, text), expected, "{text} in {}", binary.display());
            }
        }
    }
}
