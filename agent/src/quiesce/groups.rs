//! Which places are read while their users are quiesced together. Pure.
//!
//! Groups are quiesced one after another, so that a container is down for its own data
//! only, and what is wrong with it costs no other data its snapshot. Places
//! are of one group, directly or over further places,
//!
//! - when a container is quiesced for both: that happens once, and all of
//!   its data is of one moment;
//! - when a container quiesced for one depends on a container quiesced for
//!   the other: it would run on without what it needs.
//!
//! As no container is quiesced for two groups, one of them never resumes or stops
//! what another has quiesced, in whichever order they go.

use std::collections::BTreeSet;

use crate::engine::Container;

use super::plan::{Place, QuiesceMode, can_quiesce, needs_of_all, to_quiesce};

/// Each place's index in exactly one group; within a group and among groups
/// the order is that of the places. All places for which nobody has to be quiesced are one
/// group, the last: they can wait, because nobody writes to them.
pub(super) fn groups(
    containers: &[Container],
    places: &[Place],
    mode: QuiesceMode,
    own: Option<&str>,
) -> Vec<Vec<usize>> {
    let live = can_quiesce(containers, own);
    let needs = needs_of_all(&live);
    let bound = |left: usize, right: usize| {
        left == right || needs[&left].contains(&right) || needs[&right].contains(&left)
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut idle = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let containers = to_quiesce(&live, std::slice::from_ref(place), mode);
        if containers.is_empty() {
            idle.push(index);
            continue;
        }
        let mut joined = Group { places: vec![index], containers };
        // What was apart until now may meet in this place.
        groups.retain_mut(|group| {
            let meets = group.containers.iter().any(|&i| joined.containers.iter().any(|&j| bound(i, j)));
            if meets {
                joined.places.append(&mut group.places);
                joined.containers.append(&mut group.containers);
            }
            !meets
        });
        groups.push(joined);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_iter().map(|group| group.places).collect();
    groups.iter_mut().for_each(|places| places.sort_unstable());
    groups.sort_unstable();
    groups.extend((!idle.is_empty()).then_some(idle));
    groups
}

struct Group {
    places: Vec<usize>,
    containers: BTreeSet<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ContainerState, Mount, MountKind};
    use crate::quiesce::plan_quiesce;
    use crate::quiesce::testing::{container, mount};

    const BOTH: [QuiesceMode; 2] = [QuiesceMode::Pause, QuiesceMode::Stop];

    fn volumes(names: &[&str]) -> Vec<Mount> {
        names.iter().map(|name| mount(MountKind::Volume, name, &format!("/v/{name}"), false)).collect()
    }

    fn places(names: &[&str]) -> Vec<Place> {
        names
            .iter()
            .map(|&name| Place::Volume { name: name.into(), path: format!("/v/{name}").into() })
            .collect()
    }

    /// The groups by name, after a look at what holds for all of them.
    fn named<'a>(containers: &[Container], names: &[&'a str], mode: QuiesceMode) -> Vec<Vec<&'a str>> {
        let places = places(names);
        let groups = groups(containers, &places, mode, None);
        let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..names.len()).collect::<Vec<_>>(), "every place is in one group");
        let planned = |places: &[Place]| {
            let plan = plan_quiesce(containers, places, mode, None).unwrap();
            plan.containers.into_iter().map(|container| container.name).collect::<Vec<_>>()
        };
        let of = |group: &Vec<usize>| group.iter().map(|&i| places[i].clone()).collect::<Vec<_>>();
        let mut apart: Vec<String> = groups.iter().flat_map(|group| planned(&of(group))).collect();
        apart.sort_unstable();
        let mut together = planned(&places);
        together.sort_unstable();
        assert_eq!(apart, together, "each container that must be quiesced does so for one group");
        groups.iter().map(|group| group.iter().map(|&i| names[i]).collect()).collect()
    }

    #[test]
    fn places_with_users_of_their_own_are_apart() {
        let containers = [container("a", volumes(&["a"]), &[]), container("b", volumes(&["b"]), &[])];
        for mode in BOTH {
            assert_eq!(named(&containers, &["b", "a"], mode), [["b"], ["a"]]);
        }
    }

    #[test]
    fn a_container_has_all_its_places_in_one_group_and_joins_those_of_others() {
        let containers = [
            container("1", volumes(&["a", "b"]), &[]),
            container("2", volumes(&["c", "d"]), &[]),
            container("3", volumes(&["x"]), &[]),
            // The last to be seen joins what was apart.
            container("4", volumes(&["d", "e", "b"]), &[]),
        ];
        for mode in BOTH {
            let groups = named(&containers, &["a", "c", "x", "d", "e", "b"], mode);
            assert_eq!(groups, [vec!["a", "c", "d", "e", "b"], vec!["x"]]);
        }
    }

    #[test]
    fn dependents_are_of_one_group_also_over_a_container_that_stays() {
        let containers = [
            container("db", volumes(&["data"]), &[]),
            container("proxy", vec![], &["db"]),
            container("web", volumes(&["uploads"]), &["proxy"]),
            container("other", volumes(&["other"]), &[]),
        ];
        for mode in BOTH {
            let groups = named(&containers, &["uploads", "other", "data"], mode);
            assert_eq!(groups, [vec!["uploads", "data"], vec!["other"]]);
        }
    }

    #[test]
    fn two_that_need_the_same_container_are_apart_while_it_runs_on() {
        let containers = [
            container("proxy", vec![], &[]),
            container("a", volumes(&["a"]), &["proxy"]),
            container("b", volumes(&["b"]), &["proxy"]),
        ];
        assert_eq!(named(&containers, &["a", "b"], QuiesceMode::Stop), [["a"], ["b"]]);
    }

    #[test]
    fn who_is_stopped_for_the_network_brings_its_places_and_its_dependents() {
        let mut sidecar = container("sidecar", volumes(&["logs"]), &["db"]);
        sidecar.network_of = Some("db".to_owned());
        let containers = [
            container("db", volumes(&["data"]), &[]),
            sidecar,
            container("viewer", volumes(&["views"]), &["sidecar"]),
        ];
        for mode in BOTH {
            assert_eq!(named(&containers, &["data", "logs", "views"], mode), [["data", "logs", "views"]]);
        }
        // The sidecar has nothing to be saved and yet stops for `data`.
        assert_eq!(named(&containers, &["data", "views"], QuiesceMode::Stop), [["data", "views"]]);
    }

    #[test]
    fn what_nobody_writes_to_is_one_group_and_the_last() {
        let mut ended = container("ended", volumes(&["b", "d"]), &[]);
        ended.state = ContainerState::Exited;
        let reader = vec![mount(MountKind::Volume, "a", "/v/a", true)];
        let containers = [container("reader", reader, &[]), ended, container("user", volumes(&["c"]), &[])];
        assert_eq!(
            named(&containers, &["a", "b", "c", "d"], QuiesceMode::Stop),
            [vec!["c"], vec!["a", "b", "d"]]
        );
        assert!(groups(&containers, &[], QuiesceMode::Stop, None).is_empty());
    }

    #[test]
    fn the_agents_own_container_joins_nothing() {
        let own = container("agent", volumes(&["a", "b"]), &[]);
        let user = container("user", volumes(&["b"]), &[]);
        let id = own.id.clone();
        assert_eq!(groups(&[own, user], &places(&["a", "b"]), QuiesceMode::Stop, Some(&id)), [[1], [0]]);
    }
}
