//! Small things an operator does every day.

use e2e::fleet::Fleet;
use e2e::require_engine;

#[test]
fn snapshots_are_forgotten_together_policies_are_suspended_and_jobs_have_an_event_log() {
    require_engine!();
    let fleet = Fleet::start(&["web-1"]);
    fleet.engine("web-1").docker(["volume", "create", "data"]);
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = fleet.json(&[
            "backup",
            "run",
            "--host",
            "web-1",
            "--volume",
            "data",
            "--allow-empty",
            "--max-downtime",
            "90s",
        ]);
        jobs.push(job["id"].as_str().unwrap().to_owned());
    }
    let log = fleet.json(&["job", "logs", &jobs[0]]);
    assert!(log.as_array().unwrap().len() > 1 && log[0]["at"].is_string(), "{log}");
    assert!(fleet.ok(&["job", "logs", &jobs[0]]).lines().count() > 1);

    // `@latest` is the same one for both, though one goes before the other.
    let said =
        fleet.cli(&["snapshot", "forget", "data@#1", "data@latest", "data@#3", "-o", "json"]).ends_with(0);
    assert_eq!(said.stderr.matches("holdfast snapshot undelete").count(), 2, "{}", said.stderr);
    let left = fleet.json(&["snapshot", "ls"]);
    assert_eq!((left.as_array().unwrap().len(), left[0]["number"].as_u64()), (1, Some(2)), "{left}");
    // One that is not there leaves the others alone.
    fleet.cli(&["snapshot", "forget", "data@#2", "data@#9"]).ends_with(5);
    assert_eq!(fleet.json(&["snapshot", "ls"]).as_array().unwrap().len(), 1);

    let file = fleet.dir().join("nightly.toml");
    let toml = "# ours\nname = \"nightly\"\nvolumes = [\"data\"]\n[schedule]\ncron = \"0 2 * * *\"\n";
    std::fs::write(&file, toml).unwrap();
    fleet.ok(&["apply", "-f", file.to_str().unwrap()]);
    let enabled = || fleet.json(&["policy", "ls"])[0]["enabled"].as_bool();
    assert_eq!(enabled(), Some(true));
    fleet.ok(&["policy", "disable", "nightly"]);
    assert_eq!(enabled(), Some(false));
    assert!(fleet.ok(&["policy", "show", "nightly"]).contains("# ours"));
    fleet.cli(&["policy", "disable", "nightly"]).ends_with(0).complains("disabled already");
    fleet.ok(&["policy", "enable", "nightly"]);
    assert_eq!(enabled(), Some(true));
    fleet.cli(&["policy", "enable", "nightl"]).ends_with(5).complains("did you mean `nightly`");

    let checked: serde_json::Value =
        serde_json::from_str(&fleet.repo("check", &["-o", "json"]).ends_with(0).stdout).unwrap();
    assert_eq!(checked["usable"], true, "{checked}");
    fleet.ok(&["host", "rm", "web-1"]);
    assert_eq!(fleet.json(&["host", "show", "web-1"])["retired"], true);
}
