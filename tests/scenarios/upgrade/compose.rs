//! A compose project stays one: `docker-compose up` after an upgrade finds its
//! containers and their data.

use std::process::Command;

use e2e::app_images::App;
use e2e::docker::Engine;
use e2e::process::run;
use e2e::upgrades;
use e2e::{record, require_engine};

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

fn compose(engine: &Engine, image: App, args: &[&str]) -> String {
    let dir = engine.dir().join("shop");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("docker-compose.yml"), PROJECT).unwrap();
    let mut command = Command::new("docker-compose");
    command.args(args).current_dir(dir).env("DOCKER_HOST", engine.host()).env("IMAGE", image.image());
    run(&mut command)
}

#[test]
fn compose_up_works_after_an_upgrade() {
    require_engine!();
    if Command::new("docker-compose").arg("version").output().is_err() {
        record::skipped("`docker-compose` is not installed");
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

    // The old container is still kept now. Compose makes its own anew, whose
    // configuration has another image.
    compose(engine, App::Migrates, &["up", "-d"]);
    upgrades::wait_healthy(engine, "shop_db_1");
    let listed = compose(engine, App::Migrates, &["ps", "-q", "--all"]);
    assert_eq!(listed.lines().count(), 2, "one of db and one of side:\n{listed}");
    assert_eq!(upgrades::the_one_that_runs(engine, "shop_db_1").image, App::Migrates.image());
    assert_eq!(rows(engine, "shop_rows"), migrated(&first, "2"));
    assert_eq!(engine.docker(["exec", "shop_db_1", "cat", "/anonymous/note"]), "mine");
    // That one is not the upgrade's: the data must not be put back under it.
    let said = fleet.cli(&["upgrade", "rollback", "shop_db_1", "--host", "host-a"]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert_eq!(rows(engine, "shop_rows"), migrated(&first, "2"));
    upgrades::the_one_that_runs(engine, "shop_db_1");
    fleet.ok(&["upgrade", "commit", "shop_db_1", "--host", "host-a"]);
    upgrades::assert_no_traces(engine, "shop_db_1", "shop_rows");

    compose(engine, App::Migrates, &["up", "-d"]);
    upgrades::wait_healthy(engine, "shop_db_1");
    assert_eq!(rows(engine, "shop_rows"), migrated(&first, "2"));
    compose(engine, App::Migrates, &["down"]);
    assert!(engine.has_volume("shop_rows"));
}
