//! Containers are at rest for the second pass only, and never stay so.

use e2e::fleet::Fleet;
use e2e::{figure, require_engine, wait};

fn running(fleet: &Fleet, container: &str) {
    wait::until(&format!("{container} to run"), 60, || {
        let state = fleet.engine("host-a").state(container);
        (state == "running").then_some(()).ok_or(state)
    });
}

/// Starts a backup of `data` and gives its job's id.
fn start(fleet: &Fleet, consistency: &str, more: &[&str]) -> String {
    let mut backup = vec!["backup", "run", "--host", "host-a", "--volume", "data", "--no-wait"];
    backup.extend(["--consistency", consistency]);
    backup.extend(more);
    fleet.json(&backup)[0]["id"].as_str().expect("a job").to_owned()
}

/// The writer's file grows: it does not only count as running.
fn writes(fleet: &Fleet) {
    let log = fleet.engine("host-a").volume_path("data").join("log");
    let length = || std::fs::metadata(&log).map(|meta| meta.len()).unwrap_or(0);
    let before = length();
    wait::until_true("the writer to write on", 20, || length() > before);
}

fn with_writer() -> Fleet {
    let fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    let data = fleet.engine("host-a").volume_path("data");
    for i in 0..300 {
        std::fs::write(data.join(format!("file-{i}")), vec![i as u8; 20_000]).unwrap();
    }
    fleet
}

#[test]
fn paused_and_stopped_for_the_second_pass_only() {
    require_engine!();
    let fleet = with_writer();
    for how in ["pause", "stop"] {
        let job = fleet.backup("host-a", "data", how);
        assert_eq!(job["state"], "succeeded", "{job}");
        let down = &job["quiesced"][0];
        assert_eq!(
            (down["container"].as_str(), down["resumed"].as_bool()),
            (Some("writer"), Some(true)),
            "{job}"
        );
        figure!("{how}: writer down {} ms of a job of {} ms", down["downtime_ms"], job["duration_ms"]);
        running(&fleet, "writer");
        writes(&fleet);
    }
}

#[test]
fn all_users_of_a_volume_rest_together() {
    require_engine!();
    let fleet = with_writer();
    fleet.engine("host-a").run_writer("second", "data");
    let job = fleet.backup("host-a", "data", "pause");
    assert_eq!(job["quiesced"].as_array().unwrap().len(), 2, "{job}");
    running(&fleet, "writer");
    running(&fleet, "second");
}

#[test]
fn what_was_not_running_is_not_started() {
    require_engine!();
    let fleet = with_writer();
    let engine = fleet.engine("host-a");
    engine.run_writer("idle", "data");
    engine.docker(["stop", "-t", "0", "idle"]);
    engine.run_writer("held", "data");
    engine.docker(["pause", "held"]);
    assert_eq!(fleet.backup("host-a", "data", "stop")["state"], "succeeded");
    running(&fleet, "writer");
    assert_eq!(engine.state("idle"), "exited");
    // It was paused by its owner: stopping it is ours to undo, its pause is not.
    let held = engine.state("held");
    assert!(held == "paused" || held == "running", "{held}");
    engine.docker(["rm", "-f", "held"]);
}

#[test]
fn d02_an_agent_killed_in_the_middle_starts_what_it_stopped() {
    require_engine!();
    let mut fleet = with_writer();
    for (how, point) in [
        ("pause", "agent.quiesce.after-pause"),
        ("stop", "agent.quiesce.after-stop"),
        ("stop", "agent.resume.before"),
    ] {
        fleet.host("host-a").agent().kill();
        fleet.host("host-a").start_agent(Some(point));
        fleet.wait_connected("host-a");
        let started = fleet.json(&[
            "backup",
            "run",
            "--host",
            "host-a",
            "--volume",
            "data",
            "--consistency",
            how,
            "--no-wait",
        ]);
        assert_eq!(started.as_array().unwrap().len(), 1);
        fleet.host("host-a").agent().wait(60);
        assert_ne!(
            fleet.engine("host-a").state("writer"),
            "running",
            "{point}: the agent died at another place"
        );
        fleet.host("host-a").start_agent(None);
        running(&fleet, "writer");
        writes(&fleet);
        fleet.wait_connected("host-a");
        fleet.wait_idle(120);
    }
}

