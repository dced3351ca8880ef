//! A real database: no row that was acknowledged is lost, whatever becomes of
//! the upgrade.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use e2e::docker::Engine;
use e2e::fleet::Fleet;
use e2e::kills::Victim;
use e2e::postgres_image::{self, DATA, FIRST, NEXT_MAJOR, RUINS, SECOND};
use e2e::upgrades::{self, RIGHTS, wait_healthy};
use e2e::{figure, require_engine, require_postgres};

use super::rolled_back;

fn psql(engine: &Engine, container: &str, text: &str) -> Command {
    engine.command(["exec", container, "psql", "-U", "postgres", "-qAtc", text])
}

/// True only when the database has said that the row is there.
fn insert(engine: &Engine, number: u32) -> bool {
    let text = format!("insert into t values ({number}) returning n");
    let output = psql(engine, "db", &text).output().expect("docker runs");
    output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == number.to_string()
}

fn numbers(engine: &Engine, container: &str) -> Vec<u32> {
    let text = e2e::command::run(&mut psql(engine, container, "select n from t order by n"));
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn start(engine: &Engine, name: &str, volume: &str) {
    let data = format!("{volume}:{DATA}");
    engine.docker(["run", "-d", "--name", name, "-v", &data, "--restart", "always", FIRST]);
    wait_healthy(engine, name);
}

/// To a good build, and back again: what was written since is kept aside.
fn upgrade_and_come_back(fleet: &Fleet, present: &[u32]) {
    let engine = fleet.engine("host-a");
    let job = fleet.upgrade("host-a", "db", SECOND, &["--probe-cmd", "psql -U postgres -c 'select 1'"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    figure!("PostgreSQL upgraded, down {} ms", job["upgrade"]["downtime_ms"]);
    assert_eq!(numbers(engine, "db"), present);
    assert!(insert(engine, 1_000_000));
    let job = upgrades::job_of(fleet.cli(&["upgrade", "rollback", "db", "--host", "host-a", "-o", "json"]));
    assert_eq!(job["state"], "succeeded", "{job}");
    wait_healthy(engine, "db");
    assert_eq!(upgrades::the_one_that_runs(engine, "db").image, FIRST);
    assert_eq!(numbers(engine, "db"), present);
    fleet.ok(&["restore", "volume", "pg@latest", "--host", "host-a", "--as", "pg-discarded"]);
    start(engine, "discarded", "pg-discarded");
    assert_eq!(numbers(engine, "discarded"), [present, &[1_000_000]].concat());
}

#[test]
fn no_acknowledged_row_is_lost() {
    require_engine!();
    require_postgres!();
    let mut fleet = Fleet::start_allowing(&RIGHTS, &["host-a"]);
    postgres_image::build(fleet.engine("host-a"), &[SECOND, RUINS, NEXT_MAJOR]);
    start(fleet.engine("host-a"), "db", "pg");
    e2e::command::run(&mut psql(fleet.engine("host-a"), "db", "create table t (n int)"));

    // Its data is of another major version than that image: refused.
    let said = fleet.try_upgrade("host-a", "db", NEXT_MAJOR, &[]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("database-version"), "{}", said.stderr);

    // A row between the snapshot before and the stop: the controller is dead in
    // between, so there is no doubt about the order.
    assert!(insert(fleet.engine("host-a"), 1));
    fleet.arm(Victim::Controller, "controller.upgrade.after-before-snapshot");
    let id = fleet.start_upgrade("host-a", "db", RUINS);
    fleet.controller().wait(60);
    assert!(insert(fleet.engine("host-a"), 2));
    fleet.start_controller(None);
    fleet.wait_connected("host-a");

    // And rows all the time while it runs into a version that ruins the data.
    let (engine, next, over) = (fleet.engine("host-a"), AtomicU32::new(3), AtomicBool::new(false));
    let (acknowledged, job) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = vec![1, 2];
            while !over.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if insert(engine, number) {
                    acknowledged.push(number);
                }
            }
            acknowledged
        });
        let job = fleet.await_job(&id, 120);
        over.store(true, Ordering::Relaxed);
        (writer.join().expect("the writer"), job)
    });
    rolled_back(&job);
    wait_healthy(engine, "db");
    let present = numbers(engine, "db");
    let lost: Vec<&u32> = acknowledged.iter().filter(|number| !present.contains(number)).collect();
    figure!("{} rows acknowledged, {} there, {} lost", acknowledged.len(), present.len(), lost.len());
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    upgrades::assert_no_traces(engine, "db", "pg");

    upgrade_and_come_back(&fleet, &present);
}

/// Its socket is in /tmp, as that of a build from source is, and with it a lock
/// file in the writable layer: no data, while a file beside it is.
#[test]
fn h18_a_server_with_its_socket_in_tmp_is_upgraded_and_data_there_still_blocks() {
    require_engine!();
    require_postgres!();
    let fleet = Fleet::start_allowing(&RIGHTS, &["host-a"]);
    let engine = fleet.engine("host-a");
    postgres_image::build(engine, &[SECOND]);
    let data = format!("pg:{DATA}");
    let server =
        ["run", "-d", "--name", "db", "-v", &data, "-e", "PGHOST=/tmp", "--restart", "always", FIRST];
    let command = ["/start", "-c", "unix_socket_directories=/tmp"];
    engine.docker(server.into_iter().chain(command));
    wait_healthy(engine, "db");
    e2e::command::run(&mut psql(engine, "db", "create table t (n int)"));
    assert!(insert(engine, 1));
    let lock = engine.docker(["exec", "db", "cat", "/tmp/.s.PGSQL.5432.lock"]);
    assert!(lock.contains("/tmp"), "{lock}");

    engine.docker(["exec", "db", "sh", "-c", "echo 1,2,3 > /tmp/export.csv"]);
    let said = fleet.try_upgrade("host-a", "db", SECOND, &[]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("writable-layer") && said.stderr.contains("/tmp/export.csv"), "{said:?}");
    assert!(!said.stderr.contains("PGSQL.5432.lock ("), "{said:?}");

    engine.docker(["exec", "db", "rm", "/tmp/export.csv"]);
    let job = fleet.upgrade("host-a", "db", SECOND, &[]);
    assert_eq!(job["state"], "succeeded", "{job}");
    wait_healthy(engine, "db");
    assert_eq!(engine.docker(["inspect", "--format", "{{.Config.Image}}", "db"]), SECOND);
    assert_eq!(numbers(engine, "db"), [1]);
}
