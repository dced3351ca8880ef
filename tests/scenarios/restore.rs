//! An agent killed within a restore: what is half restored is marked as such
//! and goes, nothing else is touched, and the restore can be had again.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::command::run;
use e2e::fleet::Fleet;
use e2e::kills::{self, AGENT, Kill, Matrix as _, each};
use e2e::upgrades::Copy;
use e2e::{binaries, figure, require_engine, tree, wait};
use serde_json::Value;

/// Within a restore into a new volume.
const VOLUME: [&str; 4] = [
    "agent.restore.volume-created",
    "agent.restore.written",
    "agent.restore.before-verify",
    "agent.restore.verified",
];

/// Within one into a volume whose content lies elsewhere.
const BOUND: [&str; 5] = [
    "agent.restore.volume-created",
    "agent.restore.root-noted",
    "agent.restore.written",
    "agent.restore.before-verify",
    "agent.restore.verified",
];

/// Within one into a directory.
const DIRECTORY: [&str; 3] =
    ["agent.restore.written", "agent.restore.before-verify", "agent.restore.verified"];

/// Everything a snapshot has.
const EXACT: [&str; 2] = ["--devices", "--setuid"];

/// Where a restore goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Into {
    Volume,
    /// One bound to a directory of the host, of its name and `-device`.
    Bound,
    Directory,
}

struct Scene {
    fleet: Fleet,
    original: Copy,
    round: u32,
    /// The restore whose agent was killed last.
    killed: Killed,
}

#[derive(Clone, Default)]
struct Killed {
    job: String,
    name: String,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::start(&["host-a"]);
        fleet.engine("host-a").docker(["volume", "create", "data"]);
        let path = fleet.engine("host-a").volume_path("data");
        tree::every_kind(&path);
        let original = Copy::of(&path);
        assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
        Self { fleet, original, round: 0, killed: Killed::default() }
    }

    fn directory(&mut self, name: &str) -> PathBuf {
        self.fleet.host("host-a").allowed_dir().join(name)
    }

    /// What a bound volume of this name shows.
    fn device(&mut self, name: &str) -> PathBuf {
        self.directory(&format!("{name}-device")).canonicalize().unwrap_or_default()
    }

    fn make_device(&mut self, name: &str) {
        std::fs::create_dir_all(self.directory(&format!("{name}-device"))).expect("made");
    }

    /// The command for a restore under this name.
    fn command(&mut self, into: Into, name: &str) -> Vec<String> {
        let to = self.directory(name).display().to_string();
        let option = format!("device={}", self.device(name).display());
        let words = match into {
            Into::Volume => vec!["restore", "volume", "data@latest", "--host", "host-a", "--as", name],
            Into::Bound => {
                let mut words = vec!["restore", "volume", "data@latest", "--host", "host-a", "--as", name];
                words.extend(["--opt", "type=none", "--opt", "o=bind", "--opt", &option]);
                words
            }
            Into::Directory => vec!["restore", "files", "data@latest", "--host", "host-a", "--to", &to],
        };
        words.into_iter().chain(EXACT).map(str::to_owned).collect()
    }

    fn start(&mut self, into: Into, name: &str) {
        let mut command = self.command(into, name);
        command.push("--no-wait".to_owned());
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.fleet.ok(&words);
    }

    fn newest(&self) -> Value {
        let jobs = self.fleet.json(&["job", "ls", "--limit", "20"]);
        let mut jobs = jobs.as_array().cloned().unwrap_or_default().into_iter();
        jobs.find(|job| job["kind"] == "restore").expect("a restore")
    }

    /// What is half restored does not pass for whole: the agent's journal has
    /// it, by its name, and the original was not touched.
    fn assert_marked(&mut self, point: &str, into: Into, job: &str, name: &str) {
        let marked = match into {
            Into::Volume | Into::Bound => {
                let engine = self.fleet.engine("host-a");
                let label = ["volume", "inspect", "--format", "{{index .Labels \"holdfast.restore\"}}", name];
                assert_eq!(engine.docker(label), job, "{point}");
                format!("\"{name}\"")
            }
            Into::Directory => {
                assert!(!self.directory(name).exists(), "{point}: it has its name before it is whole");
                let staging = self.directory(&format!(".holdfast-restore-{job}"));
                assert!(staging.is_dir(), "{point}: {} is not there", staging.display());
                format!("\"{}\"", staging.display())
            }
        };
        let records = self.journal();
        for word in [job, &marked] {
            assert!(records.contains(word), "{point}: {word} is not in the journal:\n{records}");
        }
        self.assert_untouched();
    }

    /// Everything in the agent's journal, empty when nothing is to be done.
    fn journal(&mut self) -> String {
        self.fleet.host("host-a").journal().concat()
    }

    fn assert_untouched(&self) {
        self.original.assert_unchanged();
    }

    fn path_of(&mut self, into: Into, name: &str) -> PathBuf {
        match into {
            Into::Volume => self.fleet.engine("host-a").volume_path(name),
            Into::Bound => self.device(name),
            Into::Directory => self.directory(name),
        }
    }

    /// Nothing is half restored any more, and nobody has to do anything.
    fn wait_clean(&mut self, what: &str) {
        wait::until(&format!("{what}: what is half restored to go"), 60, || {
            let records = self.journal();
            records.is_empty().then_some(()).ok_or(records)
        });
        let allowed = self.directory("");
        let staging: Vec<_> = std::fs::read_dir(allowed)
            .expect("listed")
            .map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with('.'))
            .collect();
        assert!(staging.is_empty(), "{what}: {staging:?}");
        assert_eq!(holders(&self.fleet).unwrap(), "", "{what}");
    }

    #[track_caller]
    fn assert_gone(&mut self, what: &str, into: Into, name: &str) {
        let gone = match into {
            Into::Volume => !self.fleet.engine("host-a").has_volume(name),
            Into::Bound => {
                let left = entries(&self.device(name));
                left == 0 && !self.fleet.engine("host-a").has_volume(name)
            }
            Into::Directory => !self.directory(name).exists(),
        };
        assert!(gone, "{what}: {name} is still there");
        self.assert_untouched();
    }

    fn assert_restored(&mut self, what: &str, into: Into, name: &str) {
        let path = self.path_of(into, name);
        assert!(path.is_dir(), "{what}: {} is not there", path.display());
        tree::assert_equal(self.original.path(), &path);
        self.assert_untouched();
    }
}