#[test]
fn a_dead_agents_debt_is_paid_without_it() {
    require_engine!();
    let mut fleet = with_writer();
    fleet.host("host-a").agent().kill();
    fleet.host("host-a").start_agent(Some("agent.quiesce.after-stop"));
    fleet.wait_connected("host-a");
    fleet.json(&[
        "backup",
        "run",
        "--host",
        "host-a",
        "--volume",
        "data",
        "--consistency",
        "stop",
        "--no-wait",
    ]);
    fleet.host("host-a").agent().wait(60);
    let host = fleet.host("host-a");
    let mut resume = std::process::Command::new(e2e::binaries::path("holdfast-agent"));
    resume
        .arg("resume")
        .arg("--state-dir")
        .arg(host.state_dir())
        .arg("--docker-host")
        .arg(host.engine.host());
    e2e::process::run(&mut resume);
    assert_eq!(fleet.engine("host-a").state("writer"), "running");
}

#[test]
fn a_controller_killed_in_the_middle_leaves_nothing_at_rest() {
    require_engine!();
    let mut fleet = with_writer();
    for point in
        ["controller.pack.after-intent", "controller.pack.after-commit", "controller.commit.after-row"]
    {
        fleet.controller().kill();
        fleet.start_controller(Some(point));
        fleet.wait_connected("host-a");
        std::fs::write(fleet.engine("host-a").volume_path("data").join("new"), point.repeat(5000)).unwrap();
        fleet.cli(&[
            "backup",
            "run",
            "--host",
            "host-a",
            "--volume",
            "data",
            "--consistency",
            "pause",
            "--no-wait",
        ]);
        fleet.controller().wait(60);
        running(&fleet, "writer");
        fleet.start_controller(None);
        fleet.wait_connected("host-a");
        fleet.wait_idle(180);
        running(&fleet, "writer");
        writes(&fleet);
        fleet.repo("verify", &[]).ends_with(0);
    }
    let jobs = fleet.json(&["job", "ls"]);
    assert!(jobs.as_array().unwrap().iter().all(|job| job["state"] == "succeeded"), "{jobs}");
}

/// Two that stop one after the other: the first is at rest while the second
/// still writes, so that the pass at rest always finds something new.
const TWO: [&str; 2] = ["writer", "writer-2"];

fn with_two_writers(seconds_between: u32) -> Fleet {
    let fleet = with_writer();
    fleet.engine("host-a").run_deaf_writer("writer-2", "data", seconds_between);
    fleet
}

fn both_run(fleet: &Fleet) {
    TWO.iter().for_each(|name| running(fleet, name));
    writes(fleet);
}

/// Has the controller die at `point` while both writers are stopped, and gives
/// the job's id. How often the point is met before that depends on what the
/// first pass uploads, so later and later hits are tried.
fn die_at_rest(fleet: &mut Fleet, point: &str, more: &[&str]) -> String {
    let mut seen = Vec::new();
    for hit in 1..=6 {
        fleet.controller().kill();
        fleet.start_controller(Some(&format!("{point}:{hit}")));
        fleet.wait_connected("host-a");
        let id = start(fleet, "stop", more);
        fleet.controller().wait(60);
        // It stays so: the agent waits for the controller in the middle of a pass.
        let states = TWO.map(|name| fleet.engine("host-a").state(name));
        if states == ["exited", "exited"] {
            figure!("{point}: the controller died with the writers at rest at hit {hit}");
            return id;
        }
        seen.push(states);
        fleet.start_controller(None);
        fleet.wait_connected("host-a");
        fleet.wait_idle(180);
    }
    panic!("{point}: the controller never died with the writers at rest, but with them {seen:?}");
}

