//! One flipped bit anywhere in the repository is found, and does no more harm
//! than it must.

use std::path::{Path, PathBuf};

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::{figure, require_engine, tree};
use holdfast_archive::pack::{TableRead, read_table};
use holdfast_archive::pack_io::FrameKind;
use holdfast_archive::repository::{RepositoryInfo, hash};

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
    fleet.assert_whole();

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
    fleet.assert_whole();
    figure!("{flips} flipped bits in {} objects, all found", objects.len());
}

#[test]
fn s06_damage_to_one_snapshot_is_named_and_others_restore() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    fleet.leaves_damage();
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
    fleet.leaves_damage();
    let engine = fleet.engine("host-a");
    let script = format!("head -c 200000 /dev/urandom > /data/{LEDGER}");
    engine.docker(["run", "--rm", "-v", &format!("{ROTTEN}:/data"), IMAGE, "sh", "-c", &script]);
    fleet.backup("host-a", ROTTEN, "none");
    let mut packs = Vec::new();
    files_below(&fleet.repository_dir().join("packs"), &mut packs);
    let longest = packs.iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    std::fs::File::options().write(true).open(longest).unwrap().set_len(100_000).unwrap();
    fleet.cli(&["restore", "volume", ROTTEN, "--host", "host-a", "--as", "r1"]).ends_with(4);
    assert!(!engine.has_volume("r1"), "a volume that failed to restore was left behind");
    fleet.repo("verify", &[]).ends_with(4);
}

/// Removes the file from a volume whose snapshots have lost it, so that the
/// rest can be compared.
fn remove_ledger(volume: &Path) {
    let books = volume.join("books");
    let time = std::fs::metadata(&books).unwrap().modified().unwrap();
    std::fs::remove_file(books.join(LEDGER)).unwrap();
    std::fs::File::open(books).unwrap().set_modified(time).unwrap();
}

/// Two backups, the second of a ledger more, whose pack is damaged.
fn store_and_damage(fleet: &Fleet) {
    let script = "mkdir -p /data/books/old; for i in 1 2 3; do head -c 1500000 /dev/urandom > /data/big-$i; done; \
        for i in $(seq 1 50); do echo $i > /data/books/old/small-$i; done; ln -s big-1 /data/link; ln /data/big-2 /data/books/same";
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", script]);
    fleet.backup("host-a", "vol", "none");
    let (mut before, mut packs) = (Vec::new(), Vec::new());
    files_below(&fleet.repository_dir().join("packs"), &mut before);
    let script = format!("head -c 3000000 /dev/urandom > /data/books/{LEDGER}");
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", &script]);
    fleet.backup("host-a", "vol", "none");
    files_below(&fleet.repository_dir().join("packs"), &mut packs);
    packs.retain(|pack| !before.contains(pack));
    let pack = packs.iter().max_by_key(|pack| std::fs::metadata(pack).unwrap().len()).unwrap();
    flip(pack, 1_000_000);
}

/// Into a directory of the host; the job has the name of what is lost.
fn salvage_files(fleet: &Fleet, original: &Path, to: &Path) {
    let file = format!("books/{LEDGER}");
    let target = to.display().to_string();
    let files = ["restore", "files", "vol", "--host", "host-a", "--to", &target, "--salvage", "-o", "json"];
    let said = fleet.cli(&files).ends_with(8);
    let job: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&job["state"], &job["error_code"]), (&"partial".into(), &"not-whole".into()), "{job:#}");
    assert_eq!(job["restore"]["lost"], 1, "{job:#}");
    assert_eq!(job["restore"]["lost_list"], serde_json::json!([file]), "{job:#}");
    tree::assert_equal(original, to);
    let id = job["id"].as_str().unwrap();
    let shown = fleet.json(&["job", "show", id]);
    assert_eq!(shown["restore"]["lost_list"], serde_json::json!([file]), "{shown:#}");
    fleet.cli(&["job", "watch", id]).ends_with(8);
}

/// With no controller.
fn salvage_offline(fleet: &Fleet, original: &Path) {
    let file = format!("books/{LEDGER}");
    let offline = |name: &str| fleet.dir().join(name).display().to_string();
    fleet.repo("restore", &["vol", "--to", &offline("t1")]).ends_with(4).complains("--salvage");
    let said = fleet.repo("restore", &["vol", "--to", &offline("t2"), "--setuid", "--devices", "--salvage"]);
    assert!(said.stdout.contains(&format!("lost: {file}")), "{}", said.stdout);
    said.ends_with(8);
    tree::assert_equal(original, &fleet.dir().join("t2"));
    let said =
        fleet.repo("restore", &["vol", "--to", &offline("t3"), "--salvage", "-o", "json"]).ends_with(8);
    let restored: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&restored["lost"], &restored["lost_list"]), (&1.into(), &serde_json::json!([file])));
}

