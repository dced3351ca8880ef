//! Hosts join, are seen, and answer the same calls through the controller and
//! at their own sockets.

use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use e2e::s3::S3Server;
use e2e::{require_engine, wait};

#[test]
fn two_hosts_join_and_are_listed() {
    require_engine!();
    let mut fleet = Fleet::start(&["web-1", "web-2"]);
    fleet.engine("web-1").docker(["volume", "create", "uploads"]);
    let hosts = fleet.json(&["host", "ls"]);
    let names: Vec<&str> =
        hosts.as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web-1", "web-2"]);
    for host in hosts.as_array().unwrap() {
        assert_eq!(host["connected"], true);
        assert!(host["engine_version"].as_str().unwrap().starts_with(char::is_numeric), "{host}");
    }
    fleet.wait_json("the volume count", 60, &["host", "show", "web-1"], |host| host["volumes"] == 1);

    fleet.ok(&["host", "label", "web-1", "role=web"]);
    assert_eq!(fleet.json(&["host", "ls", "--label", "role=web"]).as_array().unwrap().len(), 1);

    fleet.host("web-1").agent().kill();
    let gone = |host: &serde_json::Value| host["connected"] == false;
    fleet.wait_json("the host to be seen as gone", 60, &["host", "show", "web-1"], gone);
    fleet.cli(&["volume", "ls", "--host", "web-1"]).ends_with(7).complains("web-1");
}

