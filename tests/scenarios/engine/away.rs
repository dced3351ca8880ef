//! An Engine that cannot be asked, and what an agent may not read.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use e2e::fleet::{Fleet, Place};
use e2e::{require_engine, tree};
use serde_json::Value;

use super::{HOST, fill, problems, source};

const FIRES: [&str; 6] = ["job", "ls", "--policy", "often", "--limit", "500"];

/// A fleet whose agent obeys the permissions of files, as one does that is not
/// root where its files are.
fn obedient() -> Fleet {
    let mut fleet = Fleet::controller_only(Place::Directory);
    fleet.start_controller(None);
    let wrapper = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps=-all", "--"];
    fleet.add_host_under(HOST, &wrapper.map(str::to_owned));
    fleet
}

fn often(fleet: &Fleet, cron: &str) {
    let file = fleet.dir().join("often.toml");
    let toml = format!("name = \"often\"\nvolumes = [\"data\"]\n[schedule]\ncron = \"{cron}\"\n");
    std::fs::write(&file, toml).unwrap();
    let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
    // 3 while the controller has not yet looked at the host's volumes again.
    assert!(matches!(said.code, 0 | 3), "{}{}", said.stdout, said.stderr);
}

/// Waits for a job that is fired from now on, but for those that are left out
/// because the last one still runs, and gives it when it has ended.
fn next_fire(fleet: &Fleet, what: &str) -> Value {
    let ids = |jobs: &Value| -> Vec<Value> {
        jobs.as_array().into_iter().flatten().map(|job| job["id"].clone()).collect()
    };
    let before = ids(&fleet.json(&FIRES));
    let next = |jobs: &Value| {
        let mut jobs = jobs.as_array().into_iter().flatten();
        let ended = |job: &Value| job["state"] != "queued" && job["state"] != "running";
        jobs.find(|job| !before.contains(&job["id"]) && job["error_code"] != "overlap" && ended(job)).cloned()
    };
    let jobs = fleet.wait_json(what, 120, &FIRES, |jobs| next(jobs).is_some());
    next(&jobs).expect("it was found")
}

/// A run has failed for that reason, the host is told of, and its agent stays.
#[track_caller]
fn is_told(fleet: &Fleet, code: &str, words: &str) {
    let job = next_fire(fleet, "a time that comes meanwhile");
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &code.into()), "{job}");
    assert!(job["error"].as_str().unwrap().contains(words), "{job}");
    let problem = |status: &Value| -> Option<Value> {
        let problems = status["problems"].as_array()?;
        problems.iter().find(|problem| problem["kind"] == "engine-unreachable").cloned()
    };
    let status = e2e::wait::until("the host's Engine to be told of", 60, || {
        let said = fleet.cli(&["status", "-o", "json"]);
        let status: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        if said.code == 3 { problem(&status).ok_or(status) } else { Err(status) }
    });
    assert!(status["message"].as_str().unwrap().contains("docker.sock"), "{status}");
    let host = fleet.json(&["host", "show", HOST]);
    assert_eq!(host["connected"], true, "{host}");
}

#[track_caller]
fn is_well(fleet: &Fleet) {
    let job = next_fire(fleet, "a time that comes after that");
    assert_eq!(job["state"], "succeeded", "{job}");
    fleet.wait_json("the host to be well", 60, &["host", "show", HOST], |host| {
        host["connected"] == true && host["engine_problem"] == ""
    });
}

#[test]
fn d09_a_time_that_comes_while_the_engine_cannot_be_asked_is_a_failed_run() {
    require_engine!();
    let mut fleet = obedient();
    fill(fleet.engine(HOST), "data", "echo text > /data/file");
    often(&fleet, "*/3 * * * * *");
    is_well(&fleet);

    fleet.host(HOST).engine.crash();
    is_told(&fleet, "engine-unreachable", "docker.sock");
    fleet.host(HOST).engine.start_again();
    is_well(&fleet);

    let socket = fleet.engine(HOST).dir().join("docker.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions();
    std::fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    is_told(&fleet, "engine-permission", "may not open the Docker Engine's socket");
    std::fs::set_permissions(&socket, mode).unwrap();
    is_well(&fleet);
    often(&fleet, "0 0 1 1 *");
    fleet.wait_idle(60);
    fleet.assert_whole();
}

#[test]
fn a26_what_the_agent_may_not_read_is_told_by_path_and_by_the_exit_code() {
    require_engine!();
    let mut fleet = obedient();
    let engine = fleet.engine(HOST);
    fill(
        engine,
        "data",
        "cd /data; echo x > open; mkdir dir closed; echo y > dir/theirs; echo z > closed/inside
         chown -R 55:55 dir/theirs closed; chmod 0600 dir/theirs; chmod 0700 closed",
    );
    let backup = ["backup", "run", "--host", HOST, "--volume", "data", "--consistency", "none"];
    for run in 1..=2 {
        let said = fleet.cli(&backup).ends_with(3);
        assert!((said.stdout.clone() + &said.stderr).contains("2 unreadable"), "{said:?}");
        let jobs = fleet.json(&["job", "ls"]);
        let job = fleet.job(jobs[0]["id"].as_str().unwrap());
        assert_eq!(job["state"], "partial", "{job}");
        let told = problems(source(&job, "data"));
        for path in ["dir/theirs", "closed"] {
            assert!(told.contains(&format!("{path} cannot be read: ")), "run {run}: {told}");
        }
        let shown = fleet.json(&["snapshot", "show", "data@latest"]);
        assert_eq!((&shown["partial"], &shown["stats"]["unreadable_entries"]), (&true.into(), &2.into()));
    }
    // With nothing in the way it ends with 0.
    let data = engine.volume_path("data");
    std::fs::remove_dir_all(data.join("closed")).unwrap();
    std::fs::remove_file(data.join("dir/theirs")).unwrap();
    fleet.cli(&backup).ends_with(0);

    // By an agent that may write everything: what could be read is there.
    fleet.host(HOST).agent().kill();
    fleet.host(HOST).start_agent(None);
    fleet.wait_connected(HOST);
    // What is left out is a reason for a look, as everywhere.
    for (snapshot, name, code) in [("data@#2", "again", 3), ("data@latest", "whole", 0)] {
        fleet.cli(&["restore", "volume", snapshot, "--host", HOST, "--as", name]).ends_with(code);
    }
    let engine = fleet.engine(HOST);
    let again = engine.volume_path("again");
    assert_eq!(std::fs::read_to_string(again.join("open")).unwrap(), "x\n");
    assert!(!again.join("dir/theirs").exists() && again.join("closed").is_dir());
    tree::assert_equal(&data, &engine.volume_path("whole"));
}
