//! Bad input is refused with its place or the nearest name, and changes nothing.

use e2e::fleet::Fleet;
use e2e::require_engine;

fn apply(fleet: &Fleet, toml: &str) -> e2e::fleet::Said {
    let file = fleet.dir().join("policy.toml");
    std::fs::write(&file, toml).unwrap();
    fleet.cli(&["apply", "-f", &file.display().to_string()])
}

const GOOD: &str = "name = \"nightly\"\nvolumes = [\"*\"]\nhosts = [\"web-1\"]\n[schedule]\ncron = \"0 2 * * *\"\nzone = \"Europe/Berlin\"\n[retention]\nkeep_last = 3\n";

#[test]
fn policies_are_refused_with_line_and_column() {
    require_engine!();
    let fleet = Fleet::start(&["web-1"]);
    let cases = [
        ("name = \"a\"\nconsistancy = \"none\"\n", ":2:1: ", "did you mean `consistency`"),
        ("name = \"a\"\n[schedule]\ncron = \"0 25 * * *\"\n", ":3:", "25"),
        ("name = \"a\"\n[schedule]\ncron = \"0 0 31 2 *\"\n", ":3:", "never"),
        (
            "name = \"a\"\n[schedule]\ncron = \"* * * * *\"\nzone = \"Europe/Berlln\"\n",
            ":4:",
            "Europe/Berlin",
        ),
        ("name = \"a\"\nvolumes = [\"[\"]\n", ":2:", "["),
        ("name = \"a\"\nconsistency = \"pauze\"\n", ":2:", "pause"),
        ("name = \"a\"\n[retention]\nkeep_last = 0\n", ":3:", "keep_last"),
        ("name = \n", ":1:", ""),
    ];
    for (toml, place, word) in cases {
        apply(&fleet, toml).ends_with(2).complains(place).complains(word).complains("nothing was changed");
    }
    // One bad file among good ones: nothing is changed.
    let dir = fleet.dir().join("policies");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("good.toml"), GOOD).unwrap();
    std::fs::write(dir.join("bad.toml"), "nmae = \"x\"\n").unwrap();
    fleet.cli(&["apply", "-f", &dir.display().to_string()]).ends_with(2).complains("bad.toml:1:1");
    assert_eq!(fleet.json(&["policy", "ls"]).as_array().unwrap().len(), 0);

    apply(&fleet, GOOD);
    assert_eq!(fleet.json(&["policy", "ls"])[0]["name"], "nightly");
    fleet.cli(&["policy", "explain", "nightli"]).ends_with(5).complains("did you mean `nightly`");
    fleet.cli(&["backup", "run", "nigthly"]).ends_with(5).complains("`nightly`");
    let explained = fleet.cli(&["policy", "explain", "nightly", "-o", "json"]);
    let explained: serde_json::Value = serde_json::from_str(&explained.stdout).unwrap();
    assert_eq!(explained["fires"].as_array().unwrap().len(), 5, "{explained}");
}

#[test]
fn unknown_things_are_answered_with_near_ones() {
    require_engine!();
    let fleet = Fleet::start(&["web-1"]);
    fleet.engine("web-1").docker(["volume", "create", "uploads"]);
    fleet
        .cli(&["backup", "run", "--host", "web-2", "--volume", "uploads"])
        .ends_with(5)
        .complains("did you mean `web-1`");
    fleet
        .cli(&["backup", "run", "--host", "web-1", "--volume", "uplaods"])
        .ends_with(5)
        .complains("`uploads`");
    fleet.cli(&["job", "show", "nonsense"]).ends_with(2);
    fleet.cli(&["snapshot", "show", "uploads"]).ends_with(5);
    fleet.cli(&["frobnicate"]).ends_with(2);
    let wrong = fleet.dir().join("wrong.token");
    e2e::secret::write(&wrong, "hfo_wrong\n");
    fleet.cli(&["--token-file", &wrong.display().to_string(), "host", "ls"]).ends_with(2);
    let mut command = std::process::Command::new(e2e::binaries::path("holdfast"));
    command.arg("--controller").arg("127.0.0.1:1").arg("--ca-file").arg(fleet.state_dir().join("ca.crt"));
    command.arg("--token-file").arg(&wrong).args(["host", "ls"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_store_that_cannot_be_used_is_named_at_once() {
    require_engine!();
    let server = e2e::s3::S3Server::start();
    let init = |bucket: &str, secret: &str| {
        let dir = tempfile::tempdir().unwrap();
        let credentials = dir.path().join("credentials");
        e2e::secret::write(&credentials, format!("{}\n{secret}\n", e2e::s3::ACCESS_KEY));
        let output = std::process::Command::new(e2e::binaries::path("holdfast-controller"))
            .arg("init")
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .args([
                "--repository",
                &format!("s3://{bucket}/x"),
                "--s3-endpoint",
                &server.endpoint(),
                "--crypto",
                "none",
                "--address",
                "127.0.0.1",
            ])
            .arg("--s3-credentials-file")
            .arg(&credentials)
            .output()
            .unwrap();
        assert!(!output.status.success());
        assert!(!dir.path().join("state/config.toml").exists(), "a half-made state directory was left");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = init("no-such-bucket", e2e::s3::SECRET_KEY);
    assert!(said.contains("no-such-bucket"), "{said}");
    let said = init(e2e::s3::BUCKET, "wrong-secret-key");
    assert!(said.contains("credentials") || said.contains("key"), "{said}");
}
