//! A compose project stays one: `docker-compose up` after an upgrade finds its
//! containers and their data.

use std::process::Command;

use e2e::app_images::App;
use e2e::command::run;
use e2e::docker::Engine;
use e2e::upgrades;
use e2e::{record, require_engine};

use serde_json::Value;

use super::{fleet_with, migrated, rows, side_reaches};

const PROJECT: &str = r#"
version: "3"
services:
  db:
    image: ${IMAGE}
    volumes: ["rows:/data", "/anonymous"]
    networks: { default: { aliases: [database] } }
  side:
    image: holdfast-test/base:1
    command: sleep 100000
    stop_signal: KILL
    network_mode: "service:db"
    depends_on: [db]
volumes:
  rows: {}
"#;

/// In the order of the file.
const SERVICES: [&str; 2] = ["shop_db_1", "shop_side_1"];

fn compose(engine: &Engine, image: App, args: &[&str]) -> String {
    let dir = engine.dir().join("shop");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("docker-compose.yml"), PROJECT).unwrap();
    let mut command = Command::new("docker-compose");
    command.args(args).current_dir(dir).env("DOCKER_HOST", engine.host()).env("IMAGE", image.image());
    run(&mut command)
}

fn has_compose() -> bool {
    let has = Command::new("docker-compose").arg("version").output().is_ok();
    if !has {
        record::skipped("`docker-compose` is not installed");
    }
    has
}

/// The id of the container that has a name.
fn id(engine: &Engine, name: &str) -> String {
    engine.inspect(name)["Id"].as_str().expect("an id").to_owned()
}

/// Both services as they were before an upgrade, and compose's own: it has
/// nothing to do for them.
#[track_caller]
fn is_back(engine: &Engine, before: &[Value; 2], first: &[String]) {
    for (name, before) in SERVICES.iter().zip(before) {
        upgrades::assert_made_again(before, &engine.inspect(name));
        upgrades::the_one_that_runs(engine, name);
    }
    upgrades::wait_healthy(engine, "shop_db_1");
    side_reaches(engine, "shop_side_1");
    assert_eq!(rows(engine, "shop_rows"), first);
    assert_eq!(engine.docker(["exec", "shop_db_1", "cat", "/anonymous/note"]), "mine");
    for name in SERVICES {
        upgrades::assert_no_traces(engine, name, "shop_rows");
    }
    let ids = SERVICES.map(|name| id(engine, name));
    compose(engine, App::V1, &["up", "-d"]);
    assert_eq!(SERVICES.map(|name| id(engine, name)), ids, "compose made them once more");
    let mut listed: Vec<String> =
        compose(engine, App::V1, &["ps", "-q", "--all"]).lines().map(str::to_owned).collect();
    let mut ids = ids.to_vec();
    ids.sort();
    listed.sort();
    assert_eq!(listed, ids);
}

