//! What cannot be upgraded is refused before anything stops, in plain words.

use e2e::app_images::{self, App};
use e2e::command::run;
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::kills::Victim;
use e2e::upgrades::{self, Copy, run_app};
use e2e::{figure, require_engine};
use std::process::Command;

use super::fleet_with;

/// When a container was started: it changes with every start.
fn started(engine: &Engine, name: &str) -> String {
    engine.docker(["inspect", "--format", "{{.State.StartedAt}}", name])
}

/// A name that an upgrade of `app` may take, held by another container.
const TAKEN: &str = "app.holdfast-new-abcdef";

/// It was neither stopped nor left with anything beside it.
#[track_caller]
fn untouched(engine: &Engine, name: &str, since: &str) {
    upgrades::the_one_that_runs(engine, name);
    assert_eq!(started(engine, name), since);
    let family = upgrades::family(engine, name);
    let made = family.iter().find(|one| one.name != name && one.name != TAKEN);
    assert_eq!(made, None, "left beside it");
}

/// U01, U08, U09 and the like.
#[test]
fn u01_u08_u09_refused_before_anything_stops() {
    require_engine!();
    let fleet = fleet_with(&[App::V1, App::Migrates]);
    let engine = fleet.engine("host-a");
    run_app(engine, "app", App::V1, &["-p", "18080:8080"]);
    let since = started(engine, "app");
    let refused = |container: &str, image: &str, words: &[&str]| {
        let said = fleet.try_upgrade("host-a", container, image, &[]);
        assert_ne!(said.code, 0, "{container} -> {image}: {}", said.stdout);
        for word in words {
            assert!(said.stderr.contains(word), "`{word}` is not in:\n{}", said.stderr);
        }
        untouched(engine, "app", &since);
        said.code
    };

    // Neither here nor to be had.
    refused("app", "127.0.0.1:1/app:9", &["app:9"]);
    assert_eq!(refused("apq", "app:2", &["apq", "`app`"]), 5);

    // A name that an upgrade would need.
    engine.docker(["create", "--name", TAKEN, IMAGE]);
    refused("app", "app:2", &[TAKEN]);
    engine.docker(["rm", TAKEN]);

    // A port that another has by now: this one is to run and does not.
    engine.docker(["create", "--name", "second", "-p", "18080:8080", "app:1"]);
    let said = fleet.cli(&["upgrade", "plan", "second", "--image", "app:2", "--host", "host-a"]);
    assert!(said.stdout.contains("18080") && said.stdout.contains("`app`"), "{}{}", said.stdout, said.stderr);

    // The controller cannot be stopped by itself.
    engine.docker(["tag", "app:1", "holdfast-controller:1"]);
    engine.docker(["run", "-d", "--name", "boss", "holdfast-controller:1"]);
    refused("boss", "app:2", &["boss", "controller"]);

    // A `--rm` container is gone once it stops.
    engine.docker(["run", "-d", "--rm", "--name", "fleeting", "app:1"]);
    refused("fleeting", "app:2", &["fleeting", "--rm"]);
}

