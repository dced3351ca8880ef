//! One host with a server that is upgraded, one that reads its data, and one
//! that writes all the time; and what has to hold after each kill.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::app_images::{self, App};
use e2e::command::run;
use e2e::docker::{Engine, IMAGE};
use e2e::fleet::{Fleet, Place, Said};
use e2e::upgrades::{self, Copy, RIGHTS, run_app};
use e2e::{invariant, tree, wait};
use serde_json::Value;

use crate::kill::{Act, Victim};

const HOST: &str = "host-a";
/// Its content changes between rounds only, so each snapshot of it is known.
const LEDGER: &str = "ledger";
/// Snapshots of it that are kept at most.
const KEPT: usize = 6;
const CONTAINERS: [&str; 3] = ["app", "reader", "writer"];

pub(crate) struct Scene {
    fleet: Fleet,
    /// What was acknowledged and never forgotten, with what it restores to.
    kept: Vec<(String, Copy)>,
    /// Names of all containers and volumes of the host.
    things: String,
    /// A round's upgrade was committed and may be rolled back.
    committed: Option<Before>,
}

/// Before an upgrade.
struct Before {
    data: Copy,
    rows: Vec<String>,
    inspect: Value,
}

/// How a round ended.
pub(crate) struct Ended {
    /// Whether the victim still ran.
    pub(crate) killed: bool,
    /// State of the act's job, empty where it never began.
    pub(crate) job: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let mut fleet = Fleet::controller_only(Place::Directory);
        fleet.allow(&RIGHTS);
        fleet.forget_at_once();
        fleet.start_controller(None);
        fleet.add_host(HOST);
        let engine = fleet.engine(HOST);
        app_images::build(engine, &[App::V1, App::Migrates, App::MigratesAgain]);
        run_app(engine, "app", App::V1, &["--restart", "always"]);
        let always = |name: &str, mount: &str, command: &[&str]| {
            let args =
                ["run", "-d", "--name", name, "--restart", "always", "--stop-signal", "KILL", "-v", mount];
            engine.docker(args.into_iter().chain([IMAGE]).chain(command.iter().copied()));
        };
        always("reader", "app-data:/data:ro", &["sleep", "100000"]);
        let write = "i=0; while true; do i=$((i+1)); echo line $i >> /data/log; sleep 0.1; done";
        always("writer", "data:/data", &["sh", "-c", write]);
        engine.docker(["volume", "create", LEDGER]);
        tree::every_kind(&engine.volume_path(LEDGER));
        let things = things(engine).expect("an Engine that answers");
        let mut scene = Self { fleet, kept: Vec::new(), things, committed: None };
        let copy = Copy::of(&scene.engine().volume_path(LEDGER));
        let job = scene.fleet.backup(HOST, LEDGER, "none");
        scene.keep(&job, copy);
        scene
    }

    fn engine(&self) -> &Engine {
        self.fleet.engine(HOST)
    }

    /// Does something, kills somebody in the middle, sets that one going again
    /// and looks whether all is well. Panics where it is not.
    pub(crate) fn round(&mut self, number: u64, act: Act, victim: Victim, after: Duration) -> Ended {
        let what = format!("round {number}: {victim:?} killed {after:?} into {act:?}");
        let ended = match act {
            Act::Backup => self.backup(&what, victim, after),
            Act::Restore => self.restore(&what, number, victim, after),
            Act::Prune => self.prune(&what, victim, after),
            Act::Rebuild => self.rebuild(&what, after),
            Act::Upgrade => self.upgrade(&what, victim, after),
            Act::Rollback => self.rollback(&what, victim, after),
        };
        self.all_well(&what);
        if number % 10 == 9 {
            self.all_restores(&what);
        }
        ended
    }

    fn backup(&mut self, what: &str, victim: Victim, after: Duration) -> Ended {
        self.change();
        let copy = Copy::of(&self.engine().volume_path(LEDGER));
        let args = ["backup", "run", "--host", HOST, "--volume", LEDGER, "--volume", "data"];
        let begun = Instant::now();
        self.fleet.cli(&[&args[..], &["--consistency", "pause", "--no-wait"]].concat());
        let killed = self.kill(victim, begun, after);
        let job = self.ended("backup");
        if job["state"] == "succeeded" {
            self.keep(&job, copy);
        } else {
            assert!(victim == Victim::Engine, "{what}: {job}");
        }
        Ended::of(killed, &job)
    }

    fn restore(&mut self, what: &str, number: u64, victim: Victim, after: Duration) -> Ended {
        let (snapshot, copy) = &self.kept[rand::random_range(0..self.kept.len())];
        let target = format!("restored-{number}");
        let begun = Instant::now();
        let args = ["restore", "volume", snapshot, "--host", HOST, "--as", &target];
        self.fleet.cli(&[&args[..], &["--setuid", "--devices", "--no-wait"]].concat());
        // Before the victim's end: later ones lie within the borrow of the copy.
        let original = copy.path().to_owned();
        let killed = self.kill(victim, begun, after);
        let job = self.ended("restore");
        let engine = self.engine();
        if job["state"] == "succeeded" {
            let restored = engine.volume_path(&target);
            invariant!("I4", tree::rsync_differences(&original, &restored).is_empty(), "{what}: {job}");
            engine.docker(["volume", "rm", &target]);
        }
        Ended::of(killed, &job)
    }

    fn prune(&mut self, what: &str, victim: Victim, after: Duration) -> Ended {
        // A snapshot with content of its own, so that there is something to collect.
        self.change();
        let copy = Copy::of(&self.engine().volume_path(LEDGER));
        let job = self.fleet.backup(HOST, LEDGER, "none");
        assert_eq!(job["state"], "succeeded", "{what}: {job}");
        self.keep(&job, copy);
        let going = self.kept.remove(rand::random_range(0..self.kept.len() - 1));
        self.fleet.ok(&["snapshot", "forget", &going.0]);
        let begun = Instant::now();
        self.fleet.cli(&["repo", "prune", "--no-wait"]);
        let killed = self.kill(victim, begun, after);
        let job = self.ended("prune");
        assert_eq!(job["state"], "succeeded", "{what}: {job}");
        Ended::of(killed, &job)
    }

    fn rebuild(&mut self, what: &str, after: Duration) -> Ended {
        self.fleet.lose_controller();
        let begun = Instant::now();
        let mut rebuild = self.fleet.start_rebuild();
        wait_until(begun + after);
        let killed = rebuild.kill().signal() == Some(9);
        // The next one finishes what was begun; or the kill came after the end.
        let said = self.fleet.try_rebuild();
        let was_finished = said.stderr.contains("already holds a controller");
        assert!(said.code == 0 || was_finished, "{what}: {said:?}");
        self.fleet.forget_at_once();
        self.fleet.start_controller(None);
        let token = self.fleet.token(HOST);
        self.fleet.rejoin(HOST, &token);
        Ended { killed, job: "rebuilt".to_owned() }
    }

    fn upgrade(&mut self, what: &str, victim: Victim, after: Duration) -> Ended {
        self.leave_grace_period();
        let (before, target) = self.before_upgrade();
        let begun = Instant::now();
        self.fleet.try_upgrade(HOST, "app", target, &["--no-wait"]);
        let killed = self.kill(victim, begun, after);
        let job = self.ended("upgrade");
        let newest = self.settled(what, &job);
        let engine = self.engine();
        wait_running(engine, what);
        let runs = upgrades::the_one_that_runs(engine, "app");
        upgrades::wait_healthy(engine, "app");
        if newest["state"] == "committed" {
            invariant!("I8", runs.image == target, "{what}: {runs:?}");
            let rows = upgrades::rows(&engine.volume_path("app-data"));
            let migrated = upgrades::migrated(&before.rows, target.trim_start_matches("app:"));
            invariant!("I7", rows == migrated, "{what}: {rows:?}");
            self.committed = Some(before);
        } else {
            before.holds(engine, what);
        }
        Ended::of(killed, &job)
    }

    fn rollback(&mut self, what: &str, victim: Victim, after: Duration) -> Ended {
        if self.committed.is_none() {
            self.commit_one();
        }
        let before = self.committed.take().expect("just committed");
        let begun = Instant::now();
        self.fleet.cli(&["upgrade", "rollback", "app", "--host", HOST, "--no-wait"]);
        let killed = self.kill(victim, begun, after);
        let job = self.ended("rollback");
        let newest = self.fleet.newest(HOST, "app");
        let engine = self.engine();
        wait_running(engine, what);
        upgrades::wait_healthy(engine, "app");
        if newest["state"] == "rolled back" {
            before.holds(engine, what);
        } else {
            // Nothing went back: the upgrade stays, and can be rolled back once more.
            assert_eq!(newest["state"], "committed", "{what}: {newest} {job}");
            assert_ne!(job["state"], "succeeded", "{what}: {newest} {job}");
            self.committed = Some(before);
        }
        Ended::of(killed, &job)
    }

    /// The server as it is, and an image that it does not run.
    fn before_upgrade(&self) -> (Before, &'static str) {
        let engine = self.engine();
        let inspect = engine.inspect("app");
        let again = inspect["Config"]["Image"] == App::Migrates.image();
        let target = if again { App::MigratesAgain } else { App::Migrates }.image();
        let data = engine.volume_path("app-data");
        (Before { data: Copy::of(&data), rows: upgrades::rows(&data), inspect }, target)
    }

    /// An upgrade in which nobody is killed.
    fn commit_one(&mut self) {
        let (before, target) = self.before_upgrade();
        let job = self.fleet.upgrade(HOST, "app", target, &[]);
        assert_eq!(job["state"], "succeeded", "{job}");
        self.committed = Some(before);
    }

    /// What can be rolled back need not be: the old container goes.
    fn leave_grace_period(&mut self) {
        if self.committed.take().is_some() {
            self.fleet.ok(&["upgrade", "commit", "app", "--host", HOST]);
        }
    }

    /// New content, some of the old gone.
    fn change(&self) {
        let ledger = self.engine().volume_path(LEDGER);
        let file = ledger.join(format!("page-{}", rand::random_range(0..4)));
        let mut dd = Command::new("dd");
        dd.args([
            "if=/dev/urandom",
            "bs=64k",
            &format!("count={}", rand::random_range(1..40)),
            "status=none",
        ]);
        run(dd.arg(format!("of={}", file.display())));
    }

    /// Of a backup that succeeded, the ledger's snapshot.
    fn keep(&mut self, job: &Value, copy: Copy) {
        let sources = job["sources"].as_array().cloned().unwrap_or_default();
        let of_ledger = sources.iter().find(|source| source["source"] == LEDGER || sources.len() == 1);
        let snapshot = of_ledger.and_then(|source| source["snapshot"].as_str());
        self.kept.push((snapshot.unwrap_or_else(|| panic!("no snapshot: {job}")).to_owned(), copy));
        while self.kept.len() > KEPT {
            let (snapshot, _) = self.kept.remove(0);
            self.fleet.ok(&["snapshot", "forget", &snapshot]);
        }
    }

    /// Kills at that moment and starts again; whether it still ran.
    fn kill(&mut self, victim: Victim, begun: Instant, after: Duration) -> bool {
        wait_until(begun + after);
        match victim {
            Victim::Agent => {
                let status = self.fleet.host(HOST).agent().kill();
                self.fleet.host(HOST).start_agent(None);
                status.signal() == Some(9)
            }
            Victim::Controller => {
                let status = self.fleet.controller().kill();
                self.fleet.start_controller(None);
                status.signal() == Some(9)
            }
            Victim::Engine => {
                self.fleet.host(HOST).engine.crash_and_restart();
                true
            }
            Victim::Command => unreachable!("it is killed where it is started"),
        }
    }

    /// The newest job of a kind once no job runs; null where there is none.
    fn ended(&mut self, kind: &str) -> Value {
        self.fleet.wait_connected(HOST);
        self.fleet.wait_idle(180);
        let jobs = self.fleet.json(&["job", "ls", "--limit", "20"]);
        let mut of_kind = jobs.as_array().cloned().unwrap_or_default().into_iter();
        of_kind.find(|job| job["kind"] == kind).unwrap_or_default()
    }

    /// The upgrade of a job once it has ended on its host; null where the host
    /// never heard of it.
    fn settled(&mut self, what: &str, job: &Value) -> Value {
        let fleet = &mut self.fleet;
        let of_job = || {
            let all = fleet.try_remembered(HOST, "app")?;
            Ok::<_, Said>(all.into_iter().find(|upgrade| upgrade["job"] == job["id"]).unwrap_or_default())
        };
        wait::until_is(&format!("{what}: the upgrade to end"), 60, of_job, |newest| {
            newest.is_null() || newest["state"] == "committed" || newest["state"] == "rolled back"
        })
    }

    /// Everything runs, nothing is left over, and catalogue and bucket agree.
    fn all_well(&mut self, what: &str) {
        self.fleet.wait_connected(HOST);
        wait_running(self.engine(), what);
        self.no_leftovers(what);
        self.catalogue_is_bucket(what);
    }

    fn no_leftovers(&mut self, what: &str) {
        let expected = self.things.clone();
        let committed = self.committed.is_some();
        let there = || {
            let things = things(self.fleet.engine(HOST))?;
            // In its grace period an upgrade keeps the old container.
            let same = if committed { without_kept(&things) == expected } else { things == expected };
            if same { Ok(()) } else { Err(things) }
        };
        wait::until(&format!("{what}: nothing but {expected}"), 30, there);
    }

    fn catalogue_is_bucket(&self, what: &str) {
        let ids = |list: &Value| -> BTreeSet<String> {
            let list = list.as_array().cloned().unwrap_or_default();
            list.iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect()
        };
        // What was forgotten is purged at any time.
        let (listed, stored) = wait::until(&format!("{what}: catalogue and bucket to agree"), 30, || {
            let listed = ids(&self.fleet.try_json(&["snapshot", "ls", "--forgotten"])?);
            let stored = ids(&self.fleet.repo("ls", &["-o", "json"]).json()?);
            if listed == stored { Ok((listed, stored)) } else { Err(differing(&listed, &stored)) }
        });
        for (snapshot, _) in &self.kept {
            invariant!(
                "I2",
                listed.contains(snapshot) && stored.contains(snapshot),
                "{what}: {snapshot} is gone"
            );
        }
    }

    /// Every bit of the repository, and every snapshot that is kept.
    fn all_restores(&self, what: &str) {
        let said = self.fleet.repo("verify", &[]);
        invariant!("I1", said.code == 0, "{what}: {}{}", said.stdout, said.stderr);
        for (number, (snapshot, copy)) in self.kept.iter().enumerate() {
            let target = self.fleet.dir().join(format!("offline-{number}"));
            let to = target.display().to_string();
            self.fleet.repo("restore", &[snapshot, "--to", &to, "--setuid", "--devices"]).ends_with(0);
            tree::assert_equal(copy.path(), &target);
            run(Command::new("rm").arg("-rf").arg(&target));
        }
    }
}

