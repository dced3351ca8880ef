//! What hosts send is shown, and no terminal acts on it.

use e2e::docker::{Engine, IMAGE};
use e2e::fleet::Fleet;
use e2e::require_engine;
use holdfast_archive::text::hidden;

/// Clears the screen, forges a line of ours, turns a line around.
const HOSTILE: &str = "x\x1b[2J\x1b]0;t\x07\nerror: forged\r\u{202e}gpj\u{9b}31m";

#[track_caller]
fn is_safe(text: &str) {
    let bad: Vec<char> = text.chars().filter(|c| hidden(*c) && *c != '\n').collect();
    assert!(bad.is_empty(), "{bad:?} in {text:?}");
    assert!(!text.lines().any(|line| line.trim_start().starts_with("error: forged")), "{text}");
}

/// A volume, a container and a file whose labels, name and content do what they
/// can to a terminal. Gives the file's name.
fn make_hostile(engine: &Engine) -> String {
    let label = format!("note={HOSTILE}");
    engine.docker(["volume", "create", "--label", &label, "data"]);
    engine.docker([
        "run",
        "-d",
        "--name",
        "app",
        "--label",
        &label,
        "-v",
        "data:/data",
        IMAGE,
        "sleep",
        "600",
    ]);
    let data = engine.docker(["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]);
    let name = HOSTILE.replace('/', "_");
    std::fs::write(std::path::Path::new(&data).join(&name), HOSTILE).unwrap();
    name
}

/// What a host says of itself: through the controller, at the socket, as JSON.
fn assert_shown_safely(fleet: &mut Fleet) {
    let on_host: [&[&str]; 5] = [
        &["container", "ls"],
        &["container", "inspect", "app"],
        &["volume", "ls"],
        &["volume", "inspect", "data"],
        &["mount", "ls"],
    ];
    for args in on_host {
        let shown = fleet.ok(&[args, &["--host", "web-1"]].concat());
        is_safe(&shown);
        is_safe(&fleet.host("web-1").cli(args).ends_with(0).stdout);
        let json = fleet.ok(&[args, &["--host", "web-1", "-o", "json"]].concat());
        is_safe(&json);
    }
    let shown = fleet.ok(&["volume", "inspect", "data", "--host", "web-1"]);
    assert!(shown.contains("note=x\\u{1b}[2J"), "it is shown all the same: {shown}");
    let volume = fleet.json(&["volume", "inspect", "data", "--host", "web-1"]);
    assert_eq!(volume["labels"]["note"], HOSTILE, "JSON is exact");
    let container = fleet.json(&["container", "inspect", "app", "--host", "web-1"]);
    assert_eq!(container["labels"]["note"], HOSTILE);
}

/// Errors quote what was asked for, here and on the host.
fn assert_refused_safely(fleet: &Fleet, name: &str) {
    let other = format!("{name}!");
    for args in [
        vec!["volume", "inspect", HOSTILE, "--host", "web-1"],
        vec!["container", "inspect", HOSTILE, "--host", "web-1"],
        vec!["snapshot", "show", HOSTILE],
        vec!["snapshot", "cat", "data", &other],
        vec!["restore", "volume", "data", "--host", "web-1", "--as", HOSTILE],
    ] {
        let said = fleet.cli(&args);
        assert_ne!(said.code, 0, "{args:?}");
        is_safe(&said.stderr);
        is_safe(&said.stdout);
    }
}

#[test]
fn v09_nothing_a_host_sends_reaches_the_terminal_as_it_is() {
    require_engine!();
    let mut fleet = Fleet::start(&["web-1"]);
    let name = make_hostile(fleet.engine("web-1"));
    fleet.backup("web-1", "data", "none");
    assert_shown_safely(&mut fleet);

    for args in [vec!["snapshot", "show", "data"], vec!["snapshot", "browse", "data"], vec!["job", "ls"]] {
        is_safe(&fleet.ok(&args));
    }
    let said = fleet.repo("browse", &["data"]).ends_with(0);
    is_safe(&said.stdout);
    let content = fleet.command(&["snapshot", "cat", "data", &name]).output().unwrap().stdout;
    assert_eq!(content, HOSTILE.as_bytes(), "a pipe gets the bytes");

    assert_refused_safely(&fleet, &name);
    is_safe(&fleet.controller().output());
    is_safe(&fleet.host("web-1").agent().output());
}
