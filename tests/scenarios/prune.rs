//! A controller killed within a prune: whatever was done by then, the
//! repository is whole, and the next one finishes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use e2e::command::{run, try_run};
use e2e::fleet::{Fleet, Place};
use e2e::kills::{self, Kill, Victim};
use e2e::upgrades::Copy;
use e2e::{figure, invariant, require_engine, tree, wait};
use serde_json::Value;

/// A place of a prune, in their order, and what is gone when it is reached.
const POINTS: [(&str, Gone); 4] = [
    ("controller.purge.after-object", Gone::OneSnapshot),
    ("controller.gc.after-condemn", Gone::Snapshots),
    ("controller.gc.after-deleting", Gone::Snapshots),
    ("controller.gc.after-objects", Gone::SnapshotsAndPacks),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    /// The object of the one that is purged first.
    OneSnapshot,
    Snapshots,
    SnapshotsAndPacks,
}

type Objects = BTreeSet<String>;

/// Names of all objects of the directory repository below a prefix.
fn objects(fleet: &Fleet, prefix: &str) -> Objects {
    try_objects(fleet, prefix).unwrap()
}

/// As [`objects`], for the probe of a wait.
fn try_objects(fleet: &Fleet, prefix: &str) -> Result<Objects, String> {
    let below = format!("./{prefix}/*");
    let mut find = Command::new("find");
    find.args([".", "-type", "f", "-path", &below]).current_dir(fleet.repository_dir());
    Ok(try_run(&mut find)?.lines().map(str::to_owned).collect())
}

/// What a backup added.
struct Added {
    snapshot: String,
    object: Objects,
    packs: Objects,
}

struct Scene {
    fleet: Fleet,
    round: u32,
    /// What stays, each with what it has to restore to.
    kept: Vec<(String, Copy)>,
    /// Of the kill that is under way.
    pruned: Option<Pruned>,
}

struct Pruned {
    going: [Added; 2],
    /// Packs.
    staying: Objects,
    /// Jobs before it.
    prunes: usize,
}

impl Scene {
    /// A forgotten snapshot is ripe at once.
    fn new() -> Self {
        let mut fleet = Fleet::controller_only(Place::Directory);
        fleet.forget_at_once();
        fleet.start_controller(None);
        fleet.add_host("host-a");
        Self { fleet, round: 0, kept: Vec::new(), pruned: None }
    }

    fn fill(&self, volume: &str, file: &str, kib: u32) {
        let engine = self.fleet.engine("host-a");
        engine.docker(["volume", "create", volume]);
        let file = engine.volume_path(volume).join(file);
        run(Command::new("dd")
            .args(["if=/dev/urandom", "bs=1k", &format!("count={kib}"), "status=none"])
            .arg(format!("of={}", file.display())));
    }

    fn backup(&self, volume: &str) -> Added {
        let before = ["snapshots", "packs"].map(|prefix| objects(&self.fleet, prefix));
        let job = self.fleet.backup("host-a", volume, "none");
        assert_eq!(job["state"], "succeeded", "{job}");
        let [object, packs] = ["snapshots", "packs"].map(|prefix| objects(&self.fleet, prefix));
        let added = |all: Objects, before: &Objects| -> Objects { &all - before };
        Added {
            snapshot: job["sources"][0]["snapshot"].as_str().expect("a snapshot").to_owned(),
            object: added(object, &before[0]),
            packs: added(packs, &before[1]),
        }
    }

    /// Of two snapshots that share a file, and one that shares nothing, the
    /// second stays: gives what goes, the latter's packs with it.
    fn forgettable(&mut self) -> [Added; 2] {
        self.round += 1;
        let data = format!("data-{}", self.round);
        self.fill(&data, "shared", 3000);
        self.fill(&data, "dropped", 2000);
        let first = self.backup(&data);
        let volume = self.fleet.engine("host-a").volume_path(&data);
        std::fs::remove_file(volume.join("dropped")).unwrap();
        self.fill(&data, "new", 1000);
        let second = self.backup(&data);
        self.kept.push((second.snapshot, Copy::of(&volume)));
        let alone = format!("alone-{}", self.round);
        self.fill(&alone, "file", 4000);
        let alone = self.backup(&alone);
        for added in [&first, &alone] {
            assert_eq!(added.object.len(), 1, "objects of one snapshot: {:?}", added.object);
            assert!(!added.packs.is_empty(), "a backup of new content made no pack");
        }
        [first, alone]
    }

    /// The bucket alone is whole, and so is what has to be there, as read
    /// without a controller.
    fn assert_whole(&self, what: &str) {
        let said = self.fleet.repo("verify", &[]);
        invariant!("I5", said.code == 0, "{what}:\n{}{}", said.stdout, said.stderr);
        let (snapshot, copy) = self.kept.last().expect("one that stays");
        let target = self.fleet.dir().join(format!("offline-{}", what.replace(' ', "-")));
        self.fleet.repo("restore", &[snapshot, "--to", &target.display().to_string()]).ends_with(0);
        tree::assert_equal(copy.path(), &target);
    }

