//! Which containers must be quiesced while data is read, and in which order. Pure.
//!
//! A container counts as a user when it could write to the data: a writable
//! mount of the volume, or a writable bind of a place inside it. For a
//! directory a bind of a place above it counts too. A bind of a place above a
//! *volume* does not: what mounts the Engine's own data root is a monitor or
//! this agent, and pausing it would gain nothing.
//!
//! What depends on a container is quiesced before it and resumes after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use holdfast_proto::ErrorCode;

use crate::engine::{Container, ContainerState, Mount, MountKind};

/// How containers are quiesced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuiesceMode {
    Pause,
    Stop,
}

impl QuiesceMode {
    /// As events call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Stop => "stopped",
        }
    }
}

/// Data that must not change while it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Volume { name: String, path: PathBuf },
    Directory { path: PathBuf },
}

/// Containers to quiesce, in this order; they resume in the reverse one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub containers: Vec<Container>,
    /// Lengths of the groups of consecutive containers that do not depend on
    /// each other, from the first on.
    waves: Vec<usize>,
}

impl Plan {
    /// The containers in groups that may be quiesced at the same time, one
    /// group after the other.
    pub(crate) fn waves(&self) -> impl Iterator<Item = &[Container]> {
        let mut left = self.containers.as_slice();
        self.waves.iter().map(move |&count| {
            let (wave, after) = left.split_at(count.min(left.len()));
            left = after;
            wave
        })
    }
}

/// Why a container is not stopped and started again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotToStop {
    #[error(
        "container `{name}` would be removed by being stopped, because it was started with --rm; use `pause` for what it uses, or start it without --rm"
    )]
    WouldBeRemoved { name: String },
    #[error(
        "container `{name}` is of a service of Docker Swarm, which would start another on the same data as soon as it is stopped; use `pause` for what it uses, or scale its service down"
    )]
    WouldBeReplaced { name: String },
}

impl NotToStop {
    fn of(container: &Container) -> Option<Self> {
        let name = || container.name.clone();
        if container.auto_remove {
            return Some(Self::WouldBeRemoved { name: name() });
        }
        // What Swarm has given up is started again for nobody: two would write.
        is_swarm(container).then(|| Self::WouldBeReplaced { name: name() })
    }

    /// Error code for events.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::WouldBeRemoved { .. } => ErrorCode::WouldBeRemoved,
            Self::WouldBeReplaced { .. } => ErrorCode::WouldBeReplaced,
        }
    }
}

/// What every label of Docker Swarm begins with.
const SWARM: &str = "com.docker.swarm.";

/// Whether Docker Swarm made a container.
pub(crate) fn is_swarm(container: &Container) -> bool {
    container.labels.keys().any(|key| key.starts_with(SWARM))
}

/// Plans for the containers of one Engine. `own` is the agent's own container,
/// which is never quiesced; nor do other containers of Holdfast, as a controller that
/// is paused cannot take what is uploaded meanwhile.
///
/// # Errors
/// When a container cannot be stopped and started again.
pub(crate) fn plan_quiesce(
    containers: &[Container],
    places: &[Place],
    mode: QuiesceMode,
    own: Option<&str>,
) -> Result<Plan, NotToStop> {
    let live = can_quiesce(containers, own);
    let chosen = to_quiesce(&live, places, mode);
    // Before the first is touched: one that cannot be stopped costs nobody else a stop.
    if mode == QuiesceMode::Stop
        && let Some(refusal) = chosen.iter().find_map(|&i| NotToStop::of(live[i]))
    {
        return Err(refusal);
    }
    let needs = needs(&live);
    let order = order(&live, &chosen, &needs);
    let waves = waves(&order, &reach(&needs));
    Ok(Plan { containers: order.into_iter().map(|i| live[i].clone()).collect(), waves })
}

/// Those that run and are not Holdfast's own.
pub(super) fn can_quiesce<'a>(containers: &'a [Container], own: Option<&str>) -> Vec<&'a Container> {
    let running = containers.iter().filter(|container| container.state == ContainerState::Running);
    running.filter(|container| !is_own(container, own)).collect()
}

/// Whether a container is the agent itself or another one of Holdfast's.
pub(crate) fn is_own(container: &Container, own: Option<&str>) -> bool {
    Some(container.id.as_str()) == own || container.role().is_some()
}

