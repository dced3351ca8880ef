//! A PostgreSQL that runs while its volume is backed up.

use e2e::docker::Engine;
use e2e::fleet::Fleet;
use e2e::upgrades::wait_health;
use e2e::{postgres_image, require_engine, require_postgres};

/// What the server says when it finds files as a crash leaves them, and when it
/// had been shut down.
const RECOVERS: &str = "database system was not properly shut down; automatic recovery in progress";
const WAS_SHUT_DOWN: &str = "database system was shut down at";

fn run(engine: &Engine, name: &str, volume: &str) {
    let mount = format!("{volume}:{}", postgres_image::DATA);
    engine.docker(["run", "-d", "--name", name, "-v", &mount, postgres_image::FIRST]);
    wait_health(engine, name, "healthy");
}

fn sql(engine: &Engine, name: &str, text: &str) -> String {
    engine.docker(["exec", name, "psql", "-U", "postgres", "-qAtc", text])
}

/// Both streams: the server logs to the second.
fn log(engine: &Engine, name: &str) -> String {
    let output = engine.command(["logs", name]).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a35_a_live_database_is_called_crash_consistent_and_recovers_by_itself() {
    require_engine!();
    require_postgres!();
    let fleet = Fleet::start(&["host-a"]);
    let engine = fleet.engine("host-a");
    postgres_image::build(engine, &[]);
    run(engine, "db", "pg");
    sql(engine, "db", "create table t as select generate_series(1, 5000) as n, md5(random()::text) as text");
    sql(engine, "db", "checkpoint");
    // In the log, and not yet in its table's file.
    sql(
        engine,
        "db",
        "insert into t select n + 5000, md5(n::text) from t; update t set text = 'x' where n % 7 = 0",
    );
    let sum = "select count(*), sum(n), md5(string_agg(text, '' order by n)) from t";
    let rows = sql(engine, "db", sum);
    assert!(rows.starts_with("10000|"), "{rows}");

    for (how, called, says, says_not) in [
        ("none", "crash-consistent", RECOVERS, WAS_SHUT_DOWN),
        ("pause", "paused", RECOVERS, WAS_SHUT_DOWN),
        ("stop", "stopped", WAS_SHUT_DOWN, RECOVERS),
    ] {
        let job = fleet.backup("host-a", "pg", how);
        assert_eq!(job["state"], "succeeded", "{how}: {job}");
        wait_health(engine, "db", "healthy");
        assert_eq!(fleet.json(&["snapshot", "show", "pg@latest"])["consistency"], called, "{how}");
        let table = fleet.ok(&["snapshot", "ls", "pg"]);
        assert!(table.contains(called), "{table}");
        let (volume, name) = (format!("pg-{how}"), format!("db-{how}"));
        fleet.ok(&["restore", "volume", "pg@latest", "--host", "host-a", "--as", &volume]);
        run(engine, &name, &volume);
        let log = log(engine, &name);
        assert!(log.contains(says) && !log.contains(says_not), "{how}: {log}");
        assert_eq!(sql(engine, &name, sum), rows, "{how}");
        engine.docker(["rm", "-f", &name]);
    }
    fleet.assert_whole();
}
