//! One flipped bit anywhere in the repository is found, and does no more harm
//! than it must.

use std::path::{Path, PathBuf};

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::{figure, require_engine, tree};
use holdfast_archive::pack::{TableRead, read_table};
use holdfast_archive::seam::FrameKind;

fn files_below(root: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// Names that no report has in it for any other reason.
const ROTTEN: &str = "vol-rotten-7f3a";
const SOUND: &str = "vol-sound-c01e";
const LEDGER: &str = "ledger-of-1893.bin";

#[test]
fn s06_a_flipped_bit_in_any_object_is_found() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    for name in ["one", "two"] {
        let mount = format!("{name}:/data");
        let script = format!("for i in 1 2 3 4 5; do head -c 20000 /dev/urandom > /data/{name}-$i; done");
        fleet.engine("host-a").docker(["run", "--rm", "-v", &mount, IMAGE, "sh", "-c", &script]);
        fleet.backup("host-a", name, "none");
    }
    // It would write the fleet's state anew in the middle.
    fleet.controller().kill();
    fleet.repo("verify", &[]).ends_with(0);

    let mut objects = Vec::new();
    files_below(&fleet.repository_dir(), &mut objects);
    assert!(objects.len() >= 7, "{objects:?}");
    let mut flips = 0;
    for object in &objects {
        let length = std::fs::metadata(object).unwrap().len() as usize;
        for at in [0, length / 3, length / 2, length - 1] {
            flip(object, at);
            let said = fleet.repo("verify", &[]);
            // What says whose repository it is cannot be opened then, or is not what it was.
            let repository = object.ends_with("repo.json");
            let found = said.code == 4 || (repository && matches!(said.code, 1 | 2));
            assert!(found, "{} at {at}: exit {}\n{}", object.display(), said.code, said.stderr);
            flip(object, at);
            flips += 1;
        }
    }
    fleet.repo("verify", &[]).ends_with(0);
    figure!("{flips} flipped bits in {} objects, all found", objects.len());
}

#[test]
fn s06_damage_to_one_snapshot_is_named_and_others_restore() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let engine = fleet.engine("host-a");
    let mut packs = Vec::new();
    for name in [ROTTEN, SOUND] {
        let mount = format!("{name}:/data");
        let script = format!("head -c 200000 /dev/urandom > /data/{LEDGER}");
        engine.docker(["run", "--rm", "-v", &mount, IMAGE, "sh", "-c", &script]);
        let before = packs.clone();
        fleet.backup("host-a", name, "none");
        packs.clear();
        files_below(&fleet.repository_dir().join("packs"), &mut packs);
        if name == ROTTEN {
            // In the middle of the file's own frame.
            let pack = packs.iter().find(|pack| !before.contains(pack)).unwrap().clone();
            flip(&pack, 100_000);
        }
    }
    let said = fleet.repo("verify", &[]).ends_with(4);
    let report = said.stdout + &said.stderr;
    assert!(report.contains(ROTTEN) && report.contains(LEDGER) && !report.contains(SOUND), "{report}");

    let target = |name: &str| fleet.dir().join(name).display().to_string();
    fleet.repo("restore", &[ROTTEN, "--to", &target("t1")]).ends_with(4).complains(LEDGER);
    fleet.repo("restore", &[SOUND, "--to", &target("t2")]).ends_with(0);
    let job = fleet.cli(&["restore", "volume", ROTTEN, "--host", "host-a", "--as", "r1"]).ends_with(4);
    assert!(job.stdout.contains(LEDGER), "{}\n{}", job.stdout, job.stderr);
    assert!(!job.stdout.contains("verified"), "{}", job.stdout);
    assert!(!engine.has_volume("r1"), "a volume that failed to restore was left behind");
    fleet.ok(&["restore", "volume", SOUND, "--host", "host-a", "--as", "r2"]);
}

