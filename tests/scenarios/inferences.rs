//! What upgrades depend on, seen on a real Engine (20.10, API 1.41): each of the
//! inferences drawn from other tools' sources is settled here before anything
//! is built on it. Where it is wrong, or this Engine cannot show it, the words
//! above it say so.
//!
//! 8, directories of volumes exchanged by `renameat2(RENAME_EXCHANGE)`, is a
//! matter of file systems, not of the Engine: the tests of the agent's clones
//! settle it.

use e2e::command::run;
use e2e::docker::{Engine, IMAGE, REMAP_OFFSET};
use e2e::{require_engine, wait};
use serde_json::{Value, json};

/// A container that runs until it is stopped, with more settings.
fn sleeper(extra: Value) -> Value {
    let mut body = json!({"Image": IMAGE, "Cmd": ["sleep", "1000"], "StopTimeout": 0});
    body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    body
}

fn try_create(engine: &Engine, name: &str, body: &Value) -> (u16, Value) {
    engine.api("POST", &format!("/containers/create?name={name}"), Some(body))
}

/// Makes a container; panics unless it is made.
fn create(engine: &Engine, name: &str, body: &Value) -> String {
    let (code, answer) = try_create(engine, name, body);
    assert_eq!(code, 201, "{name}: {answer}");
    answer["Id"].as_str().expect("an id").to_owned()
}

