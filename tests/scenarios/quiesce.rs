//! Containers are quiesced for the second pass only, and never stay so.

use std::os::unix::process::ExitStatusExt as _;

use chrono::{DateTime, Utc};
use e2e::fleet::Fleet;
use e2e::kills::{self, AGENT, Kill, Victim, each};
use e2e::{figure, require_engine, wait};
use serde_json::Value;

fn running(fleet: &Fleet, container: &str) {
    fleet.engine("host-a").wait_state(container, "running", 60);
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

/// Has the agent stand still once the backup comes to a place.
fn halt_at(fleet: &mut Fleet, point: &str) {
    fleet.arm(AGENT, &format!("halt {point}"));
}

#[track_caller]
fn ends_well(fleet: &Fleet, id: &str) -> Value {
    let job = fleet.await_job(id, 120);
    assert_eq!(job["state"], "succeeded", "{job}");
    let down = &job["quiesced"][0];
    assert_eq!((&down["container"], &down["resumed"]), (&"writer".into(), &true.into()), "{job}");
    running(fleet, "writer");
    writes(fleet);
    job
}

/// When the Engine says that the container ended last, and began.
fn ended_and_begun(fleet: &Fleet) -> [DateTime<Utc>; 2] {
    let state = &fleet.engine("host-a").inspect("writer")["State"];
    ["FinishedAt", "StartedAt"].map(|when| state[when].as_str().unwrap().parse().unwrap())
}

#[test]
fn paused_and_stopped_for_the_second_pass_only() {
    require_engine!();
    let mut fleet = with_writer();
    for (how, quiesced) in [("pause", "paused"), ("stop", "exited")] {
        // Everything was read once, and the writer still writes.
        halt_at(&mut fleet, "agent.capture.first-pass-done");
        let id = start(&fleet, how, &[]);
        fleet.host("host-a").agent().wait_halted(60);
        assert_eq!(fleet.engine("host-a").state("writer"), "running", "{how}");
        writes(&fleet);
        let first_pass_over = Utc::now();
        fleet.host("host-a").agent().run_on();
        let job = ends_well(&fleet, &id);
        let down = job["quiesced"][0]["downtime_ms"].as_i64().unwrap();
        figure!("{how}: writer down {down} ms of a job of {} ms", job["duration_ms"]);
        if how == "stop" {
            let [ended, begun] = ended_and_begun(&fleet);
            assert!(
                ended > first_pass_over,
                "stopped at {ended}, the first pass was over at {first_pass_over}"
            );
            let outside = (begun - ended).num_milliseconds();
            assert!(down >= outside, "{down} ms are told of {outside} ms by the Engine's clock");
        }

        // It stays quiesced until all was read again.
        halt_at(&mut fleet, "agent.capture.second-pass-done");
        let id = start(&fleet, how, &[]);
        fleet.host("host-a").agent().wait_halted(60);
        assert_eq!(fleet.engine("host-a").state("writer"), quiesced, "{how}");
        fleet.host("host-a").agent().run_on();
        ends_well(&fleet, &id);
    }
}

#[test]
fn all_users_of_a_volume_are_quiesced_together() {
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
    // What its owner stopped or paused does not write: it is left alone.
    let before = ["idle", "held"].map(|name| engine.inspect(name)["State"].clone());
    assert_eq!((&before[0]["Status"], &before[1]["Status"]), (&"exited".into(), &"paused".into()));
    for how in ["pause", "stop"] {
        let job = fleet.backup("host-a", "data", how);
        assert_eq!(job["state"], "succeeded", "{job}");
        let touched: Vec<&Value> =
            job["quiesced"].as_array().unwrap().iter().map(|down| &down["container"]).collect();
        assert_eq!(touched, ["writer"], "{job}");
        running(&fleet, "writer");
        assert_eq!(["idle", "held"].map(|name| engine.inspect(name)["State"].clone()), before, "{how}");
    }
    engine.docker(["rm", "-f", "held"]);
}

/// A host with a writer, and how it is quiesced.
struct Killing(Fleet);

impl kills::Matrix for Killing {
    type Act = &'static str;

    fn fleet(&mut self) -> &mut Fleet {
        &mut self.0
    }

    fn begin(&mut self, kill: &Kill<&'static str>) {
        let new = self.0.engine("host-a").volume_path("data").join("new");
        std::fs::write(new, kill.point.repeat(5000)).unwrap();
        let what = ["backup", "run", "--host", "host-a", "--volume", "data", "--no-wait", "--consistency"];
        self.0.cli(&[&what[..], &[kill.act]].concat());
    }

    fn inspect(&mut self, kill: &Kill<&'static str>) {
        match kill.victim {
            Victim::Agent(_) => {
                let state = self.0.engine("host-a").state("writer");
                assert_ne!(state, "running", "{}: the agent died at another place", kill.point);
            }
            // Its agent lives, and needs nobody to resume what it has quiesced.
            Victim::Controller => running(&self.0, "writer"),
        }
    }

    fn settle(&mut self, _kill: &Kill<&'static str>) {
        running(&self.0, "writer");
        writes(&self.0);
        self.0.wait_connected("host-a");
        self.0.wait_idle(180);
        running(&self.0, "writer");
        self.0.assert_whole();
    }
}

#[test]
fn d02_an_agent_killed_in_the_middle_starts_what_it_stopped() {
    require_engine!();
    let mut scene = Killing(with_writer());
    let stopped = ["agent.quiesce.after-stop", "agent.resume.before"];
    kills::run(
        &mut scene,
        each(AGENT, ["agent.quiesce.after-pause"], "pause").chain(each(AGENT, stopped, "stop")),
    );
}

#[test]
fn what_a_dead_agent_left_is_undone_without_it() {
    require_engine!();
    let mut fleet = with_writer();
    fleet.arm(AGENT, "agent.quiesce.after-stop");
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
    let said = e2e::command::run(&mut resume);
    assert!(said.contains("nothing is left to do; the list was: start container `writer`"), "{said}");
    assert_eq!(fleet.engine("host-a").state("writer"), "running");
}

#[test]
fn a_controller_killed_in_the_middle_leaves_nothing_quiesced() {
    require_engine!();
    let mut scene = Killing(with_writer());
    let points =
        ["controller.pack.after-intent", "controller.pack.after-commit", "controller.commit.after-row"];
    kills::run(&mut scene, each(Victim::Controller, points, "pause"));
    let jobs = scene.0.json(&["job", "ls"]);
    assert!(jobs.as_array().unwrap().iter().all(|job| job["state"] == "succeeded"), "{jobs}");
}

const TWO: [&str; 2] = ["writer", "writer-2"];

fn with_two_writers() -> Fleet {
    let fleet = with_writer();
    fleet.engine("host-a").run_writer("writer-2", "data");
    fleet
}

fn both_run(fleet: &Fleet) {
    TWO.iter().for_each(|name| running(fleet, name));
    writes(fleet);
}

/// Starts a backup whose agent stands still with both writers stopped and the
/// pass quiesced not begun, and gives the job's id. That pass finds something
/// new, and meets the world as it is made until the agent is let run on.
fn halt_quiesced(fleet: &mut Fleet, more: &[&str]) -> String {
    fleet.arm(AGENT, "halt agent.quiesce.after-stop:2");
    let id = start(fleet, "stop", more);
    fleet.host("host-a").agent().wait_halted(120);
    both_quiesced(fleet);
    let new: Vec<u8> = (0..300_000).map(|_| rand::random()).collect();
    std::fs::write(fleet.engine("host-a").volume_path("data").join("at-rest"), new).unwrap();
    id
}

#[track_caller]
fn both_quiesced(fleet: &Fleet) {
    assert_eq!(TWO.map(|name| fleet.engine("host-a").state(name)), ["exited"; 2]);
}

#[test]
fn a_controller_killed_while_containers_are_quiesced_finds_them_running_in_the_end() {
    require_engine!();
    let mut fleet = with_two_writers();
    for point in ["controller.pack.after-intent", "controller.pack.after-commit"] {
        let id = halt_quiesced(&mut fleet, &[]);
        fleet.controller().kill();
        fleet.start_controller(Some(point));
        fleet.host("host-a").agent().run_on();
        let status = fleet.controller().wait(60);
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        // It stays so: the agent waits for the controller in the middle of a pass.
        both_quiesced(&fleet);
        fleet.start_controller(None);
        both_run(&fleet);
        fleet.wait_connected("host-a");
        fleet.wait_idle(180);
        let job = fleet.job(&id);
        assert_eq!(job["state"], "succeeded", "{job}");
        let quiesced = job["quiesced"].as_array().unwrap();
        assert!(quiesced.len() == 2 && quiesced.iter().all(|down| down["resumed"] == true), "{job}");
        both_run(&fleet);
        fleet.assert_whole();
    }
}

#[test]
fn quiesced_containers_do_not_wait_for_a_dead_controller_beyond_their_maximum_downtime() {
    require_engine!();
    let mut fleet = with_two_writers();
    let id = halt_quiesced(&mut fleet, &["--max-downtime", "30"]);
    fleet.controller().kill();
    fleet.host("host-a").agent().run_on();
    both_run(&fleet);
    assert!(!fleet.controller().is_running());
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    fleet.wait_idle(180);
    let job = fleet.job(&id);
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"max-downtime".into()), "{job}");
    assert_eq!(fleet.backup("host-a", "data", "pause")["state"], "succeeded");
}

