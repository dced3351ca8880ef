//! An Engine with `userns-remap`: ids of files are the host's, there and here.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use e2e::command::run;
use e2e::docker::{Engine, IMAGE, REMAP_OFFSET};
use e2e::fleet::Fleet;
use e2e::{require_engine, tree};

use super::{HOST, fill};

/// Owner of a file as the host has it.
fn owner(root: &Path, name: &str) -> (u32, u32) {
    let meta = std::fs::symlink_metadata(root.join(name)).unwrap();
    (meta.uid(), meta.gid())
}

/// Owner of a file as a container has it.
fn inside(engine: &Engine, volume: &str, name: &str) -> String {
    let (mount, path) = (format!("{volume}:/data:ro"), format!("/data/{name}"));
    engine.docker(["run", "--rm", "-v", &mount, IMAGE, "stat", "-c", "%u:%g", &path])
}

fn restore(fleet: &Fleet, snapshot: &str, host: &str, name: &str) {
    fleet.ok(&["restore", "volume", snapshot, "--host", host, "--as", name]);
}

#[test]
fn d17_a34_ids_of_a_remapped_engine_are_kept_as_the_host_has_them() {
    require_engine!();
    let mut fleet = Fleet::start(&[HOST]);
    fleet.add_host_on("remapped", Engine::start_remapped());
    let (plain, remapped) = (fleet.engine(HOST), fleet.engine("remapped"));
    let script =
        "cd /data; echo x > root; echo y > app; mkdir dir; echo z > dir/file; chown -R 33:44 app dir";
    fill(remapped, "data", script);
    remapped.run_writer("writer", "data");
    let data = remapped.volume_path("data");
    assert!(data.to_string_lossy().contains(&format!("/data/{REMAP_OFFSET}.{REMAP_OFFSET}/")), "{data:?}");

    // There and back to the same Engine, whose users are quiesced meanwhile.
    for how in ["pause", "stop"] {
        let job = fleet.backup("remapped", "data", how);
        assert_eq!(job["state"], "succeeded", "{how}: {job}");
        assert_eq!(remapped.state("writer"), "running", "{how}");
    }
    remapped.docker(["stop", "writer"]);
    fleet.backup("remapped", "data", "none");
    restore(&fleet, "remapped/data@latest", "remapped", "back");
    tree::assert_equal(&data, &remapped.volume_path("back"));
    for (name, id) in [("root", "0:0"), ("app", "33:44"), ("dir/file", "33:44"), (".", "0:0")] {
        assert_eq!(inside(remapped, "back", name), id, "{name}");
    }

    // On an Engine that maps nothing the numbers are the same, and so others inside.
    restore(&fleet, "remapped/data@latest", HOST, "foreign");
    let foreign = plain.volume_path("foreign");
    tree::assert_equal(&data, &foreign);
    assert_eq!(owner(&foreign, "app"), (REMAP_OFFSET + 33, REMAP_OFFSET + 44));
    assert_eq!(inside(plain, "foreign", "app"), format!("{}:{}", REMAP_OFFSET + 33, REMAP_OFFSET + 44));
    // What deploy/OPERATIONS.md gives for that.
    shift(&foreign, -i64::from(REMAP_OFFSET));
    for (name, id) in [("root", "0:0"), ("app", "33:44"), ("dir/file", "33:44"), (".", "0:0")] {
        assert_eq!(inside(plain, "foreign", name), id, "{name}");
    }

    // And the other way round: nobody inside owns what root owns outside.
    fleet.backup(HOST, "foreign", "none");
    restore(&fleet, &format!("{HOST}/foreign@latest"), "remapped", "home");
    let home = remapped.volume_path("home");
    assert_eq!(owner(&home, "app"), (33, 44));
    assert_eq!(inside(remapped, "home", "app"), "65534:65534");
    shift(&home, i64::from(REMAP_OFFSET));
    tree::assert_equal(&data, &home);
    fleet.assert_whole();
}

/// The command of deploy/OPERATIONS.md, with its placeholders filled in.
fn shift(root: &Path, by: i64) {
    let document = include_str!("../../../deploy/OPERATIONS.md");
    let mut blocks = document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let command = blocks.find(|block| block.contains("BY=")).expect("a command that shifts ids");
    let command = command
        .replace("BY=-100000", &format!("BY={by}"))
        .replace("ROOT=/var/lib/docker/volumes/NAME/_data", &format!("ROOT={}", root.display()));
    run(std::process::Command::new("bash").args(["-euo", "pipefail", "-c", &command]));
}
