//! Every fail point is there, and some scenario kills or halts at it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use e2e::failpoints::{self, CRATES, FailPoint, VARIABLE};
use e2e::process::Process;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The fail points a folder's sources name, but for some files, and where.
fn named_below(folder: &Path, but: &[PathBuf]) -> BTreeMap<String, BTreeSet<PathBuf>> {
    let mut files = Vec::new();
    sources(folder, &mut files);
    let mut named: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for file in files.into_iter().filter(|file| !but.contains(file)) {
        for name in failpoints::literals(&std::fs::read_to_string(&file).unwrap()) {
            named.entry(name).or_default().insert(file.clone());
        }
    }
    named
}

#[test]
fn every_fail_point_is_in_the_code_and_claimed_by_a_scenario() {
    let scenarios = failpoints::root().join("tests/scenarios");
    // One looks for them in binaries, the other is this file: they kill nothing.
    let idle = ["release.rs", "failpoints.rs"].map(|file| scenarios.join(file));
    let claimed = named_below(&scenarios, &idle);
    let mut all = BTreeSet::new();
    for krate in CRATES {
        let names = failpoints::names(krate);
        let source = failpoints::root().join(krate).join("src");
        let called: BTreeSet<String> =
            named_below(&source, &[failpoints::list_of(krate)]).into_keys().collect();
        assert_eq!(called, names, "the list of `{krate}` and the places in its code differ");
        all.extend(names);
    }
    let unknown: Vec<_> = claimed.iter().filter(|(name, _)| !all.contains(*name)).collect();
    assert!(unknown.is_empty(), "scenarios name fail points that are not there: {unknown:#?}");
    let unclaimed: Vec<_> = all.iter().filter(|name| !claimed.contains_key(*name)).collect();
    assert!(
        unclaimed.is_empty(),
        "no scenario kills or halts at these; write one in tests/scenarios: {unclaimed:#?}"
    );
}

#[test]
fn only_quoted_names_count_whatever_stands_around_them() {
    let source = "\
        // \"agent.quiet.comment\"\n\
        start(Some(\"agent.some.place:2\"), \"halt controller.some.where-else\", \"agent.log\");\n\
        let not = [\"host.a.b\", \"agent.Two.x\", \"agent.a.b.c\"]; // \"agent.other.place\"\n";
    let found: Vec<String> = failpoints::literals(source).into_iter().collect();
    assert_eq!(found, ["agent.some.place", "controller.some.where-else"]);
}

/// Whether this panics, without its words in the test's output.
fn panics<T>(work: impl FnOnce() -> T) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
}

/// Nothing here may pass as a visit, nor be written down as one.
#[test]
fn whoever_does_not_die_at_its_fail_point_fails_the_test() {
    let name = failpoints::names(CRATES[0]).into_iter().next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let shell = |script: &str, point: Option<&str>| {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        if let Some(point) = point {
            command.env(VARIABLE, point);
        }
        Process::start("a shell", &command, &dir.path().join("log"))
    };
    assert!(panics(|| FailPoint::parse(&format!("{name}-not"))), "a name that no list has is taken");
    for script in ["exit 0", "exit 1", "kill -TERM $$"] {
        let mut process = shell(script, Some(&name));
        assert!(panics(|| process.wait(10)), "`{script}` passes for a death at {name}");
    }
    let mut process = shell("kill -KILL $$", Some(&format!("halt {name}")));
    assert!(panics(|| process.wait(10)), "a death passes for a halt");
    let halted = shell("kill -STOP $$", Some(&name));
    assert!(panics(|| halted.wait_halted(10)), "a halt passes for a death");
    // Without a fail point anything goes, and a kill by the test is no visit.
    assert_eq!(shell("exit 3", None).wait(10).code(), Some(3));
    let killed: ExitStatus = shell("sleep 1000", Some(&name)).kill();
    assert_eq!(killed.signal(), Some(9));
}
