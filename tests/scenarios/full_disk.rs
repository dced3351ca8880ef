//! The disk below a directory repository runs full.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::command::{run, try_run};
use e2e::fleet::{Fleet, Place};
use e2e::{require_disk, require_engine, tree, wait};

/// Room on the disk, in KiB: for two of the small volumes, and not for the
/// large one beside them.
const ROOM: u32 = 24 << 10;
const SMALL: u32 = 7 << 10;
const LARGE: u32 = 40 << 10;

/// A disk of that size below a directory. Unmounted when dropped.
struct Small {
    at: PathBuf,
}

impl Small {
    /// Copies what the directory holds to it, and mounts it there.
    fn below(at: &Path) -> Self {
        let below = at.with_extension("below");
        std::fs::rename(at, &below).expect("moved away");
        std::fs::create_dir(at).expect("mount point");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={ROOM}k,mode=0700"), "small"])
            .arg(at));
        let disk = Self { at: at.to_owned() };
        run(Command::new("cp").arg("-a").arg(format!("{}/.", below.display())).arg(at));
        disk
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

fn fill(fleet: &Fleet, volume: &str, kib: u32) {
    let engine = fleet.engine("host-a");
    engine.docker(["volume", "create", volume]);
    let file = engine.volume_path(volume).join("file");
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1k", &format!("count={kib}"), "status=none"])
        .arg(format!("of={}", file.display())));
}

/// Files of the repository that are no objects: what a write that failed left.
fn strays(repository: &Path) -> String {
    let kinds = ["packs/*", "snapshots/*", "index/*", "state/*", "keys/*", "RECOVERY/*", "repo.json"];
    let mut find = Command::new("find");
    find.arg(repository).args(["-type", "f"]);
    for kind in kinds {
        find.args(["-not", "-path"]).arg(repository.join(kind));
    }
    let hidden = run(Command::new("find").arg(repository).args(["-type", "f", "-name", ".*"]));
    format!("{}{hidden}", try_run(&mut find).expect("found"))
}

/// Nothing is half there then, and nothing else has suffered.
fn run_full(fleet: &Fleet, disk: &Small) {
    let snapshots = || std::fs::read_dir(disk.at.join("snapshots")).unwrap().count();
    let stored = snapshots();

    fill(fleet, "large", LARGE);
    let what = ["backup", "run", "--host", "host-a", "--volume", "large", "--consistency", "none"];
    let said = fleet.cli(&what);
    assert_ne!(said.code, 0, "{said:?}");
    let text = said.stdout + &said.stderr;
    assert!(text.contains("make room there or prune the repository"), "{text}");
    assert!(text.contains(&disk.at.display().to_string()), "it does not name the place: {text}");
    // Nothing is half there, and nothing else has suffered.
    let job = &fleet.json(&["job", "ls", "--limit", "1"])[0];
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"store-full".into()), "{job}");
    assert_eq!(fleet.json(&["snapshot", "ls"]).as_array().map(Vec::len), Some(2));
    assert_eq!(snapshots(), stored);
    assert_eq!(strays(&disk.at), "");
    fleet.assert_whole();
    fleet.assert_acknowledged("the disk ran full");
    fleet.ok(&["restore", "volume", "one", "--host", "host-a", "--as", "r1"]);
    tree::assert_equal(&fleet.engine("host-a").volume_path("one"), &fleet.engine("host-a").volume_path("r1"));
}

/// No byte is left, by others' hands. What may go at any time is there by now.
fn prune_without_room(fleet: &mut Fleet, disk: &Small) {
    fleet.controller().kill();
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    let index = disk.at.join("index");
    wait::until_true("the tables of packs once more", 60, || {
        std::fs::read_dir(&index).is_ok_and(|mut files| files.next().is_some())
    });
    fleet.wait_idle(60);
    let ballast = disk.at.join("ballast");
    let output = format!("of={}", ballast.display());
    let filled = Command::new("dd").arg("if=/dev/zero").arg(output).output().unwrap();
    assert!(!filled.status.success(), "there was room for ever");
    fleet.ok(&["snapshot", "forget", "one@latest"]);
    let job = fleet.json(&["repo", "prune"]);
    assert_eq!((&job["state"], &job["prune"]["snapshots_purged"]), (&"succeeded".into(), &1.into()), "{job}");
    assert!(job["prune"]["packs_deleted"].as_u64().is_some_and(|packs| packs > 0), "{job}");
    std::fs::remove_file(&ballast).unwrap();
}

#[test]
fn s20_a_disk_that_runs_full_fails_the_backup_and_is_pruned_without_room() {
    require_engine!();
    require_disk!();
    let mut fleet = Fleet::controller_only(Place::Directory);
    fleet.forget_at_once();
    let disk = Small::below(&fleet.repository_dir());
    fleet.start_controller(None);
    fleet.add_host("host-a");
    for volume in ["one", "two"] {
        fill(&fleet, volume, SMALL);
        assert_eq!(fleet.backup("host-a", volume, "none")["state"], "succeeded");
    }
    run_full(&fleet, &disk);
    prune_without_room(&mut fleet, &disk);

    // With room again, what is small fits.
    let path = |fleet: &Fleet, volume: &str| fleet.engine("host-a").volume_path(volume);
    fill(&fleet, "three", SMALL);
    assert_eq!(fleet.backup("host-a", "three", "none")["state"], "succeeded");
    for (volume, name) in [("two", "r2"), ("three", "r3")] {
        fleet.ok(&["restore", "volume", volume, "--host", "host-a", "--as", name]);
        tree::assert_equal(&path(&fleet, volume), &path(&fleet, name));
    }
    fleet.assert_whole();
    fleet.controller_says(&["verify"]).ends_with(0);
    fleet.close();
}
