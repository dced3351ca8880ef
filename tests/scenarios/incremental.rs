//! A second backup moves what changed and nothing else, as seen from outside.

use std::path::Path;
use std::process::{Command, Stdio};

use e2e::fleet::Fleet;
use e2e::{figure, require_engine, wait};
use rustix::process::{Signal, kill_process};

/// Files of the repository, each with its inode and its time of change, to see
/// what a backup added or wrote anew.
fn objects(root: &Path) -> Vec<String> {
    let print = ["-type", "f", "-printf", "%P %i %T@\n"];
    let output = Command::new("find").arg(root).args(print).output().expect("find runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Runs a backup and gives the regular files below `data` that the agent
/// opened meanwhile, as strace saw it.
fn opened_during_backup(fleet: &mut Fleet, data: &Path) -> Vec<String> {
    let trace = fleet.dir().join("trace");
    let pid = fleet.host("host-a").agent().pid().as_raw_nonzero().to_string();
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=open,openat,openat2", "-o"])
        .arg(&trace)
        .args(["-p", &pid])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace starts");
    wait::until_true("strace to attach", 20, || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    });
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
    let _ = kill_process(rustix::process::Pid::from_child(&strace), Signal::INT);
    let _ = strace.wait();
    let text = std::fs::read_to_string(&trace).expect("a trace");
    // With -y the result shows what the descriptor is: `= 12</path/of/file>`.
    let prefix = format!("<{}/", data.display());
    text.lines()
        .filter_map(|line| line.rsplit_once(" = ").map(|(_, result)| result))
        .filter_map(|result| {
            result.split_once(&prefix).map(|(_, rest)| rest.trim_end_matches('>').to_owned())
        })
        .filter(|name| data.join(name).is_file())
        .collect()
}

#[test]
fn nothing_changed_opens_no_file_and_writes_two_objects_at_most() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fleet.engine("host-a").docker(["volume", "create", "data"]);
    let data = fleet.engine("host-a").volume_path("data");
    for dir in 0..20 {
        std::fs::create_dir(data.join(format!("dir-{dir}"))).unwrap();
        for file in 0..25 {
            std::fs::write(data.join(format!("dir-{dir}/file-{file}")), format!("{dir} {file}")).unwrap();
        }
    }
    assert_eq!(fleet.backup("host-a", "data", "none")["sources"][0]["stats"]["files"], 500);
    // What was written within two seconds of a run is rightly read again.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    fleet.backup("host-a", "data", "none");

    let before = objects(&fleet.repository_dir());
    let opened = opened_during_backup(&mut fleet, &data);
    assert_eq!(opened, Vec::<String>::new(), "files were opened although nothing had changed");
    // The fleet's state is written every few minutes, whatever is backed up.
    let new = |object: &String| !before.contains(object) && !object.starts_with("state/");
    let written: Vec<String> = objects(&fleet.repository_dir()).into_iter().filter(new).collect();
    figure!("a backup of 500 unchanged files wrote {written:?}");
    assert!(written.iter().any(|object| object.starts_with("snapshots/")), "{written:?}");
    assert!(written.len() <= 2, "{written:?}");

    // The eye that saw nothing sees something when there is something.
    std::fs::write(data.join("dir-3/file-3"), "changed").unwrap();
    let opened = opened_during_backup(&mut fleet, &data);
    assert_eq!(opened.iter().filter(|name| *name != "dir-3/file-3").count(), 0, "{opened:?}");
    assert!(!opened.is_empty(), "the changed file was not opened");
}
