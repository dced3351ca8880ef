//! Backup and restore from end to end.

use std::process::Command;

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::object_store::ObjectStore;
use e2e::process::run;
use e2e::{require_engine, require_object_store, tree, wait};

fn snapshot_count(fleet: &Fleet) -> usize {
    fleet.json(&["snapshot", "ls"]).as_array().expect("a list").len()
}

#[test]
fn every_kind_of_entry_moves_to_another_host() {
    require_engine!();
    let fleet = Fleet::start(&["host-a", "host-b"]);
    fleet.engine("host-a").docker(["volume", "create", "--label", "app=all", "everything"]);
    let original = fleet.engine("host-a").volume_path("everything");
    tree::every_kind(&original);

    let job = fleet.backup("host-a", "everything", "none");
    assert_eq!(job["state"], "succeeded", "{job}");

    let exact = [
        "restore",
        "volume",
        "everything@latest",
        "--host",
        "host-b",
        "--as",
        "copy",
        "--devices",
        "--setuid",
    ];
    let job = fleet.json(&exact);
    assert_eq!(job["restore"]["differences"], 0, "{job}");
    assert_eq!(job["restore"]["left_out"], 0, "{job}");
    tree::assert_equal(&original, &fleet.engine("host-b").volume_path("copy"));
    let labels = fleet.json(&["volume", "inspect", "copy", "--host", "host-b"])["labels"].clone();
    assert_eq!(labels["app"], "all", "the volume's labels are part of it: {labels}");

    // Without the flags what another host must not get is left out, and said.
    let tame = ["restore", "volume", "everything@latest", "--host", "host-b", "--as", "tame", "-o", "json"];
    let said = fleet.cli(&tame).ends_with(3);
    let job: serde_json::Value = serde_json::from_str(&said.stdout).expect("a job as JSON");
    let left_out = job["restore"]["left_out_list"].to_string();
    for name in ["null", "loop", "dir/large"] {
        assert!(left_out.contains(name), "{name} is not among what was left out: {left_out}");
    }
    let tame = fleet.engine("host-b").volume_path("tame");
    assert!(!tame.join("null").exists());

    // And with no controller at all, into a directory.
    let target = fleet.dir().join("offline");
    let to = target.display().to_string();
    fleet.repo("restore", &["everything@latest", "--to", &to, "--devices", "--setuid"]).ends_with(0);
    tree::assert_equal(&original, &target);
}

#[test]
fn restores_are_refused_before_anything_is_touched() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let engine = fleet.engine("host-a");
    engine.docker(["run", "--rm", "-v", "data:/data", IMAGE, "sh", "-c", "echo one > /data/file"]);
    engine.docker(["volume", "create", "taken"]);
    fleet.backup("host-a", "data", "none");
    let restore = |snapshot: &str, host: &str, name: &str| {
        fleet.cli(&["restore", "volume", snapshot, "--host", host, "--as", name])
    };
    restore("data", "host-a", "taken").ends_with(2).complains("taken");
    restore("data", "host-b", "new").ends_with(5).complains("did you mean `host-a`");
    restore("dat", "host-a", "new").ends_with(5).complains("`data`");
    restore("data@#7", "host-a", "new").ends_with(5);
    restore("data", "host-a", "../new").ends_with(2);
    let plan = fleet.ok(&["restore", "volume", "data", "--host", "host-a", "--as", "new", "--plan"]);
    assert!(plan.contains("new"), "{plan}");
    assert!(!engine.has_volume("new"));
    // A directory has to be allowed by the host itself.
    fleet
        .cli(&["restore", "files", "data", "--host", "host-a", "--to", "/etc/stolen"])
        .ends_with(1)
        .complains("/etc/stolen");
    assert!(fleet.json(&["volume", "ls", "--host", "host-a"]).as_array().unwrap().len() == 2);
}

#[test]
fn files_come_back_into_an_allowed_directory() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    let script = "mkdir -p /data/a/b /data/c; echo one > /data/a/b/one; echo two > /data/c/two";
    fleet.engine("host-a").docker(["run", "--rm", "-v", "data:/data", IMAGE, "sh", "-c", script]);
    fleet.backup("host-a", "data", "none");
    let target = fleet.host("host-a").allowed_dir().join("back");
    let to = target.display().to_string();
    fleet.ok(&["restore", "files", "data", "a/b", "--host", "host-a", "--to", &to]);
    assert_eq!(std::fs::read_to_string(target.join("a/b/one")).unwrap(), "one\n");
    assert!(!target.join("c").exists());

    assert_eq!(fleet.ok(&["snapshot", "cat", "data", "c/two"]), "two");
    let listed = fleet.json(&["snapshot", "browse", "data", "-R"]);
    let paths: Vec<&str> =
        listed.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"a/b/one") && paths.contains(&"c"), "{paths:?}");
    let offline = fleet.repo("browse", &["data", "a/b", "-o", "json"]).ends_with(0);
    assert!(offline.stdout.contains("one"), "{}", offline.stdout);
}

