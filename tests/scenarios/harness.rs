//! The harness itself: what every other test relies on.

use std::path::Path;
use std::process::Command;

use e2e::docker::{Engine, IMAGE};
use e2e::leftovers::{in_containers, sweep};
use e2e::object_store::ObjectStore;
use e2e::{require_engine, require_object_store, tree, wait};

#[test]
fn two_engines_are_two_hosts() {
    require_engine!();
    let (one, two) = (Engine::start(), Engine::start());
    one.run_writer("writer", "logs");
    let log = one.volume_path("logs").join("log");
    wait::until_true("the writer's first line", 20, || log.exists());
    assert_eq!(one.state("writer"), "running");
    assert!(!two.has_volume("logs"), "a volume of one Engine is seen on the other");
    two.docker(["run", "--rm", IMAGE, "true"]);
}

#[test]
fn an_engine_survives_a_crash() {
    require_engine!();
    let mut engine = Engine::start();
    engine.docker(["volume", "create", "kept"]);
    engine.crash_and_restart();
    assert!(engine.has_volume("kept"));
}

#[test]
fn what_a_dead_test_left_of_an_engine_is_swept_and_a_living_one_is_not() {
    require_engine!();
    let (dead, alive) = (Engine::start(), Engine::start());
    for engine in [&dead, &alive] {
        engine.run_writer("writer", "logs");
    }
    let (dir, namespace) = dead.abandon();
    assert!(!in_containers(&dir).is_empty(), "its container does not outlive it");
    sweep();
    wait::until_true("its processes to be gone", 20, || in_containers(&dir).is_empty());
    assert!(!dir.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    assert!(!Path::new("/run/netns").join(namespace).exists());
    assert_eq!(alive.state("writer"), "running");
}

#[test]
fn differing_trees_are_told_apart() {
    require_engine!();
    let (a, b) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    tree::every_kind(a.path());
    assert_ne!(tree::rsync_differences(a.path(), b.path()), "");
    e2e::command::run(
        Command::new("cp")
            .arg("-a")
            .arg("--sparse=always")
            .arg(format!("{}/.", a.path().display()))
            .arg(b.path()),
    );
    tree::assert_equal(a.path(), b.path());
    let (file, other) = (a.path().join("dir/large"), b.path().join("dir/large"));
    for (path, nanosecond) in [(&file, 1), (&other, 2)] {
        let time = format!("2020-02-02 02:02:02.00000000{nanosecond} UTC");
        e2e::command::run(Command::new("touch").args(["-d", &time]).arg(path));
    }
    assert_ne!(tree::rsync_differences(a.path(), b.path()), "", "a nanosecond of difference");
    e2e::command::run(Command::new("touch").arg("-r").arg(&file).arg(&other));
    tree::assert_equal(a.path(), b.path());
    e2e::command::run(
        Command::new("setfattr").args(["-n", "trusted.secret", "-v", "0x01"]).arg(b.path().join("small")),
    );
    assert_ne!(tree::xattr_differences(a.path(), b.path()), "");
}

#[test]
fn the_object_store_answers_and_comes_back() {
    let mut store = ObjectStore::start(require_object_store!());
    let answers = |endpoint: &str| {
        Command::new("curl").args(["-s", "-o", "/dev/null", endpoint]).status().is_ok_and(|s| s.success())
    };
    assert!(answers(&store.endpoint));
    store.cut_off();
    assert!(!answers(&store.endpoint));
    store.bring_back();
    wait::until_true("the store after its return", 20, || answers(&store.endpoint));
}