/// The status code, and the Engine's words where it refuses.
fn start(engine: &Engine, name: &str) -> (u16, String) {
    let (code, answer) = engine.api("POST", &format!("/containers/{name}/start"), None);
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

fn stop(engine: &Engine, name: &str) {
    let (code, answer) = engine.api("POST", &format!("/containers/{name}/stop"), None);
    assert_eq!(code, 204, "{name}: {answer}");
}

fn set_policy(engine: &Engine, name: &str, policy: &str) {
    let body = json!({"RestartPolicy": {"Name": policy, "MaximumRetryCount": 0}});
    let (code, answer) = engine.api("POST", &format!("/containers/{name}/update"), Some(&body));
    assert_eq!(code, 200, "{name}: {answer}");
    assert_eq!(engine.inspect(name)["HostConfig"]["RestartPolicy"]["Name"], policy, "{name}");
}

fn prune_volumes(engine: &Engine) -> Vec<String> {
    let (code, answer) = engine.api("POST", "/volumes/prune", None);
    assert_eq!(code, 200, "{answer}");
    let names = answer["VolumesDeleted"].as_array().cloned().unwrap_or_default();
    names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// The name of the one volume a container has.
fn volume_of(engine: &Engine, container: &str) -> String {
    engine.inspect(container)["Mounts"][0]["Name"].as_str().expect("a volume").to_owned()
}

/// Those that leave nothing behind for each other share an Engine.
#[test]
fn inferences_1_to_6_and_of_addresses() {
    require_engine!();
    let engine = Engine::start();
    inference_1_a_holder_keeps_the_volumes_of_an_auto_removed_container(&engine);
    inference_2_a_created_container_pins_a_carried_anonymous_volume(&engine);
    inference_3_a_mac_address_in_the_config_is_the_users(&engine);
    inference_4_an_empty_volume_is_filled_at_create_unless_told_otherwise(&engine);
    inference_5_a_container_mode_dies_with_its_provider(&engine);
    inference_6_aliases_and_addresses_round_trip(&engine);
    two_may_have_an_address_while_one_of_them_runs(&engine);
}

/// True: a stopped holder made with `VolumesFrom` keeps the anonymous volumes
/// of a `--rm` container, which its removal takes otherwise.
fn inference_1_a_holder_keeps_the_volumes_of_an_auto_removed_container(engine: &Engine) {
    for held in [true, false] {
        let name = format!("auto-{held}");
        engine.docker(["run", "-d", "--rm", "--name", &name, "-v", "/data", IMAGE, "sleep", "1000"]);
        let volume = volume_of(engine, &name);
        if held {
            engine.docker(["create", "--name", "holder", "--volumes-from", &name, IMAGE]);
        }
        engine.docker(["stop", "-t", "0", &name]);
        let container = || engine.try_has_container(&name);
        wait::until_is("the container to remove itself", 20, container, |&there| !there);
        // Of its volumes the Engine disposes after the container.
        let there = || engine.try_has_volume(&volume);
        wait::until_is("its volume to stay or go", 20, there, |&there| there == held);
    }
    engine.docker(["rm", "-v", "holder"]);
}

/// True, as far as this Engine can show it: a container that never ran pins
/// the volume. 20.10 puts no label on anonymous volumes, and its prune takes
/// every volume that no container has; so of the label nothing is seen.
fn inference_2_a_created_container_pins_a_carried_anonymous_volume(engine: &Engine) {
    let carry = |name: &str, volume: &str| {
        let mount = json!({"Type": "volume", "Source": volume, "Target": "/data"});
        create(engine, name, &sleeper(json!({"HostConfig": {"Mounts": [mount]}})))
    };
    engine.docker(["run", "-d", "--name", "old", "-v", "/data", IMAGE, "sleep", "1000"]);
    let volume = volume_of(engine, "old");
    let (_, described) = engine.api("GET", &format!("/volumes/{volume}"), None);
    assert_eq!(described["Labels"], Value::Null, "{described}");
    carry("new", &volume);
    engine.docker(["rm", "-f", "old"]);
    assert_eq!(prune_volumes(engine), Vec::<String>::new());
    engine.docker(["rm", "-v", "new"]);
    assert!(engine.has_volume(&volume), "`rm -v` took a volume carried by name");
    assert_eq!(prune_volumes(engine), [volume]);

    // `rm -v` of the container that made it takes it, unless another has it.
    for carried in [false, true] {
        engine.docker(["create", "--name", "maker", "-v", "/data", IMAGE]);
        let volume = volume_of(engine, "maker");
        if carried {
            carry("new", &volume);
        }
        engine.docker(["rm", "-v", "maker"]);
        assert_eq!(engine.has_volume(&volume), carried);
    }
    engine.docker(["rm", "new"]);
}

/// The inference is about API 1.44 to 1.51, which this Engine does not speak.
/// At 1.41 it is true, too: `Config.MacAddress` is there only where the user
/// set one. An endpoint shows the address in use, and none once it is stopped.
fn inference_3_a_mac_address_in_the_config_is_the_users(engine: &Engine) {
    let mac = "02:42:ac:11:aa:01";
    let endpoint = |name: &str| {
        let inspect = engine.inspect(name);
        let networks = inspect["NetworkSettings"]["Networks"].as_object().expect("networks");
        networks["bridge"]["MacAddress"].as_str().unwrap_or_default().to_owned()
    };
    let config =
        |name: &str| engine.inspect(name)["Config"]["MacAddress"].as_str().unwrap_or_default().to_owned();
    for (name, users) in [("set", mac), ("generated", "")] {
        create(engine, name, &sleeper(json!({"MacAddress": users})));
        assert_eq!((config(name), endpoint(name)), (users.to_owned(), String::new()), "before a start");
        start(engine, name);
        assert_eq!(config(name), users);
        assert!(if users.is_empty() { !endpoint(name).is_empty() } else { endpoint(name) == mac });
        stop(engine, name);
        assert_eq!((config(name), endpoint(name)), (users.to_owned(), String::new()), "stopped");
        engine.docker(["rm", name]);
    }
}

/// True: an empty volume is filled from the image when the container is made,
/// long before a start; with `NoCopy` it stays empty.
fn inference_4_an_empty_volume_is_filled_at_create_unless_told_otherwise(engine: &Engine) {
    let dockerfile = format!("FROM {IMAGE}\nCOPY shipped /data/\nVOLUME /data\n");
    engine.build_image(&dockerfile, &[("shipped", "by the image")], "ships:1");
    let filled = |name: &str, host_config: Value| {
        create(engine, name, &json!({"Image": "ships:1", "HostConfig": host_config}));
        engine.docker(["rm", name]);
        engine.volume_path(name).join("shipped").exists()
    };
    let mount = |name: &str, options: Value| json!({"Mounts": [{"Type": "volume", "Source": name, "Target": "/data", "VolumeOptions": options}]});
    assert!(filled("by-mount", mount("by-mount", json!({}))));
    assert!(!filled("mount-no-copy", mount("mount-no-copy", json!({"NoCopy": true}))));
    assert!(filled("by-bind", json!({"Binds": ["by-bind:/data"]})));
    assert!(!filled("bind-no-copy", json!({"Binds": ["bind-no-copy:/data:nocopy"]})));
    engine.docker(["volume", "create", "own"]);
    std::fs::write(engine.volume_path("own").join("mine"), "data").unwrap();
    assert!(!filled("own", mount("own", json!({}))), "a volume with data was filled, too");
}

/// Refined: a new container with the id of a provider that is gone is refused
/// at create for `IpcMode` and `PidMode`, but for `NetworkMode` only at start,
/// when an old container would be stopped already. One made before fails at
/// start in every mode. A name is turned into the id of the moment.
fn inference_5_a_container_mode_dies_with_its_provider(engine: &Engine) {
    let shared = sleeper(json!({"HostConfig": {"IpcMode": "shareable"}}));
    let in_mode = |mode: &str, of: &str| sleeper(json!({"HostConfig": {mode: format!("container:{of}")}}));
    let former = create(engine, "provider", &shared);
    start(engine, "provider");
    let modes = ["IpcMode", "PidMode", "NetworkMode"];
    for mode in modes {
        create(engine, mode, &in_mode(mode, "provider"));
        assert_eq!(engine.inspect(mode)["HostConfig"][mode], format!("container:{former}"));
        assert_eq!(start(engine, mode).0, 204);
        stop(engine, mode);
    }
    engine.docker(["rm", "-f", "provider"]);
    create(engine, "provider", &shared);
    start(engine, "provider");
    for (mode, made_before, at_create, at_start) in
        [("IpcMode", 500, 400, None), ("PidMode", 500, 400, None), ("NetworkMode", 404, 201, Some(404))]
    {
        let words = format!("No such container: {former}");
        let (code, text) = start(engine, mode);
        assert_eq!(code, made_before, "{mode}: {text}");
        assert!(text.contains(&words), "{mode}: {text}");
        let again = format!("{mode}-again");
        let (code, answer) = try_create(engine, &again, &in_mode(mode, &former));
        assert_eq!(code, at_create, "{mode}: {answer}");
        match at_start {
            None => assert!(answer["message"].to_string().contains(&words), "{mode}: {answer}"),
            Some(code) => assert_eq!(start(engine, &again), (code, words)),
        }
        let by_name = format!("{mode}-by-name");
        create(engine, &by_name, &in_mode(mode, "provider"));
        assert_eq!(start(engine, &by_name).0, 204, "{mode}");
        engine.docker(["rm", "-f", &by_name]);
    }
    engine.docker(["rm", "-f", "provider", "IpcMode", "PidMode", "NetworkMode", "NetworkMode-again"]);
}

/// False at API 1.41 as it stands: inspect adds the container's short id to
/// the aliases. Less that, both round-trip on a bridge, IPv6 included. An
/// overlay network needs a swarm, a macvlan a kernel that has it, the versions
/// from 1.44 on a newer Engine: these are not seen here.
fn inference_6_aliases_and_addresses_round_trip(engine: &Engine) {
    let subnets = ["--ipv6", "--subnet", "10.77.6.0/24", "--subnet", "fd77::/64"];
    engine.docker(["network", "create"].into_iter().chain(subnets).chain(["six"]));
    let made = |name: &str, endpoint: &Value| {
        let body = sleeper(json!({
            "HostConfig": {"NetworkMode": "six"}, "NetworkingConfig": {"EndpointsConfig": {"six": endpoint}},
        }));
        let id = create(engine, name, &body);
        assert_eq!(start(engine, name), (204, String::new()));
        let shown = engine.inspect(name)["NetworkSettings"]["Networks"]["six"].clone();
        engine.docker(["rm", "-f", name]);
        (id, shown)
    };
    let ipam = json!({"IPv4Address": "10.77.6.10", "IPv6Address": "fd77::10"});
    let (id, first) = made("first", &json!({"Aliases": ["db", "database"], "IPAMConfig": ipam}));
    assert_eq!(first["Aliases"], json!(["db", "database", id[..12]]));
    assert_eq!((&first["IPAMConfig"], &first["IPAddress"]), (&ipam, &ipam["IPv4Address"]));
    assert_eq!(first["GlobalIPv6Address"], ipam["IPv6Address"]);
    let users = json!({"Aliases": ["db", "database"], "IPAMConfig": first["IPAMConfig"]});
    let (id, second) = made("second", &users);
    assert_eq!(second["Aliases"], json!(["db", "database", id[..12]]));
    for field in ["IPAMConfig", "IPAddress", "GlobalIPv6Address", "MacAddress"] {
        assert_eq!(second[field], first[field], "{field}");
    }
}

/// A static address is taken by the endpoint of a container that runs, not by
/// one that is made: a second container with the same one is made and
/// connected beside the first, starts once that is stopped, with no
/// disconnect, and the first can be started again after it.
fn two_may_have_an_address_while_one_of_them_runs(engine: &Engine) {
    engine.docker(["network", "create", "--subnet", "10.77.1.0/24", "one"]);
    engine.docker(["network", "create", "--subnet", "10.77.2.0/24", "two"]);
    let make = |name: &str| {
        let endpoint = json!({"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.77.1.10"}});
        let body = sleeper(json!({
            "HostConfig": {"NetworkMode": "one"}, "NetworkingConfig": {"EndpointsConfig": {"one": endpoint}},
        }));
        create(engine, name, &body);
        let further =
            json!({"Container": name, "EndpointConfig": {"IPAMConfig": {"IPv4Address": "10.77.2.10"}}});
        let (code, answer) = engine.api("POST", "/networks/two/connect", Some(&further));
        assert_eq!(code, 200, "{name}: {answer}");
    };
    let addresses = |name: &str| {
        let networks = engine.inspect(name)["NetworkSettings"]["Networks"].clone();
        ["one", "two"].map(|network| networks[network]["IPAddress"].as_str().expect("an address").to_owned())
    };
    make("old");
    assert_eq!(start(engine, "old").0, 204);
    make("new");
    assert_eq!(start(engine, "new"), (403, "Address already in use".to_owned()));
    assert_eq!(engine.state("new"), "created");
    stop(engine, "old");
    assert_eq!(start(engine, "new").0, 204);
    assert_eq!(addresses("new"), ["10.77.1.10", "10.77.2.10"]);
    stop(engine, "new");
    assert_eq!(start(engine, "old").0, 204);
    assert_eq!(addresses("old"), ["10.77.1.10", "10.77.2.10"]);
    engine.docker(["rm", "-f", "old", "new"]);
}

/// True: a policy given by an update counts across a crash of dockerd as one
/// given at create. And what upgrades must know besides: without a policy
/// what ran is down after it; so is what ran `unless-stopped`, for the daemon
/// ends survivors as a user would; what was stopped by hand is started again
/// under `always`, and under `on-failure` where its exit code was not 0. With
/// the policy `no` set before or after the stop it stays down.
#[test]
fn inference_7_a_restart_policy_given_later_counts_across_a_crash() {
    require_engine!();
    let mut engine = Engine::start();
    let histories = ["runs", "runs-by-update", "stopped", "no-stopped", "stopped-no", "no-stopped-back"];
    let policies = ["always", "unless-stopped", "on-failure"];
    let set_up = |policy: &str, history: &str| {
        let name = format!("{policy}.{history}");
        let first = if history == "runs-by-update" { "no" } else { policy };
        create(&engine, &name, &sleeper(json!({"HostConfig": {"RestartPolicy": {"Name": first}}})));
        assert_eq!(start(&engine, &name).0, 204, "{name}");
        for step in history.split('-') {
            match step {
                "stopped" => stop(&engine, &name),
                "no" => set_policy(&engine, &name, "no"),
                "update" | "back" => set_policy(&engine, &name, policy),
                _ => {}
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| set_up("no", "runs"));
        for history in histories {
            scope.spawn(move || policies.iter().for_each(|policy| set_up(policy, history)));
        }
    });
    // Ends by itself, exit code 0, when told to.
    let script = "trap 'exit 0' TERM; sleep 1000 & wait";
    let run =
        ["run", "-d", "--name", "on-failure.ended", "--restart", "on-failure", IMAGE, "sh", "-c", script];
    engine.docker(run);
    engine.docker(["stop", "on-failure.ended"]);

    engine.crash_and_restart();
    let expected = [
        "always.no-stopped-back",
        "always.runs",
        "always.runs-by-update",
        "always.stopped",
        "on-failure.no-stopped-back",
        "on-failure.runs",
        "on-failure.runs-by-update",
        "on-failure.stopped",
    ];
    let running = || engine.try_docker(["ps", "--format", "{{.Names}}"]);
    wait::until_is("containers to run as their policies say", 30, running, |names| {
        let mut names: Vec<&str> = names.lines().collect();
        names.sort_unstable();
        names == expected
    });
}

/// Settled for `userns-remap`: ids that are read from a volume's files are the
/// host's, so that a restore to the same Engine writes them as they are, and
/// one to an Engine without that mapping must not. A rootless Engine needs a
/// login session of its own, which tests have not.
#[test]
fn inference_9_ids_in_volumes_of_a_remapped_engine_are_the_hosts() {
    use std::os::unix::fs::MetadataExt;
    require_engine!();
    let engine = Engine::start_remapped();
    let script = "echo text > /data/file; chown 33:44 /data/file";
    engine.docker(["run", "--rm", "-v", "data:/data", IMAGE, "sh", "-c", script]);
    let root = engine.volume_path("data");
    let ids = |name: &str| {
        let meta = std::fs::symlink_metadata(root.join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(ids("file"), (REMAP_OFFSET + 33, REMAP_OFFSET + 44));
    assert_eq!(ids("."), (REMAP_OFFSET, REMAP_OFFSET), "the volume's own folder");
    let copy = root.join("copy");
    run(std::process::Command::new("cp").arg("-a").arg(root.join("file")).arg(&copy));
    let owner = ["run", "--rm", "-v", "data:/data", IMAGE, "stat", "-c", "%u:%g", "/data/copy"];
    assert_eq!(engine.docker(owner), "33:44");
}
