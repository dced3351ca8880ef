//! The agent killed at every step between the old container of a compose
//! project and its stand-in, in both directions: one of the two is there at any
//! time, and the other is not left over.

use e2e::app_images::App;
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::kills::{self, AGENT, Kill};
use e2e::upgrades::{self, Copy, run_app};
use e2e::{figure, invariant, require_engine};
use serde_json::Value;

use super::{fleet_with, side_reaches};

/// Where the agent dies while it upgrades, and where while it goes back then.
/// With `:2` it is at the one that depends on the upgraded one.
const POINTS: [(&str, &str); 9] = [
    ("agent.upgrade.layer-noted", "agent.upgrade.old-started"),
    ("agent.upgrade.layer-kept", "agent.upgrade.data-exchanged"),
    ("agent.upgrade.stand-in-noted", "agent.upgrade.rollback-begun"),
    ("agent.upgrade.stand-in-made", "agent.upgrade.old-made"),
    ("agent.upgrade.stand-in-made:2", "agent.upgrade.old-made:2"),
    ("agent.upgrade.stand-in-compared", "agent.upgrade.old-noted"),
    ("agent.upgrade.old-removed", "agent.upgrade.old-noted:2"),
    ("agent.upgrade.old-removed:2", "agent.upgrade.undo-switch"),
    ("agent.upgrade.keep", "agent.upgrade.undo-stand-ins"),
];

const NAMES: [&str; 2] = ["app", "side"];

fn labels(service: &str) -> Vec<String> {
    let service = format!("service={service}");
    let all = ["project=shop", &service, "container-number=1", "oneoff=False", "config-hash=0a1b"];
    all.iter().flat_map(|label| ["--label".to_owned(), format!("com.docker.compose.{label}")]).collect()
}

fn run_shop(engine: &Engine) {
    let of_app = labels("db");
    let of_app: Vec<&str> = of_app.iter().map(String::as_str).collect();
    // More than one network, an address and a volume of its own: all that a
    // container which was only half made would lack.
    engine.docker(["network", "create", "--subnet", "10.213.7.0/24", "front"]);
    engine.docker(["network", "create", "back"]);
    let more =
        ["--restart", "unless-stopped", "-v", "/anonymous", "--network", "front", "--ip", "10.213.7.9"];
    run_app(engine, "app", App::V1, &[&of_app[..], &more].concat());
    engine.docker(["network", "connect", "--alias", "database", "back", "app"]);
    let of_side = labels("side");
    let mut command = engine.command(["run", "-d", "--name", "side", "--network", "container:app"]);
    command.args(of_side).args(["--stop-signal", "KILL", IMAGE, "sleep", "100000"]);
    e2e::command::run(&mut command);
}

/// Names of all containers and volumes.
fn things(engine: &Engine) -> Vec<String> {
    let list = |args: [&str; 4]| engine.docker(args).lines().map(str::to_owned).collect::<Vec<_>>();
    let mut all = list(["ps", "-a", "--format", "{{.Names}}"]);
    all.extend(list(["volume", "ls", "--format", "{{.Name}}"]));
    all.sort();
    all
}

