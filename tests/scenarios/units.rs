//! The systemd units: what they take away is little enough to work with, and
//! enough to be worth it. Installed as `deploy/README.md` says they run under a
//! systemd of a container; and on the machine itself, where every system call
//! can be noted, `setpriv` gives the same capabilities and the calls are
//! compared with the filter.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use e2e::command::run;
use e2e::docker::{Engine, IMAGE};
use e2e::failpoints;
use e2e::fleet::{Fleet, Place};
use e2e::systemd::{self, Machine};
use e2e::{figure, record, require_engine, wait};
use serde_json::Value;

/// User and group without a file of their own.
const NOBODY: &str = "65534";

fn unit(name: &str) -> String {
    let path = failpoints::root().join("deploy/systemd").join(format!("holdfast-{name}.service"));
    std::fs::read_to_string(path).unwrap()
}

/// The words of all lines of a setting, in order.
fn setting(unit: &str, key: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

fn has_systemd() -> bool {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !there {
        record::skipped("`systemd-analyze` is not installed");
    }
    there
}

/// The named sets of system calls, each with what it lists.
fn sets() -> BTreeMap<String, Vec<String>> {
    let listed = run(Command::new("systemd-analyze").args(["--no-pager", "syscall-filter"]));
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in listed.lines() {
        match line.trim() {
            "" => {}
            name if line.starts_with('@') => current = name.to_owned(),
            comment if comment.starts_with('#') => {}
            call => sets.entry(current.clone()).or_default().push(call.to_owned()),
        }
    }
    sets
}

fn expand(sets: &BTreeMap<String, Vec<String>>, name: &str, into: &mut BTreeSet<String>) {
    match sets.get(name) {
        Some(listed) => listed.iter().for_each(|entry| expand(sets, entry, into)),
        None => drop(into.insert(name.to_owned())),
    }
}

/// What the filter of a unit lets through.
fn allowed(unit: &str) -> BTreeSet<String> {
    let sets = sets();
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denied, words) = line.strip_prefix('~').map_or((false, line), |rest| (true, rest));
        let mut named = BTreeSet::new();
        words.split_whitespace().for_each(|word| expand(&sets, word, &mut named));
        match denied {
            true => allowed.retain(|call| !named.contains(call)),
            false => allowed.extend(named),
        }
    }
    assert!(allowed.len() > 100, "the filter lets {} calls through", allowed.len());
    allowed
}

/// A command in front of a daemon: with the unit's capabilities, as another
/// user if there are options for that, and noting each system call of the
/// daemon's own. The daemon keeps its process id.
fn wrapper(unit: &str, user: &[&str], calls: &Path) -> Vec<String> {
    let mut bounding = "-all".to_owned();
    for capability in setting(unit, "CapabilityBoundingSet") {
        bounding.push_str(&format!(",+{}", capability.trim_start_matches("CAP_").to_lowercase()));
    }
    // Whoever traces writes it.
    std::fs::write(calls, "").unwrap();
    run(Command::new("chmod").arg("0666").arg(calls));
    let calls = calls.display().to_string();
    let privileges = ["setpriv", "--no-new-privs", "--bounding-set", &bounding, "--inh-caps=-all"];
    let trace = ["strace", "-D", "-f", "-qq", "-c", "-U", "name", "-o", &calls];
    [&privileges[..], user, &trace[..]].concat().into_iter().map(str::to_owned).collect()
}

/// The calls that were noted, once the daemon and its tracer have ended.
fn noted(calls: &Path) -> BTreeSet<String> {
    let text = wait::until("the list of system calls", 30, || match std::fs::read_to_string(calls) {
        Ok(text) if text.lines().count() > 20 => Ok(text),
        other => Err(other),
    });
    let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('-'));
    names.filter(|name| !matches!(*name, "syscall" | "total")).map(str::to_owned).collect()
}

