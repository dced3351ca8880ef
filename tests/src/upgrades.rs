//! What tests of upgrades ask of a fleet, and what they hold against each
//! other.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::app_images::App;
use crate::command::run;
use crate::docker::Engine;
use crate::fleet::{Fleet, Said};
use crate::{invariant, tree, wait};

/// What hosts allow whose containers are upgraded.
pub const RIGHTS: [&str; 2] = ["container", "exec"];

/// Spans that suit images that are well, or not, within seconds: the first one
/// ends an upgrade only where nobody says that the container is not well.
const HEALTH_TIMEOUT: [&str; 2] = ["--health-timeout", "120s"];
const STEADY: [&str; 2] = ["--steady", "2s"];

impl Fleet {
    /// `holdfast upgrade run`, with what it said.
    pub fn try_upgrade(&self, host: &str, container: &str, image: &str, more: &[&str]) -> Said {
        let mut args = vec!["upgrade", "run", container, "--image", image, "--host", host, "-o", "json"];
        args.extend(STEADY);
        if !more.contains(&HEALTH_TIMEOUT[0]) {
            args.extend(HEALTH_TIMEOUT);
        }
        args.extend(more);
        self.cli(&args)
    }

    /// Upgrades a container and gives the ended job, whatever came of it;
    /// panics where there is no job.
    #[track_caller]
    pub fn upgrade(&self, host: &str, container: &str, image: &str, more: &[&str]) -> Value {
        job_of(self.try_upgrade(host, container, image, more))
    }

    /// Starts an upgrade and gives the job's id.
    #[track_caller]
    pub fn start_upgrade(&self, host: &str, container: &str, image: &str) -> String {
        let job = self.upgrade(host, container, image, &["--no-wait"]);
        job["id"].as_str().expect("an id").to_owned()
    }

    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        self.json(&["job", "show", id])
    }

    /// Waits until a job has ended.
    #[track_caller]
    pub fn await_job(&self, id: &str, seconds: u64) -> Value {
        self.wait_job("the job to end", id, seconds, |job| {
            job["state"] != "queued" && job["state"] != "running"
        })
    }

    /// Waits until a job is as `wanted`, and gives it.
    #[track_caller]
    pub fn wait_job(&self, what: &str, id: &str, seconds: u64, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_json(what, seconds, &["job", "show", id], wanted)
    }

    /// Upgrades of a container as its host remembers them, newest first, asked
    /// at the host's own socket: no controller is needed.
    #[track_caller]
    pub fn remembered(&mut self, host: &str, container: &str) -> Vec<Value> {
        wait::not_in_a_probe("Fleet::remembered");
        self.try_remembered(host, container).unwrap_or_else(|said| panic!("{said:?}"))
    }

    /// As [`Self::remembered`], for the probe of a wait.
    ///
    /// # Errors
    /// What the command said, unless it succeeded with JSON.
    pub fn try_remembered(&mut self, host: &str, container: &str) -> Result<Vec<Value>, Said> {
        let status = self.host(host).cli(&["upgrade", "status", container, "-o", "json"]).json()?;
        Ok(status["upgrades"].as_array().cloned().unwrap_or_default())
    }

    /// The newest of them, null where there is none.
    #[track_caller]
    pub fn newest(&mut self, host: &str, container: &str) -> Value {
        self.remembered(host, container).into_iter().next().unwrap_or_default()
    }

    /// Waits until the newest of them is as `wanted`, and gives it.
    #[track_caller]
    pub fn wait_newest(
        &mut self,
        what: &str,
        (host, container): (&str, &str),
        seconds: u64,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let newest = || {
            let remembered = self.try_remembered(host, container)?;
            Ok::<_, Said>(remembered.into_iter().next().unwrap_or_default())
        };
        wait::until_is(what, seconds, newest, wanted)
    }
}

/// Whether an upgrade is in a state, or was.
pub fn reached(upgrade: &Value, state: &str) -> bool {
    upgrade["steps"].as_array().is_some_and(|steps| steps.iter().any(|step| step["state"] == state))
}

/// The job a command that starts one printed.
#[track_caller]
pub fn job_of(said: Said) -> Value {
    let job: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
    assert!(job["id"].is_string(), "no job was started\nstdout:\n{}\nstderr:\n{}", said.stdout, said.stderr);
    job
}