/// Containers that keep a volume mounted.
fn holders(fleet: &Fleet) -> Result<String, String> {
    fleet.engine("host-a").try_docker(["ps", "-aq", "--filter", "name=holdfast-holder"])
}

/// What becomes of the job of an agent that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next agent runs it again, over what the dead one left.
    RunAgain,
    /// It is not run again: what it left goes, and another one of the same name does.
    Cancelled,
    /// The same, and what it left goes while no agent runs.
    CancelledAndResumed,
}

impl kills::Matrix for Scene {
    type Act = (Into, Then);

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn prepare(&mut self, kill: &Kill<Self::Act>) {
        self.round += 1;
        let name = format!("target-{}", self.round);
        if kill.act.0 == Into::Bound {
            self.make_device(&name);
        }
        self.killed = Killed { job: String::new(), name };
    }

    fn begin(&mut self, kill: &Kill<Self::Act>) {
        let name = self.killed.name.clone();
        self.start(kill.act.0, &name);
    }

    fn inspect(&mut self, kill: &Kill<Self::Act>) {
        let (point, (into, then)) = (kill.point, kill.act);
        self.killed.job = self.newest()["id"].as_str().expect("an id").to_owned();
        let Killed { job, name } = self.killed.clone();
        self.assert_marked(point, into, &job, &name);
        if then == Then::RunAgain {
            return;
        }
        self.fleet.ok(&["job", "cancel", &job]);
        let ended = self.fleet.await_job(&job, 60);
        assert_eq!(ended["state"], "cancelled", "{point}: {ended}");
        if then == Then::CancelledAndResumed {
            resume(&mut self.fleet);
            assert_eq!(self.journal(), "", "{point}: the journal still has something after `resume`");
        }
    }

