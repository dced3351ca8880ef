//! Absence is not success: what was there and is not makes no run green and is
//! named, with the next command, until somebody gives it up on purpose.

use std::process::Command;

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::{binaries, command, require_engine, wait};
use serde_json::Value;

/// Applies a policy that fires once a night.
fn policy(fleet: &Fleet, name: &str, host: &str, volumes: &str) {
    let file = fleet.dir().join(format!("{name}.toml"));
    let toml = format!(
        "name = \"{name}\"\nhosts = [\"{host}\"]\nvolumes = [{volumes}]\n[schedule]\ncron = \"0 2 * * *\"\n"
    );
    std::fs::write(&file, toml).unwrap();
    // 3: what it names is not there, or was not looked for yet.
    let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
    assert!(matches!(said.code, 0 | 3), "{}{}", said.stdout, said.stderr);
}

fn fill(fleet: &Fleet, host: &str, volume: &str, script: &str) {
    let mount = format!("{volume}:/data");
    fleet.engine(host).docker(["run", "--rm", "-v", &mount, IMAGE, "sh", "-c", script]);
}

/// Runs a policy now: how the command ended, and the job.
fn run(fleet: &Fleet, policy: &str) -> (i32, Value) {
    let said = fleet.cli(&["backup", "run", policy, "-o", "json"]);
    let job = serde_json::from_str(&said.stdout)
        .unwrap_or_else(|error| panic!("{error}:\n{}{}", said.stdout, said.stderr));
    (said.code, job)
}

/// Exit code and what `status` gives.
fn status(fleet: &Fleet) -> (i32, Value) {
    let said = fleet.cli(&["status", "-o", "json"]);
    (said.code, serde_json::from_str(&said.stdout).unwrap_or_default())
}

/// Waits until nothing needs attention, and gives the sentence that says so.
fn wait_green(fleet: &Fleet) -> String {
    wait::until("nothing to need attention", 90, || {
        let said = fleet.cli(&["status", "--problems"]);
        if said.code == 0 { Ok(said.stdout) } else { Err(said) }
    })
}

/// Waits for a problem of a source or host; gives its hint.
fn wait_named(fleet: &Fleet, kind: &str, host: &str, source: &str) -> String {
    wait::until(&format!("{kind} of {host}/{source}"), 90, || {
        let (code, status) = status(fleet);
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let found = problems.iter().find(|problem| {
            problem["kind"] == kind && problem["host"] == host && problem["source"] == source
        });
        match found {
            Some(problem) if code == 3 => Ok(problem["hint"].as_str().unwrap().to_owned()),
            _ => Err(status),
        }
    })
}

/// All are gone: as if the data disk were not mounted.
fn lose_all(fleet: &Fleet) {
    fleet.engine("host-a").docker(["volume", "rm", "db_a", "db_b"]);
    let (code, job) = run(fleet, "nightly");
    assert_eq!((code, &job["state"], &job["error_code"]), (1, &"failed".into(), &"source-missing".into()));
    assert!(job["error"].as_str().unwrap().contains("2 sources missing: db_a, db_b"), "{job}");
    let log = fleet.cli(&["job", "watch", job["id"].as_str().unwrap()]);
    for name in ["db_a", "db_b"] {
        let line = format!("volume `{name}` is MISSING: it is gone from the host since");
        assert!(log.stderr.contains(&line), "{}", log.stderr);
        let hint = wait_named(fleet, "vanished-source", "host-a", name);
        assert!(hint.ends_with(&format!("holdfast source retire host-a/{name}")), "{hint}");
    }
    let (_, seen) = status(fleet);
    let host = seen["hosts"].as_array().unwrap().iter().find(|host| host["host"] == "host-a").unwrap();
    assert_eq!((&host["sources"], &host["missing"]), (&0.into(), &2.into()), "{host}");
    assert!(host["last_backup"].is_string(), "{host}");
}

/// One is given up on purpose; what is there cannot be.
fn give_one_up(fleet: &Fleet) {
    fleet.cli(&["source", "retire", "host-a/db_a"]).ends_with(1).complains("only one that is gone");
    fleet.cli(&["source", "retire", "host-a/db_c"]).ends_with(5).complains("did you mean `db_");
    let said = fleet.ok(&["source", "retire", "host-a/db_b"]);
    assert!(said.contains("not missed any more; 1 snapshot of it, kept"), "{said}");
    wait_green(fleet);
    assert_eq!(run(fleet, "nightly").0, 0);
    fleet.ok(&["restore", "volume", "host-a/db_b@latest", "--host", "host-b", "--as", "back_b"]);
    let restored = fleet.engine("host-b").volume_path("back_b").join("file");
    assert_eq!(std::fs::read_to_string(restored).unwrap(), "two\n");
}

/// What is kept restores, by the hint's own words. Then one is there again, and
/// the other is not.
fn bring_one_back(fleet: &Fleet) {
    fleet.ok(&["restore", "volume", "host-a/db_a@latest", "--host", "host-a", "--as", "db_a"]);
    let restored = fleet.engine("host-a").volume_path("db_a").join("file");
    assert_eq!(std::fs::read_to_string(restored).unwrap(), "one\n");

    let (code, job) = run(fleet, "nightly");
    assert_eq!((code, &job["state"], &job["error_code"]), (3, &"partial".into(), &"source-missing".into()));
    assert!(job["error"].as_str().unwrap().contains("1 source missing: db_b"), "{job}");
    assert_eq!(job["sources"][0]["ok"], true, "{job}");
}

