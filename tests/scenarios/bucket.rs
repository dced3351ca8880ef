//! A bucket that others change behind a running controller: put back to an
//! older copy, given a deleted snapshot again, made to refuse deletes, closed
//! to the controller's key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::command::run;
use e2e::fleet::{Fleet, Place, Said};
use e2e::kills::AGENT;
use e2e::s3::{Misbehaviour, Mishap, S3Server};
use e2e::upgrades::Copy;
use e2e::{invariant, require_engine, tree};

fn fill(fleet: &Fleet, volume: &str, file: &str, kib: u32) {
    let engine = fleet.engine("host-a");
    engine.docker(["volume", "create", volume]);
    let file = engine.volume_path(volume).join(file);
    run(Command::new("dd")
        .args(["if=/dev/urandom", "bs=1k", &format!("count={kib}"), "status=none"])
        .arg(format!("of={}", file.display())));
}

fn backup(fleet: &Fleet, volume: &str) -> String {
    let job = fleet.backup("host-a", volume, "none");
    assert_eq!(job["state"], "succeeded", "{job}");
    job["sources"][0]["snapshot"].as_str().expect("a snapshot").to_owned()
}

fn restores(fleet: &Fleet, snapshot: &str, like: &Path, name: &str) {
    fleet.ok(&["restore", "volume", snapshot, "--host", "host-a", "--as", name]);
    tree::assert_equal(like, &fleet.engine("host-a").volume_path(name));
}

/// Makes one directory as another is, and removes what that does not have.
fn put_back(from: &Path, to: &Path) {
    run(Command::new("rsync")
        .args(["-a", "--checksum", "--delete"])
        .arg(format!("{}/", from.display()))
        .arg(to));
}

/// Files below a directory, by their names from there.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    if !root.exists() {
        return BTreeSet::new();
    }
    let listed = run(Command::new("find").arg(root).args(["-type", "f", "-printf", "%P\n"]));
    listed.lines().map(PathBuf::from).collect()
}

/// Panics unless a command failed and gave that reason.
#[track_caller]
fn refused(said: Said, reason: &str) {
    let text = said.stdout + &said.stderr;
    assert!(said.code == 1 && text.contains(reason), "exit {}: {text}", said.code);
}

/// `holdfast-controller VERB`, between two lives of the controller.
fn beside(fleet: &mut Fleet, args: &[&str]) -> Said {
    fleet.controller().kill();
    let said = fleet.controller_says(args);
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    said
}

#[test]
fn s21_a_bucket_put_back_to_an_older_copy_is_not_built_upon() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    fill(&fleet, "data", "first", 1500);
    let volume = fleet.engine("host-a").volume_path("data");
    backup(&fleet, "data");
    let before = Copy::of(&volume);
    let older = fleet.dir().join("older");
    put_back(&fleet.repository_dir(), &older);
    fill(&fleet, "data", "second", 1500);
    backup(&fleet, "data");
    let between = Copy::of(&volume);

    put_back(&older, &fleet.repository_dir());
    // It may be refused. What is acknowledged is there, also what the catalogue
    // believes to be stored already.
    let what = ["backup", "run", "--host", "host-a", "--volume", "data", "--consistency", "none"];
    let said = fleet.cli(&what);
    let whole = fleet.repo("verify", &[]);
    invariant!("I1", whole.code == 0, "{said:?}\n{}{}", whole.stdout, whole.stderr);
    let status = fleet.cli(&["status"]).ends_with(3);
    assert!(status.stdout.contains("put back to an older copy"), "{}", status.stdout);
    assert!(status.stdout.contains("holdfast-controller reconcile"), "{}", status.stdout);
    // Nothing is deleted for as long as nobody has looked.
    let there = files(&fleet.repository_dir().join("packs"));
    refused(fleet.cli(&["repo", "prune"]), "put back to an older copy");
    assert_eq!(files(&fleet.repository_dir().join("packs")), there);

    // Also a controller that is started again knows.
    fleet.controller().kill();
    fleet.start_controller(None);
    fleet.wait_connected("host-a");
    refused(fleet.cli(&["repo", "prune"]), "put back to an older copy");
    backup(&fleet, "data");
    // It tells what it found, and misses nothing: what was lost has been sent again.
    let said = beside(&mut fleet, &["reconcile"]);
    assert!(matches!(said.code, 0 | 4) && !said.stdout.contains("missing: "), "{said:?}");
    fill(&fleet, "data", "third", 300);
    let again = backup(&fleet, "data");
    restores(&fleet, "data@#1", before.path(), "r1");
    restores(&fleet, "data@#2", between.path(), "r2");
    restores(&fleet, &again, &volume, "r3");
    fleet.ok(&["repo", "prune"]);
    assert!(!fleet.cli(&["status"]).stdout.contains("suspended"));
    fleet.controller_says(&["verify"]).ends_with(0);
    fleet.assert_whole();
    fleet.assert_acknowledged("a bucket was put back");
}

