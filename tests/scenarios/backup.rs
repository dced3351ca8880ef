//! Backup and restore from end to end.

use std::path::Path;
use std::process::Command;

use e2e::command::run;
use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::kills::AGENT;
use e2e::object_store::ObjectStore;
use e2e::{require_engine, require_object_store, tree};

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

    names_are_listed_as_text(&fleet, &original);

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
    for name in ["char", "block", "dir/f01"] {
        assert!(left_out.contains(name), "{name} is not among what was left out: {left_out}");
    }
    let tame = fleet.engine("host-b").volume_path("tame");
    assert!(!tame.join("char").exists());

    // And with no controller at all, into a directory.
    let target = fleet.dir().join("offline");
    let to = target.display().to_string();
    fleet.repo("restore", &["everything@latest", "--to", &to, "--devices", "--setuid"]).ends_with(0);
    tree::assert_equal(&original, &target);
}

/// A16: every listing of a snapshot shows names that are no text, or would
/// move the cursor, as text of one line.
fn names_are_listed_as_text(fleet: &Fleet, original: &Path) {
    const ESCAPED: [&str; 3] = ["bad\\xff", "new\\nline", "esc\\u{1b}[31m"];
    let browse = ["everything", "-R"];
    let with_json = ["everything", "-R", "-o", "json"];
    let there = run(Command::new("find").arg(original).args(["-printf", "x"])).len();
    for said in [fleet.cli(&[&["snapshot", "browse"][..], &browse].concat()), fleet.repo("browse", &browse)] {
        let said = said.ends_with(0);
        assert!(!said.stdout.contains(|c: char| c.is_control() && c != '\n'), "{}", said.stdout);
        for name in ESCAPED {
            assert!(said.stdout.contains(name), "{name} is not in:\n{}", said.stdout);
        }
        assert_eq!(said.stdout.lines().count(), there + 1, "a heading and a line for each:\n{}", said.stdout);
    }
    for said in
        [fleet.cli(&[&["snapshot", "browse"][..], &with_json].concat()), fleet.repo("browse", &with_json)]
    {
        let listed = said.json().expect("JSON");
        let listed = listed.as_array().expect("a list");
        let paths: Vec<&str> = listed.iter().filter_map(|entry| entry["path"].as_str()).collect();
        assert_eq!(paths.len(), there, "{paths:?}");
        for name in ESCAPED {
            assert!(paths.iter().any(|path| path.starts_with(name)), "{name} is not among {paths:?}");
        }
    }
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
    fleet.assert_whole();
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

/// A backup that is not waited for.
fn start(fleet: &Fleet, consistency: &str) -> String {
    let backup = ["backup", "run", "--host", "host-a", "--volume", "data", "--no-wait"];
    let started = fleet.json(&[&backup[..], &["--consistency", consistency]].concat());
    started[0]["id"].as_str().expect("a job").to_owned()
}

/// The agent stands still with both quiesced containers and the pass quiesced
/// not begun: that meets the store as it is then, and finds something new.
fn cut_off_while_quiesced(fleet: &mut Fleet, store: &mut ObjectStore, data: &Path) {
    fleet.engine("host-a").run_writer("writer-2", "data");
    let both = |fleet: &Fleet| ["writer", "writer-2"].map(|name| fleet.engine("host-a").state(name));
    fleet.arm(AGENT, "halt agent.quiesce.after-stop:2");
    let id = start(fleet, "stop");
    fleet.host("host-a").agent().wait_halted(120);
    store.cut_off();
    write_noise(&data.join("at-rest"), 5);
    let knocked = store.door();
    fleet.host("host-a").agent().run_on();
    knocked.wait_for("/packs/", 60);
    assert_eq!(both(fleet), ["exited", "exited"]);
    let job = fleet.job(&id);
    assert_eq!(job["state"], "running", "{job}");
    store.bring_back();
    for name in ["writer", "writer-2"] {
        fleet.engine("host-a").wait_state(name, "running", 120);
    }
    let job = fleet.await_job(&id, 240);
    assert_eq!(job["state"], "succeeded", "{job}");
}

/// So many MiB that do not compress.
fn write_noise(file: &Path, mib: u32) {
    let count = format!("count={mib}");
    let mut dd = Command::new("dd");
    run(dd.args(["if=/dev/urandom", "bs=1M", &count, "status=none"]).arg(format!("of={}", file.display())));
}

/// The store is away when a backup begins.
fn cut_off_before_the_upload(fleet: &mut Fleet, store: &mut ObjectStore, data: &Path) {
    store.cut_off();
    write_noise(&data.join("more"), 20);
    let id = start(fleet, "pause");
    fleet.wait_job("the job to be under way", &id, 30, |job| job["state"] == "running");
    store.bring_back();
    let job = fleet.await_job(&id, 240);
    assert_eq!(job["state"], "succeeded", "{job}");
    fleet.engine("host-a").wait_state("writer", "running", 20);
}

/// The main job on a real S3 server, with the store cut off in the middle:
/// before anything is uploaded, and when the containers are quiesced already.
#[test]
fn s3_backup_survives_the_store_going_away() {
    require_engine!();
    let mut store = ObjectStore::start(require_object_store!());
    let mut fleet = Fleet::start_on(store.place(), &["host-a", "host-b"]);
    fleet.engine("host-a").run_writer("writer", "data");
    let data = fleet.engine("host-a").volume_path("data");
    write_noise(&data.join("random"), 40);
    assert_eq!(fleet.backup("host-a", "data", "pause")["state"], "succeeded");

    cut_off_before_the_upload(&mut fleet, &mut store, &data);
    cut_off_while_quiesced(&mut fleet, &mut store, &data);

    let job = fleet.json(&["restore", "volume", "data", "--host", "host-b", "--as", "copy"]);
    assert_eq!(job["restore"]["differences"], 0);
    let copy = fleet.engine("host-b").volume_path("copy");
    for name in ["random", "more", "at-rest"] {
        run(Command::new("cmp").arg(data.join(name)).arg(copy.join(name)));
    }
    fleet.assert_whole();
    let listed = fleet.repo("ls", &["-o", "json"]).ends_with(0);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&listed.stdout).unwrap().as_array().unwrap().len(),
        3
    );
}