/// A host that is given up takes its alarms with it, and leaves its snapshots.
fn give_host_up(fleet: &Fleet) {
    let said = fleet.ok(&["host", "retire", "host-a"]);
    assert!(said.contains("not missed any more"), "{said}");
    fleet.ok(&["policy", "rm", "nightly"]);
    assert!(wait_green(fleet).contains("on 1 host"));
    fleet.ok(&["restore", "volume", "host-a/db_a@latest", "--host", "host-b", "--as", "back_a"]);
}

#[test]
fn h06_volumes_that_vanished_are_missed_until_they_are_retired() {
    require_engine!();
    let fleet = Fleet::start(&["host-a", "host-b"]);
    fill(&fleet, "host-a", "db_a", "echo one > /data/file");
    fill(&fleet, "host-a", "db_b", "echo two > /data/file");
    policy(&fleet, "nightly", "host-a", "\"db_*\"");
    policy(&fleet, "rest", "host-b", "\"*\"");
    assert_eq!(run(&fleet, "nightly").0, 0);
    fill(&fleet, "host-b", "other", "echo three > /data/file");
    assert_eq!(run(&fleet, "rest").0, 0);
    assert!(wait_green(&fleet).contains("everything is protected: 3 sources on 2 hosts"));

    lose_all(&fleet);

    bring_one_back(&fleet);
    give_one_up(&fleet);

    // There again, it counts again.
    fill(&fleet, "host-a", "db_b", "echo two > /data/file");
    assert_eq!(run(&fleet, "nightly").0, 0);
    fleet.engine("host-a").docker(["volume", "rm", "db_b"]);
    wait_named(&fleet, "vanished-source", "host-a", "db_b");

    give_host_up(&fleet);
}

#[test]
fn h06_what_is_named_announced_bound_or_was_larger_is_missed() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fill(&fleet, "host-a", "data", "for i in $(seq 40); do echo $i > /data/$i; done");
    let bound = fleet.host("host-a").allowed_dir().join("site");
    std::fs::create_dir_all(&bound).unwrap();
    let bound = bound.display().to_string();
    let mount = format!("{bound}:/site");
    fleet.engine("host-a").docker(["run", "-d", "--name", "web", "-v", &mount, IMAGE, "sleep", "1000"]);

    // A volume that the policy names, and a bind mount that none covers.
    policy(&fleet, "nightly", "host-a", "\"data\", \"logs\"");
    let (code, job) = run(&fleet, "nightly");
    assert_eq!((code, &job["state"], &job["error_code"]), (3, &"partial".into(), &"source-missing".into()));
    assert!(job["error"].as_str().unwrap().contains("1 source missing: logs"), "{job}");
    wait_named(&fleet, "missing-volume", "host-a", "logs");
    wait_named(&fleet, "unprotected-bind", "host-a", &bound);
    policy(&fleet, "nightly", "host-a", "\"data\"");
    fleet.ok(&["source", "retire", &format!("host-a/{bound}")]);
    assert_eq!(run(&fleet, "nightly").0, 0);
    assert!(wait_green(&fleet).contains("everything is protected: 1 source on 1 host"));

    // Hosts that were announced: one never joined, one joined and never came.
    fleet.token("host-y");
    let token = fleet.dir().join("host-z.token");
    e2e::secret::write(&token, fleet.token("host-z"));
    let mut join = Command::new(binaries::path("holdfast-agent"));
    join.arg("join").arg(&token).arg("--state-dir").arg(fleet.dir().join("host-z"));
    command::run(&mut join);
    let hint = wait_named(&fleet, "awaited-host", "host-y", "");
    assert!(hint.ends_with("holdfast host retire host-y"), "{hint}");
    wait_named(&fleet, "silent-host", "host-z", "");
    fleet.cli(&["host", "retire", "host-x"]).ends_with(5).complains("did you mean");
    fleet.ok(&["host", "retire", "host-y"]);
    fleet.ok(&["host", "retire", "host-z"]);
    wait_green(&fleet);

    // Less than a tenth is left.
    fill(&fleet, "host-a", "data", "rm /data/?? /data/[2-9]");
    let (code, job) = run(&fleet, "nightly");
    assert_eq!((code, &job["state"], &job["error_code"]), (3, &"partial".into(), &"source-shrunk".into()));
    let shown = fleet.json(&["snapshot", "show", "data@latest"]).to_string();
    assert!(shown.contains("less than a tenth is left"), "{shown}");
    // A night later the run is as the last one was; the alarm is still there.
    assert_eq!(run(&fleet, "nightly").0, 0);
    let hint = wait_named(&fleet, "shrunk-source", "host-a", "data");
    assert!(hint.ends_with("holdfast backup run --host host-a --volume data --allow-empty"), "{hint}");
    fleet.ok(&["backup", "run", "--host", "host-a", "--volume", "data", "--allow-empty"]);
    wait_green(&fleet);
}
