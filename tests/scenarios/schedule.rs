//! Policies fire by themselves, once, and are caught up once.

use chrono::DateTime;
use e2e::fleet::Fleet;
use e2e::kills::AGENT;
use e2e::{invariant, require_engine, wait};
use serde_json::Value;

fn policy(fleet: &Fleet, cron: &str, keep_last: u32) {
    policy_with(fleet, cron, keep_last, "skip");
}

fn policy_with(fleet: &Fleet, cron: &str, keep_last: u32, overlap: &str) {
    let file = fleet.dir().join("policy.toml");
    let toml = format!(
        "name = \"often\"\nvolumes = [\"data\"]\nhosts = [\"host-a\"]\nconsistency = \"pause\"\n\
         overlap = \"{overlap}\"\n[schedule]\ncron = \"{cron}\"\nzone = \"Europe/Berlin\"\n[retention]\nkeep_last = {keep_last}\n"
    );
    std::fs::write(&file, toml).unwrap();
    // 3 while the controller has not yet looked at the host's volumes again.
    let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
    assert!(matches!(said.code, 0 | 3), "{}{}", said.stdout, said.stderr);
}

/// Whether a job went well, or was left out because the last one still ran.
fn went_well(job: &Value) -> bool {
    job["state"] == "succeeded" || job["error_code"] == "overlap"
}

const JOBS: [&str; 6] = ["job", "ls", "--policy", "often", "--limit", "500"];
const SNAPSHOTS: [&str; 2] = ["snapshot", "ls"];

/// When a job was to be run, in milliseconds since 1970; none where it was by
/// hand.
pub(crate) fn fired(job: &Value) -> Option<i64> {
    let at = DateTime::parse_from_rfc3339(job["fired"].as_str()?);
    Some(at.expect("a time").timestamp_millis())
}

/// The jobs of a list that are of one of these times, in seconds since 1970.
fn of_times(jobs: &Value, times: &[u64]) -> Vec<Value> {
    let times: Vec<i64> = times.iter().map(|&seconds| seconds as i64 * 1000).collect();
    let of_them = |job: &&Value| fired(job).is_some_and(|at| times.contains(&at));
    jobs.as_array().into_iter().flatten().filter(of_them).cloned().collect()
}

/// Numbers of the snapshots of a list, the newest first.
fn numbers(list: &Value) -> Vec<u64> {
    let list = list.as_array().into_iter().flatten();
    let mut numbers: Vec<u64> = list.filter_map(|snapshot| snapshot["number"].as_u64()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

#[test]
fn a_policy_fires_and_retention_keeps_the_last() {
    require_engine!();
    let fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    policy(&fleet, "*/3 * * * * *", 50);
    fleet.wait_json("four snapshots", 60, &SNAPSHOTS, |list| numbers(list).len() >= 4);
    // From here on it fires no more, so that what is there stays comparable.
    let far = at_second_of_year(now_seconds() as u64 + 180 * 24 * 3600);
    policy(&fleet, &far, 50);
    fleet.wait_idle(60);
    let all = numbers(&fleet.json(&SNAPSHOTS));
    policy(&fleet, &far, 2);
    fleet.wait_json("retention to keep two", 60, &SNAPSHOTS, |list| {
        let left = numbers(list);
        // A pass of the scheduler that had begun may have made one more job.
        left.len() == 2 && left[0] >= all[0] && left[0] == left[1] + 1
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
        fleet.wait_json(&format!("the job of the time it died at {point}"), 120, &JOBS, |jobs| {
            of_times(jobs, &[at]).iter().any(|job| job["state"] == "succeeded")
        });
        fleet.wait_idle(60);
        let jobs = of_times(&fleet.json(&JOBS), &[at]);
        invariant!(
            "I7",
            jobs.len() == 1,
            "killed at {point}, the fire time has other than one job: {jobs:?}"
        );
    }
    let jobs = fleet.json(&JOBS);
    assert_eq!(jobs.as_array().map(Vec::len), Some(3), "{jobs}");
}

#[test]
fn p09_what_was_missed_is_caught_up_once() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    policy(&fleet, "*/3 * * * * *", 50);
    let fired_once = |jobs: &Value| jobs.as_array().is_some_and(|jobs| !jobs.is_empty());
    fleet.wait_json("the policy to fire", 60, &JOBS, fired_once);
    // A job that still ran would be a reason to leave the next one out.
    policy(&fleet, &at_second_of_year(now_seconds() as u64 + 180 * 24 * 3600), 50);
    fleet.wait_idle(60);

    // Three times and no other near them, so it is no matter when the next
    // controller looks.
    let missed = die_before_three_times(&mut fleet);
    wait::until_true("the fire times to pass", 120, || now_seconds() > (missed[2] + 1) as f64);
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    fleet.wait_json("a missed time to be caught up", 60, &JOBS, |jobs| {
        of_times(jobs, &missed).iter().any(|job| job["state"] == "succeeded")
    });

    // A time that comes after that has a job too: by then the scheduler has
    // looked at the policy more than once.
    let next = fire_ahead(&fleet, at_second_of_year);
    fleet.wait_json("the next time to be run", 60, &JOBS, |jobs| !of_times(jobs, &[next]).is_empty());
    fleet.wait_idle(60);
    let jobs = of_times(&fleet.json(&JOBS), &missed);
    invariant!("I7", jobs.len() == 1, "other than one job for the three times that were missed: {jobs:?}");
}

/// Kills the controller before three fire times, and gives these. Where the
/// machine is too slow for that, later ones are taken.
fn die_before_three_times(fleet: &mut Fleet) -> [u64; 3] {
    for _ in 0..3 {
        let three = |first: u64| {
            let (second, third) = (first % 60 + 2, first % 60 + 4);
            at_second_of_year(first).replacen(' ', &format!(",{second},{third} "), 1)
        };
        let first = fire_ahead(fleet, three);
        fleet.controller().kill();
        if now_seconds() < first as f64 {
            return [first, first + 2, first + 4];
        }
        fleet.start_controller(None);
        fleet.wait_connected("host-a");
        fleet.wait_idle(60);
    }
    panic!("the controller could not be killed before a time that was still to come");
}

/// Applies the policy with the cron of a time that is still to come when it
/// has been applied, and gives that time. The four seconds after it are of the
/// same minute.
fn fire_ahead(fleet: &Fleet, cron: impl Fn(u64) -> String) -> u64 {
    for ahead in [10, 30, 90] {
        let at = now_seconds() as u64 + ahead;
        let at = if at % 60 > 55 { at + 5 } else { at };
        policy(fleet, &cron(at), 50);
        if now_seconds() < at as f64 {
            return at;
        }
    }
    panic!("no policy could be applied within 90 s");
}

/// Jobs of a list in that state.
fn in_state<'a>(jobs: &'a Value, state: &str) -> Vec<&'a Value> {
    jobs.as_array().into_iter().flatten().filter(|job| job["state"] == state).collect()
}

