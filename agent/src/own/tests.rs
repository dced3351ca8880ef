use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::controller::Greeting;
use crate::engine::{ContainerState, Mount, fake};

const AGENT: &str = "3f3f";

struct Bench {
    base: PathBuf,
    own: Own,
    controller: Controller,
    _base: tempfile::TempDir,
}

/// A host whose agent runs in container [`AGENT`] with its state below `state`.
fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().canonicalize().unwrap();
    for name in ["state/agent", "srv/data", "srv/repository/packs"] {
        fs::create_dir_all(base.join(name)).unwrap();
    }
    let controller = Controller::default();
    let engine = Engine::open(&base.join("no.sock"));
    let own = Own::new(engine, Some(AGENT.to_owned()), base.join("state/agent"), controller.clone());
    Bench { base, own, controller, _base: directory }
}

impl Bench {
    fn greeted(&self, path: &Path, seen_at: &str) {
        let found = fs::metadata(path).unwrap();
        let own = OwnDirectory {
            what: "the repository".to_owned(),
            path: seen_at.into(),
            device: found.dev(),
            inode: found.ino(),
        };
        self.controller.greeted(Greeting {
            controller_version: String::new(),
            host_id: String::new(),
            host_name: String::new(),
            skew_ms: 0,
            own: vec![own],
        });
    }

    fn check(&self, containers: &[ContainerSummary], path: &str) -> Result<(), Refused> {
        let path = self.base.join(path);
        let handle = fs::File::open(&path).unwrap();
        self.own.places(containers).check(path.to_str().unwrap(), &handle)
    }
}

fn container(id: &str, role: &str, mounts: Vec<Mount>) -> ContainerSummary {
    ContainerSummary {
        id: id.to_owned(),
        name: format!("{id}-name"),
        image: "x".to_owned(),
        state: ContainerState::Running,
        labels: BTreeMap::from([("org.holdfast.role".to_owned(), role.to_owned())]),
        mounts,
    }
}

fn mount(kind: MountKind, source: &str, host_path: &Path, target: &str) -> Mount {
    fake::mount(kind, source, &host_path.display().to_string(), target)
}

fn volume(name: &str, mountpoint: &Path, labels: &[(&str, &str)]) -> Volume {
    Volume {
        name: name.to_owned(),
        driver: "local".to_owned(),
        mountpoint: mountpoint.to_owned(),
        labels: labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        options: BTreeMap::new(),
        scope: "local".to_owned(),
        created_at: String::new(),
    }
}

#[test]
fn v21_volumes_of_controllers_and_the_state_of_agents_are_holdfasts_own() {
    let bench = bench();
    let nowhere = Path::new("/nowhere");
    let mounted = |name: &str, target: &str| mount(MountKind::Volume, name, nowhere, target);
    let state = bench.base.join("state");
    let containers = [
        container("c", "controller", vec![mounted("state", "/var/lib/x"), mounted("repository", "/r")]),
        container(AGENT, "", vec![mounted("agent", state.to_str().unwrap()), mounted("read", "/srv/read")]),
        container("other", "agent", vec![mounted("old", "/var/lib/holdfast-agent"), mounted("app", "/app")]),
        container("db", "database", vec![mounted("db_data", "/data")]),
    ];
    let places = bench.own.places(&containers);
    let what = |name: &str, labels| places.volume(&volume(name, Path::new("/elsewhere"), labels));
    for name in ["state", "repository"] {
        assert_eq!(what(name, &[]).unwrap(), "the state of the controller in container `c-name`");
    }
    for name in ["agent", "old"] {
        assert!(what(name, &[]).unwrap().starts_with("the state of the agent in container"), "{name}");
    }
    // What an agent reads and what merely has a label of that kind is no one of them.
    for name in ["read", "app", "db_data"] {
        assert_eq!(what(name, &[("org.holdfast.role", "database")]), None, "{name}");
    }
    // Without a container, as after `docker-compose down`, the label says it.
    let labelled = what("left", &[("org.holdfast.role", "controller")]).unwrap();
    assert_eq!(labelled, "the state of a Holdfast controller, by its label");
}