#[test]
fn a_pack_that_was_cut_short_is_damage_and_no_store_out_of_reach() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let engine = fleet.engine("host-a");
    let script = format!("head -c 200000 /dev/urandom > /data/{LEDGER}");
    engine.docker(["run", "--rm", "-v", &format!("{ROTTEN}:/data"), IMAGE, "sh", "-c", &script]);
    fleet.backup("host-a", ROTTEN, "none");
    let mut packs = Vec::new();
    files_below(&fleet.repository_dir().join("packs"), &mut packs);
    let longest = packs.iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    std::fs::File::options().write(true).open(longest).unwrap().set_len(100_000).unwrap();
    let begun = std::time::Instant::now();
    fleet.cli(&["restore", "volume", ROTTEN, "--host", "host-a", "--as", "r1"]).ends_with(4);
    assert!(begun.elapsed().as_secs() < 170, "{:?}", begun.elapsed());
    assert!(!engine.has_volume("r1"), "a volume that failed to restore was left behind");
    fleet.repo("verify", &[]).ends_with(4);
}

/// Flips a bit in the middle of the first frame of that kind, in whichever
/// pack has one.
fn flip_frame(repository: &Path, kind: FrameKind) {
    let mut packs = Vec::new();
    files_below(&repository.join("packs"), &mut packs);
    let place = packs.iter().find_map(|pack| {
        let bytes = std::fs::read(pack).unwrap();
        let TableRead::Table(table) = read_table(&bytes, bytes.len() as u64).unwrap() else {
            panic!("a whole pack has its table")
        };
        let entry = table.into_iter().find(|entry| entry.kind == kind)?;
        Some((pack.clone(), entry.offset as usize + entry.stored_len as usize / 2))
    });
    let (pack, at) = place.expect("a frame of that kind");
    flip(&pack, at);
}

/// A host with one volume and one snapshot of it, damaged in a frame of that kind.
fn damaged(kind: FrameKind) -> Fleet {
    let fleet = Fleet::start(&["host-a"]);
    let script = format!("head -c 200000 /dev/urandom > /data/{LEDGER}; echo small > /data/small");
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", &script]);
    fleet.backup("host-a", "vol", "none");
    flip_frame(&fleet.repository_dir(), kind);
    fleet
}

/// One more backup of the same content, and both snapshots are whole again.
fn heals(fleet: &Fleet) {
    assert_eq!(fleet.backup("host-a", "vol", "none")["state"], "succeeded");
    let engine = fleet.engine("host-a");
    for (number, name) in [("1", "r1"), ("2", "r2")] {
        fleet.ok(&["restore", "volume", &format!("vol@#{number}"), "--host", "host-a", "--as", name]);
        tree::assert_equal(&engine.volume_path("vol"), &engine.volume_path(name));
        let target = fleet.dir().join(name);
        let snapshot = format!("vol@#{number}");
        fleet.repo("restore", &[&snapshot, "--to", &target.display().to_string()]).ends_with(0);
    }
}

#[test]
fn what_a_restore_found_damaged_is_sent_again() {
    require_engine!();
    let fleet = damaged(FrameKind::Data);
    fleet.cli(&["restore", "volume", "vol", "--host", "host-a", "--as", "r0"]).ends_with(4);
    heals(&fleet);
}

#[test]
fn what_a_verification_found_damaged_is_sent_again() {
    require_engine!();
    let fleet = damaged(FrameKind::Data);
    // It runs beside the controller.
    let said = fleet.controller_says(&["verify"]).ends_with(4);
    assert!(said.stdout.contains("1 damaged frames are sent again"), "{}", said.stdout);
    heals(&fleet);
}

#[test]
fn a_damaged_manifest_is_written_anew_by_the_backup_that_meets_it() {
    require_engine!();
    let fleet = damaged(FrameKind::Page);
    heals(&fleet);
}

#[test]
fn s07_packs_that_went_missing_are_sent_again() {
    require_engine!();
    let fleet = damaged(FrameKind::Page);
    let mut packs = Vec::new();
    files_below(&fleet.repository_dir().join("packs"), &mut packs);
    packs.iter().for_each(|pack| std::fs::remove_file(pack).unwrap());
    let said = fleet.controller_says(&["verify", "--quick"]).ends_with(4);
    assert!(said.stdout.contains("missing-pack packs/"), "{}", said.stdout);
    heals(&fleet);
    fleet.repo("verify", &[]).ends_with(0);
    fleet.controller_says(&["verify"]).ends_with(0);
}
