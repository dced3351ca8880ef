//! What has to be quiesced for an upgrade, in which order, and for how long. Pure.
//!
//! With a running container stop those that depend on it, however remotely, and
//! every other one that writes the same data: the clone and the second snapshot
//! are of one moment, and a rollback exchanges the data below whoever has it
//! mounted. Of a container that does not run nothing is started anew, so
//! nothing has to stop for it.
//!
//! A stopped container that names by its id what is recreated is recreated too:
//! it would never start again.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::engine::{Container, ContainerState, MountKind};
use crate::quiesce::{Place, depends_on, is_own, is_swarm, live_users, lives_in, quiesce_order};
use crate::upgrade::record::OLD_INFIX;

use super::refusals::Refusal;

/// A stop takes this long at most where a plan is made of it; most programs
/// end sooner, some ask for minutes they never use.
const TYPICAL_STOP_SECONDS: u64 = 10;

/// What a source takes while everything is quiesced, whatever its size: a look for
/// what changed since the first pass, twice.
const SOURCE_SECONDS: u64 = 1;

/// Bytes of a source whose tree is gone through in a second, and which are
/// assumed to have changed by little.
const BYTES_PER_SECOND: u64 = 4 << 30;

/// From the start of a container until its program works.
const START_SECONDS: u64 = 2;

/// Containers to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stops {
    /// Dependents first; the container that is upgraded is the last.
    pub(super) containers: Vec<Container>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) warnings: Vec<String>,
}

/// Chooses among all containers of the host. `joined` are the containers whose
/// network, processes or memory the upgraded one shares, and those it links to.
pub(super) fn plan(
    containers: &[Container],
    old: &Container,
    joined: &[String],
    places: &[Place],
    own: Option<&str>,
) -> Stops {
    let others: Vec<&Container> =
        containers.iter().filter(|one| one.id != old.id && !is_own(one, own)).collect();
    // The helper of the agent's own upgrade recreates the agent alone.
    let bound_by_id =
        |recreated| if own == Some(old.id.as_str()) { Vec::new() } else { bound_by_id(&others, recreated) };
    let writers = live_users(containers, places, own);
    if old.state != ContainerState::Running {
        return of_stopped(&bound_by_id(vec![old]), old, &writers);
    }
    let live: Vec<&Container> = others
        .iter()
        .copied()
        .filter(|one| matches!(one.state, ContainerState::Running | ContainerState::Restarting))
        .collect();
    let mut chosen = chosen_of(&live, old, &writers);
    let mut stops = Stops::default();
    for &i in &chosen {
        stops.refusals.extend(unstoppable(live[i], old, joined));
    }
    // Then those that do not run and could never start again.
    let mut recreated = recreated(chosen.iter().map(|&i| live[i]).collect(), old);
    recreated.push(old);
    let mut candidates = live;
    for one in bound_by_id(recreated) {
        chosen.insert(candidates.len());
        candidates.push(one);
    }
    stops.containers = in_order(&candidates, &chosen);
    stops.containers.push(old.clone());
    for other in others {
        stops.look_at_user(other, old, places);
    }
    stops
}

/// Of a container that does not run: nothing has to stop for it, and nobody may
/// use data that could not be put back below them.
fn of_stopped(bound: &[&Container], old: &Container, writers: &[&Container]) -> Stops {
    let all = (0..bound.len()).collect();
    let mut stops = Stops { containers: in_order(bound, &all), ..Stops::default() };
    stops.containers.push(old.clone());
    let others = writers.iter().filter(|user| user.id != old.id);
    stops.refusals = others
        .map(|user| {
            let text = format!(
                "`{1}` does not run, but `{0}` does and writes the same data, which could not be put back below it: `docker stop {0}` first",
                user.name, old.name
            );
            Refusal::new("used-by", user.name.as_str(), text)
        })
        .collect();
    stops
}