#[test]
fn v21_a_directory_that_is_has_or_lies_in_the_repository_is_refused_by_name() {
    let bench = bench();
    let repository = bench.base.join("srv/repository");
    assert_eq!(bench.check(&[], "srv"), Ok(()), "nothing was told yet");
    bench.greeted(&repository, repository.to_str().unwrap());
    let place = |refused: Result<(), Refused>| match refused.unwrap_err() {
        Refused::Is { .. } => ("is", repository.clone()),
        Refused::Below { path, .. } => ("below", path),
        Refused::Above { path, .. } => ("above", path),
    };
    assert_eq!(place(bench.check(&[], "srv/repository")).0, "is");
    assert_eq!(place(bench.check(&[], "srv/repository/packs")), ("below", repository.clone()));
    assert_eq!(place(bench.check(&[], "srv")), ("above", repository.clone()));
    assert_eq!(place(bench.check(&[], "")).0, "above");
    assert_eq!(bench.check(&[], "srv/data"), Ok(()));
    let text = bench.check(&[], "srv").unwrap_err().to_string();
    assert!(text.contains(repository.to_str().unwrap()) && text.contains("the repository"), "{text}");
    // The agent's own state needs no telling.
    assert!(matches!(bench.check(&[], "state/agent").unwrap_err(), Refused::Is { .. }));
    assert!(matches!(bench.check(&[], "state").unwrap_err(), Refused::Above { .. }));
}

#[test]
fn v21_a_link_or_another_name_does_not_hide_the_repository() {
    let bench = bench();
    let repository = bench.base.join("srv/repository");
    bench.greeted(&repository, repository.to_str().unwrap());
    std::os::unix::fs::symlink(bench.base.join("srv"), bench.base.join("link")).unwrap();
    assert!(matches!(bench.check(&[], "link").unwrap_err(), Refused::Above { .. }));
    fs::rename(bench.base.join("srv"), bench.base.join("moved")).unwrap();
    assert!(matches!(bench.check(&[], "moved/repository").unwrap_err(), Refused::Is { .. }));
    // Another directory at the path that was told is not the repository.
    fs::create_dir_all(bench.base.join("srv/repository")).unwrap();
    assert_eq!(bench.check(&[], "srv"), Ok(()));
}

#[test]
fn v21_the_path_of_a_controller_in_a_container_is_found_on_the_host() {
    let bench = bench();
    let (srv, repository) = (bench.base.join("srv"), bench.base.join("srv/repository"));
    bench.greeted(&repository, "/holdfast-nowhere/repository");
    // Without the container's mounts only the directory itself is known.
    assert_eq!(bench.check(&[], "srv"), Ok(()));
    assert!(matches!(bench.check(&[], "srv/repository").unwrap_err(), Refused::Is { .. }));
    let bind = mount(MountKind::Bind, "", &srv, "/holdfast-nowhere");
    let containers = [container("c", "controller", vec![bind])];
    let Refused::Above { path, .. } = bench.check(&containers, "srv").unwrap_err() else { panic!("above") };
    assert_eq!(path, repository);
    // What else a controller binds is not its own.
    assert_eq!(bench.check(&containers, "srv/data"), Ok(()));
    let inside = bench.own.places(&containers).volume(&volume("v", &srv, &[]));
    assert_eq!(inside.as_deref(), Some("the repository"), "a volume in which it lies");
}

#[test]
fn v21_nothing_is_restored_into_a_directory_of_holdfasts_own() {
    let bench = bench();
    bench.greeted(&bench.base.join("srv/repository"), "/srv/repository");
    let check = |parent: &str| {
        let parent = bench.base.join(parent);
        let handle = fs::File::open(&parent).unwrap();
        bench.own.places(&[]).check_target(&parent.join("new"), &handle)
    };
    for parent in ["srv/repository", "srv/repository/packs", "state/agent"] {
        let text = check(parent).unwrap_err().to_string();
        assert!(text.contains("Holdfast's own") && text.contains("choose a directory elsewhere"), "{text}");
    }
    // Beside it, or around it, is nobody's business.
    for parent in ["srv", "srv/data", "state"] {
        assert_eq!(check(parent), Ok(()), "{parent}");
    }
}

#[test]
fn v21_no_container_of_holdfast_is_stopped_or_removed_by_it() {
    let bench = bench();
    let refused =
        |container: &Container| bench.own.refuse_container(container).map_err(|error| error.to_string());
    let plain = fake::container("db");
    assert_eq!(refused(&plain), Ok(()));
    let controller = Container { image: "holdfast-controller:1".to_owned(), ..plain.clone() };
    let text = refused(&controller).unwrap_err();
    assert!(text.contains("the controller") && text.contains("docker rm db"), "{text}");
    // The agent's own needs no label.
    let text = refused(&Container { id: AGENT.to_owned(), ..plain }).unwrap_err();
    assert!(text.contains("agent of this host"), "{text}");
}
