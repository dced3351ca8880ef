//! Many containers, a batch at a time: it stops where one fails.

use e2e::app_images::{self, App};
use e2e::docker::Engine;
use e2e::figure;
use e2e::fleet::Fleet;
use e2e::kills::Victim;
use e2e::require_engine;
use e2e::upgrades::{self, Copy, RIGHTS, run_app};
use serde_json::Value;

use super::{migrated, rows};

const HOSTS: [&str; 4] = ["host-a", "host-b", "host-c", "host-d"];

/// When the controller has just made the child for the second host.
const SECOND_CHILD: &str = "controller.rollout.after-child:2";

/// When it has just made the one that undoes the first of two.
const FIRST_UNDO: &str = "controller.rollout.after-child:3";

/// On one of the hosts the new image is one that never gets well.
fn fleet_of(hosts: &[&str], bad: &str) -> Fleet {
    let fleet = Fleet::start_allowing(&RIGHTS, hosts);
    std::thread::scope(|scope| {
        for &host in hosts {
            let engine = fleet.engine(host);
            scope.spawn(move || {
                app_images::build(engine, &[App::V1, App::Migrates, App::Corrupts]);
                if host == bad {
                    engine.docker(["tag", App::Corrupts.image(), App::Migrates.image()]);
                }
                run_app(engine, "web", App::V1, &["--label", "app=web"]);
                run_app(engine, "other", App::V1, &[]);
            });
        }
    });
    fleet
}

fn rollout<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["upgrade", "run", "--selector", "app=web", "--image", "app:2", "--batch", "1"];
    args.extend(["--max-failures", "0", "--health-timeout", "120s", "-o", "json"]);
    args.extend(more);
    args
}

fn counts(job: &Value) -> [u64; 4] {
    ["upgraded", "failed", "undone", "not_begun"]
        .map(|count| job["upgrade"][count].as_u64().expect("a count"))
}

/// Runs a rollout whose controller dies at a point, and gives the job as the
/// next controller ended it.
fn killed_at(fleet: &mut Fleet, point: &str, hosts: &[&str], more: &[&str]) -> Value {
    fleet.arm(Victim::Controller, point);
    let job = upgrades::job_of(fleet.cli(&rollout(more)));
    fleet.wait_death(Victim::Controller);
    fleet.start_again(Victim::Controller);
    hosts.iter().for_each(|host| fleet.wait_connected(host));
    fleet.await_job(job["id"].as_str().unwrap(), 120)
}

#[test]
fn a_rollout_stops_at_the_host_that_fails() {
    require_engine!();
    let mut fleet = fleet_of(&HOSTS, "host-c");
    let before = HOSTS.map(|host| fleet.engine(host).inspect("web"));
    let data = HOSTS.map(|host| Copy::of(&fleet.engine(host).volume_path("web-data")));
    let first = rows(fleet.engine("host-a"), "web-data");
    let started = |engine: &Engine| engine.inspect("web")["State"]["StartedAt"].clone();
    let undisturbed =
        [started(fleet.engine("host-d")), fleet.engine("host-a").inspect("other")["State"].clone()];
    let as_before = |fleet: &Fleet, index: usize| {
        let engine = fleet.engine(HOSTS[index]);
        upgrades::the_one_that_runs(engine, "web");
        upgrades::assert_same_container(&before[index], &engine.inspect("web"));
        data[index].assert_unchanged();
        upgrades::assert_no_traces(engine, "web", "web-data");
    };

    let plan = fleet.cli(&rollout(&["--plan"]));
    let plan: Value = serde_json::from_str(&plan.stdout).expect("a plan");
    assert_eq!(plan["targets"].as_array().unwrap().len(), 4, "{plan}");

    // Rolling back what was done before the failure: all are as they were.
    let job = upgrades::job_of(fleet.cli(&rollout(&["--undo"])));
    assert_eq!((&job["state"], &job["kind"]), (&"failed".into(), &"rollout".into()), "{job}");
    assert_eq!(counts(&job), [0, 1, 2, 1], "{job}");
    (0..4).for_each(|index| as_before(&fleet, index));

    // Leaving it, and with a controller that dies in the middle.
    let job = killed_at(&mut fleet, SECOND_CHILD, &HOSTS, &["--no-wait"]);
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(counts(&job), [2, 1, 0, 1], "{job}");
    for host in ["host-a", "host-b"] {
        assert_eq!(upgrades::the_one_that_runs(fleet.engine(host), "web").image, "app:2");
        assert_eq!(rows(fleet.engine(host), "web-data"), migrated(&first, "2"), "{host}");
    }
    as_before(&fleet, 2);
    as_before(&fleet, 3);
    let now = [started(fleet.engine("host-d")), fleet.engine("host-a").inspect("other")["State"].clone()];
    assert_eq!(now[0], undisturbed[0], "the host that was not begun was stopped");
    assert_eq!(
        now[1]["StartedAt"], undisturbed[1]["StartedAt"],
        "a container that does not match was stopped"
    );
    for child in job["children"].as_array().unwrap() {
        let child = fleet.job(child["id"].as_str().unwrap());
        figure!("{}: {}, down {} ms", child["host"], child["state"], child["upgrade"]["downtime_ms"]);
        assert!(child["upgrade"]["downtime_ms"].as_u64().is_some_and(|downtime| downtime > 0), "{child}");
    }
}

/// A controller that dies as it begins to undo: the next one undoes the host
/// that went well, once.
#[test]
fn a_rollout_whose_controller_dies_while_it_undoes_is_undone() {
    require_engine!();
    let hosts = [HOSTS[0], HOSTS[1]];
    let mut fleet = fleet_of(&hosts, hosts[1]);
    let before = hosts.map(|host| fleet.engine(host).inspect("web"));
    let data = hosts.map(|host| Copy::of(&fleet.engine(host).volume_path("web-data")));
    let job = killed_at(&mut fleet, FIRST_UNDO, &hosts, &["--undo", "--no-wait"]);
    assert_eq!((&job["state"], &job["kind"]), (&"failed".into(), &"rollout".into()), "{job}");
    assert_eq!(counts(&job), [0, 1, 1, 0], "{job}");
    let children = job["children"].as_array().unwrap();
    assert_eq!(children.len(), 3, "two upgrades and one that undoes: {job}");
    for (index, host) in hosts.into_iter().enumerate() {
        let engine = fleet.engine(host);
        upgrades::the_one_that_runs(engine, "web");
        upgrades::assert_same_container(&before[index], &engine.inspect("web"));
        data[index].assert_unchanged();
        upgrades::assert_no_traces(engine, "web", "web-data");
    }
}
