//! Containers are replaced with their data, or are as they were.

mod compose;
mod crash;
mod postgres;
mod refused;
mod rollout;
mod settings;
mod stand_in;

use e2e::app_images::{self, App};
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::kills::{AGENT, Victim};
use e2e::upgrades::{self, Copy, RIGHTS, migrated, run_app};
use e2e::{figure, require_engine, wait};
use serde_json::Value;

/// A fleet of one host with these versions of the small server.
fn fleet_with(versions: &[App]) -> Fleet {
    let fleet = Fleet::start_allowing(&RIGHTS, &["host-a"]);
    app_images::build(fleet.engine("host-a"), versions);
    fleet
}

/// Rows of the small server, sorted by their names.
fn rows(engine: &Engine, volume: &str) -> Vec<String> {
    upgrades::rows(&engine.volume_path(volume))
}

#[track_caller]
fn rolled_back(job: &Value) {
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(
        (&job["upgrade"]["rolled_back"], &job["upgrade"]["state"]),
        (&true.into(), &"rolled back".into())
    );
    assert!(job["upgrade"]["downtime_ms"].as_u64().is_some_and(|downtime| downtime > 0), "{job}");
}

/// A container that lives in the network namespace of another.
fn run_side(engine: &Engine, name: &str, of: &str) {
    let network = format!("container:{of}");
    engine.docker([
        "run",
        "-d",
        "--name",
        name,
        "--network",
        &network,
        "--stop-signal",
        "KILL",
        IMAGE,
        "sleep",
        "100000",
    ]);
}

/// It reaches the server it lives with.
#[track_caller]
fn side_reaches(engine: &Engine, side: &str) {
    let wget = ["exec", side, "wget", "-q", "-O", "-", "http://127.0.0.1:8080/health"];
    assert_eq!(engine.docker(wget), "well");
}

/// U03, U04: whatever a bad version does, the old container is back with the
/// data of the stop, and so is what depends on it.
#[test]
fn u03_u04_a_bad_version_leaves_no_trace() {
    require_engine!();
    let fleet = fleet_with(&[App::V1, App::Corrupts, App::CrashLoops, App::NeverHealthy]);
    let engine = fleet.engine("host-a");
    run_app(
        engine,
        "app",
        App::V1,
        &["--restart", "unless-stopped", "-v", "/anonymous", "-e", "COLOUR=blue"],
    );
    run_side(engine, "side", "app");
    let before = engine.inspect("app");
    let data = Copy::of(&engine.volume_path("app-data"));
    for (bad, cause) in
        [(App::NeverHealthy, "unhealthy"), (App::Corrupts, "unhealthy"), (App::CrashLoops, "exit code 3")]
    {
        let job = fleet.upgrade("host-a", "app", bad.image(), &[]);
        rolled_back(&job);
        let error = job["error"].as_str().unwrap();
        assert!(error.contains(cause), "{error}");
        figure!("{bad:?}: down {} ms: {error}", job["upgrade"]["downtime_ms"]);
        assert_eq!(
            job["children"].as_array().unwrap().len(),
            2,
            "a snapshot before and one at the stop: {job}"
        );

        assert_eq!(upgrades::the_one_that_runs(engine, "app").id, before["Id"].as_str().unwrap());
        upgrades::assert_same_container(&before, &engine.inspect("app"));
        data.assert_unchanged();
        upgrades::assert_no_traces(engine, "app", "app-data");
        upgrades::wait_healthy(engine, "app");
        side_reaches(engine, "side");
    }
}

