//! Agent, controller and Engine killed at every step: exactly one of old and
//! new runs under the right name, with the data of before or of after, and
//! nothing stays stopped.

use std::path::Path;

use chrono::{DateTime, Utc};
use e2e::app_images::App;
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::{Fleet, Said};
use e2e::kills::{self, AGENT, Kill, Victim, each};
use e2e::upgrades::{self, Copy, run_app};
use e2e::{figure, invariant, require_engine, tree, wait};
use serde_json::Value;

use super::{fleet_with, migrated, rows, run_side, side_reaches};

/// With a version that migrates and is well: after every step, and within those
/// that do more than one thing.
const FORWARD: [&str; 17] = [
    "agent.upgrade.record-written",
    "agent.upgrade.create",
    "agent.upgrade.copy-live",
    "agent.upgrade.look-again",
    "agent.upgrade.policy-set",
    "agent.upgrade.quiesce",
    "agent.upgrade.copy-quiesced",
    "agent.upgrade.await-snapshot",
    "agent.upgrade.old-renamed",
    "agent.upgrade.switch",
    "agent.upgrade.start",
    "agent.upgrade.verify",
    "agent.upgrade.dependents",
    "agent.upgrade.commit",
    "agent.upgrade.restore-policies",
    "agent.upgrade.stand-ins",
    "agent.upgrade.keep",
];

/// How many of them come before the commit: from there on it goes forward.
const BEFORE_COMMIT: usize = 13;

/// How many come before the snapshot of the quiesced data is there.
const AT_SNAPSHOT: usize = 7;

/// Where nothing was stopped yet, or everything runs again: what the Engine alone
/// took down is its owner's to start.
const NOT_QUIESCED: [&str; 10] = [
    "agent.upgrade.record-written",
    "agent.upgrade.create",
    "agent.upgrade.copy-live",
    "agent.upgrade.look-again",
    "agent.upgrade.restore-policies",
    "agent.upgrade.stand-ins",
    "agent.upgrade.keep",
    "agent.upgrade.undo-quiesce",
    "agent.upgrade.undo-stand-ins",
    "agent.upgrade.undo-copy-live",
];

/// Everything was started again and is awaited.
const STARTED: &str = "agent.upgrade.old-started";

/// With one that ruins the data and is not well: after everything that is undone,
/// and within.
const BACK: [&str; 9] = [
    "agent.upgrade.rollback-begun",
    "agent.upgrade.data-exchanged",
    "agent.upgrade.undo-start",
    "agent.upgrade.undo-create",
    "agent.upgrade.undo-switch",
    "agent.upgrade.old-started",
    "agent.upgrade.undo-quiesce",
    "agent.upgrade.undo-stand-ins",
    "agent.upgrade.undo-copy-live",
];

/// Where the agent dies that comes after one which died in [`FORWARD`].
const AGAIN: &str = "agent.upgrade.undo-create";

/// While a committed upgrade is undone, before anything goes back.
const ASKED: [&str; 2] = ["agent.upgrade.rollback-asked", "agent.upgrade.rollback-quiesced"];

/// While what a committed upgrade kept is removed.
const FINISH: [&str; 2] = ["agent.upgrade.finish-begun", "agent.upgrade.finish-old-removed"];

/// When an agent that found everything quiesced has set it going again.
const RESUMED: &str = "agent.upgrade.rollback-resumed";

/// The same, of the controller.
const ROLLBACK_CONTROLLER: [&str; 3] = [
    "controller.upgrade.at-stop-snapshot",
    "controller.upgrade.before-proceed",
    "controller.upgrade.after-proceed",
];

const CONTROLLER: [&str; 5] = [
    "controller.upgrade.after-before-snapshot",
    "controller.upgrade.after-run",
    "controller.upgrade.at-stop-snapshot",
    "controller.upgrade.before-proceed",
    "controller.upgrade.after-proceed",
];

/// States in which the Engine is killed, and the version that gets there.
const STATES: [(&str, App); 7] = [
    ("preparing", App::Migrates),
    ("stopping", App::Migrates),
    ("stopped", App::Migrates),
    ("switching", App::Migrates),
    ("gating", App::Migrates),
    ("committing", App::Migrates),
    ("rolling back", App::Corrupts),
];

/// A server, one that lives in its network, and one that reads its data.
struct Scene {
    fleet: Fleet,
    kills: u32,
    committed: u32,
    before: Option<Before>,
    /// Names of all containers and volumes of the host, at the beginning.
    things: String,
}