/// What is kept of each, and that it is none of compose's.
#[track_caller]
fn kept(engine: &Engine, what: &str) {
    for name in NAMES {
        let family = upgrades::family(engine, name);
        let kept: Vec<_> = family.iter().filter(|one| one.name != name).collect();
        invariant!("I8", kept.len() == 1, "{what}: one is kept of {name}: {family:#?}");
        assert_eq!(kept[0].state, "created", "{what}: {family:#?}");
        let (own, kept) = upgrades::labels_of_compose(&engine.inspect(&kept[0].id));
        assert!(own.is_empty(), "{what}: {own:?}");
        assert_eq!(kept.len(), 5, "{what}: {kept:?}");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Upgrade,
    Rollback,
}

struct Scene {
    fleet: Fleet,
    /// What everything was like before the first upgrade.
    before: [Value; 2],
    data: Copy,
    all: Vec<String>,
    /// What was written into the layer of the container, a line each upgrade.
    notes: Vec<String>,
}

impl kills::Matrix for Scene {
    type Act = Act;

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    fn prepare(&mut self, kill: &Kill<Act>) {
        if kill.act == Act::Upgrade {
            // In no volume: it comes back all the same.
            let note = self.notes.len().to_string();
            let write = format!("echo {note} >> /note");
            self.fleet.engine("host-a").docker(["exec", "app", "sh", "-c", &write]);
            self.notes.push(note);
        }
    }

    fn begin(&mut self, kill: &Kill<Act>) {
        match kill.act {
            Act::Upgrade => {
                let more = ["--allow-loss", "writable-layer", "--no-wait"];
                self.fleet.upgrade("host-a", "app", App::Migrates.image(), &more);
            }
            Act::Rollback => {
                self.fleet.cli(&["upgrade", "rollback", "app", "--host", "host-a", "--no-wait"]);
            }
        }
    }

    fn settle(&mut self, kill: &Kill<Act>) {
        let point = kill.point;
        self.fleet.wait_connected("host-a");
        self.fleet.wait_idle(180);
        let newest = self.fleet.newest("host-a", "app");
        figure!("killed at {point} of a {:?}: {}", kill.act, newest["state"]);
        match kill.act {
            Act::Upgrade => {
                assert_eq!(newest["state"], "committed", "{point}: {newest}");
                let engine = self.fleet.engine("host-a");
                let runs = upgrades::the_one_that_runs(engine, "app");
                assert_eq!(runs.image, App::Migrates.image(), "{point}");
                upgrades::the_one_that_runs(engine, "side");
                kept(engine, point);
            }
            Act::Rollback => {
                assert_eq!(newest["state"], "rolled back", "{point}: {newest}");
                self.is_as_before(point);
            }
        }
    }
}

impl Scene {
    fn new() -> Self {
        let fleet = fleet_with(&[App::V1, App::Migrates]);
        let engine = fleet.engine("host-a");
        run_shop(engine);
        let before = NAMES.map(|name| engine.inspect(name));
        let data = Copy::of(&engine.volume_path("app-data"));
        let all = things(engine);
        Self { fleet, before, data, all, notes: Vec::new() }
    }

    #[track_caller]
    fn is_as_before(&self, what: &str) {
        let engine = self.fleet.engine("host-a");
        for (name, before) in NAMES.iter().zip(&self.before) {
            upgrades::the_one_that_runs(engine, name);
            upgrades::assert_made_again(before, &engine.inspect(name));
        }
        upgrades::wait_healthy(engine, "app");
        side_reaches(engine, "side");
        assert_eq!(engine.docker(["exec", "app", "cat", "/note"]), self.notes.join("\n"), "{what}");
        self.data.assert_unchanged();
        assert_eq!(things(engine), self.all, "{what}");
    }
}

#[test]
fn u05_the_agent_killed_between_an_old_container_and_its_stand_in() {
    require_engine!();
    let mut scene = Scene::new();
    kills::run(
        &mut scene,
        POINTS.into_iter().flat_map(|(forward, back)| {
            [(forward, Act::Upgrade), (back, Act::Rollback)].map(|(point, act)| Kill {
                victim: AGENT,
                point,
                act,
            })
        }),
    );
    // The grace period ends with nothing left over.
    let fleet = &scene.fleet;
    let more = ["--allow-loss", "writable-layer"];
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &more);
    assert_eq!(job["state"], "succeeded", "{job}");
    kept(fleet.engine("host-a"), "once more");
    fleet.ok(&["upgrade", "commit", "app", "--host", "host-a"]);
    assert_eq!(things(fleet.engine("host-a")), scene.all);
    assert_eq!(fleet.engine("host-a").docker(["image", "ls", "-q", "holdfast-kept"]), "");
}
