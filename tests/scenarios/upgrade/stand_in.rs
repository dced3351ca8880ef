//! The agent killed at every step between the old container of a compose
//! project and its stand-in, in both directions: one of the two is there at any
//! time, and the other is not left over.

use e2e::app_images::App;
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::upgrades::{self, Copy, run_app};
use e2e::{figure, invariant, require_engine};
use serde_json::Value;

use super::{fleet_with, side_reaches};

/// Where the agent dies while it upgrades, and where while it goes back then.
/// With `:2` it is at the one that depends on the upgraded one.
const POINTS: [(&str, &str); 9] = [
    ("agent.upgrade.layer-noted", "agent.upgrade.rollback-started"),
    ("agent.upgrade.layer-kept", "agent.upgrade.rollback-exchanged"),
    ("agent.upgrade.stand-in-noted", "agent.upgrade.rollback-begun"),
    ("agent.upgrade.stand-in-made", "agent.upgrade.rollback-made"),
    ("agent.upgrade.stand-in-made:2", "agent.upgrade.rollback-made:2"),
    ("agent.upgrade.stand-in-compared", "agent.upgrade.rollback-noted"),
    ("agent.upgrade.old-removed", "agent.upgrade.rollback-noted:2"),
    ("agent.upgrade.old-removed:2", "agent.upgrade.rollback-renamed"),
    ("agent.upgrade.committed", "agent.upgrade.rollback-cleared"),
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
    e2e::process::run(&mut command);
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

fn die_at(fleet: &mut Fleet, point: &str, act: impl FnOnce(&mut Fleet)) {
    fleet.host("host-a").agent().kill();
    fleet.host("host-a").start_agent(Some(point));
    fleet.wait_connected("host-a");
    act(fleet);
    fleet.host("host-a").agent().wait(60);
    fleet.host("host-a").start_agent(None);
    fleet.wait_connected("host-a");
    fleet.wait_idle(180);
}

#[test]
fn u05_the_agent_killed_between_an_old_container_and_its_stand_in() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates]);
    run_shop(fleet.engine("host-a"));
    let engine = fleet.engine("host-a");
    let before: [Value; 2] = NAMES.map(|name| engine.inspect(name));
    let data = Copy::of(&engine.volume_path("app-data"));
    let all = things(engine);
    for (round, (forward, back)) in POINTS.into_iter().enumerate() {
        // In no volume: it comes back all the same.
        let write = format!("echo {round} >> /note");
        fleet.engine("host-a").docker(["exec", "app", "sh", "-c", &write]);
        die_at(&mut fleet, forward, |fleet| {
            let more = ["--allow-loss", "writable-layer", "--no-wait"];
            fleet.upgrade("host-a", "app", App::Migrates.image(), &more);
        });
        let newest = fleet.newest("host-a", "app");
        assert_eq!(newest["state"], "committed", "{forward}: {newest}");
        let engine = fleet.engine("host-a");
        assert_eq!(upgrades::the_one_that_runs(engine, "app").image, App::Migrates.image(), "{forward}");
        upgrades::the_one_that_runs(engine, "side");
        kept(engine, forward);
        figure!("killed at {forward}: {}", newest["state"]);

        die_at(&mut fleet, back, |fleet| {
            fleet.cli(&["upgrade", "rollback", "app", "--host", "host-a", "--no-wait"]);
        });
        let newest = fleet.newest("host-a", "app");
        assert_eq!(newest["state"], "rolled back", "{back}: {newest}");
        let engine = fleet.engine("host-a");
        for (name, before) in NAMES.iter().zip(&before) {
            upgrades::the_one_that_runs(engine, name);
            upgrades::assert_made_again(before, &engine.inspect(name));
        }
        upgrades::wait_healthy(engine, "app");
        side_reaches(engine, "side");
        let notes: Vec<String> = (0..=round).map(|round| round.to_string()).collect();
        assert_eq!(engine.docker(["exec", "app", "cat", "/note"]), notes.join("\n"), "{back}");
        data.assert_unchanged();
        assert_eq!(things(engine), all, "{back}");
        figure!("killed at {back} of a rollback: {}", newest["state"]);
    }
    // The grace period ends with nothing left over.
    let more = ["--allow-loss", "writable-layer"];
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &more);
    assert_eq!(job["state"], "succeeded", "{job}");
    kept(fleet.engine("host-a"), "once more");
    fleet.ok(&["upgrade", "commit", "app", "--host", "host-a"]);
    assert_eq!(things(fleet.engine("host-a")), all);
    assert_eq!(fleet.engine("host-a").docker(["image", "ls", "-q", "holdfast-kept"]), "");
}
