//! A volume driver that dies.

use std::process::Command;

use e2e::docker::Engine;
use e2e::fleet::{Fleet, Place};
use e2e::process::Process;
use e2e::{require_engine, tree, wait};
use serde_json::Value;

use super::{HOST, fill, source};
use crate::contained::DRIVER;

fn driver(engine: &Engine) -> Process {
    let (socket, root) = (engine.plugins().join("shelf.sock"), engine.dir().join("shelf"));
    let _ = std::fs::remove_file(&socket);
    std::fs::create_dir_all(&root).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", DRIVER]).arg(&socket).arg(root).arg("always-there");
    let process = Process::start("volume driver", &command, &engine.dir().join("shelf.log"));
    wait::until_true("the volume driver", 30, || socket.exists());
    process
}

/// Runs the policy: how it ended, and the job.
fn run(fleet: &Fleet) -> (i32, Value) {
    let said = fleet.cli(&["backup", "run", "all", "-o", "json"]);
    let job = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (said.code, job)
}

#[test]
fn d07_a_volume_driver_that_dies_costs_no_other_volume_its_backup_and_is_named() {
    require_engine!();
    let mut fleet = Fleet::controller_only(Place::Directory);
    fleet.start_controller(None);
    fleet.add_host_on(HOST, Engine::start_with_plugins());
    let engine = fleet.engine(HOST);
    let mut process = driver(engine);
    engine.docker(["volume", "create", "--driver", "shelf", "elsewhere"]);
    fill(engine, "local", "echo text > /data/file");
    let file = fleet.dir().join("all.toml");
    std::fs::write(&file, "name = \"all\"\nvolumes = [\"*\"]\n[schedule]\ncron = \"0 2 * * *\"\n").unwrap();
    fleet.cli(&["apply", "-f", &file.display().to_string()]);

    std::fs::write(engine.dir().join("shelf/elsewhere/precious"), "data").unwrap();

    // Read through a holder, and let go again.
    let (code, job) = run(&fleet);
    assert_eq!((code, &job["state"]), (0, &"succeeded".into()), "{job}");
    fleet.ok(&["restore", "volume", "elsewhere@latest", "--host", HOST, "--as", "copy"]);
    let copied = std::fs::read_to_string(engine.volume_path("copy").join("precious"));
    assert_eq!(copied.unwrap(), "data");
    engine.docker(["volume", "rm", "copy"]);
    assert!(engine.docker(["ps", "-aq"]).is_empty(), "a holder was left");

    process.kill();
    let (code, job) = run(&fleet);
    assert_eq!(source(&job, "local")["ok"], true, "{job}");
    let dead = source(&job, "elsewhere");
    assert_eq!(
        (code, &job["state"], &dead["error_code"]),
        (1, &"failed".into(), &"engine-failed".into()),
        "{job}"
    );
    let error = dead["error"].as_str().unwrap();
    assert!(
        error.contains("in driver \"shelf\"") && error.contains("start it again on this host"),
        "{error}"
    );
    assert_eq!(super::snapshots(&fleet, "elsewhere"), 1);

    // Once the driver is back, so is everything.
    let _process = driver(engine);
    let (code, job) = run(&fleet);
    assert_eq!((code, &job["state"]), (0, &"succeeded".into()), "{job}");
    let engine = fleet.engine(HOST);
    fleet.ok(&["restore", "volume", "local@latest", "--host", HOST, "--as", "back"]);
    tree::assert_equal(&engine.volume_path("local"), &engine.volume_path("back"));
    fleet.assert_whole();
}
