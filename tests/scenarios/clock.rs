//! The wall clock of a running controller is set ahead and back.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::command::run;
use e2e::fleet::{Fleet, Place, Said};
use e2e::kills::AGENT;
use e2e::{invariant, require_engine, wait};
use serde_json::Value;

use crate::schedule::{at_second_of_year, fired, now_seconds};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// Put before a program's own functions, this gives it the kernel's wall clock
/// and so many seconds more as a file says at that moment. Its monotonic clock
/// is left alone, as it is where somebody sets the time of a machine.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WALL_CLOCK_AHEAD");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) abort();
    void *page = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    ahead = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
    return failed;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict told, void *restrict zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    told->tv_sec = now.tv_sec;
    told->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"#;

/// The wall clock of one program.
struct WallClock {
    library: PathBuf,
    ahead: PathBuf,
    file: File,
}

impl WallClock {
    /// Right, until it is set.
    fn new(dir: &Path) -> Self {
        let [source, library, ahead] = ["wall_clock.c", "wall_clock.so", "ahead"].map(|name| dir.join(name));
        std::fs::write(&source, SHIM).unwrap();
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&ahead).unwrap();
        let clock = Self { library, ahead, file };
        clock.set(0);
        clock
    }

    /// The start of a command line of a program that goes by it.
    fn wrapper(&self) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library.display()),
            format!("WALL_CLOCK_AHEAD={}", self.ahead.display()),
        ]
    }

    /// So many seconds ahead of the machine's from now on.
    fn set(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

fn apply(fleet: &Fleet, name: &str, cron: &str) {
    let file = fleet.dir().join("policy.toml");
    let toml = format!(
        "name = \"{name}\"\nvolumes = [\"data\"]\nhosts = [\"host-a\"]\nconsistency = \"none\"\noverlap = \"queue\"\n\
         [schedule]\ncron = \"{cron}\"\nzone = \"Europe/Berlin\"\n[retention]\nkeep_last = 50\n"
    );
    std::fs::write(&file, toml).unwrap();
    let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
    assert!(matches!(said.code, 0 | 3), "{}{}", said.stdout, said.stderr);
}

/// When jobs of a policy were to run, in seconds since 1970, the first first.
fn fires(fleet: &Fleet, policy: &str) -> Result<Vec<i64>, Said> {
    let jobs = fleet.try_json(&["job", "ls", "--policy", policy, "--limit", "500"])?;
    let mut fires: Vec<i64> = jobs.as_array().into_iter().flatten().filter_map(fired).collect();
    fires.iter_mut().for_each(|at| *at /= 1000);
    fires.sort_unstable();
    Ok(fires)
}

fn machine_seconds() -> i64 {
    now_seconds() as i64
}

/// Once this has been run, the scheduler has looked at every policy at a time
/// of the clock as it is now set, and later than `at` of that clock.
fn pass_after(fleet: &Fleet, name: &str, at: i64) {
    apply(fleet, name, &at_second_of_year(at as u64));
    wait::until_is(&format!("{name} to fire"), 60, || fires(fleet, name), |fires| !fires.is_empty());
    fleet.wait_idle(60);
}

/// A backup is under way when the clock goes a day ahead.
fn go_a_day_ahead(fleet: &mut Fleet, clock: &WallClock) {
    apply(fleet, "often", "*/10 * * * *");
    fleet.arm(AGENT, "halt agent.pack.before-put");
    let what =
        ["backup", "run", "--host", "host-a", "--volume", "data", "--consistency", "none", "--no-wait"];
    let begun = fleet.json(&what)[0]["id"].as_str().unwrap().to_owned();
    fleet.host("host-a").agent().wait_halted(60);
    let before = fires(fleet, "often").unwrap();
    clock.set(DAY);
    let ahead = machine_seconds() + DAY;
    let caught_up = wait::until_is(
        "one fire of the next day",
        60,
        || fires(fleet, "often"),
        |fires| fires.last().is_some_and(|&last| last > ahead - 600),
    );
    fleet.host("host-a").agent().run_on();
    let job = fleet.await_job(&begun, 120);
    assert_eq!((&job["state"], &job["attempt"]), (&"succeeded".into(), &1.into()), "{job}");
    // Of a day's hundred and forty-four the last, and perhaps the next one.
    pass_after(fleet, "next", machine_seconds() + DAY + 10);
    let all = fires(fleet, "often").unwrap();
    let new: Vec<i64> = all.iter().copied().filter(|at| !before.contains(at)).collect();
    let now = machine_seconds();
    let between: Vec<&i64> = new.iter().filter(|&&at| at > now && at <= ahead - 600).collect();
    invariant!("I7", between.is_empty(), "a day's fires were run: {all:?} after {caught_up:?}");
    let last = new.iter().filter(|&&at| at > ahead - 600).count();
    assert!((1..=2).contains(&last), "{all:?} after {caught_up:?}");
}

/// Right again, then back before a fire that was run, then an hour back.
fn go_back(fleet: &Fleet, clock: &WallClock) {
    // Set right again, it is a day back: nothing has run that is still to come.
    clock.set(0);
    let at = machine_seconds() + 10;
    pass_after(fleet, "once", at);
    assert_eq!(fires(fleet, "once").unwrap(), [at], "a record of the next day silences nothing");

    // Back before a fire that was run: its time comes again, and it does not.
    clock.set(at - 6 - machine_seconds());
    pass_after(fleet, "later", at + 8);
    let again = fires(fleet, "once").unwrap();
    invariant!("I7", again == [at], "a fire was run once more when its time came again: {again:?}");

    // An hour back: nothing that was fired in it is fired again, and backups go on.
    let before: Vec<Vec<i64>> = ["once", "later"].map(|name| fires(fleet, name).unwrap()).to_vec();
    clock.set(-HOUR);
    pass_after(fleet, "back", machine_seconds() - HOUR + 10);
    let after: Vec<Vec<i64>> = ["once", "later"].map(|name| fires(fleet, name).unwrap()).to_vec();
    invariant!("I7", before == after, "an hour back, {before:?} became {after:?}");
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
}

/// Nothing was given up, expired or cut off on the way.
fn assert_nothing_failed(fleet: &Fleet) {
    let jobs = fleet.json(&["job", "ls", "--limit", "500"]);
    let failed: Vec<&Value> = jobs
        .as_array()
        .unwrap()
        .iter()
        .filter(|job| job["state"] != "succeeded" && job["error_code"] != "overlap")
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn p15_a_running_controllers_clock_is_set_ahead_and_back() {
    require_engine!();
    let mut fleet = Fleet::controller_only(Place::Directory);
    let clock = WallClock::new(fleet.dir());
    fleet.start_controller_under(&clock.wrapper());
    fleet.add_host("host-a");
    fleet.engine("host-a").run_writer("writer", "data");
    let controller = fleet.controller().pid();

    go_a_day_ahead(&mut fleet, &clock);
    let kept = fleet.json(&["snapshot", "ls"]).as_array().map(Vec::len);
    go_back(&fleet, &clock);
    assert_nothing_failed(&fleet);
    assert!(fleet.json(&["snapshot", "ls"]).as_array().map(Vec::len) > kept);
    assert!(fleet.controller().is_running() && fleet.controller().pid() == controller);
    fleet.assert_acknowledged("the clock was set");
    fleet.assert_whole();
}
