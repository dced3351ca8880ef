//! Policies fire by themselves, once, and are caught up once.

use e2e::fleet::Fleet;
use e2e::{require_engine, wait};

fn policy(fleet: &Fleet, cron: &str, keep_last: u32) {
    let file = fleet.dir().join("policy.toml");
    let toml = format!(
        "name = \"often\"\nvolumes = [\"data\"]\nhosts = [\"host-a\"]\nconsistency = \"pause\"\n\
         [schedule]\ncron = \"{cron}\"\nzone = \"Europe/Berlin\"\n[retention]\nkeep_last = {keep_last}\n"
    );
    std::fs::write(&file, toml).unwrap();
    // 3 while the controller has not yet looked at the host's volumes again.
    let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
    assert!(matches!(said.code, 0 | 3), "{}{}", said.stdout, said.stderr);
}

/// Whether a job went well, or was left out because the last one still ran.
fn went_well(job: &serde_json::Value) -> bool {
    job["state"] == "succeeded" || job["error_code"] == "overlap"
}

fn fires(fleet: &Fleet) -> Vec<String> {
    let jobs = fleet.json(&["job", "ls", "--policy", "often", "--limit", "500"]);
    jobs.as_array().unwrap().iter().map(|job| job["fired"].as_str().unwrap_or("by hand").to_owned()).collect()
}

fn wait_for_fires(fleet: &Fleet, count: usize) {
    wait::until("the policy to fire", 60, || {
        let fires = fires(fleet);
        (fires.len() >= count).then_some(()).ok_or(fires)
    });
}

/// Numbers of the snapshots there are, the newest first.
fn numbers(fleet: &Fleet) -> Vec<u64> {
    let list = fleet.json(&["snapshot", "ls"]);
    let mut numbers: Vec<u64> =
        list.as_array().unwrap().iter().map(|snapshot| snapshot["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

#[test]
fn a_policy_fires_and_retention_keeps_the_last() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    policy(&fleet, "*/3 * * * * *", 50);
    wait::until("four snapshots", 60, || {
        let numbers = numbers(&fleet);
        (numbers.len() >= 4).then_some(()).ok_or(numbers)
    });
    // From here on it fires no more, so that what is there stays comparable.
    let far = at_second_of_year(now_seconds() as u64 + 180 * 24 * 3600);
    policy(&fleet, &far, 50);
    fleet.wait_idle(60);
    let all = numbers(&fleet);
    policy(&fleet, &far, 2);
    wait::until("retention to keep two", 60, || {
        let left = numbers(&fleet);
        // A pass of the scheduler that had begun may have made one more job.
        let two = left.len() == 2 && left[0] >= all[0] && left[0] == left[1] + 1;
        two.then_some(()).ok_or(left)
    });
    let jobs = fleet.json(&["job", "ls"]);
    assert!(jobs.as_array().unwrap().iter().all(went_well), "{jobs}");
    assert_eq!(fleet.engine("host-a").state("writer"), "running");
}

#[test]
fn p08_a_fire_time_runs_once_across_restarts() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    for point in
        ["controller.fire.before-row", "controller.fire.after-row", "controller.dispatch.after-claim"]
    {
        // One fire time and no other near it: the next one cannot stand in for it.
        let at = now_seconds() as u64 + 30;
        policy(&fleet, &at_second_of_year(at), 50);
        fleet.controller().kill();
        fleet.start_controller(Some(point));
        fleet.controller().wait(60);
        assert!(now_seconds() >= at as f64, "it died at {point} before it was to fire");
        fleet.start_controller(None);
        fleet.wait_connected("host-a");
        let of_that_time = || {
            let jobs = fleet.json(&["job", "ls", "--policy", "often", "--limit", "500"]);
            let fired = |job: &serde_json::Value| job["fired"].as_str().map(rfc3339_seconds);
            let of_then = |job: &&serde_json::Value| fired(job) == Some(at as f64);
            jobs.as_array().unwrap().iter().filter(of_then).cloned().collect::<Vec<_>>()
        };
        wait::until(&format!("the job of the time it died at {point}"), 120, || {
            let jobs = of_that_time();
            jobs.iter().any(|job| job["state"] == "succeeded").then_some(()).ok_or(jobs)
        });
        fleet.wait_idle(60);
        let jobs = of_that_time();
        assert_eq!(jobs.len(), 1, "killed at {point}, the fire time has other than one job: {jobs:?}");
    }
    assert_eq!(fires(&fleet).len(), 3, "{:?}", fires(&fleet));
}

#[test]
fn p09_what_was_missed_is_caught_up_once() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    policy(&fleet, "*/10 * * * * *", 50);
    wait_for_fires(&fleet, 1);
    fleet.controller().kill();
    let killed = now_seconds();
    // It starts just after a fire time, so that the next one is none of the gap.
    wait::until_true("several fire times to pass", 60, || {
        let now = now_seconds();
        now - killed >= 21.0 && now % 10.0 < 1.0
    });
    let restarted = now_seconds();
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    let seen = fires(&fleet).len();
    wait_for_fires(&fleet, seen + 1);
    fleet.ok(&["policy", "rm", "often"]);
    fleet.wait_idle(60);
    // Of the two or three fire times that fell into the gap just one has a job.
    let in_gap = fires(&fleet)
        .iter()
        .filter(|fire| {
            let at = rfc3339_seconds(fire);
            at > killed && at < restarted
        })
        .count();
    assert_eq!(in_gap, 1, "{in_gap} jobs for fire times that were missed: {:?}", fires(&fleet));
}

fn now_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Cron in the policy's zone that fires at this second and not again for a year.
fn at_second_of_year(unix_seconds: u64) -> String {
    let mut date = std::process::Command::new("date");
    date.env("TZ", "Europe/Berlin").args(["-d", &format!("@{unix_seconds}"), "+%-S %-M %-H %-d %-m *"]);
    e2e::process::run(&mut date)
}

fn rfc3339_seconds(text: &str) -> f64 {
    let output = e2e::process::run(std::process::Command::new("date").args(["-d", text, "+%s.%N"]));
    output.parse().unwrap()
}
