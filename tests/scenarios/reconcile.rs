//! The catalogue is made to agree with a bucket that is damaged: what is whole
//! in it stays, and what is missing keeps everything else from being deleted.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::command::run;
use e2e::docker::IMAGE;
use e2e::fleet::{Fleet, Said};
use e2e::s3::{Misbehaviour, Mishap, S3Server};
use e2e::{require_engine, tree};
use holdfast_archive::pack::{TableRead, read_table};
use holdfast_archive::pack_io::FrameKind;

fn packs(repository: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(repository.join("packs")).unwrap();
    let in_folder = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|pack| pack.unwrap().path());
    let mut packs: Vec<PathBuf> = folders.flat_map(|folder| in_folder(folder.unwrap().path())).collect();
    packs.sort_unstable();
    packs
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn fleet_with_a_backup() -> Fleet {
    let fleet = Fleet::start(&["host-a"]);
    let script = "head -c 3000000 /dev/urandom > /data/big; echo one > /data/small";
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", script]);
    fleet.backup("host-a", "vol", "none");
    fleet
}

fn restores(fleet: &Fleet, number: u32, name: &str) {
    fleet.ok(&["restore", "volume", &format!("vol@#{number}"), "--host", "host-a", "--as", name]);
    let engine = fleet.engine("host-a");
    tree::assert_equal(&engine.volume_path("vol"), &engine.volume_path(name));
}

/// `holdfast-controller reconcile`, between two lives of the controller.
fn reconcile(fleet: &mut Fleet, more: &[&str]) -> Said {
    fleet.controller().kill();
    let said = fleet.controller_says(&[&["reconcile"], more].concat());
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    said
}

#[test]
fn h01_one_flipped_byte_in_a_packs_table_costs_nothing() {
    require_engine!();
    let mut fleet = fleet_with_a_backup();
    fleet.leaves_damage();
    let before = packs(&fleet.repository_dir());
    for pack in &before {
        let length = std::fs::metadata(pack).unwrap().len() as usize;
        flip(pack, length - 1);
    }
    restores(&fleet, 1, "r1");
    let said = reconcile(&mut fleet, &[]).ends_with(4);
    assert!(
        said.stdout.contains("of its frames were read without its table, 0 cannot be"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("missing: "), "{}", said.stdout);
    fleet.ok(&["repo", "prune"]);
    assert_eq!(packs(&fleet.repository_dir()), before, "packs whose frames are all whole");
    restores(&fleet, 1, "r2");

    // And where the catalogue is lost as well.
    let said = fleet.rebuild_saying().ends_with(4);
    assert!(!said.stdout.contains("missing: "), "{}", said.stdout);
    let token = fleet.token("host-a");
    fleet.rejoin("host-a", &token);
    fleet.wait_connected("host-a");
    fleet.ok(&["repo", "prune"]);
    assert_eq!(packs(&fleet.repository_dir()), before, "packs whose frames are all whole");
    restores(&fleet, 1, "r3");
    let job = fleet.backup("host-a", "vol", "none");
    assert_eq!(job["sources"][0]["stats"]["stored_bytes"], 0, "{job}");
}

#[test]
fn h01_while_a_snapshot_is_not_whole_nothing_is_deleted_until_it_is_healed() {
    require_engine!();
    let mut fleet = fleet_with_a_backup();
    fleet.leaves_damage();
    let before = packs(&fleet.repository_dir());
    for pack in &before {
        let bytes = std::fs::read(pack).unwrap();
        let TableRead::Table(table) = read_table(&bytes, bytes.len() as u64).unwrap() else {
            panic!("no table")
        };
        for row in table.iter().filter(|row| row.kind == FrameKind::Page) {
            flip(pack, row.offset as usize + row.stored_len as usize / 2);
        }
    }
    let said = reconcile(&mut fleet, &[]).ends_with(4);
    assert!(
        said.stdout.contains("missing: snapshot ") && said.stdout.contains("--accept-loss"),
        "{}",
        said.stdout
    );
    let refused = fleet.cli(&["repo", "prune"]);
    assert!(refused.code != 0, "{refused:?}");
    let told = format!("{}{}", refused.stdout, refused.stderr);
    assert!(told.contains("nothing is deleted"), "{told}");
    let status = fleet.cli(&["status"]).ends_with(3);
    assert!(status.stdout.contains("nothing is deleted"), "{}", status.stdout);
    assert_eq!(packs(&fleet.repository_dir()), before);

    assert_eq!(fleet.backup("host-a", "vol", "none")["state"], "succeeded");
    reconcile(&mut fleet, &[]).ends_with(0);
    fleet.ok(&["repo", "prune"]);
    for (number, name) in [(1, "r1"), (2, "r2")] {
        restores(&fleet, number, name);
    }
    fleet.repo("verify", &[]).ends_with(4);
}

/// Keys of the objects of that kind, as they lie in the bucket.
fn stored(server: &S3Server, kind: &str) -> Vec<String> {
    let folder = server.bucket_dir().join("fleet").join(kind);
    let mut keys = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                keys.push(path.display().to_string());
            }
        }
    }
    keys.sort_unstable();
    keys
}

#[test]
fn h01_a_listing_that_leaves_out_packs_or_snapshots_loses_nothing() {
    require_engine!();
    let server = S3Server::start();
    let mut fleet = Fleet::start_on(server.place(), &["host-a"]);
    let fill = |fleet: &Fleet, script: &str| {
        fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", script]);
    };
    fill(&fleet, "head -c 2000000 /dev/urandom > /data/first; echo one > /data/small");
    fleet.backup("host-a", "vol", "none");
    let copy = fleet.dir().join("first");
    run(Command::new("cp").arg("-a").arg(fleet.engine("host-a").volume_path("vol")).arg(&copy));
    fill(&fleet, "head -c 2000000 /dev/urandom > /data/second; rm /data/small");
    fleet.backup("host-a", "vol", "none");
    let packs = stored(&server, "packs");
    assert!(packs.len() > 1, "{packs:?}");

    let mut restored = 0;
    for kind in ["packs/", "snapshots/"] {
        server.plan(Mishap::new("GET", Misbehaviour::LeaveOut(kind)).on("list-type=2"));
        let asked = server.requests().len();
        let said = reconcile(&mut fleet, &[]);
        assert!([0, 4].contains(&said.code), "{kind}: {said:?}");
        let listed = |request: &String| request.starts_with("GET ") && request.contains("list-type=2");
        assert!(server.requests()[asked..].iter().any(listed), "{kind}: no listing was asked for");
        let _done_or_refused = fleet.cli(&["repo", "prune"]);
        server.behave();
        assert_eq!(stored(&server, "packs"), packs, "{kind}: after a pass that was not shown everything");

        reconcile(&mut fleet, &[]).ends_with(0);
        fleet.ok(&["repo", "prune"]);
        assert_eq!(stored(&server, "packs"), packs, "{kind}: after a pass that was");
        for number in [1, 2] {
            restored += 1;
            let name = format!("r{restored}");
            fleet.ok(&["restore", "volume", &format!("vol@#{number}"), "--host", "host-a", "--as", &name]);
            let engine = fleet.engine("host-a");
            let wanted = if number == 1 { copy.clone() } else { engine.volume_path("vol") };
            tree::assert_equal(&wanted, &engine.volume_path(&name));
        }
    }
    fleet.assert_whole();
}
