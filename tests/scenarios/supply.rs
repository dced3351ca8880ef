//! Where the parts of Holdfast come from.

use std::path::{Path, PathBuf};

use e2e::command::run;
use e2e::docker::{Engine, IMAGE};
use e2e::require_engine;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn v17_every_crate_is_of_crates_io_and_has_its_checksum_in_the_lock_file() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let (mut foreign, mut own) = (0, Vec::new());
    for package in lock.split("[[package]]").skip(1) {
        let field = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")))?;
            Some(line.trim_matches('"').to_owned())
        };
        let name = field("name").unwrap();
        let Some(source) = field("source") else {
            own.push(name);
            continue;
        };
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
        assert_eq!(field("checksum").map(|sum| sum.len()), Some(64), "{name} has no checksum");
        foreign += 1;
    }
    own.sort();
    let mut members =
        ["agent", "archive", "cli", "controller", "proto"].map(|part| format!("holdfast-{part}")).to_vec();
    members.insert(0, "e2e".to_owned());
    members.push("support".to_owned());
    assert_eq!(own, members, "what has no source is a member of this workspace");
    assert!(foreign > 100, "{foreign} crates were read");
}

#[test]
fn v17_the_image_is_made_of_the_base_that_is_named_by_its_digest() {
    require_engine!();
    let engine = Engine::start();
    let parts = "RUN mkdir -p /out/bin /out/certs /out/state && echo made > /out/bin/holdfast\n";
    engine.build_image(&format!("FROM {IMAGE}\n{parts}"), &[], "holdfast-build");
    engine.build_image(&format!("FROM {IMAGE}\nRUN echo ours > /marker\n"), &[], "base:right");
    engine.build_image(&format!("FROM {IMAGE}\nRUN echo theirs > /marker\n"), &[], "debian:bookworm-slim");
    let digest = engine.docker(["image", "inspect", "-f", "{{.Id}}", "base:right"]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let marker = |base: Option<&str>| {
        let folder = root().display().to_string();
        let argument = base.map(|base| format!("BASE={base}"));
        let file = format!("{folder}/deploy/Dockerfile");
        let mut line = vec!["build", "-q", "--network", "none", "-t", "made", "-f", &file];
        line.extend(argument.iter().flat_map(|argument| ["--build-arg", argument.as_str()]));
        line.push(&folder);
        run(engine.command(line).env("DOCKER_BUILDKIT", "0"));
        engine.docker(["run", "--rm", "made", "cat", "/marker", "/usr/bin/holdfast"])
    };
    assert_eq!(marker(Some(&digest)), "ours\nmade");
    assert_eq!(marker(None), "theirs\nmade", "the tag where nothing is said");
    // The compiler's image can be named alike.
    let compiler = std::fs::read_to_string(root().join("deploy/build.Dockerfile")).unwrap();
    let from: Vec<&str> = compiler.lines().filter(|line| line.starts_with("FROM ")).collect();
    assert_eq!(from, ["FROM ${BASE}"], "{compiler}");
}
