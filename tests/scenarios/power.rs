//! The power of the controller's machine goes: its disks keep what was synced,
//! and lose what was only written.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use e2e::bad_disk::BadDisk;
use e2e::command::run;
use e2e::disk::Disk;
use e2e::fleet::{Fleet, Place};
use e2e::kills::AGENT;
use e2e::{figure, invariant, require_disk, require_engine, require_fuse, tree};
use holdfast_archive::ids::{AllocationId, PackId};
use holdfast_archive::keys::{ObjectKey, StateFile};
use holdfast_archive::store::Store;
use serde_json::Value;

/// Has a file system stop where it is, its journal not written (the ioctl that
/// file systems are tested with): as the kernel sees it, the disk is gone.
const CUT: &str = "import fcntl, os, struct, sys\n\
    for disk in [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]: \
    fcntl.ioctl(disk, 0x8004587D, struct.pack('I', 2))";

/// Written and not synced, which must not outlive the power.
const UNSYNCED: &str = "unsynced";

/// A fleet whose controller has its state and its repository on disks of their
/// own.
struct Scene {
    /// Unmounted before the rest is removed.
    disks: [Disk; 2],
    fleet: Fleet,
    round: u32,
}

impl Scene {
    fn new() -> Self {
        let mut fleet = Fleet::controller_only(Place::Directory);
        fleet.forget_at_once();
        let disks = [fleet.state_dir(), fleet.repository_dir()].map(|place| {
            let disk = Disk::below(&place);
            std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700)).unwrap();
            run(Command::new("sync").arg("-f").arg(&place));
            disk
        });
        fleet.start_controller(None);
        fleet.add_host("host-a");
        let mut scene = Self { disks, fleet, round: 0 };
        scene.change();
        scene
    }

    /// New content, so that every run has something to upload.
    fn change(&mut self) {
        self.round += 1;
        let engine = self.fleet.engine("host-a");
        engine.docker(["volume", "create", "data"]);
        let file = engine.volume_path("data").join(format!("round-{}", self.round));
        run(Command::new("dd")
            .args(["if=/dev/urandom", "bs=64k", "count=20", "status=none"])
            .arg(format!("of={}", file.display())));
    }

    fn places(&self) -> [PathBuf; 2] {
        [self.fleet.state_dir(), self.fleet.repository_dir()]
    }

    /// Cuts the power at once, and starts the controller after it. An agent that
    /// stands still goes on then: its machine has had power all the time.
    fn cut(&mut self) {
        let places = self.places();
        for place in &places {
            std::fs::write(place.join(UNSYNCED), "x".repeat(100)).unwrap();
        }
        run(Command::new("python3").args(["-c", CUT]).args(&places));
        self.fleet.controller().kill();
        for (disk, place) in self.disks.iter().zip(&places) {
            disk.unmount();
            disk.mount();
            let left = std::fs::read(place.join(UNSYNCED)).unwrap_or_default();
            assert!(left.is_empty() || left == [0; 100], "what was not synced is there after the power cut");
            let _ = std::fs::remove_file(place.join(UNSYNCED));
        }
        // It opens its catalogue, or this ends the test.
        self.fleet.start_controller(None);
        self.fleet.host("host-a").agent().run_on();
        self.fleet.wait_connected("host-a");
    }

    /// Everything that was acknowledged is there, and the repository is whole.
    fn settle(&self, what: &str) {
        self.fleet.wait_idle(180);
        self.fleet.assert_acknowledged(what);
        self.fleet.assert_whole();
    }

    /// Starts a backup; its job is acknowledged then.
    fn begin(&self) -> String {
        let what =
            ["backup", "run", "--host", "host-a", "--volume", "data", "--consistency", "none", "--no-wait"];
        self.fleet.json(&what)[0]["id"].as_str().expect("an id").to_owned()
    }

    /// The job is known after the power cut, if it was before.
    fn job(&self, id: &str, what: &str) -> Value {
        let shown = self.fleet.try_json(&["job", "show", id]);
        invariant!(
            "I2",
            shown.is_ok(),
            "after {what}: job {id} was acknowledged and is not there: {shown:?}"
        );
        shown.unwrap_or_default()
    }
}

#[test]
fn p06_what_was_acknowledged_outlives_a_power_cut() {
    require_engine!();
    require_disk!();
    const ROUNDS: u32 = 4;
    const POINTS: [&str; 3] =
        ["halt agent.pack.before-put", "halt agent.pack.after-put", "halt agent.commit.before"];
    let mut scene = Scene::new();
    // The very moment after a backup was said to be done.
    for round in 0..ROUNDS {
        scene.change();
        let what = ["backup", "run", "--host", "host-a", "--volume", "data", "--consistency", "none"];
        let done = scene.fleet.json(&what);
        scene.cut();
        assert_eq!(done["state"], "succeeded", "{done}");
        let what = format!("power cut {round}");
        let after = scene.job(done["id"].as_str().unwrap(), &what);
        invariant!("I2", after["state"] == "succeeded", "{what}: {done} became {after}");
        scene.settle(&what);
    }
    // In the middle of one: the job is known, and goes on.
    for point in POINTS {
        scene.fleet.arm(AGENT, point);
        scene.change();
        let job = scene.begin();
        scene.fleet.host("host-a").agent().wait_halted(60);
        scene.cut();
        scene.job(&job, point);
        scene.settle(point);
        let ended = scene.job(&job, point);
        assert_eq!(ended["state"], "succeeded", "{point}: {ended}");
    }
    // After a prune that has deleted.
    scene.fleet.ok(&["snapshot", "forget", "data@#1"]);
    let pruned = scene.fleet.json(&["repo", "prune"]);
    scene.cut();
    assert_eq!(pruned["prune"]["snapshots_purged"], 1, "{pruned}");
    // What was purged was acknowledged once, and is gone on purpose.
    scene.fleet.wait_idle(180);
    scene.fleet.assert_whole();
    assert_eq!(scene.fleet.cli(&["snapshot", "show", "data@#1"]).code, 5, "it is there again");
    figure!("{} power cuts, nothing lost that was acknowledged", ROUNDS + POINTS.len() as u32 + 1);

    scene.change();
    assert_eq!(scene.fleet.backup("host-a", "data", "none")["state"], "succeeded");
    scene.fleet.ok(&["restore", "volume", "data", "--host", "host-a", "--as", "restored"]);
    let engine = scene.fleet.engine("host-a");
    tree::assert_equal(&engine.volume_path("data"), &engine.volume_path("restored"));
    scene.fleet.controller_says(&["verify"]).ends_with(0);
    scene.fleet.close();
}

