//! The closing line of `tests/run`, and the exit code that decides whether a
//! change lands.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use tempfile::NamedTempFile;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// The closing line, and whether the run counts as passed.
fn summary(results: &str, skipped: &str, failed_suites: u32) -> (String, bool) {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/summary");
    let (results, skipped) = (file(results), file(skipped));
    let output = Command::new(tool)
        .args([results.path(), skipped.path()])
        .arg(failed_suites.to_string())
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    (text.lines().last().unwrap_or_default().to_owned(), output.status.success())
}

const GREEN: &str = concat!(
    "     Summary [  61.204s] 700 tests run: 700 passed, 3 skipped\n",
    "        PASS [   0.006s] (1/95) e2e::bin/bench nothing 7 failed\n",
    "     Summary [ 588.892s] 95 tests run: 95 passed (2 slow), 0 skipped\n",
);

#[test]
fn a_run_without_a_failure_passes() {
    assert_eq!(summary(GREEN, "", 0), ("795 passed, 0 failed, 0 skipped".to_owned(), true));
}

#[test]
fn every_way_to_fail_is_counted() {
    let line =
        "     Summary [ 9.0s] 10/11 tests run: 5 passed, 3 failed, 2 timed out, 1 exec failed, 0 skipped\n";
    assert_eq!(summary(line, "", 1), ("5 passed, 6 failed, 0 skipped".to_owned(), false));
}

#[test]
fn a_suite_that_broke_before_its_tests_fails_the_run() {
    assert_eq!(summary(GREEN, "", 1), ("795 passed, 1 failed, 0 skipped".to_owned(), false));
    assert_eq!(summary("", "", 2), ("0 passed, 2 failed, 0 skipped".to_owned(), false));
}

#[test]
fn a_skipped_test_is_not_a_passed_one() {
    let skipped = "a::test: no btrfs here\na::test: no xfs here\nb::test: not root\n";
    assert_eq!(summary(GREEN, skipped, 0), ("793 passed, 0 failed, 2 skipped".to_owned(), true));
}