/// U02: without a complete snapshot of before nothing is stopped.
#[test]
fn u02_no_upgrade_without_the_snapshot_before() {
    require_engine!();
    let fleet = fleet_with(&[App::V1, App::Migrates]);
    let engine = fleet.engine("host-a");
    run_app(engine, "app", App::V1, &[]);
    let since = started(engine, "app");
    assert_eq!(fleet.backup("host-a", "app-data", "none")["state"], "succeeded");

    // A volume that lost everything is not one to go back to.
    let data = engine.volume_path("app-data");
    let aside = engine.dir().join("aside");
    run(Command::new("cp").arg("-a").arg(&data).arg(&aside));
    engine.docker(["exec", "app", "sh", "-c", "rm -rf /data/*"]);
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &[]);
    assert_eq!(
        (&job["state"], &job["error_code"]),
        (&"failed".into(), &"snapshot-before-failed".into()),
        "{job}"
    );
    untouched(engine, "app", &since);
    run(Command::new("sh").args(["-c", "cp -a \"$0\"/. \"$1\""]).arg(&aside).arg(&data));

    // The store is out of order: its folder is a file now.
    let packs = fleet.repository_dir().join("packs");
    std::fs::rename(&packs, fleet.dir().join("packs-away")).unwrap();
    std::fs::write(&packs, "in the way").unwrap();
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=64k", "count=20", "status=none"])
        .arg(format!("of={}", data.join("new").display())));
    let id = fleet.start_upgrade("host-a", "app", App::Migrates.image());
    let begun = |job: &serde_json::Value| job["children"][0]["id"].is_string();
    let job = fleet.wait_job("the snapshot to be begun", &id, 60, begun);
    let child = job["children"][0]["id"].as_str().expect("an id");
    fleet.wait_job("the snapshot to be tried", child, 60, |job| {
        job["state"] == "running" || job["state"] == "failed"
    });
    untouched(engine, "app", &since);
    fleet.ok(&["job", "cancel", &id]);
    let job = fleet.await_job(&id, 60);
    assert!(job["state"] == "cancelled" || job["state"] == "failed", "{job}");
    assert_eq!(job["upgrade"]["downtime_ms"].as_u64().unwrap_or_default(), 0, "{job}");
    untouched(engine, "app", &since);
    std::fs::remove_file(&packs).unwrap();
    std::fs::rename(fleet.dir().join("packs-away"), &packs).unwrap();
}

/// A plan is run as it was shown, or not at all.
#[test]
fn a_plan_says_what_will_be_and_holds_as_long_as_the_world_does() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates, App::OtherDefaults]);
    run_app(fleet.engine("host-a"), "app", App::V1, &["--tmpfs", "/scratch", "--restart", "always"]);
    let since = started(fleet.engine("host-a"), "app");
    let planned = |fleet: &Fleet, image: &str| {
        let said = fleet.cli(&["upgrade", "plan", "app", "--image", image, "--host", "host-a", "-o", "json"]);
        let plan: serde_json::Value = serde_json::from_str(&said.stdout).expect("a plan");
        (said.code, plan)
    };
    let changes = |plan: &serde_json::Value| plan["changes"].to_string();

    let (code, plan) = planned(&fleet, "app:7");
    assert_eq!((code, &plan["runnable"]), (0, &true.into()), "{plan}");
    for words in ["NEW_DEFAULT", "1000:1000", "9090", "SIGINT", "--fast"] {
        assert!(changes(&plan).contains(words), "{words} is not among the changes: {plan}");
    }
    assert_eq!(plan["stops"], serde_json::json!(["app"]));
    assert_eq!(
        (&plan["sources"][0]["name"], &plan["sources"][0]["target"]),
        (&"app-data".into(), &"/data".into())
    );

    // What is only in the container itself would be lost: by name only.
    fleet.engine("host-a").docker([
        "exec",
        "app",
        "sh",
        "-c",
        "echo mine > /srv-note; echo mine > /scratch/note",
    ]);
    let (code, plan) = planned(&fleet, "app:2");
    assert_eq!((code, &plan["runnable"]), (3, &false.into()), "{plan}");
    let losses: Vec<&str> =
        plan["losses"].as_array().unwrap().iter().map(|loss| loss["name"].as_str().unwrap()).collect();
    assert_eq!(losses, ["writable-layer", "tmpfs:/scratch"], "{plan}");
    let said = fleet.try_upgrade("host-a", "app", "app:2", &["--allow-loss", "tmpfs"]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("/srv-note") && said.stderr.contains("writable-layer"), "{}", said.stderr);
    untouched(fleet.engine("host-a"), "app", &since);
    fleet.engine("host-a").docker(["exec", "app", "rm", "/srv-note", "/scratch/note"]);

    // The image that was planned is another by now.
    let (_, plan) = planned(&fleet, "app:2");
    let id = plan["plan_id"].as_str().expect("an id").to_owned();
    fleet.engine("host-a").docker(["tag", "app:7", "app:2"]);
    let said = fleet.cli(&["upgrade", "run", "--plan-id", &id]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    untouched(fleet.engine("host-a"), "app", &since);
    assert!(fleet.remembered("host-a", "app").is_empty());

    // As long as nothing changes it is just that plan that is run.
    app_images::build(fleet.engine("host-a"), &[App::Migrates]);
    let said = fleet.cli(&["upgrade", "run", "--plan-id", &id, "-o", "json"]);
    let job = upgrades::job_of(said);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(upgrades::the_one_that_runs(fleet.engine("host-a"), "app").image, "app:2");
}

