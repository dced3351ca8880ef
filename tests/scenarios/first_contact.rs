//! What somebody is told who sets it up for the first time, and mistypes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::binaries;
use e2e::ports::Port;

fn said(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn init(state: &Path, repository: &str) -> Command {
    let mut command = Command::new(binaries::path("holdfast-controller"));
    command.args(["init", "--crypto", "none", "--repository", repository, "--state-dir"]).arg(state);
    command
}

#[test]
fn a_store_that_refuses_is_told_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, "a\nb\n").unwrap();
    // Reserved, and nobody listens.
    let port = Port::reserve();
    let endpoint = format!("http://127.0.0.1:{}", port.number());
    let s3 = |command: &mut Command| {
        command.args(["--s3-endpoint", &endpoint, "--s3-credentials-file"]).arg(&keys);
        let begun = Instant::now();
        let (code, _, stderr) = said(command);
        assert!(begun.elapsed() < Duration::from_secs(45), "it took {:?}: {stderr}", begun.elapsed());
        assert!(stderr.contains(&endpoint) && stderr.contains("is up"), "{stderr}");
        code
    };
    let mut command = init(&dir.path().join("state"), "s3://bucket/x");
    assert_eq!(s3(command.args(["--address", "127.0.0.1"])), 7);
    for verb in ["ls", "verify", "check"] {
        let mut command = Command::new(binaries::path("holdfast"));
        assert_eq!(s3(command.args(["repo", verb, "--repository", "s3://bucket/x"])), 7, "{verb}");
    }
}

#[test]
fn a_controller_without_an_address_is_told_what_to_add() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository").display().to_string();
    let (code, _, stderr) = said(&mut init(&dir.path().join("state"), &repository));
    assert_eq!(code, 1);
    assert!(stderr.contains("--address NAME:7443"), "{stderr}");
    assert!(!dir.path().join("repository").exists(), "nothing was made");
    let (code, _, stderr) =
        said(init(&dir.path().join("state"), &repository).args(["--address", "c.example"]));
    assert_eq!(code, 0, "{stderr}");

    // A second one there is told what to do instead.
    let (code, _, stderr) =
        said(init(&dir.path().join("other"), &repository).args(["--address", "c.example"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("holdfast-controller rebuild"), "{stderr}");
}

#[test]
fn files_named_from_here_are_found_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("keys"), "a\nb\n").unwrap();
    let port = Port::reserve();
    let endpoint = format!("http://127.0.0.1:{}", port.number());
    let mut command = init(&dir.path().join("state"), "s3://bucket/x");
    command.args(["--address", "c.example"]);
    command.current_dir(dir.path()).args(["--s3-credentials-file", "keys", "--s3-endpoint", &endpoint]);
    let (_, _, stderr) = said(&mut command);
    // The store is not there; the file was read.
    assert!(stderr.contains(&endpoint) && stderr.contains("is up"), "{stderr}");
    let mut command = init(&dir.path().join("other"), "s3://bucket/x");
    command.args(["--address", "c.example"]);
    command.current_dir(dir.path()).args(["--s3-credentials-file", "none", "--s3-endpoint", &endpoint]);
    let (_, _, stderr) = said(&mut command);
    let whole = dir.path().join("none");
    assert!(stderr.contains(whole.to_str().unwrap()), "the whole path is named: {stderr}");
}

#[test]
fn words_of_other_tools_are_answered_with_what_there_is() {
    for (line, answer) in [
        (["snapshot", "rm"], "holdfast snapshot forget"),
        (["host", "add"], "holdfast host token NAME"),
        (["repo", "init"], "holdfast-controller init"),
        (["policy", "create"], "holdfast apply -f FILE"),
    ] {
        let (code, _, stderr) = said(Command::new(binaries::path("holdfast")).args(line));
        assert_eq!(code, 2, "{line:?}");
        assert!(stderr.contains("unrecognized subcommand") && stderr.contains(answer), "{line:?}: {stderr}");
    }
}