struct Before {
    data: Copy,
    rows: Vec<String>,
    inspect: Value,
    target: &'static str,
}

impl Scene {
    fn new() -> Self {
        let fleet = fleet_with(&[App::V1, App::Migrates, App::MigratesAgain, App::Corrupts]);
        let engine = fleet.engine("host-a");
        run_app(engine, "app", App::V1, &["--restart", "always"]);
        run_side(engine, "side", "app");
        let reader = ["run", "-d", "--name", "reader", "-v", "app-data:/data:ro", "--restart", "always"];
        engine.docker(reader.into_iter().chain(["--stop-signal", "KILL", IMAGE, "sleep", "100000"]));
        let things = things(engine);
        Self { fleet, kills: 0, committed: 0, before: None, things }
    }

    /// Starts an upgrade to a version that is not the one that runs. The
    /// controller may be the one that dies: its answer is no matter.
    fn upgrade(&mut self, version: App) {
        let engine = self.fleet.engine("host-a");
        let inspect = engine.inspect("app");
        let again = inspect["Config"]["Image"] == App::Migrates.image();
        let version = if version == App::Migrates && again { App::MigratesAgain } else { version };
        let data = Copy::of(&engine.volume_path("app-data"));
        let rows = rows(engine, "app-data");
        self.before = Some(Before { data, rows, inspect, target: version.image() });
        let said = self.fleet.try_upgrade("host-a", "app", version.image(), &["--no-wait"]);
        assert!(said.code == 0 || said.code == 7, "{}", said.stderr);
        self.kills += 1;
    }

    /// All is well, in one way or the other.
    #[track_caller]
    fn wait_ended(&mut self, what: &str) {
        let before = self.before.take().expect("begun");
        self.fleet.wait_connected("host-a");
        self.fleet.wait_idle(120);
        let job = self.newest_job();
        let fleet = &mut self.fleet;
        let of_job = || {
            let all = fleet.try_remembered("host-a", "app")?;
            Ok::<_, Said>(all.into_iter().find(|upgrade| upgrade["job"] == job["id"]).unwrap_or_default())
        };
        let newest = wait::until_is(&format!("{what}: the upgrade to end"), 60, of_job, |newest| {
            // One that was never begun on the host is not known there.
            newest.is_null() || newest["state"] == "committed" || newest["state"] == "rolled back"
        });
        assert_eq!(job["state"] == "succeeded", newest["state"] == "committed", "{what}: {job}\n{newest}");
        let engine = self.fleet.engine("host-a");
        let runs = upgrades::the_one_that_runs(engine, "app");
        upgrades::wait_healthy(engine, "app");
        for name in ["side", "reader"] {
            let state = engine.state(name);
            invariant!("I6", state == "running", "{what}: {name} is {state}");
        }
        side_reaches(engine, "side");
        if newest["state"] == "committed" {
            self.committed += 1;
            assert_eq!(runs.image, before.target, "{what}");
            assert_eq!(runs.id, newest["new_container_id"].as_str().unwrap(), "{what}");
            let version = before.target.trim_start_matches("app:");
            assert_eq!(rows(engine, "app-data"), migrated(&before.rows, version), "{what}");
            let policy = &engine.inspect("app")["HostConfig"]["RestartPolicy"];
            assert_eq!(policy["Name"], "always", "{what}");
            self.fleet.ok(&["upgrade", "commit", "app", "--host", "host-a"]);
        } else {
            assert_eq!(runs.id, before.inspect["Id"].as_str().unwrap(), "{what}");
            upgrades::assert_same_container(&before.inspect, &engine.inspect("app"));
            before.data.assert_unchanged();
        }
        upgrades::assert_no_traces(engine, "app", "app-data");
        assert_eq!(things(engine), self.things, "{what}");
        figure!("killed at {what}: {}", newest["state"]);
    }

    /// A committed upgrade, for it to be rolled back.
    fn commit(&mut self) {
        self.upgrade(App::Migrates);
        self.kills -= 1;
        self.fleet.wait_idle(120);
        let newest = self.fleet.newest("host-a", "app");
        assert_eq!(newest["state"], "committed", "{newest}");
    }

    /// Asks for the rollback; who is asked may be the one that dies.
    fn roll_back(&mut self) {
        let said = self.fleet.cli(&["upgrade", "rollback", "app", "--host", "host-a", "--no-wait"]);
        assert!(said.code == 0 || said.code == 7, "{}", said.stderr);
        self.kills += 1;
    }