/// Runs the small server and waits until it is healthy; its rows are in the
/// volume `NAME-data`.
pub fn run_app(engine: &Engine, name: &str, app: App, more: &[&str]) {
    let data = format!("{name}-data:/data");
    let mut command = engine.command(["run", "-d", "--name", name, "-v", &data]);
    run(command.args(more).arg(app.image()));
    wait_healthy(engine, name);
}

#[track_caller]
pub fn wait_healthy(engine: &Engine, name: &str) {
    wait_health(engine, name, "healthy");
}

/// Waits until a container's own check says so.
#[track_caller]
pub fn wait_health(engine: &Engine, name: &str, health: &str) {
    let state = || engine.try_inspect(name).map(|mut container| container["State"].take());
    let what = format!("{name} to be {health}");
    wait::until_is(&what, 60, state, |state| state["Health"]["Status"] == health);
}

/// A container and what upgrades have put beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relative {
    pub name: String,
    pub id: String,
    pub image: String,
    pub state: String,
}

/// The container of that name and all `NAME.holdfast-...`.
#[track_caller]
pub fn family(engine: &Engine, name: &str) -> Vec<Relative> {
    wait::not_in_a_probe("family");
    try_family(engine, name).unwrap_or_else(|failure| panic!("{failure}"))
}

/// As [`family`], for the probe of a wait.
///
/// # Errors
/// What `docker ps` said, unless it succeeded.
pub fn try_family(engine: &Engine, name: &str) -> Result<Vec<Relative>, String> {
    let format = "{{.Names}}|{{.ID}}|{{.Image}}|{{.State}}";
    let listed = engine.try_docker(["ps", "-a", "--no-trunc", "--format", format])?;
    let prefix = format!("{name}.holdfast-");
    let all = listed.lines().map(|line| {
        let mut parts = line.split('|').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Relative { name: next(), id: next(), image: next(), state: next() }
    });
    Ok(all.filter(|found| found.name == name || found.name.starts_with(&prefix)).collect())
}

/// The one of a family that runs; panics unless it is just the one that has
/// the name.
#[track_caller]
pub fn the_one_that_runs(engine: &Engine, name: &str) -> Relative {
    let family = family(engine, name);
    let running: Vec<&Relative> =
        family.iter().filter(|one| one.state != "exited" && one.state != "created").collect();
    invariant!(
        "I8",
        running.len() == 1 && running[0].name == name && running[0].state == "running",
        "exactly `{name}` has to run: {family:#?}"
    );
    running[0].clone()
}

/// Rows of the small server in its data, sorted by their names.
pub fn rows(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.join("rows")).expect("rows");
    let mut files: Vec<PathBuf> = entries.map(|row| row.expect("a row").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).expect("a row")).collect()
}

/// What a version that migrates makes of rows.
pub fn migrated(rows: &[String], version: &str) -> Vec<String> {
    rows.iter().map(|row| format!("{version} {row}")).collect()
}

/// Nothing is left of an upgrade that went back, or was committed for good.
#[track_caller]
pub fn assert_no_traces(engine: &Engine, name: &str, volume: &str) {
    let family = family(engine, name);
    assert_eq!(family.len(), 1, "{family:#?}");
    let beside = beside(&engine.volume_path(volume));
    assert!(beside.is_empty(), "left beside the data of {volume}: {beside:?}");
}

/// What lies beside a volume's data and is not the Engine's.
pub fn beside(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data.parent().expect("below the root")).expect("listed");
    let names = entries.map(|entry| entry.expect("listed").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "_data" && name != "opts.json").collect()
}

/// An exact copy of a tree, to compare with later.
pub struct Copy {
    original: PathBuf,
    dir: tempfile::TempDir,
}