/// A good version, the way back from it in the grace period, and its end.
#[test]
fn a_committed_upgrade_can_be_undone_until_its_grace_period_ends() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates]);
    run_app(fleet.engine("host-a"), "app", App::V1, &[]);
    run_side(fleet.engine("host-a"), "side", "app");
    let engine = fleet.engine("host-a");
    let before = engine.inspect("app");
    let data = Copy::of(&engine.volume_path("app-data"));
    let first = rows(engine, "app-data");

    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &["--probe-http", "8080/health"]);
    assert_eq!(
        (&job["state"], &job["upgrade"]["state"]),
        (&"succeeded".into(), &"committed".into()),
        "{job}"
    );
    let downtime = job["upgrade"]["downtime_ms"].as_u64().unwrap();
    figure!("upgraded, down {downtime} ms of {} ms", job["duration_ms"]);
    assert!(downtime > 0 && downtime < job["duration_ms"].as_u64().unwrap(), "{job}");
    assert_eq!(upgrades::the_one_that_runs(engine, "app").image, App::Migrates.image());
    assert_eq!(rows(engine, "app-data"), migrated(&first, "2"));
    side_reaches(engine, "side");
    let kept =
        upgrades::family(engine, "app").into_iter().find(|one| one.name != "app").expect("the old one");
    assert_eq!((kept.id.as_str(), kept.state.as_str()), (before["Id"].as_str().unwrap(), "exited"));
    // Until that is decided, another upgrade would have two ways back.
    let again = fleet.try_upgrade("host-a", "app", App::V1.image(), &[]);
    assert_ne!(again.code, 0, "{}", again.stdout);
    assert!(again.stderr.contains("upgrade commit"), "{}", again.stderr);

    // What the new version wrote is not in the data afterwards, but kept.
    std::fs::write(engine.volume_path("app-data").join("rows/written-since"), "by the new version").unwrap();
    let job = upgrades::job_of(fleet.cli(&["upgrade", "rollback", "app", "--host", "host-a", "-o", "json"]));
    assert_eq!((&job["kind"], &job["state"]), (&"rollback".into(), &"succeeded".into()), "{job}");
    assert_eq!(upgrades::the_one_that_runs(engine, "app").id, before["Id"].as_str().unwrap());
    upgrades::assert_same_container(&before, &engine.inspect("app"));
    data.assert_unchanged();
    upgrades::assert_no_traces(engine, "app", "app-data");
    side_reaches(engine, "side");
    let discarded = fleet.ok(&["snapshot", "cat", "app-data@latest", "rows/written-since"]);
    assert_eq!(discarded, "by the new version");

    // Once more, and this time for good. That the snapshot before stops and starts
    // the container is no change of the world.
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &["--consistency", "stop"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    fleet.ok(&["upgrade", "commit", "app", "--host", "host-a"]);
    upgrades::assert_no_traces(engine, "app", "app-data");
    assert_eq!(rows(engine, "app-data"), migrated(&first, "2"));
    let said = fleet.cli(&["upgrade", "rollback", "app", "--host", "host-a"]);
    assert_ne!(said.code, 0, "there is no way back any more:\n{}", said.stdout);
    let remembered = fleet.remembered("host-a", "app");
    let states: Vec<&str> = remembered.iter().map(|upgrade| upgrade["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["finished", "rolled back"]);
}

/// Data is never put back under a container that uses it, whoever started it.
#[test]
fn a_rollback_is_refused_while_an_external_writer_uses_the_data() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates]);
    run_app(fleet.engine("host-a"), "app", App::V1, &[]);
    let first = rows(fleet.engine("host-a"), "app-data");
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &[]);
    assert_eq!(job["state"], "succeeded", "{job}");
    let engine = fleet.engine("host-a");
    let new = upgrades::the_one_that_runs(engine, "app").id;
    engine.run_writer("external", "app-data");
    let said = fleet.cli(&["upgrade", "rollback", "app", "--host", "host-a"]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("external"), "{}", said.stderr);
    assert_eq!(
        (upgrades::the_one_that_runs(engine, "app").id, engine.state("external").as_str()),
        (new, "running")
    );
    assert_eq!(rows(engine, "app-data"), migrated(&first, "2"));
    assert_eq!(fleet.remembered("host-a", "app")[0]["state"], "committed");

    // Once it is gone there is still a way back.
    let engine = fleet.engine("host-a");
    engine.docker(["rm", "-f", "external"]);
    fleet.ok(&["upgrade", "rollback", "app", "--host", "host-a"]);
    assert_eq!(upgrades::the_one_that_runs(engine, "app").image, App::V1.image());
    assert_eq!(rows(engine, "app-data"), first);
}

