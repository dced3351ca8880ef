//! The disk below a directory repository: not mounted, or with bad sectors.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::bad_disk::BadDisk;
use e2e::command::run;
use e2e::disk::Disk;
use e2e::docker::IMAGE;
use e2e::fleet::{Fleet, Place, Said};
use e2e::kills::AGENT;
use e2e::{require_disk, require_engine, require_fuse, tree};
use holdfast_archive::pack::{TableRead, read_table};
use holdfast_archive::pack_io::{FrameKind, PackEntry};

/// A fleet whose repository lies where `disk` makes it lie, with one host.
fn fleet_on<D>(disk: impl FnOnce(&Path) -> D) -> (Fleet, D) {
    let mut fleet = Fleet::controller_only(Place::Directory);
    let disk = disk(&fleet.repository_dir());
    fleet.start_controller(None);
    fleet.add_host("host-a");
    (fleet, disk)
}

fn write(fleet: &Fleet, volume: &str, script: &str) {
    let mount = format!("{volume}:/data");
    fleet.engine("host-a").docker(["run", "--rm", "-v", &mount, IMAGE, "sh", "-c", script]);
}

fn try_backup(fleet: &Fleet, volume: &str) -> Said {
    fleet.cli(&["backup", "run", "--host", "host-a", "--volume", volume, "--consistency", "none"])
}