#[test]
fn s22_a_deleted_snapshot_that_is_put_back_is_named_and_no_snapshot_of_anybodys() {
    require_engine!();
    let mut fleet = Fleet::controller_only(Place::Directory);
    fleet.leaves_damage();
    fleet.forget_at_once();
    fleet.start_controller(None);
    fleet.add_host("host-a");
    fill(&fleet, "data", "first", 900);
    let volume = fleet.engine("host-a").volume_path("data");
    let old = backup(&fleet, "data");
    let snapshots = fleet.repository_dir().join("snapshots");
    let object = files(&snapshots).into_iter().next().expect("the object of a snapshot");
    let kept = fleet.dir().join("kept");
    std::fs::copy(snapshots.join(&object), &kept).unwrap();
    std::fs::remove_file(volume.join("first")).unwrap();
    fill(&fleet, "data", "second", 900);
    let new = backup(&fleet, "data");
    fleet.ok(&["snapshot", "forget", &old]);
    fleet.ok(&["repo", "prune"]);
    assert!(!files(&snapshots).contains(&object), "it is still there");

    std::fs::copy(&kept, snapshots.join(&object)).unwrap();
    // A running controller goes by its catalogue.
    let listed = fleet.json(&["snapshot", "ls", "--forgotten"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    fleet.cli(&["restore", "volume", &old, "--host", "host-a", "--as", "r0"]).ends_with(5);
    assert!(!fleet.engine("host-a").has_volume("r0"));
    fleet.ok(&["repo", "prune"]);
    restores(&fleet, &new, &volume, "r1");
    // Its number is given to no other.
    let next = backup(&fleet, "data");
    assert!(next.ends_with("/3"), "{next}");

    // Whoever looks at the bucket is told.
    let said = fleet.controller_says(&["verify"]).ends_with(4);
    assert!(said.stdout.contains(&old), "{}", said.stdout);
    let said = beside(&mut fleet, &["reconcile"]).ends_with(4);
    let named = format!("snapshot {old} was removed for good, and its object is in the bucket again");
    assert!(said.stdout.contains(&named), "{}", said.stdout);
    assert!(said.stdout.lines().any(|line| line.starts_with("missing: ") && line.contains(&old)), "{said:?}");
    // Until it is gone again, or given up, nothing is deleted because of it.
    refused(fleet.cli(&["repo", "prune"]), "nothing is deleted");
    for (snapshot, name) in [(&new, "r2"), (&next, "r3")] {
        restores(&fleet, snapshot, &volume, name);
    }
    assert_eq!(fleet.backup("host-a", "data", "none")["state"], "succeeded");
}

#[test]
fn s24_a_delete_that_is_denied_in_a_prune_is_listed_and_made_up_for_later() {
    require_engine!();
    let server = S3Server::start();
    let mut fleet = Fleet::controller_only(server.place());
    fleet.forget_at_once();
    fleet.start_controller(None);
    fleet.add_host("host-a");
    let packs = || files(&server.bucket_dir().join("fleet/packs"));
    let mut of = BTreeMap::new();
    for volume in ["one", "two", "stays"] {
        let before = packs();
        fill(&fleet, volume, "file", 900);
        let snapshot = backup(&fleet, volume);
        of.insert(volume, (snapshot, &packs() - &before));
    }
    let object = |pack: &PathBuf| format!("packs/{}", pack.display());
    let locked: BTreeSet<PathBuf> = of["one"].1.clone();
    assert!(!locked.is_empty() && !of["two"].1.is_empty(), "{of:?}");

    // A server that deletes one at a time, and holds on to the packs of one snapshot.
    server.plan(Mishap::new("POST", Misbehaviour::Answer(501, "NotImplemented")).on("delete"));
    for pack in &locked {
        server.plan(Mishap::new("DELETE", Misbehaviour::Answer(403, "AccessDenied")).on(object(pack)));
    }
    for volume in ["one", "two"] {
        fleet.ok(&["snapshot", "forget", &of[volume].0]);
    }
    let job = fleet.json(&["repo", "prune"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    let notes = job["prune"]["notes"].to_string();
    for pack in &locked {
        assert!(notes.contains(&object(pack)), "{} is not listed: {job}", pack.display());
    }
    assert!(notes.contains("could not be deleted and is tried again"), "{job}");
    // Everything else went, the snapshots with it.
    assert_eq!(packs(), &locked | &of["stays"].1);
    assert_eq!(
        (&job["prune"]["packs_deleted"], &job["prune"]["snapshots_purged"]),
        (&of["two"].1.len().into(), &2.into())
    );
    assert_eq!(files(&server.bucket_dir().join("fleet/snapshots")).len(), 1);
    fleet.assert_whole();
    // What is on its way out is no place to build upon.
    let copy = fleet.engine("host-a").volume_path("one").join("file");
    let again = fleet.engine("host-a").volume_path("stays").join("again");
    std::fs::copy(copy, again).unwrap();
    backup(&fleet, "stays");
    fleet.assert_whole();

    server.behave();
    let done = fleet.json(&["repo", "prune"]);
    assert!(packs().is_disjoint(&locked), "they were let go and are still there");
    assert_eq!(done["prune"]["packs_deleted"], locked.len(), "{done}");
    let idle = fleet.json(&["repo", "prune"]);
    assert_eq!(idle["prune"]["packs_deleted"], 0, "{idle}");
    restores(&fleet, "stays@latest", &fleet.engine("host-a").volume_path("stays"), "r1");
    fleet.assert_whole();
    fleet.controller_says(&["verify"]).ends_with(0);
}

/// A bucket of its own on that server, for another fleet.
fn another_bucket(server: &S3Server) -> Place {
    let Place::S3 { endpoint, region, access_key, secret_key, .. } = server.place() else {
        panic!("it is an S3 server")
    };
    let bucket = "another".to_owned();
    std::fs::create_dir(server.bucket_dir().with_file_name(&bucket)).unwrap();
    Place::S3 { endpoint, bucket, region, access_key, secret_key }
}

#[test]
fn s16_a_key_revoked_in_the_middle_fails_that_repository_at_once_and_no_other() {
    require_engine!();
    let server = S3Server::start();
    let mut fleet = Fleet::start_on(server.place(), &["host-a"]);
    let other = Fleet::start_on(another_bucket(&server), &["host-a"]);
    for fleet in [&fleet, &other] {
        fill(fleet, "data", "first", 900);
        backup(fleet, "data");
    }
    fleet.arm(AGENT, "halt agent.pack.before-put");
    fill(&fleet, "data", "second", 900);
    let what =
        ["backup", "run", "--host", "host-a", "--volume", "data", "--consistency", "none", "--no-wait"];
    let begun = fleet.json(&what);
    fleet.host("host-a").agent().wait_halted(60);
    // From now on the store knows the key no more, for one of the two buckets.
    let of_fleet = format!("/{}/", e2e::s3::BUCKET);
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
        server.plan(Mishap::new(method, Misbehaviour::Answer(403, "InvalidAccessKeyId")).on(&of_fleet));
    }
    let asked = server.requests().len();
    fleet.host("host-a").agent().run_on();
    fill(&other, "data", "second", 900);
    let beside = backup(&other, "data");

    let job = fleet.await_job(begun[0]["id"].as_str().unwrap(), 120);
    assert_eq!(job["state"], "failed", "{job}");
    let credentials = fleet.credentials_file().display().to_string();
    assert!(job["error"].as_str().unwrap().contains(&credentials), "it does not name the file: {job}");
    // No storm: no pack was sent twice, if one was sent at all.
    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    for request in &server.requests()[asked..] {
        if request.starts_with("PUT ") && request.contains(&of_fleet) && request.contains("/packs/") {
            *sent.entry(request.clone()).or_default() += 1;
        }
    }
    assert!(sent.values().all(|times| *times == 1), "{sent:?}");
    let status = fleet.cli(&["status"]).ends_with(3);
    assert!(status.stdout.contains(&credentials), "{}", status.stdout);
    restores(&other, &beside, &other.engine("host-a").volume_path("data"), "r1");
    other.assert_whole();
    other.ok(&["repo", "prune"]);

    // It is known again: the next backup works, and nothing was lost.
    server.behave();
    backup(&fleet, "data");
    restores(&fleet, "data@latest", &fleet.engine("host-a").volume_path("data"), "r1");
    fleet.assert_whole();
    fleet.assert_acknowledged("a key was revoked for a while");
}
