//! Tests that cannot run here. The test runner knows only passed and failed,
//! so a skipped test writes a line to the file `tests/run` names in
//! `HOLDFAST_SKIPPED`, and that takes it off the passed ones. The unit tests of
//! other crates include this file by its path: it uses nothing of this crate.

use std::fs::File;
use std::io::Write as _;

/// Says that the current test is skipped, and why.
pub fn record(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("HOLDFAST_SKIPPED") {
        let file = File::options().create(true).append(true).open(&path);
        // One write, so that two tests do not write into each other's line.
        file.and_then(|mut file| file.write_all(format!("{test}: {reason}\n").as_bytes()))
            .expect("the list of skipped tests is written");
    }
}