/// Which of those that run have to stop: who writes the same data, who depends on
/// the upgraded one, and who lives in the namespaces of one that stops.
fn chosen_of(live: &[&Container], old: &Container, writers: &[&Container]) -> BTreeSet<usize> {
    let writers: BTreeSet<&str> = writers.iter().map(|user| user.id.as_str()).collect();
    let mut chosen: BTreeSet<usize> =
        (0..live.len()).filter(|&i| writers.contains(live[i].id.as_str())).collect();
    let mut dependents: BTreeSet<usize> = BTreeSet::new();
    while let Some(more) = (0..live.len()).find(|i| {
        !dependents.contains(i)
            && (depends_on(live[*i], old) || dependents.iter().any(|&j| depends_on(live[*i], live[j])))
    }) {
        dependents.insert(more);
    }
    chosen.extend(dependents);
    while let Some(more) = (0..live.len())
        .find(|i| !chosen.contains(i) && chosen.iter().any(|&owner| lives_in(live[*i], live[owner])))
    {
        chosen.insert(more);
    }
    chosen
}

impl Stops {
    /// A paused writer cannot be stopped, and who only reads need not be.
    fn look_at_user(&mut self, other: &Container, old: &Container, places: &[Place]) {
        let stopped = self.containers.iter().any(|stopped| stopped.id == other.id);
        if other.state == ContainerState::Paused && writes(other, places) {
            let text = format!(
                "`{0}` is paused and writes the same data as `{1}`: `docker unpause {0}` or `docker stop {0}` first",
                other.name, old.name
            );
            self.refusals.push(Refusal::new("paused-user", other.name.as_str(), text));
        } else if !stopped && other.state.is_live() && reads(other, places) {
            self.warnings.push(format!(
                "`{0}` reads the same data and is not stopped; after a rollback it has to be restarted to see it: `docker restart {0}`",
                other.name
            ));
        }
    }
}

fn in_order(containers: &[&Container], chosen: &BTreeSet<usize>) -> Vec<Container> {
    quiesce_order(containers, chosen).into_iter().map(|i| containers[i].clone()).collect()
}

/// Those of some containers that are recreated with an upgraded one: they name
/// it, or another such container, by its id.
pub(in crate::upgrade) fn recreated<'a>(mut some: Vec<&'a Container>, old: &Container) -> Vec<&'a Container> {
    let mut anew: Vec<&Container> = Vec::new();
    let is_bound = |one: &Container, anew: &[&Container]| {
        old.is_needed_by(one) || anew.iter().any(|made| made.is_needed_by(one))
    };
    while let Some(at) = some.iter().position(|one| is_bound(one, &anew)) {
        anew.push(some.remove(at));
    }
    anew
}

/// Quiesced containers that name one of those by its id, or one another. What an
/// upgrade keeps for a rollback of its own stays as it is.
fn bound_by_id<'a>(others: &[&'a Container], mut anew: Vec<&'a Container>) -> Vec<&'a Container> {
    let mut left: Vec<&Container> = others
        .iter()
        .copied()
        .filter(|one| matches!(one.state, ContainerState::Exited | ContainerState::Created))
        .filter(|one| !one.auto_remove && !is_swarm(one) && !one.name.contains(OLD_INFIX))
        .collect();
    let by_id = |one: &Container, made: &Container| {
        one.needs.iter().any(|need| *need != made.name && made.is_named(need))
    };
    let mut bound = Vec::new();
    while let Some(at) = left.iter().position(|one| anew.iter().any(|made| by_id(one, made))) {
        let one = left.remove(at);
        anew.push(one);
        bound.push(one);
    }
    bound
}

/// Why a container that would have to stop cannot.
fn unstoppable(other: &Container, old: &Container, joined: &[String]) -> Option<Refusal> {
    let name = other.name.as_str();
    let refuse = |code, why: String| {
        Some(Refusal::new(code, name, format!("`{name}` would have to stop with `{}`, {why}", old.name)))
    };
    if other.auto_remove {
        return refuse(
            "stops-auto-remove",
            "and the Engine would delete it, because it was started with --rm: stop it yourself first"
                .to_owned(),
        );
    }
    if is_swarm(other) {
        return refuse(
            "stops-swarm",
            "and Docker Swarm, which manages it, would start another: scale its service down first"
                .to_owned(),
        );
    }
    if joined.iter().any(|need| other.is_named(need)) {
        return refuse(
            "stops-provider",
            format!(
                "because both write the same data, and `{}` cannot start without it: give one of them the data read-only, or upgrade them by hand",
                old.name
            ),
        );
    }
    None
}