#[test]
fn a_join_token_is_good_once_for_one_hour_and_one_name() {
    require_engine!();
    let mut fleet = Fleet::start(&["web-1"]);
    let used = std::fs::read_to_string(fleet.dir().join("web-1/join.token")).unwrap();
    let join = |fleet: &Fleet, token: &str| {
        let file = fleet.dir().join("again.token");
        e2e::secret::write(&file, token);
        let output = std::process::Command::new(e2e::binaries::path("holdfast-agent"))
            .arg("join")
            .arg(&file)
            .arg("--state-dir")
            .arg(fleet.dir().join("intruder"))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (joined, said) = join(&fleet, &used);
    assert!(!joined && said.contains("used"), "a used token was taken: {said}");
    let (joined, said) = join(&fleet, "hf1.nonsense");
    assert!(!joined, "nonsense was taken for a token: {said}");
    assert!(!fleet.dir().join("intruder").join("client.crt").exists());
    fleet.cli(&["host", "token", "bad name!"]).ends_with(2);
    fleet.cli(&["host", "token", "web-9", "--valid", "61"]).ends_with(2);
    // The host that is there is not disturbed by any of this.
    assert!(fleet.host("web-1").agent().is_running());
    fleet.wait_connected("web-1");
}

#[test]
fn volumes_are_managed_alike_through_the_controller_and_at_the_socket() {
    require_engine!();
    // A volume that leads elsewhere needs a right of its own.
    let mut fleet = Fleet::start_allowing(&["container"], &["web-1"]);
    let made = fleet.json(&[
        "volume",
        "create",
        "db_data",
        "--host",
        "web-1",
        "--label",
        "app=db",
        "--label",
        "tier=gold",
    ]);
    assert_eq!((made["name"].as_str(), made["labels"]["app"].as_str()), (Some("db_data"), Some("db")));
    // Equal settings again are no error, other settings are.
    fleet.ok(&[
        "volume",
        "create",
        "db_data",
        "--host",
        "web-1",
        "--label",
        "app=db",
        "--label",
        "tier=gold",
    ]);
    fleet
        .cli(&["volume", "create", "db_data", "--host", "web-1", "--label", "app=other"])
        .ends_with(2)
        .complains("db_data");
    fleet.ok(&[
        "volume",
        "create",
        "tmp",
        "--host",
        "web-1",
        "--driver",
        "local",
        "--opt",
        "type=tmpfs",
        "--opt",
        "device=tmpfs",
    ]);

    let at_controller = fleet.json(&["volume", "ls", "--host", "web-1"]);
    let at_socket = fleet.host("web-1").cli(&["volume", "ls", "-o", "json"]).ends_with(0);
    assert_eq!(at_controller, serde_json::from_str::<serde_json::Value>(&at_socket.stdout).unwrap());
    assert_eq!(at_controller.as_array().unwrap().len(), 2);
    let filtered = fleet.json(&["volume", "ls", "db_*", "--label", "app=db", "--host", "web-1"]);
    assert_eq!(filtered.as_array().unwrap().len(), 1);

    fleet.engine("web-1").run_writer("writer", "db_data");
    fleet.cli(&["volume", "rm", "db_data", "--host", "web-1", "--yes"]).ends_with(1).complains("writer");
    fleet.cli(&["volume", "inspect", "db_dat", "--host", "web-1"]).ends_with(5).complains("`db_data`");
    fleet.cli(&["volume", "ls", "--host", "web-3"]).ends_with(5).complains("did you mean `web-1`");
    for bad in ["../../etc", "$(id)", "a\nb", &"x".repeat(300)] {
        fleet.cli(&["volume", "create", bad, "--host", "web-1"]).ends_with(2);
    }
    fleet.cli(&["volume", "create", "--host", "web-1", "--", "-v"]).ends_with(2);
}

#[test]
fn prune_shows_asks_and_removes_just_what_it_showed() {
    require_engine!();
    let fleet = Fleet::start_allowing(&["remove"], &["web-1"]);
    let engine = fleet.engine("web-1");
    engine.docker(["volume", "create", "named"]);
    engine.docker(["volume", "create", "--label", "app=old", "labelled"]);
    engine.docker(["create", "--name", "holder", "-v", "/data", "-v", "used:/used", IMAGE]);
    let anonymous = engine.docker(["create", "-v", "/scratch", IMAGE]);
    engine.docker(["rm", &anonymous]);

    let plan = fleet.json(&["volume", "prune", "--host", "web-1", "--plan"]);
    assert_eq!(plan["volumes"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["removed"], false);
    // Without a terminal nobody can be asked.
    fleet.cli(&["volume", "prune", "--host", "web-1"]).ends_with(2).complains("--yes");
    assert_eq!(fleet.json(&["volume", "ls", "--host", "web-1"]).as_array().unwrap().len(), 5);

    fleet.cli(&["volume", "rm", "labelled", "--host", "web-1"]).ends_with(2).complains("--yes");
    let done = fleet.json(&["volume", "prune", "--host", "web-1", "--yes"]);
    assert_eq!(done["volumes"].as_array().unwrap().len(), 1);
    fleet.ok(&["volume", "prune", "--host", "web-1", "--named", "--label", "app=old", "--yes"]);
    assert!(engine.has_volume("named") && engine.has_volume("used") && !engine.has_volume("labelled"));
}

#[test]
fn mounts_of_every_kind_are_listed() {
    require_engine!();
    let fleet = Fleet::start(&["web-1"]);
    let engine = fleet.engine("web-1");
    let conf = fleet.dir().join("conf");
    std::fs::create_dir(&conf).unwrap();
    let bind = format!("{}:/conf:ro", conf.display());
    engine.docker([
        "run",
        "-d",
        "--name",
        "app",
        "-v",
        "logs:/logs",
        "-v",
        "/anon",
        "-v",
        &bind,
        "--tmpfs",
        "/scratch:size=16m",
        IMAGE,
        "sleep",
        "600",
    ]);
    let list = fleet.json(&["mount", "ls", "app", "--host", "web-1"]);
    let mounts = list[0]["mounts"].as_array().unwrap();
    let of = |target: &str| {
        mounts.iter().find(|mount| mount["target"] == target).unwrap_or_else(|| panic!("{target}: {list}"))
    };
    assert_eq!(mounts.len(), 4);
    assert_eq!(
        (of("/logs")["kind"].as_str(), of("/logs")["source"].as_str()),
        (Some("volume"), Some("logs"))
    );
    assert_eq!(of("/anon")["anonymous"], true);
    assert_eq!(
        (of("/conf")["kind"].as_str(), of("/conf")["read_only"].as_bool()),
        (Some("bind"), Some(true))
    );
    assert_eq!(of("/conf")["propagation"], "rprivate");
    assert_eq!(
        (of("/scratch")["kind"].as_str(), of("/scratch")["size_bytes"].as_u64()),
        (Some("tmpfs"), Some(16 << 20))
    );
    assert_eq!(
        fleet.json(&["mount", "ls", "--host", "web-1", "--volume", "logs"])[0]["mounts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn h17_an_agent_that_runs_takes_up_a_join_a_rejoin_and_a_leave() {
    require_engine!();
    let mut fleet = Fleet::start_allowing(&["exec"], &[]);
    fleet.add_unjoined("web-1");
    let running = fleet.host("web-1").agent().pid();
    let said = fleet.host("web-1").agent_says("status").ends_with(1).stdout;
    assert!(said.contains("controller  none"), "{said}");
    fleet.host("web-1").cli(&["volume", "ls"]).ends_with(0);

    // It started with what a host allows by default and has to follow.
    let token = fleet.token("web-1");
    let said = fleet.join_beside("web-1", &token);
    assert!(said.contains("connects within seconds"), "{said}");
    fleet.wait_json("the joined host", 10, &["host", "show", "web-1"], |host| host["connected"] == true);
    let host = fleet.json(&["host", "show", "web-1"]);
    assert!(host["allow"].as_array().unwrap().contains(&"exec".into()), "{host}");
    fleet.engine("web-1").docker(["volume", "create", "data"]);
    fleet.ok(&["backup", "run", "--host", "web-1", "--volume", "data", "--allow-empty"]);

    fleet.ok(&["host", "revoke", "web-1"]);
    let gone = |host: &serde_json::Value| host["connected"] == false;
    fleet.wait_json("the connection to be closed", 10, &["host", "show", "web-1"], gone);
    let status = || Ok::<_, String>(fleet.host("web-1").agent_says("status"));
    wait::until_is("the agent to know that it is cut off", 60, status, |said| {
        said.code == 1 && said.stdout.contains("does not accept this host")
    });
    let token = fleet.token("web-1");
    fleet.join_beside("web-1", &token);
    fleet.wait_json("the rejoined host", 10, &["host", "show", "web-1"], |host| host["connected"] == true);
    fleet.ok(&["backup", "run", "--host", "web-1", "--volume", "data", "--allow-empty"]);

    // A controller recreated from the bucket is another one to its hosts.
    fleet.rebuild();
    let token = fleet.token("web-1");
    fleet.join_beside("web-1", &token);
    fleet.wait_json("the host of the new controller", 10, &["host", "show", "web-1"], |host| {
        host["connected"] == true
    });
    fleet.ok(&["backup", "run", "--host", "web-1", "--volume", "data", "--allow-empty"]);

    let said = fleet.host("web-1").agent_says("status").ends_with(0).stdout;
    assert!(
        said.contains("knows it as web-1, certificate until") && said.contains("agent       runs"),
        "{said}"
    );
    fleet.host("web-1").agent_says("leave").ends_with(0);
    fleet.wait_json("the host to leave", 10, &["host", "show", "web-1"], gone);
    fleet.host("web-1").cli(&["volume", "ls"]).ends_with(0);
    fleet.host("web-1").agent_says("leave").ends_with(1).complains("has not joined");
    let agent = fleet.host("web-1").agent();
    assert!(agent.is_running() && agent.pid() == running, "nothing was restarted");
}

#[test]
fn x05_a_revoked_host_is_cut_off_and_can_join_again_as_itself() {
    require_engine!();
    let mut fleet = Fleet::start(&["web-1"]);
    let id = fleet.json(&["host", "show", "web-1"])["id"].clone();
    fleet.ok(&["host", "revoke", "web-1"]);
    let closed = |host: &serde_json::Value| host["connected"] == false;
    fleet.wait_json("the connection to be closed", 5, &["host", "show", "web-1"], closed);
    fleet.cli(&["volume", "ls", "--host", "web-1"]).ends_with(7);
    let token = fleet.token("web-1");
    fleet.rejoin("web-1", &token);
    fleet.wait_connected("web-1");
    assert_eq!(fleet.json(&["host", "show", "web-1"])["id"], id, "the host has lost its history");
}

#[test]
fn v10_the_store_is_shown_and_kept_when_a_host_joins_and_only_then() {
    require_engine!();
    let server = S3Server::start();
    let mut fleet = Fleet::start_on(server.place(), &[]);
    fleet.add_unjoined("web-1");
    let token = fleet.token("web-1");
    let said = fleet.join_beside("web-1", &token);
    let place = format!("{}/{}/fleet", server.endpoint(), e2e::s3::BUCKET);
    assert!(said.contains(&format!("this store and no other: {place} (NOT encrypted")), "{said}");
    let file = fleet.host("web-1").state_dir().join("identity.json");
    let identity: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(identity["store"]["url"], place.as_str());
    fleet.wait_connected("web-1");
    let shown = fleet.host("web-1").agent_says("status").stdout;
    assert!(shown.contains(&place), "{shown}");
    fleet.engine("web-1").run_writer("web", "data");
    let job = fleet.backup("web-1", "data", "none");
    assert_eq!(job["state"], "succeeded", "{job}");
    fleet.assert_whole();
}

#[test]
fn v15_a_state_directory_is_its_owners_alone_and_so_is_a_token() {
    use std::os::unix::fs::PermissionsExt as _;
    require_engine!();
    let fleet = Fleet::start(&[]);
    let (state, file) = (fleet.dir().join("state"), fleet.dir().join("open.token"));
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    e2e::secret::write(&file, fleet.token("web-1"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let join = || {
        let mut command = std::process::Command::new(e2e::binaries::path("holdfast-agent"));
        let output = command.arg("join").arg(&file).arg("--state-dir").arg(&state).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (joined, said) = join();
    assert!(!joined && said.contains(&format!("chmod 600 {}", file.display())), "{said}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (joined, said) = join();
    assert!(joined, "the token was not used up: {said}");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&state.join("identity.json"))), (0o700, 0o600));
    // The operator's token is one, too.
    let token = fleet.state_dir().join("admin.token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o640)).unwrap();
    fleet.cli(&["host", "ls"]).complains(&format!("chmod 600 {}", token.display()));
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    fleet.ok(&["host", "ls"]);
}