    /// Whatever died, the upgrade is undone, data included.
    #[track_caller]
    fn wait_rolled_back(&mut self, what: &str) {
        let before = self.before.take().expect("begun");
        self.fleet.wait_connected("host-a");
        self.fleet.wait_idle(180);
        let rollback = self.newest("rollback");
        assert_eq!(rollback["state"], "succeeded", "{what}: {rollback}");
        let newest = self.fleet.newest("host-a", "app");
        assert_eq!(newest["state"], "rolled back", "{what}: {newest}");
        let engine = self.fleet.engine("host-a");
        let runs = upgrades::the_one_that_runs(engine, "app");
        assert_eq!(runs.id, before.inspect["Id"].as_str().unwrap(), "{what}");
        upgrades::wait_healthy(engine, "app");
        upgrades::assert_same_container(&before.inspect, &engine.inspect("app"));
        before.data.assert_unchanged();
        for name in ["side", "reader"] {
            let state = engine.state(name);
            invariant!("I6", state == "running", "{what}: {name} is {state}");
        }
        side_reaches(engine, "side");
        upgrades::assert_no_traces(engine, "app", "app-data");
        assert_eq!(things(engine), self.things, "{what}");
        figure!("killed at {what} of a rollback: {}", newest["state"]);
    }

    /// The agent that comes removes the rest of what was kept, and nothing else.
    #[track_caller]
    fn wait_finished(&mut self, what: &str) {
        let before = self.before.take().expect("begun");
        self.fleet.wait_connected("host-a");
        self.fleet.wait_newest(what, ("host-a", "app"), 60, |newest| newest["state"] == "finished");
        let engine = self.fleet.engine("host-a");
        let runs = upgrades::the_one_that_runs(engine, "app");
        assert_eq!(runs.image, before.target, "{what}");
        let version = before.target.trim_start_matches("app:");
        assert_eq!(rows(engine, "app-data"), migrated(&before.rows, version), "{what}");
        upgrades::assert_no_traces(engine, "app", "app-data");
        assert_eq!(things(engine), self.things, "{what}");
        figure!("killed at {what}: finished");
    }

    /// An Engine that went away before anything went back: the upgrade stays,
    /// and everything runs.
    #[track_caller]
    fn runs_as_upgraded(&mut self, what: &str) {
        let job = self.newest("rollback");
        let error = job["error"].as_str().unwrap_or_default();
        // The latter where it was the snapshot quiesced that the Engine's death cut off.
        let kept =
            ["nothing went back and everything runs as before: ", "nothing was changed: the snapshot "];
        assert!(kept.iter().any(|text| error.starts_with(text)), "{what}: {error}");
        let newest = self.fleet.newest("host-a", "app");
        assert_eq!(newest["state"], "committed", "{what}: {newest}");
        let engine = self.fleet.engine("host-a");
        let runs = upgrades::the_one_that_runs(engine, "app");
        assert_eq!(runs.id, newest["new_container_id"].as_str().unwrap(), "{what}");
        upgrades::wait_healthy(engine, "app");
        assert_eq!(engine.inspect("app")["HostConfig"]["RestartPolicy"]["Name"], "always", "{what}");
        for name in ["side", "reader"] {
            let state = engine.state(name);
            invariant!("I6", state == "running", "{what}: {name} is {state}");
        }
    }

    /// Sets the one without a restart policy going again if it was the Engine
    /// alone, killed at that time, that took it down: stopped by nobody yet, or
    /// started again before.
    fn revive_side(&mut self, killed: DateTime<Utc>) {
        let time = |value: &Value| DateTime::parse_from_rfc3339(value.as_str()?).ok();
        let newest = self.fleet.newest("host-a", "app");
        let steps = newest["steps"].as_array().cloned().unwrap_or_default();
        let stops = |step: &&Value| step["state"] == "stopping" || step["state"] == "awaiting snapshot";
        let stopped = steps.iter().filter(stops).filter_map(|step| time(&step["at"])).max();
        let engine = self.fleet.engine("host-a");
        let started = time(&engine.inspect("side")["State"]["StartedAt"]);
        if started > stopped && started.is_some_and(|at| at < killed) {
            engine.docker(["start", "side"]);
        }
    }

    fn let_agent_meet_a_dead_engine(&mut self) {
        let agent = self.fleet.host("host-a").agent();
        let met = |output: String| output.matches("could not be brought to its end").count();
        let before = met(agent.output());
        agent.run_on();
        wait::until_true("the agent to miss the Engine", 60, || met(agent.output()) > before);
    }

