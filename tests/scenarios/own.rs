//! What of Holdfast lies on a host beside what it protects.

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::require_engine;

#[test]
fn v21_a_directory_with_the_repository_or_the_state_in_it_is_refused_by_name() {
    require_engine!();
    let fleet_dir = tempfile::tempdir().unwrap();
    let everywhere = std::env::temp_dir().canonicalize().unwrap();
    let mut fleet = Fleet::start_allowing(&[everywhere.to_str().unwrap()], &["host-a"]);
    let repository = fleet.repository_dir().canonicalize().unwrap();
    let state = fleet.state_dir().canonicalize().unwrap();
    let agent = fleet.host("host-a").state_dir().canonicalize().unwrap();
    std::fs::write(fleet_dir.path().join("file"), "data").unwrap();
    let backup = |directory: &std::path::Path| {
        let directory = directory.to_str().unwrap();
        fleet.cli(&["backup", "run", "--host", "host-a", "--directory", directory])
    };
    backup(fleet_dir.path()).ends_with(0);
    for own in [&repository, &state, &agent] {
        let said = backup(own);
        let shown = said.stdout.clone() + &said.stderr;
        assert!(said.code != 0 && shown.contains("it is Holdfast's own"), "{shown}");
        let said = backup(own.parent().unwrap());
        let shown = said.stdout.clone() + &said.stderr;
        assert!(said.code != 0 && shown.contains("in it is Holdfast's own"), "{shown}");
    }
    let said = backup(&repository.join("packs"));
    let shown = said.stdout.clone() + &said.stderr;
    assert!(said.code != 0 && shown.contains(repository.to_str().unwrap()), "{shown}");
    assert_eq!(fleet.json(&["snapshot", "ls"]).as_array().unwrap().len(), 1);

    // The repository lies in a volume of this very host: `*` leaves that out.
    let engine = fleet.engine("host-a");
    engine.docker(["volume", "create", "--label", "org.holdfast.role=controller", "its_state"]);
    engine.docker(["volume", "create", "data"]);
    engine.run_writer("web", "data");
    let run = ["backup", "run", "--host", "host-a", "--volume", "*"];
    fleet.cli(&run).ends_with(0);
    let snapshots = fleet.json(&["snapshot", "ls"]);
    let of = |name: &str| snapshots.as_array().unwrap().iter().filter(|one| one["source"] == name).count();
    assert_eq!((of("data"), of("its_state")), (1, 0), "{snapshots}");
    let said = fleet.cli(&["backup", "run", "--host", "host-a", "--volume", "its_state"]);
    let shown = said.stdout.clone() + &said.stderr;
    assert!(said.code != 0 && shown.contains("Holdfast's own"), "{shown}");
    let status = fleet.cli(&["status"]);
    assert!(status.stdout.contains("host-a/its_state is Holdfast's own"), "{}", status.stdout);
    let sources = fleet.ok(&["source", "ls"]);
    assert!(sources.contains("Holdfast's own"), "{sources}");
}

#[test]
fn v21_holdfasts_own_volumes_and_containers_are_neither_filled_nor_removed_nor_replaced() {
    require_engine!();
    let fleet = Fleet::start_allowing(&["container"], &["host-a"]);
    let engine = fleet.engine("host-a");
    engine.docker(["volume", "create", "--label", "org.holdfast.role=controller", "labelled"]);
    let role = ["--label", "org.holdfast.role=controller", "-v", "mounted:/var/lib/holdfast-controller"];
    engine.docker([&["run", "-d", "--name", "ctl"], &role[..], &[IMAGE, "sleep", "86400"]].concat());
    engine.run_writer("web", "data");
    fleet.backup("host-a", "data", "none");

    for volume in ["labelled", "mounted"] {
        let marker = engine.volume_path(volume).join("state");
        std::fs::write(&marker, "the only copy").unwrap();
        for line in [
            vec!["volume", "rm", "--host", "host-a", volume, "--yes"],
            vec!["volume", "create", "--host", "host-a", volume],
            vec!["restore", "volume", "data@latest", "--host", "host-a", "--as", volume],
        ] {
            let said = fleet.cli(&line);
            let shown = said.stdout.clone() + &said.stderr;
            let told = shown.contains("Holdfast's own") && shown.contains("choose another volume");
            assert!(said.code != 0 && told, "{line:?}: {shown}");
        }
        assert_eq!(std::fs::read_to_string(&marker).unwrap(), "the only copy");
    }
    fleet.cli(&["volume", "prune", "--host", "host-a", "--named", "--yes"]);
    engine.docker(["volume", "inspect", "labelled"]);
    for line in [
        vec!["container", "rm", "--host", "host-a", "--force", "ctl"],
        vec!["container", "stop", "--host", "host-a", "ctl"],
    ] {
        fleet.cli(&line).complains("Holdfast's own").complains("docker rm ctl");
    }
    let plan = ["upgrade", "plan", "ctl", "--image", IMAGE, "--host", "host-a"];
    let said = fleet.cli(&plan);
    let shown = said.stdout.clone() + &said.stderr;
    assert!(said.code != 0 && shown.contains("is a Holdfast controller"), "{shown}");
    assert_eq!(engine.docker(["inspect", "-f", "{{.State.Running}}", "ctl"]), "true");
    // What is nobody's but the user's goes on.
    fleet.ok(&["restore", "volume", "data@latest", "--host", "host-a", "--as", "again"]);
    fleet.ok(&["volume", "rm", "--host", "host-a", "again", "--yes"]);
}
