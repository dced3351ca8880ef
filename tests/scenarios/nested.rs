//! Filesystems and subvolumes inside a source: what is in them is not backed
//! up, and whoever is not told so takes the snapshot for whole.

use std::process::Command;

use e2e::command::run;
use e2e::disk::Mounted;
use e2e::fleet::Fleet;
use e2e::kills::AGENT;
use e2e::{require_disk, require_engine};
use serde_json::Value;

/// A host with a volume that has a filesystem mounted in it.
fn scene() -> (Fleet, Mounted) {
    let fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").docker(["volume", "create", "data"]);
    let data = fleet.engine("host-a").volume_path("data");
    std::fs::write(data.join("file"), "seen").unwrap();
    let image = fleet.dir().join("nested.ext4");
    let mounted = Mounted::at("ext4", "", &image, &data.join("disk")).expect("an ext4 image");
    std::fs::write(data.join("disk/inside"), "not seen").unwrap();
    (fleet, mounted)
}

/// Backs up and gives the job, which ends with this exit status.
fn backup(fleet: &Fleet, what: &[&str], status: i32) -> Value {
    let said = fleet.cli(&[&["backup", "run"], what, &["-o", "json"]].concat()).ends_with(status);
    let value: Value = serde_json::from_str(&said.stdout).expect("JSON");
    value
}

/// The newest snapshot, whole.
fn newest(fleet: &Fleet, source: &str) -> Value {
    fleet.json(&["snapshot", "show", &format!("{source}@latest")])
}

const DATA: [&str; 4] = ["--host", "host-a", "--volume", "data"];

#[test]
fn h14_a_snapshot_without_what_is_mounted_inside_is_partial_unless_the_policy_says_otherwise() {
    require_engine!();
    require_disk!();
    let (fleet, mounted) = scene();
    let job = backup(&fleet, &DATA, 3);
    assert_eq!(job["state"], "partial", "{job}");
    assert!(job["sources"][0].to_string().contains("disk is another filesystem"), "{job}");
    let snapshots = fleet.json(&["snapshot", "ls"]);
    assert_eq!(snapshots[0]["partial"], true, "{snapshots}");

    // Whoever wants it so says so, by hand or in a policy; it is told all the same.
    let job = backup(&fleet, &[&DATA[..], &["--leave-out-mounts"]].concat(), 0);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert!(job["sources"][0].to_string().contains("disk is another filesystem"), "{job}");
    let file = fleet.dir().join("policy.toml");
    for (word, state, status) in [("leave-out", "succeeded", 0), ("partial", "partial", 3)] {
        let text = format!("name = 'nested'\nvolumes = ['data']\nnested_mounts = '{word}'\n");
        std::fs::write(&file, text).unwrap();
        // 3 while the controller has not yet looked at the host's volumes again.
        let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
        assert!(matches!(said.code, 0 | 3), "{said:?}");
        let job = backup(&fleet, &["nested"], status);
        let job = job.as_array().map_or(&job, |jobs| &jobs[0]);
        assert_eq!(job["state"], state, "{word}: {job}");
    }

    // The place is there in the restored tree, and named among what is not.
    let restore = ["restore", "volume", "data@latest", "--host", "host-a", "--as", "copy", "-o", "json"];
    let said = fleet.cli(&restore).ends_with(3);
    assert!(said.stdout.contains("disk"), "{}", said.stdout);
    let copy = fleet.engine("host-a").volume_path("copy");
    assert_eq!(std::fs::read_to_string(copy.join("file")).unwrap(), "seen");
    assert_eq!(std::fs::read_dir(copy.join("disk")).unwrap().count(), 0);

    // What is there once it is unmounted is whole again.
    drop(mounted);
    assert_eq!(backup(&fleet, &DATA, 0)["state"], "succeeded");
    assert_eq!(newest(&fleet, "data")["partial"], false);
}

#[test]
fn h14_a_nested_subvolume_makes_a_snapshot_partial() {
    require_engine!();
    require_disk!();
    let mut fleet = Fleet::start(&["host-a"]);
    let root = fleet.host("host-a").allowed_dir().canonicalize().unwrap().join("btrfs");
    let _mounted = match Mounted::at("btrfs", "", &fleet.dir().join("nested.btrfs"), &root) {
        Ok(mounted) => mounted,
        Err(reason) => return e2e::record::skipped(&reason),
    };
    std::fs::write(root.join("file"), "seen").unwrap();
    let path = root.display().to_string();
    let what = ["--host", "host-a", "--directory", &path];
    assert_eq!(backup(&fleet, &what, 0)["state"], "succeeded");
    run(Command::new("btrfs").args(["subvolume", "create"]).arg(root.join("sub")));
    std::fs::write(root.join("sub/inside"), "not seen").unwrap();
    let job = backup(&fleet, &what, 3);
    assert_eq!(job["state"], "partial", "{job}");
    assert!(job["sources"][0].to_string().contains("sub is another filesystem or subvolume"), "{job}");
}

/// The first attempt commits a partial snapshot and dies before it has said so.
/// The second one can read everything, and is answered with the first one's.
#[test]
fn h11_a_second_attempt_does_not_make_the_first_ones_snapshot_whole() {
    require_engine!();
    require_disk!();
    let (mut fleet, mounted) = scene();
    fleet.arm(AGENT, "agent.commit.after");
    fleet.ok(&[&["backup", "run"], &DATA[..], &["--no-wait"]].concat());
    fleet.host("host-a").agent().wait(60);
    drop(mounted);
    fleet.host("host-a").start_agent(None);
    fleet.wait_idle(180);
    let job = fleet.json(&["job", "ls"])[0].clone();
    assert_eq!(job["state"], "partial", "{job}");
    let snapshots = fleet.json(&["snapshot", "ls"]);
    assert_eq!(snapshots.as_array().map(Vec::len), Some(1), "{snapshots}");
    assert_eq!(snapshots[0]["partial"], true, "{snapshots}");
}
