//! A real systemd, booted in a container of its own by `systemd-nspawn`: `/usr`
//! is the machine's, with the built programs in it, everything else is new.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::command::{run, try_run};
use crate::locks;
use crate::process::Process;
use crate::{binaries, failpoints, wait};

/// Where the machine's systemd, and that of a container, has its processes.
const GROUPS: &str = "/sys/fs/cgroup/systemd";

/// What of `/etc` a system needs to know users and to find libraries.
const ETC: [&str; 10] = [
    "passwd",
    "group",
    "shadow",
    "gshadow",
    "login.defs",
    "nsswitch.conf",
    "ld.so.cache",
    "ld.so.conf",
    "os-release",
    "protocols",
];

/// A booted system. Ends with everything in it when dropped.
pub struct Machine {
    nspawn: Process,
    /// Its first process, as seen from here.
    first: String,
    dir: TempDir,
    _turn: File,
}

/// Why no systemd can be booted here, if so.
pub fn unavailable() -> Option<String> {
    let there = Command::new("systemd-nspawn").arg("--version").output().is_ok();
    (!there).then(|| "`systemd-nspawn` is not installed".to_owned())
}

impl Machine {
    /// Boots one that has the units of `deploy/systemd`, reaches the Engine whose
    /// socket this is at `/run/docker.sock`, and sees `shared` where it lies.
    pub fn boot(socket: &Path, shared: &Path) -> Self {
        let turn = locks::lock("systemd-machine");
        let dir = TempDir::with_prefix("hfm").expect("temporary folder");
        let (root, programs) = (dir.path().join("root"), dir.path().join("usr"));
        fill(&root, &programs);
        // A process namespace around it: whoever kills the outermost process ends
        // all of it, which killing `systemd-nspawn` alone does not.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "systemd-nspawn"]);
        // Its own network, so that the controller's port is nobody else's.
        command.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--machine=holdfast"]);
        command.arg("--directory").arg(&root);
        command.arg(format!("--overlay-ro=/usr:{}:/usr", programs.display()));
        command.arg(format!("--bind={}:/run/docker.sock", socket.display()));
        command.arg(format!("--bind={}", shared.display()));
        command.args(["--boot", "systemd.unit=multi-user.target"]);
        let nspawn = Process::start("systemd", &command, &dir.path().join("boot.log"));
        let mut machine = Self { nspawn, first: String::new(), dir, _turn: turn };
        machine.wait_booted();
        machine
    }

    fn wait_booted(&mut self) {
        let outermost = self.nspawn.pid().as_raw_nonzero().to_string();
        wait::until_is(
            "systemd to be up",
            60,
            || {
                assert!(self.nspawn.is_running(), "it ended: {}", self.nspawn.output());
                // Asked anew each time: `systemd-nspawn` first has a child that only makes the next one.
                self.first = child(&child(&outermost)?)?;
                // Says so on standard output even where its exit code is that of a failed unit.
                self.try_shell("systemctl is-system-running || true")
            },
            |state| matches!(state.as_str(), "running" | "degraded"),
        );
    }

    /// Runs a script in it, as root. Panics unless every command of it succeeds.
    #[track_caller]
    pub fn shell(&self, script: &str) -> String {
        run(&mut self.command(script))
    }

    /// Standard output of a script in it.
    ///
    /// # Errors
    /// What it wrote, unless every command of it succeeds.
    pub fn try_shell(&self, script: &str) -> Result<String, String> {
        try_run(&mut self.command(script))
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first, "--all"]);
        command.args(["bash", "-euo", "pipefail", "-c", script]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command
    }

    /// One property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.shell(&format!("systemctl show --value --property {name} {unit}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let units = "journalctl --no-pager --lines 60 --unit 'holdfast-*'";
            eprintln!("{}", self.try_shell(units).unwrap_or_else(|failure| failure));
        }
        self.nspawn.kill();
        // Empty once the last process is gone, which is a moment later.
        let remove = || match ["payload", "supervisor"].map(|group| Path::new(GROUPS).join(group)) {
            groups if groups.iter().any(|group| group.exists()) => {
                try_run(Command::new("find").args(groups).args(["-depth", "-type", "d", "-delete"]))
            }
            _ => Ok(String::new()),
        };
        let _ = wait::settles(10, remove, |_| true);
        let _ = try_run(Command::new("rm").arg("-rf").arg(self.dir.path()));
    }
}

/// The process that another one has started.
fn child(parent: &str) -> Result<String, String> {
    let children = try_run(Command::new("pgrep").args(["--parent", parent]))?;
    children.lines().next().map(str::to_owned).ok_or(children)
}

/// A root with nothing in it but folders, users and units; and what goes on top of `/usr`.
fn fill(root: &Path, programs: &Path) {
    for folder in
        ["etc/systemd/system", "usr", "var/lib", "var/log", "root", "run", "tmp", "proc", "sys", "dev", "srv"]
    {
        std::fs::create_dir_all(root.join(folder)).expect("folder made");
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).expect("link made");
    }
    for file in ETC {
        let from = Path::new("/etc").join(file);
        if from.exists() {
            std::fs::copy(from, root.join("etc").join(file)).expect("copied");
        }
    }
    // Empty: the first boot makes one.
    std::fs::write(root.join("etc/machine-id"), "").expect("written");
    std::fs::create_dir_all(programs.join("bin")).expect("folder made");
    for name in ["holdfast", "holdfast-agent", "holdfast-controller"] {
        let (from, to) = (binaries::path(name), programs.join("bin").join(name));
        // A hundred megabytes each, where this is another file system.
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(|_| ())).expect("there");
    }
    for unit in ["holdfast-agent.service", "holdfast-controller.service"] {
        let from = failpoints::root().join("deploy/systemd").join(unit);
        std::fs::copy(from, root.join("etc/systemd/system").join(unit)).expect("copied");
    }
}