impl Ended {
    fn of(killed: bool, job: &Value) -> Self {
        Self { killed, job: job["state"].as_str().unwrap_or_default().to_owned() }
    }
}

impl Before {
    /// The old container runs again with the data it had.
    fn holds(&self, engine: &Engine, what: &str) {
        let runs = upgrades::the_one_that_runs(engine, "app");
        invariant!("I8", Some(&*runs.id) == self.inspect["Id"].as_str(), "{what}: {runs:?}");
        upgrades::assert_same_container(&self.inspect, &engine.inspect("app"));
        self.data.assert_unchanged();
    }
}

fn differing(listed: &BTreeSet<String>, stored: &BTreeSet<String>) -> Said {
    let only =
        |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>().join(" ");
    Said {
        code: 0,
        stdout: format!("only listed: {}", only(listed, stored)),
        stderr: format!("only stored: {}", only(stored, listed)),
    }
}

fn wait_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

fn wait_running(engine: &Engine, what: &str) {
    for name in CONTAINERS {
        wait::until_is(
            &format!("{what}: {name} to run"),
            30,
            || engine.try_state(name),
            |state| state == "running",
        );
    }
}

/// Names of all containers and volumes.
fn things(engine: &Engine) -> Result<String, String> {
    let list = |args: &[&str]| {
        let text = engine.try_docker(args.iter().copied())?;
        let mut names: Vec<&str> = text.lines().collect();
        names.sort_unstable();
        Ok::<_, String>(names.join(" "))
    };
    Ok(format!("{}; {}", list(&["ps", "-a", "--format", "{{.Names}}"])?, list(&["volume", "ls", "-q"])?))
}

fn without_kept(things: &str) -> String {
    let (containers, volumes) = things.split_once("; ").unwrap_or((things, ""));
    let containers: Vec<&str> =
        containers.split(' ').filter(|name| !name.starts_with("app.holdfast-")).collect();
    format!("{}; {volumes}", containers.join(" "))
}