/// Which of these containers must be quiesced while the places are read, by index.
pub(super) fn to_quiesce(live: &[&Container], places: &[Place], mode: QuiesceMode) -> BTreeSet<usize> {
    let mut chosen: BTreeSet<usize> =
        (0..live.len()).filter(|&i| places.iter().any(|place| uses(live[i], place))).collect();
    if mode == QuiesceMode::Stop {
        // A network namespace ends with its owner: who lives in it must go along.
        while let Some(more) = (0..live.len())
            .find(|i| !chosen.contains(i) && chosen.iter().any(|&owner| lives_in(live[*i], live[owner])))
        {
            chosen.insert(more);
        }
    }
    chosen
}

/// Containers among these that could write to one of the places now.
pub(crate) fn live_users<'a>(
    containers: &'a [Container],
    places: &[Place],
    own: Option<&str>,
) -> Vec<&'a Container> {
    containers
        .iter()
        .filter(|container| matches!(container.state, ContainerState::Running | ContainerState::Restarting))
        .filter(|container| !is_own(container, own))
        .filter(|container| places.iter().any(|place| uses(container, place)))
        .collect()
}

/// Whether `later` needs `earlier` to run before it.
pub(crate) fn depends_on(later: &Container, earlier: &Container) -> bool {
    earlier.is_needed_by(later) || compose_needs(later, earlier)
}

/// Whether a mount shows the data, or a part of it.
pub(crate) fn mounts_place(mount: &Mount, place: &Place) -> bool {
    let host_path = Path::new(&mount.host_path);
    match (mount.kind, place) {
        (MountKind::Volume, Place::Volume { name, path: _ }) if mount.source == *name => true,
        (MountKind::Bind, Place::Volume { name: _, path }) => host_path.starts_with(path),
        (MountKind::Bind | MountKind::Volume, Place::Directory { path }) => {
            host_path.has_root() && (host_path.starts_with(path) || path.starts_with(host_path))
        }
        _ => false,
    }
}

/// The order in which the chosen ones of these containers are quiesced, by index.
pub(crate) fn quiesce_order(containers: &[&Container], chosen: &BTreeSet<usize>) -> Vec<usize> {
    order(containers, chosen, &needs(containers))
}

fn uses(container: &Container, place: &Place) -> bool {
    container.mounts.iter().any(|mount| !mount.read_only && mounts_place(mount, place))
}

/// For each container the indexes of those it depends on, also over others.
pub(super) fn needs_of_all(live: &[&Container]) -> BTreeMap<usize, BTreeSet<usize>> {
    reach(&needs(live))
}

/// For each container the indexes of those it depends on.
fn needs(live: &[&Container]) -> BTreeMap<usize, BTreeSet<usize>> {
    let of = |i: usize| (0..live.len()).filter(|&j| i != j && depends_on(live[i], live[j])).collect();
    (0..live.len()).map(|i| (i, of(i))).collect()
}

/// Whether a container has the network of another one.
pub(crate) fn lives_in(container: &Container, owner: &Container) -> bool {
    container.network_of.as_deref().is_some_and(|name| owner.is_named(name))
}

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const COMPOSE_NEEDS: &str = "com.docker.compose.depends_on";

/// `db:service_healthy:false,cache:service_started:false`
fn compose_needs(later: &Container, earlier: &Container) -> bool {
    let label = |container: &'_ Container, key: &str| container.labels.get(key).cloned();
    let project = label(later, COMPOSE_PROJECT);
    let Some(service) = label(earlier, COMPOSE_SERVICE) else { return false };
    project.is_some()
        && project == label(earlier, COMPOSE_PROJECT)
        && label(later, COMPOSE_NEEDS).is_some_and(|needs| {
            needs.split(',').any(|need| need.split(':').next() == Some(service.as_str()))
        })
}

/// Dependents first. What is left of a cycle goes by name.
fn order(
    live: &[&Container],
    chosen: &BTreeSet<usize>,
    needs: &BTreeMap<usize, BTreeSet<usize>>,
) -> Vec<usize> {
    let reach = reach(needs);
    let mut left: Vec<usize> = chosen.iter().copied().collect();
    left.sort_by(|&a, &b| (&live[a].name, &live[a].id).cmp(&(&live[b].name, &live[b].id)));
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        // Free: nothing else that is left depends on it, cycles apart.
        let free = left
            .iter()
            .position(|&i| left.iter().all(|&j| j == i || !reach[&j].contains(&i) || reach[&i].contains(&j)));
        order.push(left.remove(free.unwrap_or(0)));
    }
    order
}