/// The jobs of a list that were left out because of another, which they name.
fn left_out_for<'a>(jobs: &'a Value, other: &str) -> Vec<&'a Value> {
    let left_out = in_state(jobs, "cancelled").into_iter().filter(|job| job["error_code"] == "overlap");
    left_out.filter(|job| job["error"].as_str().is_some_and(|error| error.contains(other))).collect()
}

#[test]
fn p10_a_fire_that_meets_the_last_run_is_left_out_or_waits_as_its_policy_says() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").run_writer("writer", "data");
    // The first run stands still in its middle.
    fleet.arm(AGENT, "halt agent.capture.first-pass-done");
    policy_with(&fleet, "*/2 * * * * *", 50, "skip");
    fleet.host("host-a").agent().wait_halted(60);
    let jobs = fleet.wait_json("two fires to be left out", 60, &JOBS, |jobs| {
        in_state(jobs, "running")
            .iter()
            .any(|running| left_out_for(jobs, running["id"].as_str().unwrap_or_default()).len() >= 2)
    });
    let running = in_state(&jobs, "running");
    assert_eq!(running.len(), 1, "{jobs}");
    let first = running[0]["id"].as_str().unwrap().to_owned();
    let others = jobs.as_array().unwrap().len() - 1;
    assert_eq!(left_out_for(&jobs, &first).len(), others, "each names the run that was in its way: {jobs}");

    // One waits from now on, and those after it are left out because of it.
    policy_with(&fleet, "*/2 * * * * *", 50, "queue");
    let jobs = fleet.wait_json("one fire to wait and one to be left out", 60, &JOBS, |jobs| {
        in_state(jobs, "queued")
            .iter()
            .any(|queued| !left_out_for(jobs, queued["id"].as_str().unwrap_or_default()).is_empty())
    });
    assert_eq!((in_state(&jobs, "running").len(), in_state(&jobs, "queued").len()), (1, 1), "{jobs}");
    assert_eq!(in_state(&jobs, "running")[0]["id"], first.as_str());
    let second = in_state(&jobs, "queued")[0]["id"].as_str().unwrap().to_owned();
    policy_with(&fleet, &at_second_of_year(now_seconds() as u64 + 180 * 24 * 3600), 50, "queue");

    fleet.host("host-a").agent().run_on();
    fleet.wait_idle(120);
    let (first, second) = (fleet.job(&first), fleet.job(&second));
    for job in [&first, &second] {
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    let time = |job: &Value, field: &str| job[field].as_str().map(str::to_owned).expect("a time");
    assert!(time(&second, "started") >= time(&first, "ended"), "{second} was begun before {first} had ended");
    let jobs = fleet.json(&JOBS);
    assert_eq!(in_state(&jobs, "succeeded").len(), 2, "{jobs}");
    assert!(jobs.as_array().unwrap().iter().all(went_well), "{jobs}");
    // Every fire has its one job, whatever became of it.
    let fires: Vec<i64> = jobs.as_array().unwrap().iter().filter_map(fired).collect();
    let different: std::collections::BTreeSet<i64> = fires.iter().copied().collect();
    assert_eq!((fires.len(), different.len()), (jobs.as_array().unwrap().len(), fires.len()), "{jobs}");
    assert_eq!(numbers(&fleet.json(&SNAPSHOTS)), [2, 1]);
    assert_eq!(fleet.engine("host-a").state("writer"), "running");
}

pub(crate) fn now_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Cron in the policy's zone that fires at this second and not again for a year.
pub(crate) fn at_second_of_year(unix_seconds: u64) -> String {
    let mut date = std::process::Command::new("date");
    date.env("TZ", "Europe/Berlin").args(["-d", &format!("@{unix_seconds}"), "+%-S %-M %-H %-d %-m *"]);
    e2e::command::run(&mut date)
}
