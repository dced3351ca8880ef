//! The harness itself: what every other test relies on.

use std::process::Command;

use e2e::docker::{Engine, IMAGE};
use e2e::object_store::ObjectStore;
use e2e::{require_engine, require_object_store, tree, wait};

#[test]
fn two_engines_are_two_hosts() {
    require_engine!();
    let (one, two) = (Engine::start(), Engine::start());
    one.run_writer("writer", "logs");
    wait::until_true("the writer's first line", 20, || one.volume_path("logs").join("log").exists());
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
fn differing_trees_are_told_apart() {
    require_engine!();
    let (a, b) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
    tree::every_kind(a.path());
    assert_ne!(tree::rsync_differences(a.path(), b.path()), "");
    e2e::process::run(
        Command::new("cp")
            .arg("-a")
            .arg("--sparse=always")
            .arg(format!("{}/.", a.path().display()))
            .arg(b.path()),
    );
    tree::assert_equal(a.path(), b.path());
    e2e::process::run(
        Command::new("setfattr").args(["-n", "trusted.secret", "-v", "0x01"]).arg(b.path().join("dir/file")),
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