/// Grace periods end by themselves.
#[test]
fn the_old_container_goes_when_the_grace_period_is_over() {
    require_engine!();
    let fleet = fleet_with(&[App::V1, App::Migrates]);
    let engine = fleet.engine("host-a");
    run_app(engine, "app", App::V1, &["-v", "/anonymous"]);
    let anonymous = engine.inspect("app")["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|mount| mount["Destination"] == "/anonymous")
        .map(|mount| mount["Name"].as_str().unwrap().to_owned())
        .expect("mounted");
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &["--grace", "1s"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    let family = || upgrades::try_family(engine, "app");
    wait::until_is("the old container to go", 60, family, |family| family.len() == 1);
    let data = engine.volume_path("app-data");
    wait::until("the clone to go", 20, || {
        let left = upgrades::beside(&data);
        left.is_empty().then_some(()).ok_or(left)
    });
    assert!(engine.has_volume(&anonymous), "an anonymous volume went with the old container");
    assert_eq!(upgrades::the_one_that_runs(engine, "app").image, App::Migrates.image());
}

/// With controller and store gone while everything is quiesced, the agent goes
/// back alone, also one that was killed itself.
#[test]
fn without_controller_and_store_the_agent_goes_back_alone() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::NeverHealthy, App::Migrates]);
    run_app(fleet.engine("host-a"), "app", App::V1, &["--restart", "always"]);
    let before = fleet.engine("host-a").inspect("app");
    let data = Copy::of(&fleet.engine("host-a").volume_path("app-data"));
    let away = fleet.dir().join("away");
    let check = |fleet: &mut Fleet, what: &str| {
        let back = |upgrade: &Value| upgrade["state"] == "rolled back";
        let what = format!("{what}: the upgrade to be rolled back");
        fleet.wait_newest(&what, ("host-a", "app"), 60, back);
        let engine = fleet.engine("host-a");
        assert_eq!(upgrades::the_one_that_runs(engine, "app").id, before["Id"].as_str().unwrap(), "{what}");
        upgrades::assert_same_container(&before, &engine.inspect("app"));
        data.assert_unchanged();
        upgrades::assert_no_traces(engine, "app", "app-data");
    };

    // When the new one has to show that it is well, which it is not: the agent
    // stands still once that runs, until nobody is there any more.
    fleet.arm(AGENT, "halt agent.upgrade.start");
    let id = fleet.start_upgrade("host-a", "app", App::NeverHealthy.image());
    fleet.host("host-a").agent().wait_halted(60);
    fleet.controller().kill();
    std::fs::rename(fleet.repository_dir(), &away).unwrap();
    assert_eq!(upgrades::the_one_that_runs(fleet.engine("host-a"), "app").image, App::NeverHealthy.image());
    fleet.host("host-a").agent().run_on();
    check(&mut fleet, "a bad version");
    std::fs::rename(&away, fleet.repository_dir()).unwrap();
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    rolled_back(&fleet.await_job(&id, 60));

    // While everything is quiesced, the agent killed besides.
    fleet.arm(Victim::Controller, "controller.upgrade.before-proceed");
    let id = fleet.start_upgrade("host-a", "app", App::Migrates.image());
    fleet.controller().wait(60);
    std::fs::rename(fleet.repository_dir(), &away).unwrap();
    assert_eq!(fleet.engine("host-a").state("app"), "exited", "it is not quiesced");
    fleet.host("host-a").agent().kill();
    fleet.host("host-a").start_agent(None);
    check(&mut fleet, "a killed agent");
    std::fs::rename(&away, fleet.repository_dir()).unwrap();
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    rolled_back(&fleet.await_job(&id, 60));
}

/// An operator's abort is a way back like any other.
#[test]
fn a_cancelled_upgrade_goes_back() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates]);
    run_app(fleet.engine("host-a"), "app", App::V1, &[]);
    let before = fleet.engine("host-a").inspect("app");
    let data = Copy::of(&fleet.engine("host-a").volume_path("app-data"));
    let args = ["upgrade", "run", "app", "--image", App::Migrates.image(), "--host", "host-a"];
    // Healthy, and yet never well by this probe.
    let probe = ["--probe-cmd", "false", "--health-timeout", "1h", "--no-wait", "-o", "json"];
    let job = upgrades::job_of(fleet.cli(&[&args[..], &probe].concat()));
    let id = job["id"].as_str().unwrap().to_owned();
    // It stays so: no probe ever lets it pass, and an hour is left.
    let gating = |upgrade: &Value| upgrade["state"] == "gating";
    fleet.wait_newest("the new container to run", ("host-a", "app"), 60, gating);
    fleet.ok(&["job", "cancel", &id]);
    let job = fleet.await_job(&id, 60);
    assert_eq!(job["state"], "cancelled", "{job}");
    let engine = fleet.engine("host-a");
    upgrades::assert_same_container(&before, &engine.inspect("app"));
    upgrades::the_one_that_runs(engine, "app");
    data.assert_unchanged();
    upgrades::assert_no_traces(engine, "app", "app-data");
}
