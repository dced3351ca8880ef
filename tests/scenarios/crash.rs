//! Agent and controller killed at named places and at random moments: a
//! snapshot is absent or complete, what was uploaded is used, nothing stays
//! quiesced.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use e2e::command::run;
use e2e::fleet::Fleet;
use e2e::kills::{self, AGENT, Kill, Victim, each};
use e2e::{figure, require_engine, tree, wait};

const AGENT_POINTS: [&str; 11] = [
    "agent.journal.after-write",
    "agent.journal.after-remove",
    "agent.quiesce.before-act",
    "agent.quiesce.after-pause",
    "agent.capture.first-pass-done",
    "agent.capture.second-pass-done",
    "agent.pack.before-put",
    "agent.pack.after-put",
    "agent.commit.before",
    "agent.commit.after",
    "agent.resume.after",
];

const CONTROLLER_POINTS: [&str; 9] = [
    "controller.dispatch.after-claim",
    "controller.pack.after-intent",
    "controller.pack.after-store",
    "controller.pack.after-commit",
    "controller.commit.after-row",
    "controller.commit.after-object",
    "controller.commit.after-committed",
    "controller.job.after-source",
    "controller.job.before-finish",
];

/// It was there to be killed, and had not ended before.
#[track_caller]
fn was_killed(status: ExitStatus) {
    assert_eq!(status.signal(), Some(9), "it had ended before: {status}");
}

/// One job for each backup that was started, and whatever was killed, each
/// came to a good end.
fn all_succeeded(fleet: &Fleet, started: usize) {
    let jobs = fleet.json(&["job", "ls", "--limit", "500"]);
    let jobs = jobs.as_array().expect("a list");
    for job in jobs {
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    assert_eq!(jobs.len(), started);
}

struct Scene {
    fleet: Fleet,
    round: u32,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::start(&["host-a"]);
        fleet.engine("host-a").run_writer("writer", "data");
        let mut scene = Self { fleet, round: 0 };
        scene.change();
        scene
    }

    /// New content, so that every run has something to upload.
    fn change(&mut self) {
        self.round += 1;
        let data = self.fleet.engine("host-a").volume_path("data");
        let file = data.join(format!("round-{}", self.round % 4));
        run(Command::new("dd")
            .args(["if=/dev/urandom", "bs=64k", "count=20", "status=none"])
            .arg(format!("of={}", file.display())));
        std::fs::write(data.join("small"), self.round.to_string()).unwrap();
    }

    fn start_backup(&self) {
        // The controller may be the one that dies: its answer is no matter.
        let what = ["--host", "host-a", "--volume", "data", "--consistency", "pause", "--no-wait"];
        self.fleet.cli(&[&["backup", "run"], &what[..]].concat());
    }

    /// Everything is well again: jobs ended, the writer runs, the repository
    /// is whole.
    fn wait_well(&self, what: &str) {
        self.fleet.wait_connected("host-a");
        self.fleet.wait_idle(180);
        self.fleet.engine("host-a").wait_state("writer", "running", 30);
        self.fleet.assert_acknowledged(what);
        self.fleet.assert_whole();
    }

    /// What the newest snapshot holds is what the volume holds.
    fn finish(mut self) {
        self.change();
        self.fleet.engine("host-a").docker(["pause", "writer"]);
        assert_eq!(self.fleet.backup("host-a", "data", "none")["state"], "succeeded");
        let target = self.fleet.dir().join("restored");
        self.fleet.repo("restore", &["data@latest", "--to", &target.display().to_string()]).ends_with(0);
        tree::assert_equal(&self.fleet.engine("host-a").volume_path("data"), &target);
        self.fleet.engine("host-a").docker(["unpause", "writer"]);
    }
}

impl kills::Matrix for Scene {
    type Act = ();

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn begin(&mut self, _kill: &Kill<()>) {
        self.change();
        self.start_backup();
    }

    fn settle(&mut self, kill: &Kill<()>) {
        self.wait_well(kill.point);
    }
}

#[test]
fn p01_killed_at_every_named_place() {
    require_engine!();
    let mut scene = Scene::new();
    let matrix = each(AGENT, AGENT_POINTS, ()).chain(each(Victim::Controller, CONTROLLER_POINTS, ()));
    let kills = kills::run(&mut scene, matrix);
    all_succeeded(&scene.fleet, kills);
    figure!("{kills} kills at named places, every job succeeded in the end, 0 violations");
    scene.finish();
}

#[test]
fn p01_killed_at_random_moments() {
    require_engine!();
    const KILLS: u32 = 50;
    let mut scene = Scene::new();
    for kill in 0..KILLS {
        scene.change();
        scene.start_backup();
        let begun = Instant::now();
        let moment = Duration::from_millis(rand::random_range(0..700));
        wait::until_true("the moment", 5, || begun.elapsed() >= moment);
        if kill % 2 == 0 {
            was_killed(scene.fleet.host("host-a").agent().kill());
            scene.fleet.host("host-a").start_agent(None);
        } else {
            was_killed(scene.fleet.controller().kill());
            scene.fleet.start_controller(None);
        }
        if kill % 5 == 4 {
            scene.wait_well(&format!("kill {kill} after {moment:?}"));
        } else {
            scene.fleet.wait_connected("host-a");
            scene.fleet.wait_idle(180);
        }
    }
    all_succeeded(&scene.fleet, KILLS as usize);
    figure!("{KILLS} kills at random moments, every job succeeded in the end, 0 violations");
    scene.finish();
}

/// All but the packs that were on their way is used again, as the repository's
/// own files show.
#[test]
fn what_a_killed_run_uploaded_is_not_uploaded_again() {
    require_engine!();
    const FILE: u64 = 90 << 20;
    /// How many packs an agent sends at once.
    const ON_THEIR_WAY: usize = 2;
    /// What a snapshot has besides the content of one file.
    const MANIFEST: u64 = 1 << 20;
    const POINT: &str = "agent.pack.after-put:14";
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").docker(["volume", "create", "data"]);
    let file = fleet.engine("host-a").volume_path("data").join("random");
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=90", "status=none"])
        .arg(format!("of={}", file.display())));
    fleet.arm(AGENT, POINT);
    fleet.cli(&["backup", "run", "--host", "host-a", "--volume", "data", "--no-wait"]);
    fleet.wait_death(AGENT);
    let first = fleet.packs();
    fleet.start_again(AGENT);
    fleet.wait_connected("host-a");
    fleet.wait_idle(120);
    let job = &fleet.json(&["job", "ls"])[0];
    assert_eq!(job["state"], "succeeded", "{job}");

    let mut lengths: Vec<u64> = first.values().copied().collect();
    lengths.sort_unstable();
    let lost: u64 = lengths.iter().rev().take(ON_THEIR_WAY).sum();
    let used = lengths.iter().sum::<u64>() - lost;
    assert!(used > FILE / 2, "the kill came too early to tell: {first:?}");
    let again: u64 =
        fleet.packs().iter().filter(|(pack, _)| !first.contains_key(*pack)).map(|(_, len)| len).sum();
    figure!(
        "of 90 MiB the second attempt stored {again} bytes; {used} are bound to be used, {lost} may be lost"
    );
    assert!(again <= FILE - used + MANIFEST, "{again} bytes stored though {used} were there");
    fleet.assert_whole();
}
