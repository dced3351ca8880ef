//! `holdfast demo` and `holdfast dev`, as somebody new runs them.

use std::process::Command;

use e2e::docker::Engine;
use e2e::process::Process;
use e2e::{binaries, require_engine, wait};

fn left_behind(engine: &Engine) -> String {
    let list = |args: &[&str]| engine.docker(args.iter().copied());
    [
        list(&["ps", "-aq"]),
        list(&["volume", "ls", "-q"]),
        list(&["image", "ls", "-q", "--filter", "reference=holdfast-demo*"]),
    ]
    .concat()
}

#[test]
fn the_demo_walks_through_and_leaves_nothing() {
    require_engine!();
    let engine = Engine::start();
    let tmp = engine.dir().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let output = Command::new(binaries::path("holdfast"))
        .args(["demo", "--docker-host", &engine.host()])
        .env("TMPDIR", &tmp)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    for step in [
        "controller up",
        "host enrolled",
        "policy fired",
        "snapshot 1",
        "snapshot 2",
        "disaster",
        "restored",
        "compared",
    ] {
        assert!(said.contains(step), "`{step}` is missing:\n{said}");
    }
    println!("{said}");
    assert_eq!(left_behind(&engine), "");
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn dev_stays_up_says_how_to_talk_to_it_and_goes_cleanly() {
    require_engine!();
    let engine = Engine::start();
    let state = engine.dir().join("dev");
    let mut command = Command::new(binaries::path("holdfast"));
    command.args(["dev", "--docker-host", &engine.host(), "-o", "json", "--state-dir"]).arg(&state);
    let mut dev = Process::start("holdfast dev", &command, &engine.dir().join("dev.log"));
    let told: serde_json::Value =
        wait::until("dev to be up", 60, || serde_json::from_str(&dev.output()).map_err(|_| dev.output()));
    let output = Command::new(binaries::path("holdfast"))
        .args(["host", "ls", "-o", "json"])
        .env("HOLDFAST_CONTROLLER", told["controller"].as_str().unwrap())
        .env("HOLDFAST_CA_FILE", told["ca_file"].as_str().unwrap())
        .env("HOLDFAST_TOKEN_FILE", told["token_file"].as_str().unwrap())
        .output()
        .unwrap();
    let hosts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((hosts[0]["name"].as_str(), hosts[0]["connected"].as_bool()), (Some("dev-host"), Some(true)));
    dev.stop(30);
    let gone = |name: &str| {
        let found = Command::new("pgrep")
            .args(["-f", &format!("{name} run --state-dir {}", state.display())])
            .output();
        found.is_ok_and(|output| output.stdout.is_empty())
    };
    wait::until_true("both to be gone", 20, || gone("holdfast-controller") && gone("holdfast-agent"));
}