/// Lengths of the longest runs of this order in which nothing depends on
/// anything else.
fn waves(order: &[usize], reach: &BTreeMap<usize, BTreeSet<usize>>) -> Vec<usize> {
    let mut waves = Vec::new();
    let mut wave: Vec<usize> = Vec::new();
    for &i in order {
        if wave.iter().any(|j| reach[j].contains(&i) || reach[&i].contains(j)) {
            waves.push(wave.len());
            wave.clear();
        }
        wave.push(i);
    }
    waves.push(wave.len());
    waves
}

/// Transitive: a dependency may lead over containers that need not be quiesced.
fn reach(needs: &BTreeMap<usize, BTreeSet<usize>>) -> BTreeMap<usize, BTreeSet<usize>> {
    let mut reach = needs.clone();
    loop {
        let mut grown = false;
        for i in needs.keys() {
            let further: BTreeSet<usize> = reach[i].iter().flat_map(|j| reach[j].iter().copied()).collect();
            let own = reach.get_mut(i).expect("every index is a key");
            let before = own.len();
            own.extend(further);
            grown |= own.len() > before;
        }
        if !grown {
            return reach;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quiesce::testing::{container, mount};

    fn data() -> Vec<Mount> {
        vec![mount(MountKind::Volume, "data", "/var/lib/docker/volumes/data/_data", false)]
    }

    fn place() -> Vec<Place> {
        vec![Place::Volume { name: "data".into(), path: "/var/lib/docker/volumes/data/_data".into() }]
    }

    fn names(containers: &[Container], places: &[Place], mode: QuiesceMode) -> Vec<String> {
        let plan = plan_quiesce(containers, places, mode, None).unwrap();
        plan.containers.into_iter().map(|container| container.name).collect()
    }

    #[test]
    fn those_that_do_not_depend_on_each_other_are_quiesced_together() {
        let containers = [
            container("a-db", data(), &[]),
            container("b-proxy", Vec::new(), &["a-db"]),
            container("c-web", data(), &["b-proxy"]),
            container("d-cron", data(), &[]),
            container("e-other", data(), &[]),
        ];
        let plan = plan_quiesce(&containers, &place(), QuiesceMode::Stop, None).unwrap();
        let waves: Vec<Vec<&str>> =
            plan.waves().map(|wave| wave.iter().map(|container| &*container.name).collect()).collect();
        assert_eq!(waves, [vec!["c-web"], vec!["a-db", "d-cron", "e-other"]]);
        let at = |name: &str| waves.iter().position(|wave| wave.contains(&name)).unwrap();
        assert!(at("c-web") < at("a-db"), "over a container that stays");
        let none = plan_quiesce(&containers, &[], QuiesceMode::Stop, None).unwrap();
        assert_eq!(none.waves().map(<[Container]>::len).sum::<usize>(), 0);
    }

    #[test]
    fn dependents_are_quiesced_first_also_over_a_container_that_stays() {
        let containers = [
            container("a-db", data(), &[]),
            container("b-proxy", vec![], &["a-db"]),
            container("c-web", data(), &["b-proxy"]),
        ];
        assert_eq!(names(&containers, &place(), QuiesceMode::Stop), ["c-web", "a-db"]);
    }

    #[test]
    fn a_cycle_still_has_an_order() {
        let containers = [container("a", data(), &["b"]), container("b", data(), &["a"])];
        assert_eq!(names(&containers, &place(), QuiesceMode::Pause).len(), 2);
    }

    #[test]
    fn compose_services_of_another_project_are_no_dependents() {
        let mut db = container("db-1", data(), &[]);
        db.labels.insert(COMPOSE_PROJECT.into(), "shop".into());
        db.labels.insert(COMPOSE_SERVICE.into(), "db".into());
        let mut web = container("web-1", data(), &[]);
        web.labels.insert(COMPOSE_NEEDS.into(), "cache:service_started:true,db:service_healthy:false".into());
        web.labels.insert(COMPOSE_PROJECT.into(), "shop".into());
        assert!(depends_on(&web, &db));
        assert!(!depends_on(&db, &web));
        web.labels.insert(COMPOSE_PROJECT.into(), "blog".into());
        assert!(!depends_on(&web, &db));
    }

    #[test]
    fn only_what_could_write_is_quiesced() {
        let mut idle = container("idle", data(), &[]);
        idle.state = ContainerState::Exited;
        let mut paused = container("paused", data(), &[]);
        paused.state = ContainerState::Paused;
        let inside = "/var/lib/docker/volumes/data/_data/sub";
        let containers = [
            idle,
            paused,
            container("reader", vec![mount(MountKind::Volume, "data", "/x", true)], &[]),
            container("binder", vec![mount(MountKind::Bind, inside, inside, false)], &[]),
            container(
                "monitor",
                vec![mount(MountKind::Bind, "/var/lib/docker", "/var/lib/docker", false)],
                &[],
            ),
            container("other", vec![mount(MountKind::Volume, "data2", "/y", false)], &[]),
            container("user", data(), &[]),
        ];
        assert_eq!(names(&containers, &place(), QuiesceMode::Pause), ["binder", "user"]);
    }

    #[test]
    fn a_directory_is_used_from_above_and_from_below() {
        let bind = |path| vec![mount(MountKind::Bind, path, path, false)];
        let containers = [
            container("above", bind("/srv"), &[]),
            container("beside", bind("/srv/database"), &[]),
            container("below", bind("/srv/data/x"), &[]),
        ];
        let places = [Place::Directory { path: "/srv/data".into() }];
        assert_eq!(names(&containers, &places, QuiesceMode::Pause), ["above", "below"]);
    }

    #[test]
    fn the_agents_own_container_is_never_quiesced() {
        let own = container("agent", data(), &[]);
        let plan =
            plan_quiesce(std::slice::from_ref(&own), &place(), QuiesceMode::Stop, Some(&own.id)).unwrap();
        assert!(plan.containers.is_empty());
    }

    #[test]
    fn v21_no_container_of_holdfast_is_quiesced_nor_counts_as_a_user() {
        let mut controller = container("controller", data(), &[]);
        controller.labels.insert("org.holdfast.role".into(), "controller".into());
        let mut agent = container("agent", data(), &[]);
        agent.image = "registry:5000/holdfast-agent:1".into();
        let containers = [controller, agent, container("user", data(), &[])];
        for mode in [QuiesceMode::Pause, QuiesceMode::Stop] {
            assert_eq!(names(&containers, &place(), mode), ["user"]);
        }
        let users = live_users(&containers, &place(), None);
        assert_eq!(users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["user"]);
    }

    #[test]
    fn a_container_that_stopping_would_remove_is_refused_and_may_pause() {
        let mut once = container("once", data(), &[]);
        once.auto_remove = true;
        assert!(plan_quiesce(std::slice::from_ref(&once), &place(), QuiesceMode::Stop, None).is_err());
        assert!(plan_quiesce(&[once], &place(), QuiesceMode::Pause, None).is_ok());
    }

    #[test]
    fn d14_a_container_of_swarm_is_not_stopped_and_may_pause() {
        let mut task = container("svc.1.x", data(), &[]);
        task.labels.insert("com.docker.swarm.task.id".into(), "x".into());
        let refusal =
            plan_quiesce(std::slice::from_ref(&task), &place(), QuiesceMode::Stop, None).unwrap_err();
        assert_eq!(refusal, NotToStop::WouldBeReplaced { name: "svc.1.x".into() });
        assert!(plan_quiesce(&[task], &place(), QuiesceMode::Pause, None).is_ok());
    }

    #[test]
    fn who_lives_in_a_stopped_containers_network_stops_before_it() {
        let mut sidecar = container("sidecar", vec![], &["db"]);
        sidecar.network_of = Some("db".to_owned());
        let containers = [container("db", data(), &[]), sidecar];
        assert_eq!(names(&containers, &place(), QuiesceMode::Stop), ["sidecar", "db"]);
        assert_eq!(names(&containers, &place(), QuiesceMode::Pause), ["db"]);
    }
}
