//! Volumes whose driver or options lead elsewhere than Docker's own directory.

use e2e::docker::Engine;
use e2e::fleet::Fleet;
use e2e::require_engine;
use std::path::Path;

/// A volume that a person on the host made on a directory.
fn bound_volume(engine: &Engine, name: &str, device: &Path) {
    let device = format!("device={}", device.display());
    engine.docker(["volume", "create", "--opt", "type=none", "--opt", "o=bind", "--opt", &device, name]);
}

fn options(engine: &Engine, volume: &str) -> String {
    engine.docker(["volume", "inspect", "--format", "{{.Driver}} {{len .Options}}", volume])
}

#[test]
fn v01_options_in_a_snapshot_are_shown_and_not_obeyed() {
    require_engine!();
    let fleet = Fleet::start(&["host-a", "host-b"]);
    let device = fleet.dir().join("sbin");
    std::fs::create_dir(&device).unwrap();
    std::fs::write(device.join("ls"), "#!/bin/sh\n").unwrap();
    bound_volume(fleet.engine("host-a"), "data", &device);
    let job = fleet.backup("host-a", "data", "none");
    assert_eq!(job["state"], "succeeded", "what a person made is backed up: {job}");

    // On its own host the place it leads to is in use.
    let restore = ["restore", "volume", "data@latest", "--host", "host-a", "--as", "copy"];
    let said = fleet.cli(&restore).ends_with(0).complains("NOT taken over");
    assert!(said.stderr.contains(&format!("device={}", device.display())), "{}", said.stderr);
    let copy = fleet.engine("host-a").volume_path("copy");
    assert_eq!(std::fs::read_to_string(copy.join("ls")).unwrap(), "#!/bin/sh\n");

    // On another one that place is there and empty, as /usr/local/sbin mostly is.
    std::fs::remove_file(device.join("ls")).unwrap();
    let restore = ["restore", "volume", "data@latest", "--host", "host-b", "--as", "copy"];
    let plan = fleet.ok(&[&restore[..], &["--plan"]].concat());
    assert!(plan.contains("NOT taken over") && plan.contains("o=bind"), "{plan}");
    let job = fleet.json(&restore);
    assert_eq!((&job["state"], &job["restore"]["differences"]), (&"succeeded".into(), &0.into()), "{job}");
    assert_eq!(std::fs::read_dir(&device).unwrap().count(), 0, "nothing was written there");
    assert_eq!(options(fleet.engine("host-b"), "copy"), "local 0");
    assert!(fleet.engine("host-b").volume_path("copy").join("ls").exists());
}

#[test]
fn v02_x26_a_host_that_allows_backup_and_restore_makes_no_volume_that_leads_elsewhere() {
    require_engine!();
    let mut fleet = Fleet::start(&["host-a"]);
    let allowed = fleet.host("host-a").allowed_dir().canonicalize().unwrap().join("inside");
    std::fs::create_dir(&allowed).unwrap();
    fleet.engine("host-a").docker(["volume", "create", "data"]);
    std::fs::write(fleet.engine("host-a").volume_path("data").join("file"), "data").unwrap();
    fleet.backup("host-a", "data", "none");

    let bind = |device: &str| {
        ["--opt", "type=none", "--opt", "o=bind", "--opt", &format!("device={device}")].map(str::to_owned)
    };
    let create = |name: &str, settings: &[String]| {
        let mut args = vec!["volume", "create", "--host", "host-a", name];
        args.extend(settings.iter().map(String::as_str));
        fleet.cli(&args)
    };
    let restore = |name: &str, settings: &[String]| {
        let mut args = vec!["restore", "volume", "data@latest", "--host", "host-a", "--as", name];
        args.extend(settings.iter().map(String::as_str));
        fleet.cli(&args)
    };
    let foreign = ["--driver", "vieux/sshfs"].map(str::to_owned);
    for (settings, named) in [(&bind("/etc")[..], "/etc"), (&foreign[..], "vieux/sshfs")] {
        for said in [create("stolen", settings), restore("stolen", settings)] {
            assert_ne!(said.code, 0, "{said:?}");
            let said = said.complains(named).complains("`container`");
            assert!(!fleet.engine("host-a").has_volume("stolen"), "{said:?}");
        }
    }
    // What the host allows by its path is no theft.
    let inside = bind(allowed.to_str().unwrap());
    create("made", &inside).ends_with(0);
    restore("filled", &inside).ends_with(0);
    assert_eq!(std::fs::read_to_string(allowed.join("file")).unwrap(), "data");
}