#[test]
fn a_store_that_fails_while_containers_are_quiesced_keeps_none_beyond_its_maximum_downtime() {
    require_engine!();
    let mut fleet = with_two_writers();
    let id = halt_quiesced(&mut fleet, &["--max-downtime", "30"]);
    let packs = fleet.repository_dir().join("packs");
    std::fs::rename(&packs, fleet.dir().join("packs-away")).unwrap();
    std::fs::write(&packs, "in the way").unwrap();
    fleet.host("host-a").agent().run_on();
    both_run(&fleet);
    fleet.wait_idle(60);
    let job = fleet.job(&id);
    assert_eq!((&job["state"], &job["error_code"]), (&"failed".into(), &"max-downtime".into()), "{job}");
    let quiesced = job["quiesced"].as_array().unwrap();
    assert!(quiesced.len() == 2 && quiesced.iter().all(|down| down["resumed"] == true), "{job}");
    std::fs::remove_file(&packs).unwrap();
    std::fs::rename(fleet.dir().join("packs-away"), &packs).unwrap();
    assert_eq!(fleet.backup("host-a", "data", "pause")["state"], "succeeded");
    fleet.assert_whole();
}

#[test]
fn a_backup_whose_store_fails_can_be_cancelled_and_leaves_nothing_quiesced() {
    require_engine!();
    let fleet = with_writer();
    // The repository's disk refuses: its folder is a file now.
    let packs = fleet.repository_dir().join("packs");
    let _ = std::fs::rename(&packs, fleet.dir().join("packs-away"));
    std::fs::write(&packs, "in the way").unwrap();
    let id = start(&fleet, "stop", &[]);
    fleet.wait_job("the job to be under way", &id, 30, |job| job["state"] == "running");
    writes(&fleet);
    fleet.ok(&["job", "cancel", &id]);
    fleet.wait_idle(60);
    assert_eq!(fleet.json(&["job", "show", &id])["state"], "cancelled");
    running(&fleet, "writer");
    writes(&fleet);
    // It is itself again, with nothing in it that was not there before.
    std::fs::remove_file(&packs).unwrap();
    let _ = std::fs::rename(fleet.dir().join("packs-away"), &packs);
}