/// Where an object lies in a directory repository.
fn place_of(repository: &Path, key: &ObjectKey) -> PathBuf {
    repository.join(key.to_string())
}

fn pack(number: u8) -> ObjectKey {
    ObjectKey::Pack(PackId { sha256: [number; 32], allocation: AllocationId::generate() })
}

/// On a disk that keeps what was synced and nothing besides: no file system in
/// use is as forgetful, and none promises more.
#[test]
fn h20_p06_what_the_store_took_outlives_a_power_cut_on_a_disk_that_keeps_no_more_than_it_must() {
    require_fuse!();
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let disk = BadDisk::below(&repository);
    // The disk is as forgetful as it has to be, in a place that nobody syncs later.
    let others = repository.join("others");
    std::fs::create_dir(&others).unwrap();
    File::open(&repository).unwrap().sync_all().unwrap();
    std::fs::write(others.join("old-name"), "never synced").unwrap();
    let mut file = File::create(others.join("no-content")).unwrap();
    file.write_all(b"synced by name alone").unwrap();
    File::open(&others).unwrap().sync_all().unwrap();
    std::fs::rename(others.join("old-name"), others.join("new-name")).unwrap();
    std::fs::write(others.join("no-name"), "never synced").unwrap();
    drop(file);

    let store = Store::create_directory(&repository).unwrap();
    let head = ObjectKey::State(StateFile::Head);
    let packs: Vec<ObjectKey> = (0..48).map(|number| pack(number % 6)).collect();
    // Somebody else has made the place of one, and died before it was synced.
    std::fs::create_dir_all(place_of(&repository, &packs[0]).parent().unwrap()).unwrap();
    let content = |key: &ObjectKey| Bytes::from(key.to_string().repeat(100));
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let puts = packs.iter().map(|key| store.put(key, content(key)));
        for put in futures_util::future::join_all(puts).await {
            put.unwrap();
        }
        for number in 0..5 {
            store.put(&head, Bytes::from(format!("head {number}"))).await.unwrap();
        }
        assert!(store.delete(&packs[40..]).await.unwrap().is_empty());
    });
    drop(store);
    disk.cut();

    for (number, key) in packs.iter().enumerate() {
        let left = std::fs::read(place_of(&repository, key)).ok();
        let wanted = (number < 40).then(|| content(key).to_vec());
        invariant!("I2", left == wanted, "{key}, number {number}, is not as the store said");
    }
    let left = std::fs::read(place_of(&repository, &head)).unwrap_or_default();
    invariant!("I2", left == b"head 4", "the head is not as the store said: {left:?}");
    // Of the rest, what was to be forgotten.
    assert_eq!(std::fs::read(others.join("no-content")).ok(), Some(Vec::new()));
    for name in ["new-name", "no-name"] {
        assert!(!others.join(name).exists(), "{name} outlives the power cut and was not synced");
    }
    let strays = run(Command::new("find").arg(&repository).args(["-name", ".holdfast-tmp-*"]));
    assert_eq!(strays, "");
}

#[test]
fn p06_a_repository_outlives_a_power_cut_on_a_disk_that_keeps_no_more_than_it_must() {
    require_engine!();
    require_fuse!();
    let mut fleet = Fleet::controller_only(Place::Directory);
    let repository = fleet.repository_dir();
    let mut disk = BadDisk::below(&repository);
    fleet.start_controller(None);
    fleet.add_host("host-a");
    let engine = fleet.engine("host-a");
    engine.docker(["volume", "create", "data"]);
    let volume = engine.volume_path("data");
    for round in 0..3 {
        run(Command::new("dd")
            .args(["if=/dev/urandom", "bs=64k", "count=20", "status=none"])
            .arg(format!("of={}", volume.join(format!("round-{round}")).display())));
        let job = fleet.backup("host-a", "data", "none");
        assert_eq!(job["state"], "succeeded", "{job}");
        fleet.controller().kill();
        disk.cut();
        fleet.assert_whole();
        disk = BadDisk::below(&repository);
        fleet.start_controller(None);
        fleet.wait_connected("host-a");
        fleet.assert_acknowledged(&format!("power cut {round}"));
    }
    fleet.ok(&["restore", "volume", "data", "--host", "host-a", "--as", "restored"]);
    tree::assert_equal(&volume, &fleet.engine("host-a").volume_path("restored"));
    fleet.controller_says(&["verify"]).ends_with(0);
    fleet.close();
}