fn writes(container: &Container, places: &[Place]) -> bool {
    let running = Container { state: ContainerState::Running, ..container.clone() };
    !live_users(std::slice::from_ref(&running), places, None).is_empty()
}

/// Whether a container has one of the places mounted at all.
fn reads(container: &Container, places: &[Place]) -> bool {
    let mut writable = container.clone();
    for mount in &mut writable.mounts {
        mount.read_only = false;
    }
    writable.mounts.retain(|mount| matches!(mount.kind, MountKind::Volume | MountKind::Bind));
    writes(&writable, places)
}

/// The containers named in modes such as `container:db`, and in links: without
/// them a container does not start.
pub(super) fn joined(host_config: &Value) -> Vec<String> {
    let modes = ["NetworkMode", "PidMode", "IpcMode"];
    let named = modes.iter().filter_map(|key| host_config[*key].as_str()?.strip_prefix("container:"));
    let links = host_config["Links"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let links = links.filter_map(|link| link.trim_start_matches('/').split(':').next());
    named.chain(links).map(str::to_owned).collect()
}

/// Seconds from the first stop until the new container works: an estimate.
/// `first_probe` is when its health check first answers.
pub(super) fn downtime_seconds(stops: &[Container], sources: &[u64], first_probe: Option<u64>) -> u32 {
    let live: Vec<&Container> = stops.iter().filter(|one| one.state.is_live()).collect();
    if live.is_empty() {
        return 0;
    }
    let stop = |one: &&Container| match one.stop_timeout_seconds {
        None => TYPICAL_STOP_SECONDS,
        // Negative: for as long as it takes.
        Some(seconds) => u64::try_from(seconds).unwrap_or(TYPICAL_STOP_SECONDS).min(TYPICAL_STOP_SECONDS),
    };
    let stopping: u64 = live.iter().map(stop).sum();
    let data: u64 = sources.iter().map(|bytes| SOURCE_SECONDS + bytes / BYTES_PER_SECOND).sum();
    let starting = START_SECONDS.max(first_probe.unwrap_or(0));
    u32::try_from(stopping + data + starting).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::Mount;
    use crate::engine::fake::{container, mount};

    fn needing(name: &str, needs: &[&str]) -> Container {
        Container { needs: needs.iter().map(|&need| need.to_owned()).collect(), ..container(name) }
    }

    fn with_data(mut one: Container, read_only: bool) -> Container {
        let data = mount(MountKind::Volume, "data", "/v/data/_data", "/data");
        one.mounts.push(Mount { read_only, ..data });
        one
    }

    fn places() -> Vec<Place> {
        vec![Place::Volume { name: "data".into(), path: "/v/data/_data".into() }]
    }

    fn planned(all: &[Container], old: &str) -> Stops {
        let old = all.iter().find(|one| one.name == old).unwrap();
        plan(all, old, &[], &places(), Some("the-agent"))
    }

    fn names(stops: &Stops) -> Vec<&str> {
        stops.containers.iter().map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn dependents_and_who_writes_the_same_data_stop_first() {
        let agent = Container { id: "the-agent".into(), ..with_data(container("agent"), false) };
        let all = [
            with_data(container("db"), false),
            needing("api", &["db"]),
            needing("web", &["api"]),
            with_data(container("cron"), false),
            container("writer"),
            Container { state: ContainerState::Exited, ..needing("idle", &["db"]) },
            agent,
        ];
        let stops = planned(&all, "db");
        assert_eq!(names(&stops), ["cron", "web", "api", "db"]);
        assert!(stops.refusals.is_empty() && stops.warnings.is_empty());
    }

    #[test]
    fn nothing_stops_for_a_container_that_does_not_run() {
        let idle = Container { state: ContainerState::Exited, ..with_data(container("db"), false) };
        let mut all = [idle, with_data(container("cron"), true), needing("api", &["db"])];
        assert_eq!(names(&planned(&all, "db")), ["db"]);
        assert_eq!(planned(&all, "db").refusals, []);
        assert_eq!(downtime_seconds(&planned(&all, "db").containers, &[1 << 40], Some(30)), 0);
        // Who writes to its data would go on below what is put back.
        all[1].mounts[0].read_only = false;
        let codes: Vec<_> = planned(&all, "db").refusals.into_iter().map(|one| one.code).collect();
        assert_eq!(codes, ["used-by"]);
    }

    #[test]
    fn who_is_stopped_and_names_by_id_what_is_recreated_comes_along() {
        let resting =
            |name: &str, needs: &[&str]| Container { state: ContainerState::Exited, ..needing(name, needs) };
        let id = container("db").id;
        let kept = format!("api{OLD_INFIX}123456");
        let mut all = vec![
            with_data(container("db"), false),
            resting("job", &[&id]),
            resting("job-tail", &[&container("job").id]),
            resting("by-name", &["db"]),
            resting(&kept, &[&id]),
            Container { auto_remove: true, ..resting("once", &[&id]) },
            needing("api", &[&id]),
            resting("api-shell", &[&container("api").id]),
        ];
        assert_eq!(names(&planned(&all, "db")), ["api-shell", "api", "job-tail", "job", "db"]);
        all[0].state = ContainerState::Exited;
        assert_eq!(names(&planned(&all, "db")), ["job-tail", "job", "db"]);
    }

    #[test]
    fn the_upgraded_one_is_last_also_where_it_depends_on_another() {
        let all = [with_data(needing("backup", &["db"]), false), with_data(container("db"), false)];
        assert_eq!(names(&planned(&all, "backup")), ["db", "backup"]);
        let stops = plan(&all, &all[0], &["db".to_owned()], &places(), None);
        assert_eq!(stops.refusals[0].code, "stops-provider");
    }

    #[test]
    fn what_cannot_be_stopped_and_started_again_is_refused() {
        let once = Container { auto_remove: true, ..needing("once", &["db"]) };
        let label = ("com.docker.swarm.service.name".to_owned(), "x".to_owned());
        let task = Container { labels: [label].into(), ..with_data(container("task"), false) };
        let paused = Container { state: ContainerState::Paused, ..with_data(container("paused"), false) };
        let all = [with_data(container("db"), false), once, task, paused];
        let codes: Vec<_> = planned(&all, "db").refusals.into_iter().map(|refusal| refusal.code).collect();
        assert_eq!(codes, ["stops-auto-remove", "stops-swarm", "paused-user"]);
    }

    #[test]
    fn who_only_reads_goes_on_and_is_mentioned() {
        let all = [with_data(container("db"), false), with_data(container("reader"), true)];
        let stops = planned(&all, "db");
        assert_eq!(names(&stops), ["db"]);
        assert!(stops.warnings[0].contains("docker restart reader"), "{:?}", stops.warnings);
    }

    #[test]
    fn who_lives_in_the_network_of_what_stops_goes_along() {
        let mut sidecar = container("sidecar");
        sidecar.network_of = Some("cron".to_owned());
        let all = [with_data(container("db"), false), with_data(container("cron"), false), sidecar];
        assert_eq!(names(&planned(&all, "db")).len(), 3);
        let named = json!({ "NetworkMode": "container:db", "IpcMode": "private", "Links": ["/x:/me/y"] });
        assert_eq!(joined(&named), ["db", "x"]);
        assert!(joined(&json!({ "NetworkMode": "bridge", "Links": null })).is_empty());
    }

    #[test]
    fn downtime_is_stops_and_a_look_at_the_data_and_a_start() {
        let one = |timeout| Container { stop_timeout_seconds: timeout, ..container("x") };
        assert_eq!(downtime_seconds(&[one(None)], &[], None), 12);
        assert_eq!(downtime_seconds(&[one(Some(3)), one(Some(600)), one(Some(-1))], &[], None), 25);
        assert_eq!(downtime_seconds(&[one(Some(0))], &[0, 8 << 30], Some(30)), 34);
    }
}
