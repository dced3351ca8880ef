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

/// A policy that fires once a year and keeps so many snapshots.
fn keeping(keep_last: u32) -> String {
    format!(
        "name = \"yearly\"\nvolumes = [\"uploads\"]\nhosts = [\"web-1\"]\n[schedule]\ncron = \"0 0 1 1 *\"\n\
         zone = \"UTC\"\n[retention]\nkeep_last = {keep_last}\n"
    )
}

/// Ids of the snapshots that are kept, and of those that are forgotten.
fn kept_and_forgotten(fleet: &Fleet) -> (Vec<String>, Vec<String>) {
    let ids = |list: serde_json::Value| -> Vec<String> {
        let each = list.as_array().cloned().unwrap_or_default();
        each.iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    };
    let kept = ids(fleet.json(&["snapshot", "ls"]));
    let all = ids(fleet.json(&["snapshot", "ls", "--forgotten"]));
    let forgotten = all.into_iter().filter(|id| !kept.contains(id)).collect();
    (kept, forgotten)
}

#[test]
fn o07_an_edit_that_forgets_most_is_refused_until_it_is_meant() {
    require_engine!();
    let fleet = Fleet::start(&["web-1"]);
    fleet.engine("web-1").docker(["volume", "create", "uploads"]);
    let volume = fleet.engine("web-1").volume_path("uploads");
    assert!(matches!(apply(&fleet, &keeping(10)).code, 0 | 3));
    for round in 0..5 {
        std::fs::write(volume.join("file"), format!("content {round}")).unwrap();
        fleet.ok(&["backup", "run", "yearly"]);
    }
    let (all, _) = kept_and_forgotten(&fleet);
    assert_eq!(all.len(), 5);
    let held = all.last().unwrap().clone();
    fleet.ok(&["snapshot", "hold", &held]);

    // Refused with what would go and the way on; nothing has changed.
    let file = fleet.dir().join("policy.toml").display().to_string();
    for plan in [&["apply", "-f", &file, "--plan"][..], &["apply", "-f", &file]] {
        std::fs::write(&file, keeping(1)).unwrap();
        let refused = fleet.cli(plan).ends_with(2);
        assert!(
            refused.stderr.contains("of the 5 snapshots of uploads on web-1 would be forgotten"),
            "{refused:?}"
        );
        refused.complains("--allow-forgetting").complains("nothing was changed");
    }
    assert_eq!(fleet.ok(&["policy", "show", "yearly"]).trim(), keeping(10).trim());
    assert_eq!(kept_and_forgotten(&fleet), (all.clone(), Vec::new()));

    // Meant, it is done: the newest stays, and what is held.
    let said = fleet.cli(&["apply", "-f", &file, "--allow-forgetting", "--plan"]);
    assert!(matches!(said.code, 0 | 3) && said.stdout.contains("only the plan"), "{said:?}");
    assert_eq!(fleet.ok(&["policy", "show", "yearly"]).trim(), keeping(10).trim());
    let said = fleet.cli(&["apply", "-f", &file, "--allow-forgetting"]);
    assert!(matches!(said.code, 0 | 3), "{said:?}");
    assert_eq!(fleet.ok(&["policy", "show", "yearly"]).trim(), keeping(1).trim());
    let kept = vec![all[0].clone(), held];
    e2e::wait::until_is(
        "retention to forget the others",
        60,
        || {
            let listed = fleet.try_json(&["snapshot", "ls"])?;
            Ok::<_, e2e::fleet::Said>(listed.as_array().map_or(0, Vec::len))
        },
        |&left| left <= 2,
    );
    assert_eq!(kept_and_forgotten(&fleet), (kept, all[1..4].to_vec()));
    // In their grace they can be taken back.
    fleet.ok(&["snapshot", "undelete", &all[1]]);
}