#[test]
fn v16_the_units_are_closed_as_far_as_the_figures_say() {
    if !has_systemd() {
        return;
    }
    for (name, most) in [("controller", 3.0), ("agent", 5.0)] {
        let path = failpoints::root().join("deploy/systemd").join(format!("holdfast-{name}.service"));
        let mut command = Command::new("systemd-analyze");
        let said = run(command.args(["--no-pager", "security", "--offline=yes"]).arg(path));
        let line = said.lines().find(|line| line.contains("Overall exposure level")).expect("a level");
        let level = line.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a number");
        figure!("{name}: {level}");
        assert!(level <= most, "{line}");
    }
    for name in ["controller", "agent"] {
        assert_eq!(setting(&unit(name), "UMask"), ["0077"], "{name}");
        assert_eq!(setting(&unit(name), "NoNewPrivileges"), ["yes"], "{name}");
    }
    // `resume` tries for 300 s, after jobs had their minute.
    let stop = setting(&unit("agent"), "TimeoutStopSec").remove(0);
    assert!(stop.parse::<u32>().unwrap() > 300 + 10, "{stop}");
}

#[test]
fn v16_backups_and_restores_work_with_the_capabilities_and_calls_of_the_units() {
    require_engine!();
    if !has_systemd() {
        return;
    }
    let mut fleet = Fleet::controller_only(Place::Directory);
    let calls = ["controller", "agent"].map(|name| fleet.dir().join(format!("{name}.calls")));
    // As a user of its own, like the unit: SQLite does more as root.
    run(Command::new("chown").args(["-R", NOBODY]).arg(fleet.state_dir()).arg(fleet.repository_dir()));
    run(Command::new("chmod").arg("0711").arg(fleet.dir()));
    let user = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    fleet.start_controller_under(&wrapper(&unit("controller"), &user, &calls[0]));
    fleet.add_host_under("host-a", &wrapper(&unit("agent"), &[], &calls[1]));
    let fill = "cd /data; echo x > plain; chown 33:44 plain; cp plain run; chmod 4755 run; mknod dev c 1 3; mkfifo pipe; mkdir closed; echo y > closed/y; chown -R 55 closed; chmod 000 closed";
    let engine = fleet.engine("host-a");
    engine.docker(["run", "--rm", "-v", "odd:/data", IMAGE, "sh", "-c", fill]);
    let path = engine.volume_path("odd");
    run(Command::new("setcap").arg("cap_net_raw+ep").arg(path.join("run")));
    run(Command::new("setfattr").args(["-n", "trusted.mark", "-v", "x"]).arg(path.join("plain")));
    engine.run_writer("web", "web_data");

    for (volume, consistency) in [("odd", "none"), ("web_data", "pause"), ("web_data", "stop")] {
        assert_eq!(fleet.backup("host-a", volume, consistency)["state"], "succeeded", "{volume}");
    }
    let restore =
        ["restore", "volume", "odd@latest", "--host", "host-a", "--as", "again", "--devices", "--setuid"];
    fleet.ok(&restore);
    let again = engine.volume_path("again");
    let shown = |root: &Path| {
        let list =
            "find . -printf '%p %y %m %U %G\\n' | sort; getfattr -d -m - plain run; stat -c '%t:%T' dev";
        run(Command::new("sh").args(["-c", list]).current_dir(root))
    };
    assert_eq!(shown(&again), shown(&path));

    fleet.host("host-a").agent().stop(60);
    fleet.controller().stop(60);
    for (name, calls) in ["controller", "agent"].into_iter().zip(&calls) {
        let (noted, allowed) = (noted(calls), allowed(&unit(name)));
        figure!("{name}: {} system calls of {} allowed ones", noted.len(), allowed.len());
        let denied: Vec<_> = noted.difference(&allowed).collect();
        assert_eq!(denied, Vec::<&String>::new(), "{name}");
    }
}

/// What a process may do, as the kernel has it.
fn status(machine: &Machine, unit: &str, key: &str) -> String {
    let pid = machine.property(unit, "MainPID");
    machine.shell(&format!("grep -w {key} /proc/{pid}/status | cut -f 2"))
}

