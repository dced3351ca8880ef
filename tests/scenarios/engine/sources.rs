//! Everything one container mounts, through a schedule.

use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::{require_engine, tree};
use serde_json::Value;

use super::{HOST, source};

fn apply(fleet: &Fleet, name: &str, what: &str) {
    let file = fleet.dir().join(format!("{name}.toml"));
    let toml = format!("name = \"{name}\"\n{what}\n[schedule]\ncron = \"*/3 * * * * *\"\n");
    std::fs::write(&file, toml).unwrap();
    // 3 while the controller has not yet looked at the host's volumes again.
    let said = fleet.cli(&["apply", "-f", &file.display().to_string()]);
    assert!(matches!(said.code, 0 | 3), "{}{}", said.stdout, said.stderr);
}

/// The first job that a policy fired, when it has ended; then the policy goes.
fn fired(fleet: &Fleet, policy: &str) -> Value {
    let list = ["job", "ls", "--policy", policy, "--limit", "500"];
    let first = |jobs: &Value| jobs.as_array().and_then(|jobs| jobs.last().cloned());
    let ended = |job: Value| job["state"] != "queued" && job["state"] != "running";
    let jobs = fleet.wait_json("the policy to fire", 120, &list, |jobs| first(jobs).is_some_and(ended));
    fleet.ok(&["policy", "rm", policy]);
    fleet.wait_idle(60);
    fleet.job(first(&jobs).unwrap()["id"].as_str().unwrap())
}

/// A container with a mount of every kind. Gives the name of its anonymous volume.
fn run_app(engine: &Engine, allowed: &str, denied: &str) -> String {
    engine.docker([
        "volume",
        "create",
        "--opt",
        "type=tmpfs",
        "--opt",
        "device=tmpfs",
        "--opt",
        "o=size=1m",
        "memory",
    ]);
    let (site, closed) = (format!("{allowed}:/site"), format!("{denied}:/closed"));
    let mut run = vec!["run", "-d", "--name", "app", "--tmpfs", "/scratch"];
    for mount in ["named:/named", "/anonymous", "memory:/memory", &site, &closed] {
        run.extend(["-v", mount]);
    }
    let script = "for d in named anonymous memory scratch; do echo $d > /$d/file; done; sleep 100000";
    engine.docker(run.into_iter().chain([IMAGE, "sh", "-c", script]));
    let mounts = engine.inspect("app")["Mounts"].clone();
    let anonymous = mounts[0]["Name"].as_str().unwrap().to_owned();
    assert_eq!((&mounts[0]["Destination"], anonymous.len()), (&"/anonymous".into(), 64), "{mounts}");
    anonymous
}

/// Volumes by name and by id, and the directory.
fn assert_restores(fleet: &mut Fleet, anonymous: &str, allowed: &str) {
    for (name, back) in [("named", "back-1"), (anonymous, "back-2")] {
        let latest = format!("{HOST}/{name}@latest");
        fleet.ok(&["restore", "volume", &latest, "--host", HOST, "--as", back]);
        let engine = fleet.engine(HOST);
        tree::assert_equal(&engine.volume_path(name), &engine.volume_path(back));
    }
    let to = fleet.host(HOST).allowed_dir().join("back");
    let latest = format!("{allowed}@latest");
    fleet.ok(&["restore", "files", &latest, "--host", HOST, "--to", &to.display().to_string()]);
    tree::assert_equal(allowed.as_ref(), &to);
}

/// Whole, each of them.
fn assert_taken(job: &Value, names: [&str; 3]) {
    for name in names {
        let taken = source(job, name);
        assert_eq!((&taken["ok"], &taken["partial"]), (&true.into(), &false.into()), "{name}: {job}");
    }
}

fn assert_refused(job: &Value, name: &str, code: &str, words: &str) {
    let refused = source(job, name);
    assert_eq!((&refused["ok"], &refused["error_code"]), (&false.into(), &code.into()), "{job}");
    assert!(refused["error"].as_str().unwrap().contains(words), "{job}");
}

#[test]
fn d08_a_schedule_takes_anonymous_volumes_and_allowed_binds_and_refuses_what_is_in_memory() {
    require_engine!();
    let mut fleet = Fleet::start(&[HOST]);
    let allowed = fleet.host(HOST).allowed_dir().join("site");
    let denied = fleet.engine(HOST).dir().join("denied");
    for dir in [&allowed, &denied] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("file"), "text").unwrap();
    }
    let (allowed, denied) = (allowed.display().to_string(), denied.display().to_string());
    let anonymous = run_app(fleet.engine(HOST), &allowed, &denied);

    apply(&fleet, "nightly", &format!("volumes = [\"*\"]\ndirectories = [\"{allowed}\", \"{denied}\"]"));
    let job = fired(&fleet, "nightly");
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["sources"].as_array().unwrap().len(), 5, "the tmpfs of the container is no source: {job}");
    assert_taken(&job, ["named", &anonymous, &allowed]);
    assert_refused(&job, "memory", "volume-not-reachable", "it lives in memory");
    assert_refused(&job, &denied, "not-allowed", &denied);

    // Green without what cannot be, and to be had back: a volume by its id.
    let what =
        format!("volumes = {{ exclude = [\"memory\"], include = [\"*\"] }}\ndirectories = [\"{allowed}\"]");
    apply(&fleet, "possible", &what);
    let job = fired(&fleet, "possible");
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_restores(&mut fleet, &anonymous, &allowed);
    fleet.assert_whole();
}