#[test]
fn a_snapshot_is_forgotten_and_brought_back() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let engine = fleet.engine("host-a");
    engine.docker(["run", "--rm", "-v", "data:/data", IMAGE, "sh", "-c", "echo one > /data/file"]);
    fleet.backup("host-a", "data", "none");
    engine.docker(["run", "--rm", "-v", "data:/data", IMAGE, "sh", "-c", "echo two > /data/file"]);
    fleet.backup("host-a", "data", "none");
    assert_eq!(snapshot_count(&fleet), 2);
    assert_eq!(fleet.ok(&["snapshot", "cat", "data@#1", "file"]), "one");

    fleet.ok(&["snapshot", "forget", "data@#1"]);
    assert_eq!(snapshot_count(&fleet), 1);
    fleet.ok(&["repo", "prune"]);
    fleet.ok(&["snapshot", "undelete", "data@#1"]);
    assert_eq!(snapshot_count(&fleet), 2);
    assert_eq!(fleet.ok(&["snapshot", "cat", "data@#1", "file"]), "one");
    fleet.repo("verify", &[]).ends_with(0);
}

#[test]
fn an_empty_source_that_was_not_empty_is_an_error() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let engine = fleet.engine("host-a");
    engine.docker(["volume", "create", "data"]);
    // Empty from the start is fine.
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
    engine.docker([
        "run",
        "--rm",
        "-v",
        "data:/data",
        IMAGE,
        "sh",
        "-c",
        "for i in 1 2 3; do echo $i > /data/$i; done",
    ]);
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
    engine.docker(["run", "--rm", "-v", "data:/data", IMAGE, "sh", "-c", "rm /data/*"]);
    fleet.cli(&["backup", "run", "--host", "host-a", "--volume", "data"]).ends_with(1);
    assert_eq!(snapshot_count(&fleet), 2);
    fleet.ok(&["backup", "run", "--host", "host-a", "--volume", "data", "--allow-empty"]);
    assert_eq!(snapshot_count(&fleet), 3);
}

/// The main job on a real S3 server, with the store cut off in the middle:
/// before anything is uploaded, and when the containers are at rest already.
#[test]
fn s3_backup_survives_the_store_going_away() {
    require_engine!();
    let mut store = ObjectStore::start(require_object_store!());
    let fleet = Fleet::start_on(store.place(), &["host-a", "host-b"]);
    let engine = fleet.engine("host-a");
    engine.run_writer("writer", "data");
    let data = engine.volume_path("data");
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=40", "status=none"])
        .arg(format!("of={}", data.join("random").display())));
    assert_eq!(fleet.backup("host-a", "data", "pause")["state"], "succeeded");

    store.cut_off();
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=20", "status=none"])
        .arg(format!("of={}", data.join("more").display())));
    let start = |consistency| {
        let backup = ["backup", "run", "--host", "host-a", "--volume", "data", "--no-wait"];
        let started = fleet.json(&[&backup[..], &["--consistency", consistency]].concat());
        started[0]["id"].as_str().expect("a job").to_owned()
    };
    let id = start("pause");
    wait::until("the job to be under way", 30, || {
        let job = fleet.json(&["job", "show", &id]);
        (job["state"] == "running").then_some(()).ok_or(job)
    });
    store.bring_back();
    let job = wait::until("the job to end", 240, || {
        let job = fleet.json(&["job", "show", &id]);
        (job["state"] != "running" && job["state"] != "queued").then_some(job.clone()).ok_or(job)
    });
    assert_eq!(job["state"], "succeeded", "{job}");
    wait::until_true("the writer to run", 20, || engine.state("writer") == "running");

    // By its name the second one stops last; until then it writes.
    engine.run_deaf_writer("writer-2", "data", 15);
    let both = || ["writer", "writer-2"].map(|name| engine.state(name));
    let id = start("stop");
    wait::until_true("the writer to be stopped", 60, || engine.state("writer") == "exited");
    store.cut_off();
    assert_eq!(both(), ["exited", "running"], "the pass at rest has not begun");
    wait::until_true("both to be at rest", 30, || both() == ["exited", "exited"]);
    let job = fleet.json(&["job", "show", &id]);
    assert_eq!(job["state"], "running", "{job}");
    store.bring_back();
    wait::until_true("both to run", 120, || both() == ["running", "running"]);
    fleet.wait_idle(240);
    let job = fleet.json(&["job", "show", &id]);
    assert_eq!(job["state"], "succeeded", "{job}");

    let job = fleet.json(&["restore", "volume", "data", "--host", "host-b", "--as", "copy"]);
    assert_eq!(job["restore"]["differences"], 0);
    let copy = fleet.engine("host-b").volume_path("copy");
    for name in ["random", "more"] {
        run(Command::new("cmp").arg(data.join(name)).arg(copy.join(name)));
    }
    fleet.repo("verify", &[]).ends_with(0);
    let listed = fleet.repo("ls", &["-o", "json"]).ends_with(0);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&listed.stdout).unwrap().as_array().unwrap().len(),
        3
    );
}
