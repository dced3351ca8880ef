//! Many containers, a batch at a time: it stops where one fails.

use e2e::app_images::{self, App};
use e2e::docker::Engine;
use e2e::fleet::Fleet;
use e2e::upgrades::{self, Copy, RIGHTS, run_app};
use e2e::{require_engine, wait};
use serde_json::Value;

use super::{migrated, rows};

const HOSTS: [&str; 4] = ["host-a", "host-b", "host-c", "host-d"];

/// On the third host the new image is one that never gets well.
fn fleet_of_four() -> Fleet {
    let fleet = Fleet::start_allowing(&RIGHTS, &HOSTS);
    std::thread::scope(|scope| {
        for host in HOSTS {
            let engine = fleet.engine(host);
            scope.spawn(move || {
                app_images::build(engine, &[App::V1, App::Migrates, App::Corrupts]);
                if host == "host-c" {
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

#[test]
fn a_rollout_stops_at_the_host_that_fails() {
    require_engine!();
    let mut fleet = fleet_of_four();
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

    // Undoing what was done before the failure: all are as they were.
    let job = upgrades::job_of(fleet.cli(&rollout(&["--undo"])));
    assert_eq!((&job["state"], &job["kind"]), (&"failed".into(), &"rollout".into()), "{job}");
    assert_eq!(counts(&job), [0, 1, 2, 1], "{job}");
    (0..4).for_each(|index| as_before(&fleet, index));

    // Leaving it, and with a controller that dies in the middle.
    let job = upgrades::job_of(fleet.cli(&rollout(&["--no-wait"])));
    let id = job["id"].as_str().unwrap().to_owned();
    wait::until("the second host to be begun", 90, || {
        let job = fleet.job(&id);
        let children = job["children"].as_array().cloned().unwrap_or_default();
        children.iter().any(|child| child["host"] == "host-b").then_some(()).ok_or(job)
    });
    fleet.controller().kill();
    fleet.start_controller(None);
    for host in HOSTS {
        fleet.wait_connected(host);
    }
    let job = fleet.await_job(&id, 120);
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
        println!("{}: {}, down {} ms", child["host"], child["state"], child["upgrade"]["downtime_ms"]);
        assert!(child["upgrade"]["downtime_ms"].as_u64().is_some_and(|downtime| downtime > 0), "{child}");
    }
}