#[test]
fn a_controller_killed_while_containers_rest_finds_them_running_in_the_end() {
    require_engine!();
    let mut fleet = with_two_writers(2);
    for point in ["controller.pack.after-intent", "controller.pack.after-commit"] {
        let id = die_at_rest(&mut fleet, point, &[]);
        fleet.start_controller(None);
        both_run(&fleet);
        fleet.wait_connected("host-a");
        fleet.wait_idle(180);
        let job = fleet.json(&["job", "show", &id]);
        assert_eq!(job["state"], "succeeded", "{job}");
        let quiesced = job["quiesced"].as_array().unwrap();
        assert!(quiesced.len() == 2 && quiesced.iter().all(|down| down["resumed"] == true), "{job}");
        both_run(&fleet);
        fleet.repo("verify", &[]).ends_with(0);
    }
}

#[test]
fn containers_at_rest_do_not_wait_for_a_dead_controller_beyond_their_maximum_downtime() {
    require_engine!();
    let mut fleet = with_two_writers(2);
    let id = die_at_rest(&mut fleet, "controller.pack.after-intent", &["--max-downtime", "30"]);
    both_run(&fleet);
    assert!(!fleet.controller().is_running());
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    fleet.wait_idle(180);
    let job = fleet.json(&["job", "show", &id]);
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"max-downtime".into()), "{job}");
    assert_eq!(fleet.backup("host-a", "data", "pause")["state"], "succeeded");
}

#[test]
fn a_store_that_fails_while_containers_rest_keeps_none_beyond_its_maximum_downtime() {
    require_engine!();
    let fleet = with_two_writers(15);
    let engine = fleet.engine("host-a");
    let id = start(&fleet, "stop", &["--max-downtime", "45"]);
    wait::until_true("the writer to be stopped", 60, || engine.state("writer") == "exited");
    let packs = fleet.repository_dir().join("packs");
    std::fs::rename(&packs, fleet.dir().join("packs-away")).unwrap();
    std::fs::write(&packs, "in the way").unwrap();
    // So the pass at rest has not begun: it meets the store as it is now.
    assert_eq!(TWO.map(|name| engine.state(name)), ["exited", "running"]);
    wait::until_true("both to be at rest", 30, || TWO.map(|name| engine.state(name)) == ["exited"; 2]);
    both_run(&fleet);
    fleet.wait_idle(60);
    let job = fleet.json(&["job", "show", &id]);
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"max-downtime".into()), "{job}");
    let quiesced = job["quiesced"].as_array().unwrap();
    assert!(quiesced.len() == 2 && quiesced.iter().all(|down| down["resumed"] == true), "{job}");
    std::fs::remove_file(&packs).unwrap();
    std::fs::rename(fleet.dir().join("packs-away"), &packs).unwrap();
    assert_eq!(fleet.backup("host-a", "data", "pause")["state"], "succeeded");
    fleet.repo("verify", &[]).ends_with(0);
}

#[test]
fn a_backup_whose_store_fails_can_be_cancelled_and_leaves_nothing_at_rest() {
    require_engine!();
    let fleet = with_writer();
    // The repository's disk refuses: its folder is a file now.
    let packs = fleet.repository_dir().join("packs");
    let _ = std::fs::rename(&packs, fleet.dir().join("packs-away"));
    std::fs::write(&packs, "in the way").unwrap();
    let id = start(&fleet, "stop", &[]);
    wait::until("the job to be under way", 30, || {
        let job = fleet.json(&["job", "show", &id]);
        (job["state"] == "running").then_some(()).ok_or(job)
    });
    writes(&fleet);
    fleet.ok(&["job", "cancel", &id]);
    fleet.wait_idle(60);
    assert_eq!(fleet.json(&["job", "show", &id])["state"], "cancelled");
    running(&fleet, "writer");
    writes(&fleet);
}
