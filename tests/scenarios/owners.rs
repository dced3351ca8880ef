//! Two controllers on one repository: one goes on, and the other says whose it
//! is.

use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::command::run;
use e2e::docker::Engine;
use e2e::fleet::{Fleet, Said};
use e2e::kills::AGENT;
use e2e::ports::Port;
use e2e::process::Process;
use e2e::upgrades::Copy;
use e2e::{binaries, require_engine, tree, wait};
use serde_json::Value;

/// A controller beside a fleet's own, with a host of its own.
struct Second {
    /// Ended before their Engine is.
    _processes: [Process; 2],
    engine: Engine,
    port: Port,
    dir: PathBuf,
}

impl Second {
    /// Takes over a repository that another controller still runs on, as an
    /// operator does who believes that one lost.
    fn take_over(repository: &Path, dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (port, engine) = (Port::reserve(), Engine::start());
        let address = format!("127.0.0.1:{}", port.number());
        let controller = |verb: &str| {
            let mut command = Command::new(binaries::path("holdfast-controller"));
            command.arg(verb).arg("--state-dir").arg(dir.join("state"));
            command
        };
        run(controller("rebuild").arg("--repository").arg(repository).args([
            "--address",
            &address,
            "--crypto",
            "none",
        ]));
        let mut serve = controller("run");
        serve.args(["--listen", &address]).env("HOLDFAST_LOG", "info");
        let process = Process::start("the second controller", &serve, &dir.join("controller.log"));
        wait::until_true("the second controller", 30, || dir.join("state/listen").exists());

        let token = dir.join("join.token");
        e2e::secret::write(&token, say(cli(dir, &port, &["host", "token", "host-b"])).ends_with(0).stdout);
        let agent = |verb: &str| {
            let mut command = Command::new(binaries::path("holdfast-agent"));
            command.arg(verb).arg("--state-dir").arg(dir.join("agent"));
            command
        };
        run(agent("join").arg(&token).args(["--allow", "backup,restore"]));
        let mut serve = agent("run");
        serve.arg("--docker-host").arg(engine.host()).arg("--socket").arg(dir.join("agent.sock"));
        let agent = Process::start("the second agent", &serve, &dir.join("agent.log"));
        let second = Self { _processes: [process, agent], engine, port, dir: dir.to_owned() };
        let show = ["host", "show", "host-b", "-o", "json"];
        wait::until_is(
            "host-b to connect",
            30,
            || second.cli(&show).json(),
            |host| host["connected"] == true && host["engine_version"] != "",
        );
        second
    }

    fn cli(&self, args: &[&str]) -> Said {
        say(cli(&self.dir, &self.port, args))
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let said = self.cli(&[args, &["-o", "json"]].concat());
        said.json().unwrap_or_else(|said| panic!("{args:?}: {said:?}"))
    }
}

/// A `holdfast` command for the controller below that directory.
fn cli(dir: &Path, port: &Port, args: &[&str]) -> Command {
    let mut command = Command::new(binaries::path("holdfast"));
    command.env_remove("HOLDFAST_SOCKET").env("XDG_CONFIG_HOME", dir.join("config"));
    command.arg("--controller").arg(format!("127.0.0.1:{}", port.number()));
    command.arg("--ca-file").arg(dir.join("state/ca.crt"));
    command.arg("--token-file").arg(dir.join("state/admin.token")).args(args);
    command
}

fn say(mut command: Command) -> Said {
    let output = command.output().unwrap();
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn fill(engine: &Engine, file: &str) {
    engine.docker(["volume", "create", "data"]);
    let file = engine.volume_path("data").join(file);
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1k", "count=900", "status=none"])
        .arg(format!("of={}", file.display())));
}

/// Who a repository says it belongs to.
fn owner(repository: &Path) -> String {
    let info: Value = serde_json::from_slice(&std::fs::read(repository.join("repo.json")).unwrap()).unwrap();
    info["owner"].as_str().expect("an owner").to_owned()
}

fn of_host(host: &str) -> [&str; 8] {
    ["backup", "run", "--host", host, "--volume", "data", "--consistency", "none"]
}

