//! What tests that were ended by force leave of their private Engines: shims
//! and containers that go on running, mounts, a network namespace, a folder.
//! The daemons themselves are told to end by the death of the test.
//!
//! Each Engine holds a lock as long as it lives. A lock that is free and whose
//! file is still there is that of one which was never taken down.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::locks;

/// Names of the namespaces, and of their locks, begin so.
const PREFIX: &str = "hfe-";

/// Held by whoever makes a lock or looks for free ones: one that is made but
/// not yet locked is nobody's leftover.
const TURN: &str = "engines";

/// Keeps an Engine from being swept.
pub struct Alive {
    namespace: String,
    lock: File,
}

impl Alive {
    /// A name for the namespace of a new Engine, whose files are in `dir`.
    pub fn new(dir: &Path) -> Self {
        let namespace = format!("{PREFIX}{:08x}", rand::random::<u32>());
        let _turn = locks::lock(TURN);
        let mut lock = locks::try_lock(&namespace).expect("a name that no other test has");
        lock.write_all(dir.as_os_str().as_encoded_bytes()).expect("written");
        Self { namespace, lock }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Frees the lock, as the death of this process would.
    pub(crate) fn let_go(&self) {
        flock(&self.lock, FlockOperation::Unlock).expect("unlocked");
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(locks::path(&self.namespace));
    }
}

/// Removes what is nobody's.
pub fn sweep() {
    let _turn = locks::lock(TURN);
    for namespace in locks::names(PREFIX) {
        let Some(mut lock) = locks::try_lock(&namespace) else { continue };
        let mut dir = String::new();
        let known = lock.read_to_string(&mut dir).is_ok() && !dir.is_empty();
        if known {
            take_down(&namespace, &PathBuf::from(dir));
        }
        let _ = std::fs::remove_file(locks::path(&namespace));
    }
}

fn take_down(namespace: &str, dir: &Path) {
    eprintln!("what a dead test left in {} is removed", dir.display());
    let pids = Command::new("ip").args(["netns", "pids", namespace]).output();
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| pid.parse().ok()).for_each(kill);
    in_containers(dir).into_iter().for_each(kill);
    unmount_below(dir);
    let _ = Command::new("ip").args(["netns", "del", namespace]).output();
    let _ = std::fs::remove_dir_all(dir);
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Processes whose root is a file system below `dir`.
pub fn in_containers(dir: &Path) -> Vec<i32> {
    // Not the whole path: a bind is told from the root of its file system on.
    let below = format!("/{}/", dir.file_name().unwrap_or_default().to_string_lossy());
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_inside = |pid: &i32| {
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&below))
    };
    pids.filter(is_inside).collect()
}

/// Unmounts what a killed daemon left mounted below `dir`, deepest first.
pub fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = format!("{}/", dir.display());
    let mut left: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| path.starts_with(&prefix))
        .collect();
    left.sort_unstable_by_key(|path| std::cmp::Reverse(path.len()));
    for path in left {
        let _ = Command::new("umount").args(["-l", path]).output();
    }
}