    /// Waits until the newest upgrade has come to a state, and gives the state
    /// it is in by then.
    fn wait_reached(&mut self, state: &str, of: impl Fn(&Value) -> bool) -> Value {
        let what = format!("an upgrade that is {state}");
        let newest = self.fleet.wait_newest(&what, ("host-a", "app"), 60, |newest| {
            of(newest) && upgrades::reached(newest, state)
        });
        newest["state"].clone()
    }

    fn newest_job(&self) -> Value {
        self.newest("upgrade")
    }

    /// The newest job of a kind.
    fn newest(&self, kind: &str) -> Value {
        let jobs = self.fleet.json(&["job", "ls", "--limit", "20"]);
        let mut of_kind = jobs.as_array().cloned().unwrap_or_default().into_iter();
        of_kind.find(|job| job["kind"] == kind).unwrap_or_default()
    }

    /// The repository is whole, and the newest snapshot is what there is.
    fn finish(self, who: &str) {
        let Self { fleet, kills, committed, .. } = self;
        fleet.assert_whole();
        assert_eq!(fleet.backup("host-a", "app-data", "stop")["state"], "succeeded");
        let target = fleet.dir().join("restored");
        fleet.repo("restore", &["app-data@latest", "--to", &target.display().to_string()]).ends_with(0);
        let data: &Path = &fleet.engine("host-a").volume_path("app-data");
        tree::assert_equal(data, &target);
        figure!(
            "{kills} kills of {who}: {committed} upgrades committed, the others rolled back, 0 violations"
        );
    }
}

/// Names of all containers and volumes.
fn things(engine: &Engine) -> String {
    let list = |args: &[&str]| {
        let text = engine.docker(args.iter().copied());
        let mut names: Vec<&str> = text.lines().collect();
        names.sort_unstable();
        names.join(" ")
    };
    format!("{}; {}", list(&["ps", "-a", "--format", "{{.Names}}"]), list(&["volume", "ls", "-q"]))
}

/// What is under way when the process is killed.
#[derive(Debug, Clone, Copy)]
enum Act {
    Upgrade(App),
    /// The same; the next agent dies, too, when it has undone half of it.
    UpgradeTwice(App),
    /// Of a committed upgrade.
    Rollback,
    /// The same; the next agent dies, too, when it has started what was stopped.
    RollbackTwice,
    /// The end of the grace period of a committed upgrade.
    Finish,
}

impl kills::Matrix for Scene {
    type Act = Act;

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn prepare(&mut self, kill: &Kill<Act>) {
        if matches!(kill.act, Act::Rollback | Act::RollbackTwice | Act::Finish) {
            self.commit();
        }
    }

    fn begin(&mut self, kill: &Kill<Act>) {
        match kill.act {
            Act::Upgrade(version) | Act::UpgradeTwice(version) => self.upgrade(version),
            Act::Rollback | Act::RollbackTwice => self.roll_back(),
            Act::Finish => {
                // Who is asked dies, so that the answer says nothing.
                self.fleet.cli(&["upgrade", "commit", "app", "--host", "host-a"]);
                self.kills += 1;
            }
        }
    }

    fn inspect(&mut self, kill: &Kill<Act>) {
        let again = match kill.act {
            Act::Upgrade(_) | Act::Rollback | Act::Finish => return,
            Act::UpgradeTwice(_) => AGAIN,
            Act::RollbackTwice => RESUMED,
        };
        self.fleet.host("host-a").start_agent(Some(again));
        self.fleet.wait_death(AGENT);
        self.kills += 1;
    }

    fn settle(&mut self, kill: &Kill<Act>) {
        match kill.act {
            Act::Upgrade(_) => self.wait_ended(kill.point),
            Act::UpgradeTwice(_) => self.wait_ended(&format!("{}, then {AGAIN}", kill.point)),
            Act::Rollback => self.wait_rolled_back(kill.point),
            Act::Finish => self.wait_finished(kill.point),
            Act::RollbackTwice => self.wait_rolled_back(&format!("{}, then {RESUMED}", kill.point)),
        }
    }
}

#[test]
fn u05_the_agent_killed_at_every_step() {
    require_engine!();
    let mut scene = Scene::new();
    let forward = each(AGENT, FORWARD, Act::Upgrade(App::Migrates));
    kills::run(&mut scene, forward.chain(each(AGENT, BACK, Act::Upgrade(App::Corrupts))));
    scene.finish("the agent");
}

