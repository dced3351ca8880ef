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
    e2e::secret::write(&keys, "a\nb\n");
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
    e2e::secret::write(&dir.path().join("keys"), "a\nb\n");
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

#[test]
fn v15_init_tells_the_hash_of_the_file_that_reads_a_repository_alone() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    let mut command = init(&dir.path().join("state"), repository.to_str().unwrap());
    let (code, stdout, stderr) = said(command.args(["--address", "c.example"]));
    assert_eq!(code, 0, "{stderr}");
    let sum = Command::new("sha256sum").arg(repository.join("RECOVERY/recover.py")).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(stdout.contains(sum.split(' ').next().unwrap()) && stdout.contains("recover.py"), "{stdout}");
}

#[test]
fn v15_a_store_over_plain_http_has_to_be_allowed_and_keys_be_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    e2e::secret::write(&keys, "a\nb\n");
    // A documentation address: nobody answers there, and nobody is asked.
    let s3 = |endpoint: &str, more: &[&str]| {
        let mut controller = init(&dir.path().join("state"), "s3://bucket/x");
        let mut cli = Command::new(binaries::path("holdfast"));
        controller.args(["--address", "c.example"]);
        cli.args(["repo", "ls", "--repository", "s3://bucket/x"]);
        [controller, cli].map(|mut command| {
            command.args(["--s3-endpoint", endpoint, "--s3-credentials-file"]).arg(&keys).args(more);
            said(&mut command)
        })
    };
    for (code, _, stderr) in s3("http://192.0.2.1:9000", &[]) {
        assert!(code != 0 && stderr.contains("not encrypted"), "{stderr}");
        assert!(stderr.contains("--s3-allow-http"), "{stderr}");
    }
    let port = Port::reserve();
    let endpoint = format!("http://127.0.0.1:{}", port.number());
    for (_, _, stderr) in s3(&endpoint, &["--s3-allow-http"]) {
        assert!(stderr.contains("is up"), "it was asked: {stderr}");
    }
    for mode in [0o644, 0o640] {
        std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(mode)).unwrap();
        for (code, _, stderr) in s3(&endpoint, &[]) {
            let remedy = format!("chmod 600 {}", keys.display());
            assert!(code != 0 && stderr.contains(&remedy), "{mode:o}: {stderr}");
        }
    }
}