impl Copy {
    pub fn of(original: &Path) -> Self {
        let dir = tempfile::TempDir::with_prefix("hfcopy").expect("temporary folder");
        let slash = format!("{}/", original.display());
        // Without the window it takes a folder for done whose time is right to
        // the second, and that of one just made is.
        run(Command::new("rsync").args(["-aHAXS", "--modify-window=-1", &slash]).arg(dir.path()));
        tree::assert_equal(original, dir.path());
        Self { original: original.to_owned(), dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Panics unless the original is again as it was, as outside tools see it.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        tree::assert_equal(self.path(), &self.original);
    }
}

/// Every place at which two JSON values differ, as `/a/b/0: left -> right`.
pub fn differences(left: &Value, right: &Value) -> Vec<String> {
    fn walk(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
        match (left, right) {
            (Value::Object(left), Value::Object(right)) => {
                let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
                for key in keys {
                    let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                    walk(&format!("{path}/{key}"), &of(left), &of(right), found);
                }
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                for (index, (left, right)) in a.iter().zip(b).enumerate() {
                    walk(&format!("{path}/{index}"), left, right, found);
                }
            }
            _ if left == right => {}
            _ => found.push(format!("{path}: {left} -> {right}")),
        }
    }
    let mut found = Vec::new();
    walk("", left, right, &mut found);
    found
}

/// Whether a stop and a start change this, or an Engine that was killed.
fn is_by_running(path: &str) -> bool {
    const PARTS: [&str; 7] =
        ["/SandboxID", "/SandboxKey", "/EndpointID", "/IPAddress", "/MacAddress", "/Ports", "/NetworkID"];
    let of_network = path.starts_with("/NetworkSettings/") && PARTS.iter().any(|part| path.contains(part));
    of_network || path.starts_with("/State/") || path.starts_with("/ExecIDs") || path == "/RestartCount"
}

/// Panics unless a container is the same and set up in the same way.
#[track_caller]
pub fn assert_same_container(before: &Value, after: &Value) {
    let mut found = differences(before, after);
    found.retain(|line| !is_by_running(line.split(": ").next().unwrap_or_default()));
    assert!(found.is_empty(), "the container is not as it was:\n{}", found.join("\n"));
}

/// What differs between a container and one made again of its settings.
fn is_by_another_making(path: &str) -> bool {
    const WHOLE: [&str; 8] = [
        "/Id",
        "/Created",
        "/Config/Hostname",
        "/Config/Volumes",
        "/HostnamePath",
        "/HostsPath",
        "/LogPath",
        "/ResolvConfPath",
    ];
    // An anonymous volume is mounted by its name, its namespaces' owner is another
    // container, and compose may have made its network again.
    let parts = ["/Gateway", "/GraphDriver/", "/HostConfig/Mounts", "/HostConfig/NetworkMode", "/Aliases/"];
    WHOLE.iter().any(|whole| path.starts_with(whole))
        || parts.iter().any(|part| path.contains(part))
        || (path.starts_with("/Mounts/") && path.ends_with("/Mode"))
}

/// Panics unless a container was set up as another one was, whose name, labels
/// and volumes it has. Made of an image that keeps what the other one wrote, it
/// names the image that one had.
#[track_caller]
pub fn assert_made_again(before: &Value, after: &Value) {
    let base = |container: &Value| container["Config"]["Labels"]["holdfast.base-image"].clone();
    let kept = base(after).is_string();
    if kept {
        let first = if base(before).is_string() { base(before) } else { before["Image"].clone() };
        assert_eq!(base(after), first);
    }
    let of_image = ["/Image", "/Config/Image", "/Config/Labels/holdfast.base-"];
    let mut found = differences(before, after);
    found.retain(|line| {
        let (path, values) = line.split_once(": ").unwrap_or((line, ""));
        let is_image = kept && of_image.iter().any(|part| path.starts_with(part));
        let nothing = |value: &str| ["null", "[]", "{}"].contains(&value);
        // A restart policy without a name is `no`.
        let is_nothing = values.split_once(" -> ").is_some_and(|(a, b)| nothing(a) && nothing(b))
            || line == "/HostConfig/RestartPolicy/Name: \"\" -> \"no\"";
        !is_by_running(path) && !is_by_another_making(path) && !is_image && !is_nothing
    });
    assert!(found.is_empty(), "the container is not as it was:\n{}", found.join("\n"));
}

/// Labels by which compose could know a container, and on a stand-in those it
/// knew the old one by. Those that an image has and a container cannot lose are
/// empty.
pub fn labels_of_compose(container: &Value) -> (Vec<String>, Vec<String>) {
    let labels = container["Config"]["Labels"].as_object().into_iter().flatten();
    let texts = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let (kept, others): (Vec<String>, Vec<String>) =
        texts.partition(|label| label.starts_with("holdfast.kept.com.docker.compose."));
    let own =
        others.into_iter().filter(|label| label.starts_with("com.docker.compose.") && !label.ends_with('='));
    (own.collect(), kept)
}
