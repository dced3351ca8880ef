//! Containers looked at, run and removed from afar, and written down with the
//! snapshots of their data.

use std::path::Path;

use e2e::app_images::{self, App};
use e2e::fleet::{Fleet, Host};
use e2e::upgrades::{RIGHTS, run_app, the_one_that_runs};
use e2e::{docker, invariant, require_engine};
use holdfast_archive::snapshot::{ContainerFacts, decode_object};

/// Containers that the snapshot objects below a repository name.
fn written_down(directory: &Path) -> Vec<ContainerFacts> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(written_down(&path));
        } else {
            let (_, body) = decode_object(&std::fs::read(&path).unwrap()).unwrap();
            found.extend(body.containers);
        }
    }
    found
}

/// With its settings, its volume and its binds.
fn assert_runs_as_asked(fleet: &Fleet) {
    let engine = fleet.engine("host-a");
    let inspected = engine.inspect("web");
    assert_eq!(inspected["HostConfig"]["RestartPolicy"]["Name"], "unless-stopped");
    assert_eq!(inspected["HostConfig"]["Memory"], 64 << 20);
    let log = engine.volume_path("web_logs").join("log");
    e2e::wait::until_true("the bind to be read", 20, || {
        std::fs::read_to_string(&log).is_ok_and(|log| log == "hello")
    });
    let refused = engine.command(["exec", "web", "touch", "/pages/x"]).output().unwrap();
    assert!(!refused.status.success(), "a read-only bind was written to");
    let mounts = fleet.json(&["mount", "ls", "--host", "host-a", "web"]);
    assert_eq!(mounts[0]["mounts"].as_array().unwrap().len(), 3, "{mounts}");
}

/// The data's snapshot says what used it, without the secret.
fn assert_goes_with_its_snapshot(fleet: &Fleet) {
    assert_eq!(fleet.backup("host-a", "web_logs", "pause")["state"], "succeeded");
    let containers = written_down(&fleet.repository_dir().join("snapshots"));
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert_eq!((containers[0].name.as_str(), containers[0].image.as_str()), ("web", docker::IMAGE));
    assert!(containers[0].spec.contains("TOKEN"), "{containers:?}");
    invariant!("I12", !containers[0].spec.contains("hunter2"), "{containers:?}");
    let spec = fleet.ok(&["container", "spec", "web", "--host", "host-a"]);
    assert!(spec.contains("TOKEN=hunter2") && spec.contains("web_logs"), "{spec}");
}

/// The same at the host's own socket.
fn manage_at_socket(host: &Host) {
    host.cli(&["container", "stop", "web"]).ends_with(0);
    assert_eq!(host.engine.state("web"), "exited");
    host.cli(&["container", "start", "web"]).ends_with(0);
    host.cli(&["container", "rm", "web"]).complains("web");
    assert_eq!(host.engine.state("web"), "running");
    host.cli(&["container", "rm", "--force", "web"]).ends_with(0);
    assert!(host.engine.has_volume("web_logs"));
}

#[test]
fn a_container_is_run_from_afar_as_by_docker_and_goes_with_its_snapshots() {
    require_engine!();
    let mut fleet = Fleet::start_allowing(&RIGHTS, &["host-a"]);
    let allowed = fleet.host("host-a").allowed_dir();
    std::fs::write(allowed.join("page"), "hello").unwrap();
    let bind = format!("{}:/pages:ro", allowed.display());
    let on = ["--host", "host-a"];
    let run = [
        "container",
        "run",
        "-d",
        "--name",
        "web",
        "-v",
        "web_logs:/var/log/web",
        "-v",
        &bind,
        "--tmpfs",
        "/run:size=1m",
        "-e",
        "TOKEN=hunter2",
        "--label",
        "app=web",
        "--restart",
        "unless-stopped",
        "--memory",
        "64m",
        docker::IMAGE,
        "sh",
        "-c",
        "cat /pages/page > /var/log/web/log; touch /run/here; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    ];
    let (command, image_and_more) = run.split_at(2);
    fleet.ok(&[command, &on, image_and_more].concat());
    assert_runs_as_asked(&fleet);

    // A taken name and an image that is not there are refused, and make nothing.
    fleet.cli(&[command, &on, image_and_more].concat()).complains("web");
    let said = fleet.cli(&["container", "run", "--host", "host-a", "--name", "other", "no-such-image:1"]);
    assert_ne!(said.code, 0);
    assert!(said.stderr.contains("no-such-image:1"), "{}", said.stderr);
    assert_eq!(fleet.json(&["container", "ls", "--host", "host-a"]).as_array().unwrap().len(), 1);

    assert_goes_with_its_snapshot(&fleet);
    manage_at_socket(fleet.host("host-a"));
}

#[test]
fn what_a_host_does_not_allow_is_not_done_there() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    let said = fleet.cli(&["container", "run", "--host", "host-a", "--name", "web", docker::IMAGE]);
    said.ends_with(6).complains("container");
    assert!(fleet.json(&["container", "ls", "--host", "host-a"]).as_array().unwrap().is_empty());
}

#[test]
fn a_probe_decides_whether_a_new_container_stays() {
    require_engine!();
    let fleet = Fleet::start_allowing(&RIGHTS, &["host-a"]);
    let engine = fleet.engine("host-a");
    app_images::build(engine, &[App::V1, App::Migrates]);
    run_app(engine, "app", App::V1, &[]);
    let old = the_one_that_runs(engine, "app").id;
    for bad in [["--probe-http", "8080/nothing-there"], ["--probe-tcp", "9"], ["--probe-cmd", "exit 7"]] {
        // Each of these is waited out.
        let quick = [&bad[..], &["--health-timeout", "20s"]].concat();
        let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &quick);
        assert_eq!(job["upgrade"]["rolled_back"], true, "{bad:?}: {job}");
        assert!(job["error"].as_str().unwrap().contains("probe"), "{bad:?}: {job}");
        assert_eq!(the_one_that_runs(engine, "app").id, old);
    }
    let good = ["--probe-http", "8080/health"];
    let job = fleet.upgrade("host-a", "app", App::Migrates.image(), &good);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_ne!(the_one_that_runs(engine, "app").id, old);
}