    fn prunes(&self) -> Vec<Value> {
        let jobs = self.fleet.json(&["job", "ls", "--limit", "500"]);
        let jobs = jobs.as_array().cloned().unwrap_or_default();
        jobs.into_iter().filter(|job| job["kind"] == "prune").collect()
    }
}

fn left_of<'a>(wanted: impl IntoIterator<Item = &'a Objects>, there: &Objects) -> Vec<&'a String> {
    wanted.into_iter().flatten().filter(|object| there.contains(*object)).collect()
}

impl kills::Matrix for Scene {
    type Act = Gone;

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn prepare(&mut self, _kill: &Kill<Gone>) {
        let going = self.forgettable();
        let staying = &(&objects(&self.fleet, "packs") - &going[0].packs) - &going[1].packs;
        self.pruned = Some(Pruned { going, staying, prunes: 0 });
    }

    fn begin(&mut self, _kill: &Kill<Gone>) {
        // After the round that every start begins with: it is not to die of that.
        self.fleet.ok(&["repo", "prune"]);
        let prunes = self.prunes().len();
        let pruned = self.pruned.as_mut().expect("prepared");
        pruned.prunes = prunes;
        for added in &pruned.going {
            self.fleet.ok(&["snapshot", "forget", &added.snapshot]);
        }
        self.fleet.cli(&["repo", "prune", "--no-wait"]);
    }

    fn inspect(&mut self, kill: &Kill<Gone>) {
        let point = kill.point;
        let going = &self.pruned.as_ref().expect("begun").going;
        let snapshots = objects(&self.fleet, "snapshots");
        let snapshots = left_of(going.iter().map(|added| &added.object), &snapshots).len();
        let alone = left_of([&going[1].packs], &objects(&self.fleet, "packs")).len();
        let expected = match kill.act {
            Gone::OneSnapshot => (1, going[1].packs.len()),
            Gone::Snapshots => (0, going[1].packs.len()),
            Gone::SnapshotsAndPacks => (0, 0),
        };
        assert_eq!((snapshots, alone), expected, "{point}: snapshots and packs that go are still there");
        self.assert_whole(&format!("killed at {point}"));
    }

    fn settle(&mut self, kill: &Kill<Gone>) {
        let point = kill.point;
        let Pruned { going, staying, prunes } = self.pruned.take().expect("begun");
        self.fleet.wait_connected("host-a");
        wait::until(&format!("the prune that was killed at {point} to be finished"), 60, || {
            let packs = try_objects(&self.fleet, "packs")?;
            let objects = try_objects(&self.fleet, "snapshots")?;
            let mut left = left_of(going.iter().map(|added| &added.object), &objects).into_iter();
            let mut left_packs = left_of([&going[1].packs], &packs).into_iter();
            left.next().or(left_packs.next()).map_or(Ok(()), |object| Err(object.clone()))
        });
        self.fleet.wait_idle(60);
        let all = self.prunes();
        assert_eq!(all.len(), prunes + 1, "{point}: {all:?}");
        assert_eq!(all[0]["state"], "succeeded", "{point}: {}", all[0]);
        let missing: Vec<_> = staying.difference(&objects(&self.fleet, "packs")).cloned().collect();
        invariant!("I5", missing.is_empty(), "{point}: packs that are used were deleted: {missing:?}");
        // Catalogue and bucket agree, and a second prune finds nothing to do.
        self.fleet.controller_says(&["verify"]).ends_with(0);
        let again = self.fleet.json(&["repo", "prune"]);
        let counts = ["packs_deleted", "snapshots_purged"].map(|count| again["prune"][count].clone());
        assert_eq!(counts, [Value::from(0), Value::from(0)], "{point}: {again}");
        for added in &going {
            self.fleet.cli(&["snapshot", "undelete", &added.snapshot]).ends_with(5);
        }
        self.assert_whole(&format!("after {point}"));
    }
}

#[test]
fn p03_p04_a_controller_killed_within_a_prune_loses_nothing_and_the_next_one_finishes() {
    require_engine!();
    let mut scene = Scene::new();
    let matrix = POINTS.map(|(point, act)| Kill { victim: Victim::Controller, point, act });
    let kills = kills::run(&mut scene, matrix);
    let listed = scene.fleet.json(&["snapshot", "ls"]);
    assert_eq!(listed.as_array().unwrap().len(), scene.kept.len(), "{listed}");
    assert_eq!(objects(&scene.fleet, "snapshots").len(), scene.kept.len());
    for (number, (snapshot, copy)) in scene.kept.iter().enumerate() {
        let name = format!("restored-{number}");
        let job = scene.fleet.json(&["restore", "volume", snapshot, "--host", "host-a", "--as", &name]);
        assert_eq!(job["restore"]["differences"], 0, "{job}");
        let restored: &Path = &scene.fleet.engine("host-a").volume_path(&name);
        tree::assert_equal(copy.path(), restored);
    }
    figure!("{kills} kills within a prune, every one finished, 0 violations");
}