    fn settle(&mut self, kill: &Kill<Self::Act>) {
        let (point, (into, then)) = (kill.point, kill.act);
        let Killed { job, name } = self.killed.clone();
        let job = if then == Then::RunAgain {
            let job = self.fleet.await_job(&job, 120);
            self.wait_clean(point);
            job
        } else {
            self.wait_clean(point);
            self.assert_gone(point, into, &name);
            self.fleet.wait_connected("host-a");
            let command = self.command(into, &name);
            self.fleet.json(&command.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let well = (&"succeeded".into(), &0.into());
        assert_eq!((&job["state"], &job["restore"]["differences"]), well, "{point}: {job}");
        self.assert_restored(point, into, &name);
    }
}

#[test]
fn p05_a_restore_whose_agent_was_killed_is_done_by_the_next_one() {
    require_engine!();
    let mut scene = Scene::new();
    let again = |into| (into, Then::RunAgain);
    let matrix = each(AGENT, VOLUME, again(Into::Volume))
        .chain(each(AGENT, BOUND, again(Into::Bound)))
        .chain(each(AGENT, DIRECTORY, again(Into::Directory)));
    let kills = kills::run(&mut scene, matrix);
    scene.fleet.assert_whole();
    figure!("{kills} kills within a restore, each done in the end, 0 violations");
}

#[test]
fn p05_what_a_killed_restore_left_is_removed_and_a_second_one_succeeds() {
    require_engine!();
    let mut scene = Scene::new();
    let matrix = [
        (VOLUME[0], (Into::Volume, Then::Cancelled)),
        (VOLUME[1], (Into::Volume, Then::CancelledAndResumed)),
        (BOUND[1], (Into::Bound, Then::Cancelled)),
        (BOUND[2], (Into::Bound, Then::Cancelled)),
        (DIRECTORY[0], (Into::Directory, Then::Cancelled)),
    ];
    kills::run(&mut scene, matrix.map(|(point, act)| Kill { victim: AGENT, point, act }));
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).expect("a directory").count()
}

/// The agent that empties the directory of a bound volume is killed as well,
/// when all is removed but the volume.
#[test]
fn p05_a_bound_directory_is_emptied_however_often_that_is_cut_short() {
    require_engine!();
    let mut scene = Scene::new();
    let kill = Kill { victim: AGENT, point: "agent.restore.written", act: (Into::Bound, Then::Cancelled) };
    scene.prepare(&kill);
    scene.fleet.arm(AGENT, kill.point);
    scene.begin(&kill);
    scene.fleet.wait_death(AGENT);
    scene.inspect(&kill);
    let killed = scene.killed.clone();
    let device = scene.device(&killed.name);
    assert_ne!(entries(&device), 0, "it was killed with the directory full");
    scene.fleet.host("host-a").start_agent(Some("agent.restore.emptied"));
    scene.fleet.wait_death(AGENT);
    assert!(scene.fleet.engine("host-a").has_volume(&killed.name), "the volume goes last");
    assert_eq!(entries(&device), 0);
    resume(&mut scene.fleet);
    assert!(!scene.fleet.engine("host-a").has_volume(&killed.name));
    scene.fleet.host("host-a").start_agent(None);
    scene.wait_clean("after the second agent died");
    scene.fleet.wait_connected("host-a");
    let command = scene.command(Into::Bound, &killed.name);
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let job = scene.fleet.json(&words);
    assert_eq!((&job["state"], &job["restore"]["differences"]), (&"succeeded".into(), &0.into()), "{job}");
    scene.assert_restored("the next attempt", Into::Bound, &killed.name);
}

/// What the service manager does when the agent has died.
fn resume(fleet: &mut Fleet) {
    let host = fleet.host("host-a");
    let mut command = Command::new(binaries::path("holdfast-agent"));
    command.arg("resume").arg("--state-dir").arg(host.state_dir());
    run(command.arg("--docker-host").arg(host.engine.host()));
}

/// The first attempt died when its volume was written down and not yet made,
/// and the Engine could not be asked for a while. The second attempt makes that
/// very volume: what was written down before must not remove it.
#[test]
fn p05_what_the_first_attempt_left_in_the_journal_does_not_remove_what_the_second_restored() {
    require_engine!();
    let mut scene = Scene::new();
    scene.fleet.arm(AGENT, "agent.journal.after-write");
    scene.start(Into::Volume, "target");
    scene.fleet.host("host-a").agent().wait(60);
    let job = scene.newest()["id"].as_str().expect("an id").to_owned();
    assert!(scene.journal().contains("\"target\""), "{}", scene.journal());
    assert!(!scene.fleet.engine("host-a").has_volume("target"));

    scene.fleet.controller().kill();
    scene.fleet.host("host-a").engine.crash();
    scene.fleet.host("host-a").start_agent(None);
    // Each time it waits longer before it tries again, by now for half a minute.
    wait::until("the agent to miss the Engine", 120, || {
        let output = scene.fleet.host("host-a").agent().output();
        let missed = output.matches("cleanup failed and will be tried again").count();
        (missed >= 7).then_some(()).ok_or(missed)
    });
    scene.fleet.host("host-a").engine.start_again();
    scene.fleet.start_controller(None);
    let ended = scene.fleet.await_job(&job, 180);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    scene.wait_clean("after the second attempt");
    assert!(scene.fleet.engine("host-a").has_volume("target"), "what was restored was removed again");
    scene.assert_restored("the second attempt", Into::Volume, "target");
}

/// A volume that the Engine mounts only in use is read through a container of
/// our own, which must not outlive the agent.
#[test]
fn an_agent_killed_with_a_holder_just_made_leaves_none() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    let device = fleet.host("host-a").allowed_dir().join("device");
    std::fs::create_dir_all(&device).unwrap();
    tree::every_kind(&device);
    let option = format!("device={}", device.display());
    let bound = ["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &option, "bound"];
    fleet.engine("host-a").docker(bound);
    for resumed in [false, true] {
        fleet.arm(AGENT, "agent.holder.created");
        fleet.ok(&["backup", "run", "--host", "host-a", "--volume", "bound", "--no-wait"]);
        fleet.host("host-a").agent().wait(60);
        assert_eq!(holders(&fleet).unwrap().lines().count(), 1, "it died with a holder made");
        if resumed {
            resume(&mut fleet);
            assert_eq!(holders(&fleet).unwrap(), "", "`resume` left a holder");
        }
        fleet.host("host-a").start_agent(None);
        fleet.wait_connected("host-a");
        fleet.wait_idle(120);
        let job = &fleet.json(&["job", "ls"])[0];
        assert_eq!(job["state"], "succeeded", "{job}");
        wait::until("the holder of the dead agent to go", 30, || {
            let left = holders(&fleet)?;
            left.is_empty().then_some(()).ok_or(left)
        });
    }
    let target = fleet.dir().join("restored");
    let to = target.display().to_string();
    fleet.repo("restore", &["bound@latest", "--to", &to, EXACT[0], EXACT[1]]).ends_with(0);
    tree::assert_equal(&device, &target as &Path);
    // The volume is nobody's any more.
    fleet.engine("host-a").docker(["volume", "rm", "bound"]);
}
