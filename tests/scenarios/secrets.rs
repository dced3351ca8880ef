//! Secrets in settings stay on their host.

use std::path::Path;
use std::process::Command;

use e2e::docker::{Engine, IMAGE};
use e2e::fleet::{Fleet, Place};
use e2e::process::Process;
use e2e::{require_engine, wait};
use holdfast_archive::snapshot::decode_object;

const CANARY: &str = "hunter2-canary";

/// Every file below a folder that holds `text`.
fn holding(directory: &Path, text: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            holding(&path, text, found);
        } else if std::fs::read(&path).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
}

/// What the snapshot objects below a folder hold, decoded.
fn bodies(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(bodies(&path));
        } else {
            found.push(format!("{:?}", decode_object(&std::fs::read(&path).unwrap()).unwrap().1));
        }
    }
    found
}

/// With a secret in every setting that can have one.
fn make_volume_and_container(engine: &Engine) {
    engine.docker([
        "volume",
        "create",
        "--label",
        "app=shop",
        "--label",
        &format!("deploy.token={CANARY}"),
        "data",
    ]);
    // Made and not started: nothing has to be there for these settings.
    engine.docker([
        "create",
        "--name",
        "app",
        "-v",
        "data:/data",
        "-e",
        &format!("PLAIN={CANARY}"),
        "--label",
        "app=shop",
        "--label",
        &format!("db.password={CANARY}"),
        "--label",
        &format!("url=postgres://app:{CANARY}@db/shop"),
        "--entrypoint",
        "redis-server",
        "--health-cmd",
        &format!("redis-cli -a {CANARY} ping"),
        "--log-driver",
        "splunk",
        "--log-opt",
        &format!("splunk-token={CANARY}"),
        "--log-opt",
        "splunk-url=https://127.0.0.1:1",
        "--mount",
        &format!("type=volume,src=other,dst=/other,volume-label=api-key={CANARY}"),
        IMAGE,
        "--requirepass",
        CANARY,
    ]);
}

/// Neither in the repository nor in what the controller keeps.
fn assert_not_stored(fleet: &Fleet) {
    let bodies = bodies(&fleet.repository_dir().join("snapshots"));
    assert_eq!(bodies.len(), 1);
    assert!(bodies[0].contains("redis-server") && bodies[0].contains("shop"), "{}", bodies[0]);
    assert!(!bodies[0].contains(CANARY), "{}", bodies[0]);
    let mut found = Vec::new();
    holding(&fleet.repository_dir(), CANARY, &mut found);
    holding(&fleet.state_dir(), CANARY, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

/// No command but `container spec` prints them, to whomever.
fn assert_not_shown(fleet: &Fleet) {
    for args in [
        vec!["container", "ls"],
        vec!["container", "inspect", "app"],
        vec!["volume", "ls"],
        vec!["volume", "inspect", "data"],
        vec!["mount", "ls"],
    ] {
        for format in ["table", "json"] {
            let args = [&args[..], &["--host", "web-1", "-o", format]].concat();
            let viewer = fleet.cli_as("viewer", &args).ends_with(0).stdout;
            let admin = fleet.ok(&args);
            assert!(!viewer.contains(CANARY) && !admin.contains(CANARY), "{args:?}: {viewer}\n{admin}");
        }
    }
    let inspect = ["container", "inspect", "app", "--host", "web-1", "-o", "json"];
    let seen = fleet.cli_as("viewer", &inspect).json().unwrap();
    assert!(seen["spec"].is_null() && seen["labels"]["app"] == "shop", "{seen}");
    let seen = fleet.json(&inspect[..5]);
    assert_eq!(seen["spec"]["config"]["Cmd"], serde_json::json!(["--requirepass", "***"]));
}

/// What stayed there does not come back, and is named.
fn assert_not_restored(fleet: &Fleet) {
    let said = fleet.cli(&["restore", "volume", "data", "--host", "web-1", "--as", "copy", "-o", "json"]);
    assert!(said.stderr.contains("deploy.token"), "the plan names it: {}", said.stderr);
    let job: serde_json::Value = serde_json::from_str(&said.ends_with(3).stdout).unwrap();
    assert_eq!(job["state"], "succeeded");
    assert!(job["restore"]["left_out_list"][0].as_str().unwrap().contains("`deploy.token`"), "{job}");
    let copy = fleet.json(&["volume", "inspect", "copy", "--host", "web-1"]);
    assert!(copy["labels"]["app"] == "shop" && copy["labels"]["deploy.token"].is_null(), "{copy}");
}

#[test]
fn v07_secrets_of_containers_and_volumes_leave_their_host_in_no_way() {
    require_engine!();
    let mut fleet = Fleet::start_allowing(&["container"], &["web-1"]);
    make_volume_and_container(fleet.engine("web-1"));
    fleet.backup("web-1", "data", "none");

    // The secrets are there, for whoever may have them.
    let spec = ["container", "spec", "app", "--host", "web-1"];
    assert!(fleet.ok(&spec).matches(CANARY).count() >= 7, "{}", fleet.ok(&spec));
    fleet.cli_as("viewer", &spec).ends_with(6);

    assert_not_stored(&fleet);
    assert_not_shown(&fleet);
    assert_not_restored(&fleet);

    assert!(!fleet.controller().output().contains(CANARY));
    assert!(!fleet.host("web-1").agent().output().contains(CANARY));
}

/// Has a command run without the right to look into other processes.
fn without_tracing() -> Vec<String> {
    ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace", "--"]
        .map(str::to_owned)
        .to_vec()
}

/// Whether another process of the same user, who may not trace what is not its
/// own, can open the memory of that one.
fn can_be_looked_into(pid: i32) -> bool {
    let wrapper = without_tracing();
    let mut open = Command::new(&wrapper[0]);
    open.args(&wrapper[1..]).args(["sh", "-c", &format!("exec 3< /proc/{pid}/mem")]);
    let output = open.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("Permission denied"), "{said}");
    output.status.success()
}

/// Soft and hard limit of core files, bytes.
fn core_limits(pid: i32) -> Vec<String> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a running process");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("the limit");
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

#[test]
fn x27_who_holds_keys_leaves_no_core_and_is_looked_into_by_nobody() {
    require_engine!();
    let wrapper = without_tracing();
    let mut fleet = Fleet::controller_only(Place::Directory);
    fleet.start_controller_under(&wrapper);
    fleet.add_host_under("web-1", &wrapper);
    // One that holds none can be looked into: the question says something.
    let mut plain = Command::new(&wrapper[0]);
    plain.args(&wrapper[1..]).args(["sleep", "1000"]);
    let plain = Process::start("a process without keys", &plain, &fleet.dir().join("plain.log"));
    let pid = plain.pid().as_raw_nonzero().get();
    wait::until_true("the process to be itself", 20, || {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
    });
    assert!(can_be_looked_into(pid));

    let controller = fleet.controller().pid().as_raw_nonzero().get();
    let agent = fleet.host("web-1").agent().pid().as_raw_nonzero().get();
    for (name, pid) in [("controller", controller), ("agent", agent)] {
        assert_eq!(core_limits(pid), ["0", "0"], "of the {name}");
        assert!(!can_be_looked_into(pid), "another process reads the memory of the {name}");
    }
    // Nor is anything lost by it.
    fleet.engine("web-1").run_writer("writer", "data");
    assert_eq!(fleet.backup("web-1", "data", "pause")["state"], "succeeded");
}
