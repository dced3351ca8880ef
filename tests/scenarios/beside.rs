//! What happens to one job, beside jobs of other hosts that go on.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::command::run;
use e2e::fleet::Fleet;
use e2e::kills::Victim;
use e2e::s3::S3Server;
use e2e::{require_engine, tree};
use serde_json::Value;

/// Stands between a pack's announcement and its bytes.
const BEFORE_PUT: &str = "halt agent.pack.before-put";

/// A volume with new content on that host.
fn fill(fleet: &Fleet, host: &str, volume: &str) {
    let engine = fleet.engine(host);
    engine.docker(["volume", "create", volume]);
    let file = engine.volume_path(volume).join("random");
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=64k", "count=60", "status=none"])
        .arg(format!("of={}", file.display())));
}

/// Starts a backup without waiting for it, and gives the job's id.
fn begin(fleet: &Fleet, host: &str) -> String {
    let what = ["--host", host, "--volume", "data", "--consistency", "none", "--no-wait"];
    let job = fleet.json(&[&["backup", "run"], &what[..]].concat());
    job[0]["id"].as_str().unwrap_or_else(|| panic!("no id: {job}")).to_owned()
}

/// Starts the agent again, to stand still before it sends its first pack.
fn to_be_held_up(fleet: &mut Fleet, host: &str) {
    fleet.arm(Victim::Agent(host), BEFORE_PUT);
}

/// What has happened to a job, a line each.
fn story(fleet: &Fleet, job: &str) -> String {
    fleet.ok(&["job", "logs", job])
}

fn restores(fleet: &Fleet, host: &str) {
    let snapshot = format!("{host}/data@latest");
    fleet.ok(&["restore", "volume", &snapshot, "--host", host, "--as", "restored"]);
    let engine = fleet.engine(host);
    tree::assert_equal(&engine.volume_path("data"), &engine.volume_path("restored"));
}

#[test]
fn p25_a_panic_in_one_job_ends_that_job_and_no_other() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a", "host-b"]);
    for host in ["host-a", "host-b"] {
        fill(&fleet, host, "data");
    }
    fleet.controller().kill();
    fleet.start_controller(Some("panic controller.job.after-source"));
    let controller = fleet.controller().pid();
    fleet.wait_connected("host-a");
    // Half-way through when the other job panics.
    to_be_held_up(&mut fleet, "host-b");
    let beside = begin(&fleet, "host-b");
    fleet.host("host-b").agent().wait_halted(60);

    let what = ["--host", "host-a", "--volume", "data", "--consistency", "none"];
    let said = fleet.cli(&[&["backup", "run"], &what[..], &["-o", "json"]].concat());
    let failed: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    assert_ne!(said.code, 0, "{failed}");
    assert_eq!((&failed["state"], &failed["error_code"]), (&"failed".into(), &"panic".into()), "{failed}");
    let cause = failed["error"].as_str().unwrap();
    assert!(cause.contains("a panic at controller.job.after-source"), "{cause}");
    assert_eq!(fleet.job(&beside)["state"], "running");

    fleet.host("host-b").agent().run_on();
    let ended = fleet.await_job(&beside, 120);
    assert_eq!((&ended["state"], &ended["attempt"]), (&"succeeded".into(), &1.into()), "{ended}");
    // The next job of the same host, by the same controller.
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
    assert!(fleet.controller().is_running() && fleet.controller().pid() == controller);
    fleet.assert_acknowledged("a panic in a job");
    fleet.assert_whole();
    restores(&fleet, "host-a");
    restores(&fleet, "host-b");
}

/// How often each pack was sent to the store.
fn sent(server: &S3Server) -> BTreeMap<String, usize> {
    let mut sent = BTreeMap::new();
    for request in server.requests() {
        if let Some(object) = request.strip_prefix("PUT ").filter(|object| object.contains("/packs/")) {
            *sent.entry(object.to_owned()).or_default() += 1;
        }
    }
    sent
}

/// Bytes of all packs in the bucket.
fn stored(server: &S3Server) -> u64 {
    let folder = server.bucket_dir().join("fleet/packs");
    let sizes = run(Command::new("find").arg(folder).args(["-type", "f", "-printf", "%s\n"]));
    sizes.lines().filter_map(|size| size.parse::<u64>().ok()).sum()
}

#[test]
fn p13_an_agent_that_stands_still_is_waited_for_and_its_job_ends_once() {
    require_engine!();
    /// Bytes of a volume, and what the manifests of two snapshots take at most.
    const VOLUME: u64 = 60 << 16;
    const MANIFESTS: u64 = 1 << 20;
    let server = S3Server::start();
    let mut fleet = Fleet::start_on(server.place(), &["host-a", "host-b"]);
    for host in ["host-a", "host-b"] {
        fill(&fleet, host, "data");
    }
    to_be_held_up(&mut fleet, "host-a");
    let agent = fleet.host("host-a").agent().pid();
    let held_up = begin(&fleet, "host-a");
    fleet.host("host-a").agent().wait_halted(60);

    // Others are not held up by it.
    assert_eq!(fleet.backup("host-b", "data", "none")["state"], "succeeded");
    // Until its connection is given up, which takes as long as its limit is.
    fleet.wait_json("the silence to be noticed", 60, &["host", "show", "host-a"], |host| {
        host["connected"] == false
    });
    fleet.wait_job("the job to be missed", &held_up, 60, |job| {
        let lost = fleet.cli(&["job", "logs", &held_up]).stdout.contains("lost sight of the agent");
        lost && job["state"] != "queued"
    });
    assert_eq!(fleet.backup("host-b", "data", "none")["state"], "succeeded");
    let waiting = fleet.job(&held_up);
    assert_eq!((&waiting["state"], &waiting["attempt"]), (&"running".into(), &1.into()), "{waiting}");

    fleet.host("host-a").agent().run_on();
    let ended = fleet.await_job(&held_up, 120);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    // It was the one attempt there ever was, by the agent that stood still.
    assert_eq!(ended["attempt"], 1, "{}", story(&fleet, &held_up));
    assert!(fleet.host("host-a").agent().is_running() && fleet.host("host-a").agent().pid() == agent);
    let jobs = fleet.json(&["job", "ls", "--host", "host-a"]);
    assert_eq!(jobs.as_array().map(Vec::len), Some(1), "{jobs}");
    let snapshots = fleet.json(&["snapshot", "ls"]);
    let numbers: Vec<&Value> = snapshots.as_array().unwrap().iter().map(|one| &one["number"]).collect();
    assert_eq!(numbers.len(), 3, "one of host-a and two of host-b: {snapshots}");
    // Nothing was written twice, as the store saw it.
    let again: Vec<_> = sent(&server).into_iter().filter(|(_, times)| *times != 1).collect();
    assert!(again.is_empty(), "{again:?}");
    let stored = stored(&server);
    assert!((2 * VOLUME..2 * VOLUME + MANIFESTS).contains(&stored), "{stored} bytes of packs");
    fleet.assert_acknowledged("an agent stood still");
    fleet.assert_whole();
    restores(&fleet, "host-a");
}
