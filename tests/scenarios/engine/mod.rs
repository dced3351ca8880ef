//! Engines in trouble and out of the ordinary: they restart, are away, refuse a
//! request, run out of room, have others who start what rests, speak another
//! version, map ids or have drivers that die.

mod api_versions;
mod away;
mod changing;
mod drivers;
mod orchestrators;
mod refusing;
mod remapped;
mod removed;
mod restarts;
mod room;
mod sources;

use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::kills::Victim;
use serde_json::Value;

const HOST: &str = "host-a";

/// More than what is read before the first pack is sent.
const LARGE: &str = "head -c 60000000 /dev/urandom > /data/a-large";

/// Runs a script with a volume at `/data`, and leaves no container.
fn fill(engine: &Engine, volume: &str, script: &str) {
    let mount = format!("{volume}:/data");
    engine.docker(["run", "--rm", "-v", &mount, IMAGE, "sh", "-c", script]);
}

/// Starts a backup of volumes of [`HOST`] and gives its job's id.
fn start(fleet: &Fleet, volumes: &[&str], consistency: &str) -> String {
    let mut backup = vec!["backup", "run", "--host", HOST, "--no-wait", "--consistency", consistency];
    volumes.iter().for_each(|volume| backup.extend(["--volume", volume]));
    fleet.json(&backup)[0]["id"].as_str().expect("a job").to_owned()
}

/// Has the agent stand still once it comes to a place.
fn halt_at(fleet: &mut Fleet, point: &str) {
    fleet.arm(Victim::Agent(HOST), &format!("halt {point}"));
}

/// What a job says of one of its sources.
#[track_caller]
fn source<'a>(job: &'a Value, name: &str) -> &'a Value {
    let sources = job["sources"].as_array().expect("sources");
    sources.iter().find(|source| source["source"] == name).unwrap_or_else(|| panic!("no {name} in {job}"))
}

/// What a job says of one of the containers it quiesced.
#[track_caller]
fn quiesced_container<'a>(job: &'a Value, container: &str) -> &'a Value {
    let quiesced_container = job["quiesced"].as_array().expect("containers");
    quiesced_container
        .iter()
        .find(|one| one["container"] == container)
        .unwrap_or_else(|| panic!("no {container} in {job}"))
}

/// The lines a source's snapshot has for its problems, as one text.
fn problems(source: &Value) -> String {
    let lines = source["problems"].as_array().into_iter().flatten();
    lines.filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

/// How many snapshots there are of a volume of [`HOST`].
fn snapshots(fleet: &Fleet, volume: &str) -> usize {
    let list = fleet.json(&["snapshot", "ls", "--host", HOST, volume]);
    list.as_array().expect("a list").len()
}