#[test]
fn u05_the_agent_killed_at_every_step_and_again_while_it_goes_back() {
    require_engine!();
    let mut scene = Scene::new();
    let (before, _) = FORWARD.split_at(BEFORE_COMMIT);
    kills::run(&mut scene, each(AGENT, before.iter().copied(), Act::UpgradeTwice(App::Migrates)));
    scene.finish("the agent");
}

#[test]
fn u05_the_controller_killed_at_every_step() {
    require_engine!();
    let mut scene = Scene::new();
    kills::run(&mut scene, each(Victim::Controller, CONTROLLER, Act::Upgrade(App::Migrates)));
    scene.finish("the controller");
}

/// The agent stands still at each of these steps while the Engine dies, and goes
/// on with one that has just been started again.
fn killed_with_the_agent_halted(points: &[&'static str], version: App) {
    let mut scene = Scene::new();
    for &point in points {
        scene.fleet.arm(AGENT, &format!("halt {point}"));
        scene.upgrade(version);
        let id = scene.newest_job()["id"].clone();
        scene.fleet.host("host-a").agent().wait_halted(60);
        scene.fleet.host("host-a").engine.crash();
        if point == STARTED {
            // The Engine took down what has no policy: the agent has to see it.
            scene.let_agent_meet_a_dead_engine();
        }
        scene.fleet.host("host-a").engine.start_again();
        scene.fleet.host("host-a").agent().run_on();
        scene.fleet.await_job(id.as_str().expect("an id"), 120);
        if NOT_QUIESCED.contains(&point) {
            // It has no policy, and nobody but the Engine took it down.
            scene.fleet.engine("host-a").docker(["start", "side"]);
        }
        scene.wait_ended(point);
    }
    scene.finish("the Engine");
}

#[test]
fn u05_the_engine_killed_at_every_step_until_the_snapshot() {
    require_engine!();
    killed_with_the_agent_halted(&FORWARD[..AT_SNAPSHOT], App::Migrates);
}

#[test]
fn u05_the_engine_killed_at_every_step_from_the_snapshot() {
    require_engine!();
    killed_with_the_agent_halted(&FORWARD[AT_SNAPSHOT..], App::Migrates);
}

#[test]
fn u05_the_engine_killed_at_every_step_back() {
    require_engine!();
    killed_with_the_agent_halted(&BACK, App::Corrupts);
}

#[test]
fn u05_the_engine_killed_in_every_state() {
    require_engine!();
    let mut scene = Scene::new();
    for (state, version) in STATES {
        scene.upgrade(version);
        let id = scene.newest_job()["id"].clone();
        // A state may be over between two looks: then it is the next one.
        let seen = scene.wait_reached(state, |newest| newest["job"] == id);
        let killed = Utc::now();
        scene.fleet.host("host-a").engine.crash_and_restart();
        scene.fleet.await_job(id.as_str().expect("an id"), 120);
        if seen == "preparing" {
            scene.fleet.engine("host-a").docker(["start", "side"]);
        } else {
            scene.revive_side(killed);
        }
        scene.wait_ended(&format!("{seen} (asked for {state})"));
    }
    scene.finish("the Engine");
}

#[test]
fn u05_the_agent_killed_while_an_upgrade_is_rolled_back() {
    require_engine!();
    let mut scene = Scene::new();
    let once = each(AGENT, ASKED.into_iter().chain(BACK), Act::Rollback);
    kills::run(&mut scene, once.chain(each(AGENT, ASKED, Act::RollbackTwice)));
    scene.finish("the agent");
}

#[test]
fn u05_the_agent_killed_while_a_grace_period_ends() {
    require_engine!();
    let mut scene = Scene::new();
    kills::run(&mut scene, each(AGENT, FINISH, Act::Finish));
    scene.finish("the agent");
}

#[test]
fn u05_controller_and_engine_killed_while_an_upgrade_is_rolled_back() {
    require_engine!();
    let mut scene = Scene::new();
    kills::run(&mut scene, each(Victim::Controller, ROLLBACK_CONTROLLER, Act::Rollback));
    for state in ["awaiting snapshot", "rolling back"] {
        scene.commit();
        scene.roll_back();
        let seen = scene.wait_reached(state, |_| true);
        let killed = Utc::now();
        scene.fleet.host("host-a").engine.crash_and_restart();
        scene.fleet.wait_idle(180);
        scene.revive_side(killed);
        if scene.newest("rollback")["state"] == "failed" {
            scene.runs_as_upgraded(state);
            scene.roll_back();
            scene.kills -= 1;
        }
        scene.wait_rolled_back(&format!("{seen} (asked for {state})"));
    }
    scene.finish("controller and Engine");
}