/// `docker-compose up` in the grace period takes neither what is kept of the old
/// containers nor the way back, whatever it makes of the new ones. Nor does a
/// prune, while the image is there.
#[test]
fn h16_compose_up_in_the_grace_period_leaves_the_way_back() {
    require_engine!();
    if !has_compose() {
        return;
    }
    let fleet = fleet_with(&[App::V1, App::Migrates]);
    let engine = fleet.engine("host-a");
    compose(engine, App::V1, &["up", "-d"]);
    upgrades::wait_healthy(engine, "shop_db_1");
    engine.docker(["exec", "shop_db_1", "sh", "-c", "echo mine > /anonymous/note"]);
    let before = SERVICES.map(|name| engine.inspect(name));
    let first = rows(engine, "shop_rows");
    for round in ["unchanged", "changed", "down", "layer", "pruned"] {
        if round == "layer" {
            engine.docker(["exec", "shop_db_1", "sh", "-c", "echo written > /outside"]);
        }
        let more = ["--allow-loss", "writable-layer"];
        let job = fleet.upgrade("host-a", "shop_db_1", App::Migrates.image(), &more);
        assert_eq!(job["state"], "succeeded", "{job}");
        let kept = SERVICES.map(|name| {
            let family = upgrades::family(engine, name);
            let kept: Vec<_> = family.iter().filter(|one| one.name != name).collect();
            assert_eq!(kept.len(), 1, "{family:#?}\n{job}");
            assert_eq!(kept[0].state, "created", "{family:#?}");
            let (own, renamed) = upgrades::labels_of_compose(&engine.inspect(&kept[0].id));
            assert!(own.is_empty() && renamed.len() > 4, "{own:?} {renamed:?}");
            kept[0].id.clone()
        });
        let ids = SERVICES.map(|name| id(engine, name));
        match round {
            // What the file says is what the new one's labels say.
            "unchanged" => {
                compose(engine, App::V1, &["up", "-d"]);
                assert_eq!(SERVICES.map(|name| id(engine, name)), ids, "compose made them once more");
            }
            "changed" | "layer" => {
                compose(engine, App::Migrates, &["up", "-d"]);
                assert_ne!(id(engine, "shop_db_1"), ids[0], "compose knows the new image by itself now");
            }
            // What the old ones need is gone, until compose makes it again.
            "down" => {
                compose(engine, App::Migrates, &["down"]);
                let said = fleet.cli(&["upgrade", "rollback", "shop_db_1", "--host", "host-a"]);
                assert_ne!(said.code, 0, "{}", said.stdout);
                assert!(said.stderr.contains("network `shop_default`"), "{}", said.stderr);
                compose(engine, App::Migrates, &["up", "-d"]);
                upgrades::wait_healthy(engine, "shop_db_1");
            }
            _ => drop(engine.docker(["container", "prune", "-f"])),
        }
        assert_eq!(rows(engine, "shop_rows"), migrated(&first, "2"), "{round}");
        for kept in &kept {
            assert_eq!(engine.has_container(kept), round != "pruned", "{round}");
        }
        fleet.ok(&["upgrade", "rollback", "shop_db_1", "--host", "host-a"]);
        is_back(engine, &before, &first);
        let db = &engine.inspect("shop_db_1");
        if matches!(round, "layer" | "pruned") {
            assert_eq!(engine.docker(["exec", "shop_db_1", "cat", "/outside"]), "written", "{round}");
        } else {
            assert_eq!(db["Config"]["Image"], App::V1.image(), "{round}");
        }
    }
}

#[test]
fn compose_up_works_after_an_upgrade() {
    require_engine!();
    if !has_compose() {
        return;
    }
    let fleet = fleet_with(&[App::V1, App::Migrates]);
    let engine = fleet.engine("host-a");
    compose(engine, App::V1, &["up", "-d"]);
    upgrades::wait_healthy(engine, "shop_db_1");
    engine.docker(["exec", "shop_db_1", "sh", "-c", "echo mine > /anonymous/note"]);
    let before = engine.inspect("shop_db_1");
    let first = rows(engine, "shop_rows");

    let job = fleet.upgrade("host-a", "shop_db_1", App::Migrates.image(), &[]);
    assert_eq!(job["state"], "succeeded", "{job}");
    let after = engine.inspect("shop_db_1");
    assert_ne!(before["Id"], after["Id"]);
    for label in ["project", "service", "container-number", "oneoff", "config-hash"] {
        let label = format!("com.docker.compose.{label}");
        assert_eq!(before["Config"]["Labels"][&label], after["Config"]["Labels"][&label], "{label}");
    }
    side_reaches(engine, "shop_side_1");

    // Compose makes the new one once more, as its own file has another image.
    compose(engine, App::Migrates, &["up", "-d"]);
    upgrades::wait_healthy(engine, "shop_db_1");
    let listed = compose(engine, App::Migrates, &["ps", "-q", "--all"]);
    assert_eq!(listed.lines().count(), 2, "one of db and one of side:\n{listed}");
    assert_eq!(upgrades::the_one_that_runs(engine, "shop_db_1").image, App::Migrates.image());
    assert_eq!(rows(engine, "shop_rows"), migrated(&first, "2"));
    assert_eq!(engine.docker(["exec", "shop_db_1", "cat", "/anonymous/note"]), "mine");
    fleet.ok(&["upgrade", "commit", "shop_db_1", "--host", "host-a"]);
    upgrades::assert_no_traces(engine, "shop_db_1", "shop_rows");

    compose(engine, App::Migrates, &["up", "-d"]);
    upgrades::wait_healthy(engine, "shop_db_1");
    assert_eq!(rows(engine, "shop_rows"), migrated(&first, "2"));
    compose(engine, App::Migrates, &["down"]);
    assert!(engine.has_volume("shop_rows"));
}