#[test]
fn h05_salvage_brings_back_everything_but_the_file_that_is_lost_and_names_it() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.leaves_damage();
    let allowed = fleet.host("host-a").allowed_dir();
    store_and_damage(&fleet);
    let engine = fleet.engine("host-a");
    let original = engine.volume_path("vol");
    remove_ledger(&original);
    let file = format!("books/{LEDGER}");

    // Without the option: nothing, and the way on.
    let refused = fleet.cli(&["restore", "volume", "vol", "--host", "host-a", "--as", "r1"]).ends_with(4);
    let way_on = |text: &str| text.contains(&file) && text.contains("--as r1 --salvage");
    assert!(way_on(&refused.stdout), "{}\n{}", refused.stdout, refused.stderr);
    assert!(!engine.has_volume("r1"), "a volume that failed to restore was left behind");

    let salvage = ["restore", "volume", "vol", "--host", "host-a", "--as", "r1", "--salvage"];
    let said = fleet.cli(&salvage).ends_with(8);
    assert!(
        said.stdout.contains(&format!("lost: {file}")) && said.stdout.contains("NOT WHOLE"),
        "{}",
        said.stdout
    );
    tree::assert_equal(&original, &engine.volume_path("r1"));

    salvage_files(&fleet, &original, &allowed.join("salvaged"));
    salvage_offline(&fleet, &original);

    // Where nothing is lost, the option changes nothing.
    fleet.ok(&["restore", "volume", "vol@#1", "--host", "host-a", "--as", "r2", "--salvage"]);
    let to = fleet.dir().join("t4").display().to_string();
    fleet.repo("restore", &["vol@#1", "--to", &to, "--salvage"]).ends_with(0);
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
    // The damaged copy stays where it is, also once nothing needs it.
    fleet.leaves_damage();
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
    let problems = |fleet: &Fleet| fleet.cli(&["status", "--problems"]);
    let told = problems(&fleet).ends_with(3).stdout;
    assert!(told.contains("1 stored piece of its data is damaged") && told.contains("backup run"), "{told}");
    heals(&fleet);
    let told = problems(&fleet).stdout;
    assert!(!told.contains("damaged"), "{told}");
    // The damaged copy is there, and no snapshot needs it.
    let said = fleet.controller_says(&["verify"]).ends_with(0);
    assert!(
        said.stdout.contains("cost nothing") && said.stdout.contains("holdfast repo prune"),
        "{}",
        said.stdout
    );
}

#[test]
fn a_repo_json_that_is_lost_is_told_with_what_writes_it_again() {
    require_engine!();
    let mut fleet = damaged(FrameKind::Page);
    heals(&fleet);
    let file = fleet.repository_dir().join("repo.json");
    let whole = std::fs::read(&file).unwrap();
    flip(&file, whole.len() / 2);
    let write_again = "reconcile --write-repo-json";
    fleet.repo("ls", &[]).ends_with(4).complains(write_again);
    fleet.controller_says(&["verify"]).ends_with(4).complains(write_again);
    let told = fleet.cli(&["status", "--problems"]).ends_with(3).stdout;
    assert!(told.contains(write_again), "{told}");
    std::fs::remove_file(&file).unwrap();
    fleet.repo("ls", &[]).ends_with(4).complains(write_again);
    // A place that is out of reach, as far as anybody can tell.
    fleet.controller_says(&["verify"]).ends_with(7).complains(write_again);
    fleet.controller().kill();
    let said = fleet.controller_says(&["reconcile", "--write-repo-json"]).ends_with(0);
    assert!(said.stdout.contains("repo.json was written again"), "{}", said.stdout);
    assert_eq!(std::fs::read(&file).unwrap(), whole);
    fleet.repo("ls", &[]).ends_with(0);
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
    fleet.assert_whole();
    fleet.controller_says(&["verify"]).ends_with(0);
}

#[test]
fn v15_a_recovery_file_that_somebody_changed_is_found_and_written_again() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let script = fleet.repository_dir().join("RECOVERY/recover.py");
    let ours = std::fs::read(&script).unwrap();
    // Whoever writes to the store writes the hashes there, too.
    let info = fleet.repository_dir().join("repo.json");
    let theirs = b"import os\n";
    std::fs::write(&script, theirs).unwrap();
    let mut changed = RepositoryInfo::decode(&std::fs::read(&info).unwrap()).unwrap();
    changed.recovery.insert("RECOVERY/recover.py".to_owned(), hash(theirs));
    std::fs::write(&info, changed.encode()).unwrap();

    let said = fleet.repo("verify", &[]).ends_with(4);
    let shown = said.stdout + &said.stderr;
    assert!(shown.contains("RECOVERY/recover.py") && shown.contains("do not run"), "{shown}");
    assert_eq!(std::fs::read(&script).unwrap(), theirs, "without a controller nothing is written");
    let said = fleet.controller_says(&["verify", "--quick"]).ends_with(4);
    assert!(
        said.stdout.contains("RECOVERY/recover.py") && said.stdout.contains("written again"),
        "{}",
        said.stdout
    );
    assert_eq!(std::fs::read(&script).unwrap(), ours);
    std::fs::remove_file(&script).unwrap();
    fleet.controller_says(&["verify", "--quick"]).ends_with(4);
    assert_eq!(std::fs::read(&script).unwrap(), ours);
    fleet.controller_says(&["verify"]).ends_with(0);
    fleet.assert_whole();
}