/// A clone that does not fit beside the data is known before.
#[test]
fn no_space_for_the_clone_is_known_before_anything_stops() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates]);
    let small = fleet.host("host-a").allowed_dir().join("small");
    std::fs::create_dir(&small).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=48m", "small"]).arg(&small));
    let data = small.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("large"), vec![7; 30 << 20]).unwrap();
    let engine = fleet.engine("host-a");
    let bind = format!("{}:/bound", data.display());
    run_app(engine, "app", App::V1, &["-v", &bind]);
    let since = started(engine, "app");
    let said = fleet.try_upgrade("host-a", "app", App::Migrates.image(), &[]);
    let entries = std::fs::read_dir(&small).unwrap().count();
    untouched(engine, "app", &since);
    engine.docker(["rm", "-f", "app"]);
    run(Command::new("umount").arg("-l").arg(&small));
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("space") || said.stderr.contains("MiB"), "{}", said.stderr);
    assert_eq!(entries, 1, "something was put beside the data");
}

/// U08: a port, then a name, that is taken while everything is quiesced: back,
/// and the old one runs as soon as it can.
#[test]
fn u08_a_port_or_name_taken_in_the_middle_leads_back() {
    require_engine!();
    let mut fleet = fleet_with(&[App::V1, App::Migrates]);
    run_app(fleet.engine("host-a"), "app", App::V1, &["-p", "18080:8080", "--restart", "always"]);
    let before = fleet.engine("host-a").inspect("app");
    let data = Copy::of(&fleet.engine("host-a").volume_path("app-data"));
    for taken in ["port", "name"] {
        fleet.arm(Victim::Controller, "controller.upgrade.before-proceed");
        let id = fleet.start_upgrade("host-a", "app", App::Migrates.image());
        fleet.controller().wait(60);
        let aside = format!("app.holdfast-old-{}", id[id.len() - 6..].to_lowercase());
        let engine = fleet.engine("host-a");
        assert_eq!(engine.state("app"), "exited", "it is not quiesced");
        let intruder = match taken {
            "port" => engine.docker(["run", "-d", "-p", "18080:8080", App::V1.image()]),
            _ => engine.docker(["create", "--name", &aside, IMAGE]),
        };
        fleet.start_controller(None);
        fleet.wait_connected("host-a");
        if taken == "port" {
            let refused = |upgrade: &serde_json::Value| upgrade["state"] == "rolling back";
            fleet.wait_newest("the new container to be refused its port", ("host-a", "app"), 60, refused);
            fleet.engine("host-a").docker(["rm", "-f", &intruder]);
        }
        let job = fleet.await_job(&id, 120);
        super::rolled_back(&job);
        figure!("a {taken} was taken: {}", job["error"]);
        let engine = fleet.engine("host-a");
        if taken == "name" {
            engine.docker(["rm", &intruder]);
        }
        upgrades::the_one_that_runs(engine, "app");
        upgrades::assert_same_container(&before, &engine.inspect("app"));
        data.assert_unchanged();
        upgrades::assert_no_traces(engine, "app", "app-data");
    }
}
