//! The Engine's data root has no room for what is restored.

use std::fs::File;
use std::path::{Path, PathBuf};

use e2e::disk::Disk;
use e2e::fleet::Fleet;
use e2e::leftovers::unmount_below;
use e2e::{require_disk, require_engine, tree, wait};
use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs};

use super::{HOST, fill, halt_at};

/// A fleet of which the first host has a disk of its own for its Engine's data,
/// and the second has the snapshots.
fn with_small_disk() -> (Fleet, Disk) {
    let mut fleet = Fleet::start(&["source", HOST]);
    fill(
        fleet.engine("source"),
        "data",
        "head -c 60000000 /dev/urandom > /data/large; mkdir /data/many; for i in $(seq 3000); do : > /data/many/$i; done",
    );
    assert_eq!(fleet.backup("source", "data", "none")["state"], "succeeded");
    let engine = &mut fleet.host(HOST).engine;
    engine.shut_down();
    // The daemon may have mounted its folder over itself.
    unmount_below(engine.dir());
    let data = engine.dir().join("data");
    let disk = Disk::below(&data);
    engine.start_again();
    fleet.wait_connected(HOST);
    (fleet, disk)
}

fn root(fleet: &Fleet) -> PathBuf {
    fleet.engine(HOST).dir().join("data")
}

fn free(root: &Path) -> StatVfs {
    statvfs(root).unwrap()
}

fn free_bytes(root: &Path) -> u64 {
    let free = free(root);
    free.f_bavail * free.f_frsize
}

/// Takes all but so many bytes of a disk.
fn fill_up(root: &Path, but: u64) -> PathBuf {
    let path = root.join("filler");
    let file = File::create(&path).unwrap();
    let bytes = free_bytes(root).checked_sub(but).expect("there is room to take");
    fallocate(&file, FallocateFlags::empty(), 0, bytes).unwrap();
    path
}

const RESTORE: [&str; 7] = ["restore", "volume", "data@latest", "--host", HOST, "--as", "back"];

/// Nothing of a restore that was refused or failed is left.
#[track_caller]
fn nothing_left(fleet: &Fleet) {
    wait::until_is("the half-made volume to go", 60, || fleet.engine(HOST).try_has_volume("back"), |is| !is);
    let listed = std::fs::read_dir(root(fleet).join("volumes")).unwrap();
    let names: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "back"), "{names:?}");
}

#[track_caller]
fn restores(fleet: &Fleet) {
    fleet.ok(&RESTORE);
    let (original, copy) = (fleet.engine("source"), fleet.engine(HOST));
    tree::assert_equal(&original.volume_path("data"), &copy.volume_path("back"));
    copy.docker(["volume", "rm", "back"]);
}

#[test]
fn o06_d18_a_restore_that_does_not_fit_is_refused_before_anything_is_written() {
    require_engine!();
    require_disk!();
    let (fleet, _disk) = with_small_disk();
    let root = root(&fleet);
    fleet.engine(HOST).run_writer("bystander", "other");

    let filler = fill_up(&root, 40_000_000);
    let said = fleet.cli(&RESTORE).ends_with(1);
    let text = said.stdout + &said.stderr;
    assert!(text.contains("bytes free and") && text.contains("nothing was written"), "{text}");
    nothing_left(&fleet);
    let job = fleet.json(&["job", "ls"])[0].clone();
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"no-space".into()), "{job}");
    assert!(free_bytes(&root) > 30_000_000, "something was written");
    assert_eq!(fleet.engine(HOST).state("bystander"), "running");
    std::fs::remove_file(filler).unwrap();

    // Room for the bytes and none for the files.
    let many = root.join("many");
    std::fs::create_dir(&many).unwrap();
    let spare = free(&root).f_favail - 1000;
    (0..spare).for_each(|i| drop(File::create(many.join(i.to_string())).unwrap()));
    let said = fleet.cli(&RESTORE).ends_with(1);
    let text = said.stdout + &said.stderr;
    assert!(text.contains("inodes free and") && text.contains("nothing was written"), "{text}");
    nothing_left(&fleet);
    std::fs::remove_dir_all(many).unwrap();

    restores(&fleet);
}

#[test]
fn d18_a_data_root_that_fills_half_way_fails_the_restore_and_leaves_nothing_of_it() {
    require_engine!();
    require_disk!();
    let (mut fleet, _disk) = with_small_disk();
    let root = root(&fleet);
    fleet.engine(HOST).run_writer("bystander", "other");
    halt_at(&mut fleet, "agent.restore.room-found");
    let mut restore = RESTORE.to_vec();
    restore.extend(["--no-wait", "-o", "json"]);
    fleet.ok(&restore);
    fleet.host(HOST).agent().wait_halted(60);
    // Somebody else is quicker.
    let filler = fill_up(&root, 20_000_000);
    fleet.host(HOST).agent().run_on();
    fleet.wait_idle(120);
    let job = fleet.json(&["job", "ls"])[0].clone();
    let job = fleet.job(job["id"].as_str().unwrap());
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"no-space".into()), "{job}");
    assert!(job["error"].as_str().unwrap().contains("No space left on device"), "{job}");
    nothing_left(&fleet);
    wait::until_true("the room to be given back", 60, || free_bytes(&root) > 15_000_000);
    assert_eq!(fleet.engine(HOST).state("bystander"), "running");
    std::fs::remove_file(filler).unwrap();
    restores(&fleet);
    fleet.assert_whole();
}