/// Both ways, with a controller and without.
fn restores(fleet: &Fleet, snapshot: &str, like: &str, name: &str) {
    fleet.ok(&["restore", "volume", snapshot, "--host", "host-a", "--as", name]);
    let engine = fleet.engine("host-a");
    tree::assert_equal(&engine.volume_path(like), &engine.volume_path(name));
    let target = fleet.dir().join(name);
    fleet.repo("restore", &[snapshot, "--to", &target.display().to_string()]).ends_with(0);
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

fn fails_naming_the_disk(said: Said) {
    assert_ne!(said.code, 0, "{said:?}");
    let text = said.stdout + &said.stderr;
    assert!(text.contains("mount the disk the repository is on"), "{text}");
}

/// Nothing is taken, given, deleted or found wrong, and each says why.
fn assert_suspended(fleet: &mut Fleet) {
    // Whose frames are all there already, and what is new.
    fails_naming_the_disk(try_backup(fleet, "vol"));
    fails_naming_the_disk(try_backup(fleet, "kept"));
    fails_naming_the_disk(fleet.cli(&["restore", "volume", "vol", "--host", "host-a", "--as", "r0"]));
    fails_naming_the_disk(fleet.cli(&["repo", "prune"]));
    fails_naming_the_disk(fleet.controller_says(&["verify", "--quick"]));
    // Nobody has changed the records, as far as can be told without the bucket.
    for said in [fleet.cli(&["audit", "verify"]), fleet.controller_says(&["audit", "verify"])] {
        let said = said.ends_with(7);
        assert!(said.stdout.contains("none changed or missing"), "{said:?}");
        fails_naming_the_disk(said);
    }
    let status = fleet.cli(&["status"]).ends_with(3);
    assert!(
        status.stdout.contains("the repository is suspended") && status.stdout.contains("repo.json"),
        "{status:?}"
    );
    assert!(is_empty(&fleet.repository_dir()), "something was written beside the repository");
}

/// The disk goes between two packs of one backup.
fn unmount_between_packs(fleet: &mut Fleet, disk: &Disk) {
    fleet.arm(AGENT, "halt agent.pack.after-put");
    write(fleet, "vol", "head -c 90000000 /dev/urandom > /data/more");
    let mut command =
        fleet.command(&["backup", "run", "--host", "host-a", "--volume", "vol", "--consistency", "none"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fleet.host("host-a").agent().wait_halted(60);
    disk.unmount();
    fleet.host("host-a").agent().run_on();
    let output = running.wait_with_output().unwrap();
    fails_naming_the_disk(Said {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    });
    assert!(is_empty(&fleet.repository_dir()), "something was written beside the repository");
}

#[test]
fn h03_a_disk_unmounted_under_a_running_controller_takes_no_backup_and_loses_none() {
    require_engine!();
    require_disk!();
    let (mut fleet, disk) = fleet_on(Disk::below);
    write(&fleet, "vol", "head -c 3000000 /dev/urandom > /data/big; echo one > /data/small");
    fleet.backup("host-a", "vol", "none");
    write(&fleet, "kept", "cp -r /bin /data");

    disk.unmount();
    assert_suspended(&mut fleet);

    disk.mount();
    let job = fleet.backup("host-a", "vol", "none");
    assert_eq!(job["sources"][0]["stats"]["stored_bytes"], 0, "nothing counts as lost: {job}");
    assert_eq!(fleet.backup("host-a", "kept", "none")["state"], "succeeded");
    assert!(!fleet.cli(&["status"]).stdout.contains("the repository is suspended"));

    unmount_between_packs(&mut fleet, &disk);

    disk.mount();
    fleet.ok(&["restore", "volume", "vol@#1", "--host", "host-a", "--as", "r1"]);
    assert_eq!(fleet.backup("host-a", "vol", "none")["state"], "succeeded");
    restores(&fleet, "vol@latest", "vol", "r2");
    restores(&fleet, "kept@latest", "kept", "r3");
    fleet.assert_whole();
    fleet.controller_says(&["verify"]).ends_with(0);
    fleet.close();
}

/// Where the first frame of that kind lies, in whichever pack has one.
fn frame(repository: &Path, kind: FrameKind) -> (PathBuf, PackEntry, u64) {
    let packs = packs(repository);
    let found = packs.iter().find_map(|pack| {
        let bytes = std::fs::read(repository.join(pack)).unwrap();
        let TableRead::Table(table) = read_table(&bytes, bytes.len() as u64).unwrap() else {
            panic!("a whole pack has its table")
        };
        let entry = table.into_iter().find(|entry| entry.kind == kind)?;
        Some((pack.clone(), entry, bytes.len() as u64))
    });
    found.expect("a frame of that kind")
}

fn packs(repository: &Path) -> Vec<PathBuf> {
    let mut packs = Vec::new();
    for folder in std::fs::read_dir(repository.join("packs")).unwrap() {
        for pack in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            packs.push(pack.unwrap().path().strip_prefix(repository).unwrap().to_owned());
        }
    }
    packs
}

/// A host with two volumes and a snapshot of each, of which the first has a
/// bad sector under the first frame of that kind; or under the pack's table.
fn spoiled(kind: Option<FrameKind>) -> (Fleet, BadDisk, PathBuf) {
    let (fleet, disk) = fleet_on(BadDisk::below);
    fleet.leaves_damage();
    write(&fleet, "vol", "head -c 900000 /dev/urandom > /data/large; echo small > /data/small");
    fleet.backup("host-a", "vol", "none");
    let (pack, entry, length) = frame(&fleet.repository_dir(), kind.unwrap_or(FrameKind::Page));
    write(&fleet, "sound", "head -c 700000 /dev/urandom > /data/sound");
    fleet.backup("host-a", "sound", "none");
    let bytes = match kind {
        Some(_) => entry.offset + 1..entry.offset + 2,
        None => length - 1..length,
    };
    disk.spoil(&pack, bytes);
    (fleet, disk, pack)
}

fn others_are_unaffected(fleet: &Fleet) {
    restores(fleet, "sound@latest", "sound", "unaffected");
    assert_eq!(fleet.backup("host-a", "sound", "none")["state"], "succeeded");
}

#[test]
fn h04_a_read_error_under_a_frame_is_damage_and_the_next_backup_heals() {
    require_engine!();
    require_fuse!();
    let (fleet, _disk, pack) = spoiled(Some(FrameKind::Data));
    let pack = pack.display().to_string();
    fleet.cli(&["restore", "volume", "vol", "--host", "host-a", "--as", "r0"]).ends_with(4);
    let said = fleet.repo("verify", &[]).ends_with(4);
    assert!(said.stdout.contains(&pack) && said.stdout.contains("loses large"), "{}", said.stdout);
    // Not for as long as a store that is out of reach.
    assert!(said.stdout.contains("tried 3 times"), "{}", said.stdout);
    let said = fleet.controller_says(&["verify"]).ends_with(4);
    assert!(said.stdout.contains(&pack) && said.stdout.contains(": 1 problems"), "{}", said.stdout);
    others_are_unaffected(&fleet);
    assert_eq!(fleet.backup("host-a", "vol", "none")["state"], "succeeded");
    restores(&fleet, "vol@#1", "vol", "r1");
    restores(&fleet, "vol@#2", "vol", "r2");
}

#[test]
fn h04_a_read_error_under_a_page_costs_no_backup() {
    require_engine!();
    require_fuse!();
    let (mut fleet, _disk, pack) = spoiled(Some(FrameKind::Page));
    let pack = pack.display().to_string();
    let said = fleet.repo("verify", &[]).ends_with(4);
    assert!(said.stdout.contains(&pack), "{}", said.stdout);
    let job = fleet.backup("host-a", "vol", "none");
    assert_eq!(job["state"], "succeeded", "{job}");
    restores(&fleet, "vol@#1", "vol", "r1");
    restores(&fleet, "vol@#2", "vol", "r2");
    others_are_unaffected(&fleet);
    // It ends, whatever it says of what it met.
    fleet.controller().kill();
    let said = fleet.controller_says(&["reconcile"]);
    assert!(matches!(said.code, 0 | 4), "{said:?}");
    assert!(said.stdout.contains("snapshots, "), "{said:?}");
}

#[test]
fn h04_a_read_error_under_a_table_costs_that_pack() {
    require_engine!();
    require_fuse!();
    let (mut fleet, _disk, pack) = spoiled(None);
    let pack = pack.display().to_string();
    let said = fleet.controller_says(&["verify"]).ends_with(4);
    assert!(said.stdout.contains(&format!("pack-table {pack}")), "{}", said.stdout);
    let said = fleet.repo("verify", &[]).ends_with(4);
    assert!(said.stdout.contains(&format!("pack-table {pack}")), "{}", said.stdout);
    // Its frames are whole, and the catalogue knows where they lie.
    fleet.ok(&["restore", "volume", "vol", "--host", "host-a", "--as", "r1"]);
    assert_eq!(fleet.backup("host-a", "vol", "none")["state"], "succeeded");
    others_are_unaffected(&fleet);
    fleet.controller().kill();
    let said = fleet.controller_says(&["reconcile"]).ends_with(4);
    assert!(said.stdout.contains("snapshots, "), "{said:?}");
}

/// Lets the time pass that forgotten snapshots are kept for. A fleet's state
/// has no other way to it than days.
fn end_grace(fleet: &Fleet, statement: &str) {
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=60); \
                  db.execute(sys.argv[2]); db.commit()";
    let catalog = fleet.state_dir().join("catalog.db");
    run(Command::new("python3").args(["-c", script]).arg(catalog).arg(statement));
}

#[test]
fn h08_a_fleet_at_work_has_no_losses() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    // Before any lease: those are counted by the same clock.
    end_grace(&fleet, "update repository set ticks = ticks + 100000");
    for round in 0..2 {
        write(&fleet, "vol", &format!("head -c 400000 /dev/urandom > /data/{round}"));
        fleet.backup("host-a", "vol", "none");
    }
    let over = AtomicBool::new(false);
    let deleted = AtomicUsize::new(0);
    let work = || {
        while !over.load(Ordering::Relaxed) {
            write(&fleet, "vol", "rm /data/*; head -c 400000 /dev/urandom > /data/new");
            fleet.backup("host-a", "vol", "none");
            let snapshots = fleet.json(&["snapshot", "ls"]);
            let oldest =
                snapshots.as_array().unwrap().iter().filter_map(|one| one["id"].as_str()).next_back();
            fleet.ok(&["snapshot", "forget", oldest.unwrap()]);
            end_grace(
                &fleet,
                "update snapshots set purge_after_ms = 0, forgotten_tick = 0 where state = 'forgotten'",
            );
            // No lease is open now, and those that were hold nothing any more.
            end_grace(&fleet, "update repository set ticks = ticks + 100000");
            let before = packs(&fleet.repository_dir()).len();
            fleet.ok(&["repo", "prune"]);
            let gone = before.saturating_sub(packs(&fleet.repository_dir()).len());
            deleted.fetch_add(gone, Ordering::Relaxed);
        }
    };
    // Until something went while it was looked at, however slow the machine is.
    let deadline = Instant::now() + Duration::from_secs(300);
    let verify = || {
        let mut round = 0;
        while round < 10 || deleted.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "nothing is deleted meanwhile");
            round += 1;
            for said in [
                fleet.repo("verify", &[]),
                fleet.controller_says(&["verify"]),
                fleet.controller_says(&["verify", "--quick"]),
            ] {
                assert_eq!(said.code, 0, "{}\n{}", said.stdout, said.stderr);
            }
        }
    };
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        let verified = std::panic::catch_unwind(std::panic::AssertUnwindSafe(verify));
        over.store(true, Ordering::Relaxed);
        working.join().unwrap();
        verified.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
