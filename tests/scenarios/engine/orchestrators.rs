//! Others start what a backup has quiesced: compose, Swarm, a restart
//! policy.

use std::process::Command;

use e2e::command::run;
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::{record, require_engine, wait};
use serde_json::Value;

use super::{HOST, halt_at, problems, quiesced_container, source, start};

const PROJECT: &str = r#"
version: "3"
services:
  db:
    image: holdfast-test/base:1
    command: ["sh", "-c", "trap 'exit 0' TERM; while true; do echo row >> /data/rows; sleep 0.1; done"]
    volumes: ["rows:/data"]
volumes:
  rows: {}
"#;

const DB: &str = "shop_db_1";

fn compose(engine: &Engine, args: &[&str]) -> String {
    let dir = engine.dir().join("shop");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("docker-compose.yml"), PROJECT).unwrap();
    run(Command::new("docker-compose").args(args).current_dir(dir).env("DOCKER_HOST", engine.host()))
}

fn begun(engine: &Engine, container: &str) -> Value {
    engine.inspect(container)["State"]["StartedAt"].clone()
}

#[test]
fn d14_what_compose_starts_meanwhile_runs_on_and_makes_the_snapshot_partial() {
    require_engine!();
    if Command::new("docker-compose").arg("version").output().is_err() {
        record::skipped("`docker-compose` is not installed");
        return;
    }
    let mut fleet = Fleet::start(&[HOST]);
    compose(fleet.engine(HOST), &["up", "-d"]);
    // Stopped, and started while all is read; and the same with a pause.
    for (how, point, rests, command) in [
        ("stop", "agent.quiesce.after-stop", "exited", &["up", "-d"][..]),
        ("pause", "agent.quiesce.after-pause", "paused", &["unpause"][..]),
    ] {
        halt_at(&mut fleet, point);
        let id = start(&fleet, &["shop_rows"], how);
        fleet.host(HOST).agent().wait_halted(60);
        assert_eq!(fleet.engine(HOST).state(DB), rests);
        compose(fleet.engine(HOST), command);
        let by_compose = begun(fleet.engine(HOST), DB);
        fleet.host(HOST).agent().run_on();
        let job = fleet.await_job(&id, 120);
        assert_eq!(job["state"], "partial", "{how}: {job}");
        let told = problems(source(&job, "shop_rows"));
        assert!(told.contains(&format!("container `{DB}` ran while its data was read")), "{how}: {job}");
        assert_eq!(quiesced_container(&job, DB)["resumed"], true, "{how}: {job}");
        assert_eq!(fleet.json(&["snapshot", "show", "shop_rows@latest"])["partial"], true, "{how}");
        fleet.cli(&["job", "watch", &id]).ends_with(3);
        let engine = fleet.engine(HOST);
        engine.wait_state(DB, "running", 30);
        assert_eq!(begun(engine, DB), by_compose, "{how}: it was started once more");
        // Left alone it is complete.
        assert_eq!(fleet.backup(HOST, "shop_rows", how)["state"], "succeeded", "{how}");
        engine.wait_state(DB, "running", 30);
    }
    compose(fleet.engine(HOST), &["down"]);
    fleet.assert_whole();
}

/// No restart policy takes up what was stopped on purpose, until the Engine
/// itself restarts.
#[test]
fn d14_no_restart_policy_starts_what_is_stopped_for_a_backup() {
    require_engine!();
    let mut fleet = Fleet::start(&[HOST]);
    let policies = ["always", "unless-stopped", "on-failure"];
    for policy in policies {
        // Killed, it ends with a code that is a failure.
        let run = ["run", "-d", "--name", policy, "--restart", policy, "--stop-signal", "KILL"];
        let engine = fleet.engine(HOST);
        engine.docker(run.into_iter().chain(["-v", "data:/data", IMAGE, "sleep", "100000"]));
    }
    halt_at(&mut fleet, "agent.capture.second-pass-done");
    let id = start(&fleet, &["data"], "stop");
    fleet.host(HOST).agent().wait_halted(60);
    let states = policies.map(|name| fleet.engine(HOST).state(name));
    assert_eq!(states, ["exited"; 3]);
    fleet.host(HOST).agent().run_on();
    let job = fleet.await_job(&id, 120);
    assert_eq!(job["state"], "succeeded", "{job}");
    for name in policies {
        let engine = fleet.engine(HOST);
        engine.wait_state(name, "running", 30);
        let inspect = engine.inspect(name);
        assert_eq!(inspect["RestartCount"], 0, "{name}");
        assert_eq!(inspect["HostConfig"]["RestartPolicy"]["Name"], name);
    }
}

/// The containers of a service, running or not.
fn tasks(engine: &Engine) -> Result<Vec<String>, String> {
    let list =
        ["ps", "-a", "--filter", "label=com.docker.swarm.service.name=db", "--format", "{{.ID}} {{.State}}"];
    Ok(engine.try_docker(list)?.lines().map(str::to_owned).collect())
}

/// Swarm starts another task as soon as one has stopped, so the first one's
/// start afterwards would be a second writer.
#[test]
fn d14_a_task_of_swarm_is_not_stopped_and_never_becomes_two() {
    require_engine!();
    let fleet = Fleet::start(&[HOST]);
    let engine = fleet.engine(HOST);
    if let Err(failure) = engine.try_docker(["swarm", "init", "--advertise-addr", "127.0.0.1"]) {
        record::skipped(&format!("Docker Swarm cannot be had: {failure}"));
        return;
    }
    let script = "trap 'exit 0' TERM; while true; do echo row >> /data/rows; sleep 0.1; done";
    let service = ["service", "create", "-d", "--name", "db", "--no-resolve-image", "--restart-delay", "0s"];
    let mount = ["--mount", "type=volume,source=data,target=/data", IMAGE, "sh", "-c", script];
    engine.docker(service.into_iter().chain(mount));
    let one_runs = |tasks: &Vec<String>| tasks.len() == 1 && tasks[0].ends_with(" running");
    let task = wait::until_is("the service's task", 60, || tasks(engine), one_runs);
    engine.run_writer("plain", "other");

    let volumes = ["--volume", "data", "--volume", "other"];
    let backup =
        [&["backup", "run", "--host", HOST, "-o", "json", "--consistency", "stop"][..], &volumes].concat();
    let said = fleet.cli(&backup).ends_with(1);
    let job: Value = serde_json::from_str(&said.stdout).unwrap();
    let refused = source(&job, "data");
    assert_eq!(
        (&job["state"], &refused["error_code"]),
        (&"failed".into(), &"would-be-replaced".into()),
        "{job}"
    );
    assert!(refused["error"].as_str().unwrap().contains("use `pause`"), "{job}");
    assert_eq!(source(&job, "other")["ok"], true, "{job}");
    assert_eq!(tasks(engine).unwrap(), task, "Swarm had to do something");

    assert_eq!(fleet.backup(HOST, "data", "pause")["state"], "succeeded");
    wait::until_is("the task to run on", 30, || tasks(engine), |tasks| *tasks == task);
    engine.docker(["service", "rm", "db"]);
    engine.docker(["swarm", "leave", "--force"]);
}