#[test]
fn v16_installed_as_the_readme_says_the_units_work_and_resume_what_a_dead_agent_paused() {
    require_engine!();
    if let Some(missing) = systemd::unavailable() {
        return record::skipped(&missing);
    }
    let engine = Engine::start();
    let socket = engine.host().trim_start_matches("unix://").to_owned();
    // The agent reads volumes where the Engine has them.
    let machine = Machine::boot(Path::new(&socket), engine.dir());
    machine.shell(
        "useradd --system --home-dir /var/lib/holdfast-controller holdfast
         install -d -o holdfast -g holdfast -m 0700 /var/lib/holdfast-controller
         setpriv --reuid holdfast --regid holdfast --clear-groups \
             holdfast-controller init --state-dir /var/lib/holdfast-controller \
             --repository /var/lib/holdfast-controller/repository --address 127.0.0.1:7443 --crypto none
         systemctl enable --now holdfast-controller
         holdfast context add home --controller 127.0.0.1:7443 \
             --ca-file /var/lib/holdfast-controller/ca.crt --token-file /var/lib/holdfast-controller/admin.token
         holdfast host token web-1 --to web-1.token
         holdfast-agent join web-1.token
         systemctl enable --now holdfast-agent",
    );
    wait::until("the host to connect", 30, || machine.try_shell("holdfast host ls | grep -w connected"));
    for unit in ["holdfast-controller", "holdfast-agent"] {
        assert_eq!(status(&machine, unit, "Seccomp"), "2", "{unit}: the filter is on");
        assert_eq!(status(&machine, unit, "NoNewPrivs"), "1", "{unit}");
        figure!("{unit}: capabilities {}", status(&machine, unit, "CapBnd"));
    }
    assert_eq!(status(&machine, "holdfast-controller", "CapBnd"), "0000000000000000");

    engine.run_writer("web", "web_data");
    let backup = "holdfast backup run --host web-1 --volume web_data --consistency";
    machine.shell(&format!("{backup} stop"));
    machine.shell("holdfast restore volume web_data@latest --host web-1 --as again");
    assert!(engine.volume_path("again").join("log").is_file());

    // So much that reading it again, with the container paused, takes a while.
    let log = engine.volume_path("web_data").join("log");
    run(Command::new("sh").args(["-c", r#"head -c 400M /dev/urandom >> "$0""#]).arg(&log));
    machine.shell(&format!("{backup} pause --no-wait"));
    engine.wait_state("web", "paused", 60);
    // Still so once the agent does nothing any more: then it is not the one that resumes it.
    machine.shell("systemctl kill --signal STOP holdfast-agent");
    assert_eq!(engine.state("web"), "paused");
    machine.shell("systemctl kill --signal KILL holdfast-agent");
    engine.wait_state("web", "running", 60);
    let restarts = || machine.try_shell("systemctl show --value --property NRestarts holdfast-agent");
    wait::until_is("systemd to start the agent again", 60, restarts, |number| number != "0");
    let newest = || {
        let jobs = machine.try_shell("holdfast job ls --limit 1 -o json")?;
        serde_json::from_str::<Value>(&jobs).map(|jobs| jobs[0].clone()).map_err(|error| error.to_string())
    };
    let job = wait::until_is(
        "the job to end",
        180,
        newest,
        |job| matches!(job["state"].as_str(), Some(state) if !["queued", "running"].contains(&state)),
    );
    let log = machine
        .shell("holdfast job logs $(holdfast job ls --limit 1 -o json | grep -o '01[A-Z0-9]*' | head -n 1)");
    assert_eq!(job["state"], "succeeded", "{log}");
    assert_eq!(engine.state("web"), "running");

    machine.shell("systemctl stop holdfast-agent holdfast-controller");
    for unit in ["holdfast-controller", "holdfast-agent"] {
        assert_eq!(machine.property(unit, "Result"), "success", "{unit}");
    }
}
