//! The Engine restarts while a backup has quiesced containers.

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::{figure, invariant, require_engine, wait};
use serde_json::{Value, json};

use super::{HOST, halt_at, problems, quiesced_container, source, start};

/// Of one volume each a user that the Engine starts again when it restarts,
/// one that it starts even if it was stopped on purpose, and one that it leaves
/// alone.
const USERS: [(&str, &str); 3] = [("kept", "unless-stopped"), ("ever", "always"), ("plain", "no")];

fn with_users() -> Fleet {
    let fleet = Fleet::start(&[HOST]);
    let engine = fleet.engine(HOST);
    for (name, policy) in USERS {
        let script = format!("trap 'exit 0' TERM; while true; do echo line >> /data/{name}; sleep 0.1; done");
        let run = ["run", "-d", "--name", name, "--restart", policy, "-v", "data:/data"];
        engine.docker(run.into_iter().chain([IMAGE, "sh", "-c", &script]));
    }
    fleet
}

/// How the daemon goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// As `systemctl restart docker` ends it.
    Term,
    Kill,
}

/// Starts a backup, ends the Engine when all was read and everybody rests, and
/// starts it again: before the agent does anything more, or after. Gives the
/// job.
fn restart_within(fleet: &mut Fleet, how: &str, end: End, agent_meets_none: bool) -> Value {
    halt_at(fleet, "agent.capture.second-pass-done");
    let id = start(fleet, &["data"], how);
    fleet.host(HOST).agent().wait_halted(60);
    let rests = if how == "pause" { "paused" } else { "exited" };
    assert_eq!(USERS.map(|(name, _)| fleet.engine(HOST).state(name)), [rests; 3]);
    match end {
        End::Term => fleet.host(HOST).engine.shut_down(),
        End::Kill => fleet.host(HOST).engine.crash(),
    }
    if agent_meets_none {
        fleet.host(HOST).agent().run_on();
        fleet.host(HOST).engine.start_again();
    } else {
        fleet.host(HOST).engine.start_again();
        fleet.host(HOST).agent().run_on();
    }
    fleet.await_job(&id, 180)
}

/// Who ran before runs, and writes.
#[track_caller]
fn all_run(fleet: &Fleet, what: &str) {
    let engine = fleet.engine(HOST);
    for (name, _) in USERS {
        engine.wait_state(name, "running", 60);
        let file = engine.volume_path("data").join(name);
        let length = || std::fs::metadata(&file).map(|meta| meta.len()).unwrap_or(0);
        let before = length();
        wait::until_true(&format!("{what}: {name} to write on"), 20, || length() > before);
    }
}

/// The next backup has nothing to do with the last one's Engine.
#[track_caller]
fn next_works(fleet: &Fleet, how: &str, what: &str) {
    let job = fleet.backup(HOST, "data", how);
    assert_eq!(job["state"], "succeeded", "{what}: {job}");
    all_run(fleet, what);
    fleet.assert_whole();
}

#[test]
fn d01_an_engine_that_restarts_during_a_backup_leaves_nothing_stopped() {
    require_engine!();
    let mut fleet = with_users();
    // The last: what the Engine takes down for good when it restarts so, whether
    // somebody backs up or not.
    for (how, end, agent_meets_none, left_down) in [
        ("stop", End::Term, false, &[][..]),
        ("stop", End::Kill, false, &[][..]),
        ("stop", End::Kill, true, &[][..]),
        ("pause", End::Term, false, &["plain"][..]),
        ("pause", End::Kill, true, &["kept", "plain"][..]),
    ] {
        let what = format!("{how}, {end:?}, agent meets none: {agent_meets_none}");
        let job = restart_within(&mut fleet, how, end, agent_meets_none);
        figure!("{what}: {} {}", job["state"], job["error"]);
        let is_ours = |name: &str| {
            let problem = quiesced_container(&job, name)["problem"].as_str().unwrap_or_default();
            problem.ends_with("the agent goes on trying")
        };
        if agent_meets_none && USERS.iter().any(|(name, _)| is_ours(name)) {
            // The Engine took longer than the job waits for it.
            assert_eq!(job["state"], "failed", "{what}: {job}");
        } else {
            // What was read quiesced counts; that somebody was started meanwhile, or
            // that it is not known, is told.
            assert_eq!(job["state"], "partial", "{what}: {job}");
            let told = problems(source(&job, "data"));
            let doubt = match agent_meets_none {
                true => "it is not known whether all containers were quiesced to the end",
                false => "container `ever` ran while its data was read",
            };
            assert!(told.contains(doubt), "{what}: {told}\n{job}");
        }
        // Without live-restore the Engine takes down what is paused, as it does
        // with everything that runs, and brings back what it is told to.
        for (name, _) in USERS {
            let down = quiesced_container(&job, name);
            let left = left_down.contains(&name);
            if !is_ours(name) {
                invariant!("I6", (down["resumed"] == true) != left, "{what}: {name}: {job}");
                assert!(!left || down["problem"] == "it ended meanwhile", "{what}: {job}");
            }
            if left {
                assert_eq!(fleet.engine(HOST).state(name), "exited", "{what}");
                fleet.engine(HOST).docker(["start", name]);
            }
        }
        all_run(&fleet, &what);
        next_works(&fleet, how, &what);
    }
}

#[test]
fn d01_with_live_restore_everything_runs_on_through_it() {
    require_engine!();
    let mut fleet = with_users();
    let engine = fleet.engine(HOST);
    engine.configure(&json!({"live-restore": true}));
    wait::until_is(
        "the Engine to have live-restore",
        30,
        || engine.try_api("GET", "/info", None),
        |(_, info)| info["LiveRestoreEnabled"] == true,
    );
    for (how, end) in [("pause", End::Term), ("pause", End::Kill), ("stop", End::Kill)] {
        let what = format!("live-restore, {how}, {end:?}");
        let begun = |fleet: &Fleet| fleet.engine(HOST).inspect("plain")["State"]["StartedAt"].clone();
        let before = begun(&fleet);
        let job = restart_within(&mut fleet, how, end, false);
        figure!("{what}: {} {}", job["state"], job["error"]);
        assert_eq!(quiesced_container(&job, "plain")["resumed"], true, "{what}: {job}");
        if how == "pause" {
            assert_eq!(job["state"], "succeeded", "nobody ran meanwhile: {what}: {job}");
            assert_eq!(begun(&fleet), before, "{what}: it was started anew");
        }
        all_run(&fleet, &what);
        next_works(&fleet, how, &what);
    }
}
