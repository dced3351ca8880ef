//! The controller is lost with its disk, and only the bucket is left.

use std::path::Path;
use std::process::Command;

use e2e::command::run;
use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::s3::S3Server;
use e2e::{invariant, require_engine, tree, wait};
use serde_json::Value;

/// But for the job that made it, which the bucket does not name.
fn same_snapshots(before: &Value, rebuilt: &Value) -> bool {
    let without_job = |list: &Value| -> Vec<Value> {
        let mut list = list.as_array().expect("a list").clone();
        list.iter_mut().for_each(|snapshot| snapshot["job"] = Value::Null);
        list
    };
    without_job(before) == without_job(rebuilt)
}

/// Waits until a file of what a controller leaves to its successor has this.
fn wait_written(fleet: &Fleet, name: &str, text: &str) {
    let object = fleet.repository_dir().join("state").join(name);
    wait::until(&format!("state/{name} with {text}"), 90, || {
        let bytes = std::fs::read(&object).unwrap_or_default();
        let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
        found.then_some(()).ok_or(bytes.len())
    });
}

/// The host joins as the one it was: what it sent need not be sent again.
fn rejoin_as_before(fleet: &mut Fleet, id: &serde_json::Value) {
    let token = fleet.token("host-a");
    fleet.rejoin("host-a", &token);
    fleet.wait_connected("host-a");
    assert_eq!(fleet.json(&["host", "show", "host-a"])["id"], *id);
    let sent = fleet.packs();
    let job = fleet.backup("host-a", "vol", "none");
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(fleet.packs(), sent);
    let source = &job["sources"][0];
    assert!(source["snapshot"].as_str().is_some_and(|id| id.ends_with("/2")), "the same source: {job}");
    assert_eq!(source["stats"]["stored_bytes"], 0, "{job}");
    for (number, name) in [("1", "r1"), ("2", "r2")] {
        fleet.ok(&["restore", "volume", &format!("vol@#{number}"), "--host", "host-a", "--as", name]);
        let engine = fleet.engine("host-a");
        tree::assert_equal(&engine.volume_path("vol"), &engine.volume_path(name));
    }
}

/// A policy that does not fire meanwhile: its file and its text.
fn apply_yearly(fleet: &Fleet) -> (String, &'static str) {
    let policy = "name = \"yearly\"\nvolumes = [\"vol\"]\nconsistency = \"none\"\n\
                  [schedule]\ncron = \"0 0 1 1 *\"\nzone = \"UTC\"\n[retention]\nkeep_last = 3\n";
    let file = fleet.dir().join("policy.toml");
    std::fs::write(&file, policy).unwrap();
    let file = file.display().to_string();
    assert!(matches!(fleet.cli(&["apply", "-f", &file]).code, 0 | 3));
    (file, policy)
}

/// A policy fires only after somebody has looked at it.
fn assert_waits_to_be_looked_at(fleet: &Fleet, file: &str, policy: &str) {
    assert_eq!(fleet.json(&["policy", "ls"])[0]["enabled"], false);
    assert_eq!(fleet.ok(&["policy", "show", "yearly"]).trim(), policy.trim());
    assert!(matches!(fleet.cli(&["apply", "-f", file]).code, 0 | 3));
    assert_eq!(fleet.json(&["policy", "ls"])[0]["enabled"], true);
}

#[test]
fn p21_a_lost_controller_comes_back_from_the_bucket() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    let script = "head -c 3000000 /dev/urandom > /data/big; echo one > /data/small";
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", script]);
    fleet.ok(&["host", "label", "host-a", "rack=7"]);
    let (file, policy) = apply_yearly(&fleet);
    fleet.backup("host-a", "vol", "none");
    wait_written(&fleet, "policies", "yearly");
    wait_written(&fleet, "hosts", "rack");
    let id = fleet.json(&["host", "show", "host-a"])["id"].clone();

    let before = fleet.json(&["snapshot", "ls"]);
    let said = fleet.rebuild();
    let rebuilt = fleet.json(&["snapshot", "ls"]);
    invariant!("I10", same_snapshots(&before, &rebuilt), "before {before}, rebuilt {rebuilt}");
    assert!(said.contains("known again: host-a") && said.contains("applied: yearly"), "{said}");
    let host = fleet.json(&["host", "show", "host-a"]);
    assert_eq!((&host["id"], &host["labels"]["rack"]), (&id, &serde_json::json!("7")), "{host}");
    assert_eq!(host["connected"], false, "a certificate of the lost CA counts for nothing");
    assert_waits_to_be_looked_at(&fleet, &file, policy);

    rejoin_as_before(&mut fleet, &id);
    fleet.assert_whole();
}

#[test]
fn h12_a_controller_whose_directory_was_rebuilt_elsewhere_acknowledges_nothing() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    acknowledges_nothing_once_rebuilt_elsewhere(&fleet, &fleet.repository_dir());
}

#[test]
fn h12_a_controller_whose_bucket_was_rebuilt_elsewhere_acknowledges_nothing() {
    require_engine!();
    let server = S3Server::start();
    let fleet = Fleet::start_on(server.place(), &["host-a"]);
    acknowledges_nothing_once_rebuilt_elsewhere(&fleet, &server.bucket_dir().join("fleet"));
}

fn acknowledges_nothing_once_rebuilt_elsewhere(fleet: &Fleet, repository: &Path) {
    // The repository is another controller's in the end.
    fleet.leaves_damage();
    let script = "head -c 300000 /dev/urandom > /data/file";
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", script]);
    fleet.backup("host-a", "vol", "none");
    fleet.rebuild_elsewhere(&fleet.dir().join("elsewhere"));
    let snapshots = || run(Command::new("find").arg(repository.join("snapshots")).args(["-type", "f"]));
    let before = snapshots();
    // What it would say is known to nobody but itself.
    let args = ["backup", "run", "--host", "host-a", "--volume", "vol", "--consistency", "none"];
    let said = fleet.cli(&args);
    assert_ne!(said.code, 0, "{said:?}");
    assert!((said.stdout.clone() + &said.stderr).contains("of controller"), "{said:?}");
    assert_eq!(fleet.json(&["snapshot", "ls"]).as_array().unwrap().len(), 1);
    assert_eq!(snapshots(), before);
    let status = fleet.cli(&["status"]).ends_with(3);
    assert!(status.stdout.contains("of controller"), "{status:?}");
    fleet.assert_whole();
}
