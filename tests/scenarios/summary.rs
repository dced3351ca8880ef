//! The closing line of `tests/run`, and the exit code that decides whether a
//! change lands.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// What a run left behind.
struct Run {
    records: TempDir,
    root: TempDir,
    arguments: Vec<String>,
    ci: bool,
}

impl Run {
    /// Whose test runners printed `output`.
    fn of(output: &str) -> Self {
        let run = Self {
            records: tempfile::tempdir().unwrap(),
            root: tempfile::tempdir().unwrap(),
            arguments: ["--failed-suites", "0"].map(str::to_owned).to_vec(),
            ci: false,
        };
        std::fs::write(run.records.path().join("output"), output).unwrap();
        for folder in ["tests", "agent/src", "controller/src"] {
            std::fs::create_dir_all(run.root.path().join(folder)).unwrap();
        }
        run.source("tests/skips.txt", "# allowed\nb::test: not root\n");
        run.source("agent/src/failpoint.rs", "&[\n    \"agent.pack.before-put\",\n];\n");
        run.source("controller/src/failpoint.rs", "&[\n    \"controller.gc.after-condemn\",\n];\n");
        run
    }

    fn source(&self, path: &str, text: &str) {
        std::fs::write(self.root.path().join(path), text).unwrap();
    }

    fn record(self, list: &str, text: &str) -> Self {
        std::fs::write(self.records.path().join(list), text).unwrap();
        self
    }

    fn failed_suites(mut self, count: u32) -> Self {
        self.arguments[1] = count.to_string();
        self
    }

    fn whole(mut self) -> Self {
        self.arguments.push("--whole".to_owned());
        self
    }

    fn in_ci(mut self) -> Self {
        self.ci = true;
        self
    }

    /// All it says, and whether the run counts as passed.
    fn summary(self) -> (String, bool) {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/summary");
        let mut command = Command::new(tool);
        command.arg("--records").arg(self.records.path()).arg("--root").arg(self.root.path());
        command.args(self.arguments).env_remove("CI");
        if self.ci {
            command.env("CI", "true");
        }
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }

    /// The closing line, and whether the run counts as passed.
    fn closing(self) -> (String, bool) {
        let (text, passed) = self.summary();
        (text.lines().last().unwrap_or_default().to_owned(), passed)
    }
}

fn line(text: &str, passed: bool) -> (String, bool) {
    (text.to_owned(), passed)
}

const GREEN: &str = concat!(
    "     Summary [  61.204s] 700 tests run: 700 passed, 3 skipped\n",
    "        PASS [   0.006s] (1/95) e2e::bin/bench nothing 7 failed\n",
    "     Summary [ 588.892s] 95 tests run: 95 passed (2 slow, 1 flaky), 0 skipped\n",
);

const SKIPPED: &str = "a::test: no btrfs here\na::test: no xfs here\nb::test: not root\n";

fn flaky(count: usize) -> String {
    let flaky = (0..count).map(|n| format!("   FLAKY 2/2 [  12.105s] (7/95) e2e::scenarios a_test_{n}\n"));
    flaky.collect::<String>() + GREEN
}

#[test]
fn a_run_without_a_failure_passes() {
    assert_eq!(Run::of(GREEN).closing(), line("795 passed, 0 failed, 0 skipped", true));
}

#[test]
fn every_way_to_fail_is_counted() {
    let text =
        "     Summary [ 9.0s] 10/11 tests run: 5 passed, 3 failed, 2 timed out, 1 exec failed, 0 skipped\n";
    assert_eq!(Run::of(text).failed_suites(1).closing(), line("5 passed, 6 failed, 0 skipped", false));
}

#[test]
fn a_suite_that_broke_before_its_tests_fails_the_run() {
    assert_eq!(Run::of(GREEN).failed_suites(1).closing(), line("795 passed, 1 failed, 0 skipped", false));
    assert_eq!(Run::of("").failed_suites(2).closing(), line("0 passed, 2 failed, 0 skipped", false));
}

#[test]
fn a_skipped_test_is_not_a_passed_one() {
    let run = Run::of(GREEN).record("skipped", SKIPPED);
    assert_eq!(run.closing(), line("793 passed, 0 failed, 2 skipped", true));
}

#[test]
fn in_ci_only_skips_that_are_listed_pass() {
    let (text, passed) = Run::of(GREEN).record("skipped", SKIPPED).in_ci().summary();
    assert!(!passed && text.contains("a::test: no xfs here"), "{text}");
    let run = Run::of(GREEN).record("skipped", "b::test: not root\n").in_ci();
    assert_eq!(run.closing(), line("794 passed, 0 failed, 1 skipped", true));
}

#[test]
fn two_tests_may_need_a_second_try_and_are_named() {
    let (text, passed) = Run::of(&flaky(2)).summary();
    assert!(passed && text.contains("e2e::scenarios a_test_1"), "{text}");
    assert_eq!(Run::of(&flaky(3)).closing(), line("795 passed, 3 failed, 0 skipped", false));
}

#[test]
fn a_broken_invariant_fails_a_run_whose_tests_passed() {
    let (text, passed) = Run::of(GREEN).record("violations", "I4 backup::a: the copy differs\n").summary();
    assert!(!passed && text.contains("I4 backup::a: the copy differs"), "{text}");
}

#[test]
fn a_whole_run_visits_every_fail_point() {
    let all = "agent.pack.before-put\ncontroller.gc.after-condemn\n";
    let run = Run::of(GREEN).whole().record("visited", all);
    assert_eq!(run.closing(), line("795 passed, 0 failed, 0 skipped", true));
    let (text, passed) = Run::of(GREEN).whole().record("visited", "agent.pack.before-put\n").summary();
    assert!(!passed && text.contains("controller.gc.after-condemn"), "{text}");
    assert!(Run::of(GREEN).summary().1, "a part of the tests need not");
}