/// Both back up at once, several times: always the same one does. Nor does the
/// other delete, nor know better after a restart.
fn assert_superseded(fleet: &mut Fleet, second: &Second, second_owner: &str) {
    let names = |said: &str| said.contains(&format!("of controller {second_owner}"));
    fill(fleet.engine("host-a"), "third");
    for round in 0..3 {
        fill(&second.engine, &format!("round-{round}"));
        let (stale, current) = std::thread::scope(|scope| {
            let current = scope.spawn(|| second.cli(&of_host("host-b")));
            (fleet.cli(&of_host("host-a")), current.join().unwrap())
        });
        assert_eq!(current.code, 0, "{current:?}");
        assert_ne!(stale.code, 0, "{stale:?}");
        assert!(names(&(stale.stdout.clone() + &stale.stderr)), "{stale:?}");
    }
    let status = fleet.cli(&["status"]).ends_with(3);
    assert!(names(&status.stdout), "{status:?}");
    // Nor does it delete; the other may.
    let stale = fleet.cli(&["repo", "prune"]);
    assert!(stale.code != 0 && names(&(stale.stdout.clone() + &stale.stderr)), "{stale:?}");
    let pruned = second.json(&["repo", "prune"]);
    assert_eq!(pruned["state"], "succeeded", "{pruned}");
    // Started again it knows no better.
    fleet.controller().kill();
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    assert_ne!(fleet.cli(&of_host("host-a")).code, 0);
}

/// What was there before, and each snapshot that was acknowledged.
fn assert_nothing_lost(fleet: &Fleet, second: &Second, before: &Copy) {
    let listed = second.json(&["snapshot", "ls"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(5), "{listed}");
    let stored = fleet.repo("ls", &["-o", "json"]).json().expect("a list");
    assert_eq!(stored.as_array().map(Vec::len), Some(5), "{stored}");
    fleet.assert_whole();
    for (snapshot, name) in [("host-a/data@#1", "theirs"), ("host-b/data@latest", "own")] {
        let restore = ["restore", "volume", snapshot, "--host", "host-b", "--as", name];
        let restored = second.cli(&restore);
        assert_eq!(restored.code, 0, "{restored:?}");
    }
    tree::assert_equal(before.path(), &second.engine.volume_path("theirs"));
    tree::assert_equal(&second.engine.volume_path("data"), &second.engine.volume_path("own"));
}

/// A second controller takes the repository over while the first has a backup all
/// but committed: that is not committed any more.
fn supersede(fleet: &mut Fleet) -> Second {
    let repository = fleet.repository_dir();
    fill(fleet.engine("host-a"), "second");
    fleet.arm(AGENT, "halt agent.commit.before");
    let begun = fleet.json(&[&of_host("host-a")[..], &["--no-wait"]].concat());
    fleet.host("host-a").agent().wait_halted(60);
    let first_owner = owner(&repository);
    let second = Second::take_over(&repository, &fleet.dir().join("second"));
    let second_owner = owner(&repository);
    assert_ne!(first_owner, second_owner);
    fill(&second.engine, "theirs");
    assert_eq!(second.json(&of_host("host-b"))["state"], "succeeded");
    fleet.host("host-a").agent().run_on();
    let job = fleet.await_job(begun[0]["id"].as_str().unwrap(), 240);
    assert_eq!(job["state"], "failed", "a controller that was superseded has committed: {job}");
    let names = |said: &str| said.contains(&format!("of controller {second_owner}"));
    assert!(names(job["error"].as_str().unwrap()), "{job}");
    second
}

#[test]
fn p07_of_two_controllers_on_one_repository_one_goes_on_and_the_other_names_it() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    // The repository is another controller's in the end.
    fleet.leaves_damage();
    let repository = fleet.repository_dir();
    fill(fleet.engine("host-a"), "first");
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
    let before = Copy::of(&fleet.engine("host-a").volume_path("data"));
    // Two on one state directory: the second does not begin.
    let said = fleet.controller_says(&["run", "--listen", "127.0.0.1:0"]);
    assert_ne!(said.code, 0, "{said:?}");
    said.complains(&format!("another controller runs on {}", fleet.state_dir().display()));

    let second = supersede(&mut fleet);
    let second_owner = owner(&repository);

    assert_superseded(&mut fleet, &second, &second_owner);
    assert_eq!(owner(&repository), second_owner);
    assert_nothing_lost(&fleet, &second, &before);
}
