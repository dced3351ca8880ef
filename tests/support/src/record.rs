//! What a test has to say besides passed and failed. The test runner knows no
//! more than those two, so a line goes to a list in the folder that `tests/run`
//! names in `HOLDFAST_TEST_RECORDS`, and `tests/tools/summary` reads them all.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// Says that the current test is skipped, and why. It is taken off the passed
/// ones, and fails a CI run unless `tests/skips.txt` allows it.
pub fn skipped(reason: &str) {
    let test = test();
    eprintln!("SKIPPED {test}: {reason}");
    append("skipped", &format!("{test}: {reason}"));
}

/// Name of the current test.
pub fn test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// Adds a line to one of the lists of the run; without a run there are none.
pub fn append(list: &str, line: &str) {
    let Some(folder) = std::env::var_os("HOLDFAST_TEST_RECORDS") else { return };
    let file = File::options().create(true).append(true).open(Path::new(&folder).join(list));
    // One write, so that two tests do not write into each other's line.
    let line = format!("{}\n", line.replace('\n', " "));
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the records of the run are written");
}
