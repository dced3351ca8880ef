//! The promise: a container recreated of another image is the same container,
//! field by field. Every leaf of what the Engine reports about the two is compared;
//! one that differs fails unless a table says why it may. Every setting the
//! Engine shows must be used by one of the containers here, so that a field
//! nobody thought of fails, too.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use self::everything::everything;
use super::*;
use crate::engine::testing::Scene;
use crate::spec::no_restart;

mod everything;

/// Of any container: what may differ between one and its successor, and why.
/// A `*` stands for one part of a path, at the end for all that follow.
const MAY_DIFFER: &[(&str, &str)] = &[
    ("Id", "another container"),
    ("Created", "another container"),
    ("Name", "made beside the old one"),
    ("GraphDriver.*", "another filesystem of its own"),
    ("Image", "the new image"),
    ("Config.Image", "the new image"),
    ("HostConfig.RestartPolicy.Name", "none given is `no`"),
    ("Config.Env.VERSION", "of the image alone"),
    ("Config.Labels.version", "of the image alone"),
    ("Config.Labels.com.docker.compose.image", "compose compares it with the image"),
    ("Config.ExposedPorts.1000/tcp", "of the old image alone"),
    ("Config.ExposedPorts.2000/tcp", "of the new image alone"),
    ("Config.ExposedPorts.5353/udp", "published, so it has to be exposed"),
    ("Config.Volumes.*", "of the image, or mounted by name"),
    ("Mounts./image-1.Mode", "no name before"),
    ("Mounts./image-2.*", "of the new image alone"),
    ("Mounts./user-volume.Mode", "no name before"),
    ("HostConfig.Mounts./image-1.*", "is mounted by name"),
    ("HostConfig.Mounts./user-volume.*", "is mounted by name"),
    ("HostConfig.Mounts./nameless-bind.*", "is mounted by name"),
    ("HostConfig.Mounts./nameless-mount.Source", "is mounted by name"),
    ("HostConfig.Mounts./nameless-mount.VolumeOptions.NoCopy", "must not be filled from the new image"),
    ("HostConfig.Binds./nameless-bind", "is mounted by name"),
    ("HostConfig.ContainerIDFile", "of the session that made it"),
    ("HostConfig.ConsoleSize.*", "of the session that made it"),
    ("NetworkSettings.Networks.*.DriverOpts", "none in either writing"),
    ("NetworkSettings.Networks.*.IPAMConfig", "none in either writing"),
];

/// Of a container that leaves to the image what can be left to it.
const FOLLOWS: &[(&str, &str)] = &[
    ("Path", "of the image"),
    ("Args.*", "of the image"),
    ("Config.Cmd.*", "of the image"),
    ("Config.Entrypoint.*", "of the image"),
    ("Config.User", "of the image"),
    ("Config.WorkingDir", "of the image"),
    ("Config.StopSignal", "of the image"),
    ("Config.Healthcheck.*", "of the image"),
    ("Config.Hostname", "its id"),
];

/// What a container that sets nothing has of its image, and nothing else.
const FOLLOWED: [&str; 10] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Settings that none of the containers here uses, and why not.
const UNUSED: &[(&str, &str)] = &[
    ("Config.Image", "every container has one"),
    ("HostConfig.BlkioWeight", "not every kernel has it"),
    ("HostConfig.StorageOpt", "not every storage driver takes it"),
    ("HostConfig.CpuCount", "of Windows"),
    ("HostConfig.CpuPercent", "of Windows"),
    ("HostConfig.IOMaximumIOps", "of Windows"),
    ("HostConfig.IOMaximumBandwidth", "of Windows"),
    ("HostConfig.Isolation", "of Windows"),
    ("HostConfig.KernelMemory", "not every kernel has it"),
    ("HostConfig.KernelMemoryTCP", "not every kernel has it"),
    ("HostConfig.CpuRealtimePeriod", "not every kernel has it"),
    ("HostConfig.CpuRealtimeRuntime", "not every kernel has it"),
];

pub(super) struct World {
    scene: Scene,
    old: String,
    new: String,
    new_id: String,
    network: String,
    /// One of its addresses.
    address: String,
    second: String,
    third: String,
    source: String,
}

impl World {
    async fn open() -> Option<Self> {
        let scene = Scene::open().await?;
        let (network, octets) = scene.network("net1", 1);
        let [second, third] = [2, 3].map(|index| scene.network(&format!("net{index}"), index).0);
        let source = scene.run_sleeper("source", &["-v", "/shared", "--ipc", "shareable"]).await;
        let (old, new) =
            (scene.image_with("of1", &defaults(1)).await, scene.image_with("of2", &defaults(2)).await);
        let inspected = scene.engine.inspect_image_json(&new).await.unwrap();
        let new_id = text(&inspected, "Id").to_owned();
        Some(Self { scene, old, new, new_id, network, address: format!("{octets}.9"), second, third, source })
    }

    async fn make(&self, suffix: &str, mut body: Value) -> Value {
        body["Image"] = json!(self.old);
        let name = self.scene.name(suffix);
        let made = self.scene.engine.create_container_json(&name, None, &body).await.unwrap();
        self.scene.engine.inspect_container_json(&made.id).await.unwrap()
    }

    /// Recreated under another name, with the restart policy applied as an
    /// upgrade does it.
    async fn again(&self, inspect: &Value, image: &str, image_id: &str) -> Value {
        let engine = &self.scene.engine;
        let spec = Spec::read(engine, text(inspect, "Id")).await.unwrap();
        let name = format!("{}-again", spec.name);
        let made = create(engine, &spec, &name, image, image_id).await.unwrap();
        let seen = engine.inspect_container_json(&made.id).await.unwrap();
        assert_eq!(seen["HostConfig"]["RestartPolicy"], no_restart());
        if text(&spec.restart_policy(), "Name") != "no" {
            engine.set_restart_policy(&made.id, &spec.restart_policy()).await.unwrap();
        }
        engine.inspect_container_json(&made.id).await.unwrap()
    }
}

/// Settings of an image, none of which two versions have in common.
fn defaults(version: u64) -> Value {
    json!({
        "Env": [format!("VERSION={version}"), "SAME=1"],
        "Labels": { "version": version.to_string() },
        "ExposedPorts": { format!("{version}000/tcp"): {} },
        "User": format!("0:{version}"),
        "WorkingDir": format!("/work{version}"),
        "StopSignal": format!("SIGUSR{version}"),
        "Volumes": { format!("/image-{version}"): {} },
        "Entrypoint": ["/bin/busybox"],
        "Cmd": ["sleep", format!("{version}000")],
        "Healthcheck": { "Test": ["CMD", "/bin/busybox", "true"], "Interval": version * 60_000_000_000,
            "Timeout": version * 1_000_000_000, "StartPeriod": version * 2_000_000_000, "Retries": version },
    })
}

/// Every leaf by its path. What the Engine lists in no order is told by key.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn key(path: &str, entry: &Value) -> Option<String> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        match path {
            "Mounts" => text("Destination"),
            "HostConfig.Mounts" => text("Target"),
            "HostConfig.Ulimits" => text("Name"),
            "Config.Env" => {
                entry.as_str().map(|entry| entry.split('=').next().unwrap_or_default().to_owned())
            }
            "HostConfig.Binds" => {
                entry.as_str().map(|bind| bind.split(':').nth(1).unwrap_or(bind).to_owned())
            }
            "HostConfig.Links" => {
                entry.as_str().map(|link| link.split(':').next().unwrap_or_default().to_owned())
            }
            path if path.ends_with(".Aliases") => entry.as_str().map(str::to_owned),
            _ => None,
        }
    }
    fn walk(path: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                entries.iter().for_each(|(name, value)| walk(&below(name), value, leaves));
            }
            Value::Array(entries) if !entries.is_empty() => {
                for (index, entry) in entries.iter().enumerate() {
                    walk(&below(&key(path, entry).unwrap_or_else(|| index.to_string())), entry, leaves);
                }
            }
            // None in any writing.
            Value::Null | Value::Object(_) => {}
            leaf => {
                leaves.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk("", value, &mut found);
    found
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, "")) => path.starts_with(before) || path == before.trim_end_matches('.'),
        Some((before, after)) => path.starts_with(before) && path.ends_with(after),
    }
}

/// Leaves that differ though no table lets them.
fn differences(before: &Value, after: &Value, tables: &[&[(&str, &str)]]) -> Vec<String> {
    let (before, after) = (leaves(before), leaves(after));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let may = |path: &str| tables.iter().copied().flatten().any(|(pattern, _)| matches(pattern, path));
    let differing = paths.into_iter().filter(|&path| before.get(path) != after.get(path) && !may(path));
    differing.map(|path| format!("{path}: {:?} -> {:?}", before.get(path), after.get(path))).collect()
}

#[tokio::test]
async fn u_every_field_of_a_container_is_the_same_again_or_is_listed() {
    let Some(world) = World::open().await else { return };
    let blank = world.make("blank", json!({ "HostConfig": { "NetworkMode": "none" } })).await;
    let new_image = world.scene.engine.inspect_image_json(&world.new).await.unwrap();
    let mut used: Vec<Value> = Vec::new();
    let mut wrong = Vec::new();

    let all = world.make("all", everything(&world)).await;
    for network in [&world.third, &world.second] {
        let endpoint = json!({ "Aliases": ["more"], "IPAMConfig": {} });
        world.scene.engine.connect_network(network, text(&all, "Id"), &endpoint).await.unwrap();
    }
    let bridge = json!({ "HostConfig": { "NetworkMode": "default", "Links": [format!("{}:alias", world.scene.name("all"))],
        "Privileged": true, "IpcMode": format!("container:{}", world.source), "UTSMode": "host",
        "CpuPeriod": 50_000, "CpuQuota": 25_000, "Cgroup": format!("container:{}", world.source) } });
    let joined = json!({ "HostConfig": { "NetworkMode": format!("container:{}", world.source), "AutoRemove": true,
        "PidMode": "host" } });
    let apart = json!({ "NetworkDisabled": true, "Healthcheck": { "Test": ["NONE"] },
        "HostConfig": { "NetworkMode": "none", "RestartPolicy": { "Name": "always" }, "MaskedPaths": [] } });
    let on_host =
        json!({ "Entrypoint": [""], "Cmd": ["/bin/busybox"], "HostConfig": { "NetworkMode": "host" } });
    let mut cases = vec![("all", all, &[][..])];
    for (suffix, body, table) in [
        ("bridge", bridge, FOLLOWS),
        ("joined", joined, FOLLOWS),
        ("apart", apart, FOLLOWS),
        ("host", on_host, FOLLOWS),
    ] {
        cases.push((suffix, world.make(suffix, body).await, table));
    }
    for (suffix, before, table) in cases {
        let before = world.scene.engine.inspect_container_json(text(&before, "Id")).await.unwrap();
        let after = world.again(&before, &world.new, &world.new_id).await;
        let (own_before, own_after) = (own_names_marked(&before), own_names_marked(&after));
        let tables = [MAY_DIFFER, table];
        wrong.extend(
            differences(&own_before, &own_after, &tables).iter().map(|line| format!("{suffix}: {line}")),
        );
        if matches!(suffix, "bridge" | "joined") {
            for key in FOLLOWED {
                assert_eq!(
                    after["Config"][key], new_image["Config"][key],
                    "{suffix}: {key} of the new image"
                );
            }
        }
        used.push(before);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let mut unused = Vec::new();
    for part in ["Config", "HostConfig"] {
        for key in
            used.iter().flat_map(|seen| seen[part].as_object().unwrap().keys()).collect::<BTreeSet<_>>()
        {
            let path = format!("{part}.{key}");
            let is_used = used.iter().any(|seen| seen[part].get(key) != blank[part].get(key));
            if !is_used && !UNUSED.iter().any(|(listed, _)| *listed == path) {
                unused.push(path);
            }
        }
    }
    assert!(unused.is_empty(), "no container here uses {unused:?}: a loss of these would not be seen");
}

/// What in a container's settings is made of its id or its name.
fn own_names_marked(inspect: &Value) -> Value {
    let mut marked = inspect.clone();
    let (short, name) = (&text(inspect, "Id")[..12], text(inspect, "Name"));
    let networks =
        marked["NetworkSettings"]["Networks"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for alias in networks.filter_map(|endpoint| endpoint["Aliases"].as_array_mut()).flatten() {
        if alias == short {
            *alias = json!("ITS SHORT ID");
        }
    }
    for link in marked["HostConfig"]["Links"].as_array_mut().into_iter().flatten() {
        *link = json!(link.as_str().unwrap_or_default().replace(&format!(":{name}/"), ":ITS NAME/"));
    }
    marked
}

#[tokio::test]
async fn u_a_container_that_ran_is_the_same_again_when_it_runs() {
    let Some(world) = World::open().await else { return };
    let engine = &world.scene.engine;
    let body = json!({
        "Env": ["OWN=1"],
        "HostConfig": { "NetworkMode": world.network, "PortBindings": { "5353/udp": [{ "HostIp": "127.0.0.1", "HostPort": "" }] },
            "VolumesFrom": [&world.source] },
        "NetworkingConfig": { "EndpointsConfig": { &world.network: { "Aliases": ["db"], "IPAMConfig": { "IPv4Address": world.address } } } },
    });
    let before = world.make("c", body).await;
    let id = text(&before, "Id").to_owned();
    for network in [&world.third, &world.second] {
        engine.connect_network(network, &id, &json!({ "Aliases": ["more"] })).await.unwrap();
    }
    engine.start_container(&id).await.unwrap();
    let volume = |inspect: &Value, target: &str| {
        let points = inspect["Mounts"].as_array().unwrap();
        points.iter().find(|point| point["Destination"] == target).map(|point| text(point, "Name").to_owned())
    };
    let before = engine.inspect_container_json(&id).await.unwrap();
    let handed_out = &before["NetworkSettings"]["Networks"][&world.second]["IPAddress"];
    assert!(handed_out.as_str().is_some_and(|address| !address.is_empty()));

    let spec = Spec::read(engine, &id).await.unwrap();
    let asked: Vec<_> = spec.networks.iter().map(|(name, asked)| (name.clone(), json!(asked))).collect();
    let expected = [
        (world.network.clone(), json!({ "Aliases": ["db"], "IPAMConfig": { "IPv4Address": world.address } })),
        (world.second.clone(), json!({ "Aliases": ["more"] })),
        (world.third.clone(), json!({ "Aliases": ["more"] })),
    ];
    assert_eq!(asked, expected);
    assert_eq!(spec.host_config["VolumesFrom"], json!([world.source]));
    assert_eq!(spec.host_config["PortBindings"]["5353/udp"][0]["HostPort"], "");

    // The address is the old one's until it stops.
    let after = world.again(&before, &world.new, &world.new_id).await;
    let stopped = engine.inspect_container(&id).await.unwrap();
    engine.stop_container(&stopped, Some(std::time::Duration::ZERO)).await.unwrap();
    engine.start_container(text(&after, "Id")).await.unwrap();
    let after = engine.inspect_container_json(text(&after, "Id")).await.unwrap();
    for target in ["/image-1", "/shared"] {
        assert!(volume(&before, target).is_some_and(|name| volume(&after, target) == Some(name)), "{target}");
    }
    let running = [
        ("State.*", "another run"),
        ("ResolvConfPath", "another run"),
        ("HostnamePath", "another run"),
        ("HostsPath", "another run"),
        ("LogPath", "another run"),
        ("NetworkSettings.SandboxID", "another run"),
        ("NetworkSettings.SandboxKey", "another run"),
        ("NetworkSettings.Ports.*", "handed out"),
        ("NetworkSettings.Networks.*.EndpointID", "another run"),
        ("NetworkSettings.Networks.*.MacAddress", "handed out"),
        ("NetworkSettings.Networks.*.IPAddress", "handed out"),
    ];
    let (own_before, own_after) = (own_names_marked(&before), own_names_marked(&after));
    let wrong = differences(&own_before, &own_after, &[MAY_DIFFER, FOLLOWS, &running]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let address = |seen: &Value| seen["NetworkSettings"]["Networks"][&world.network]["IPAddress"].clone();
    assert_eq!(address(&after), world.address);
}

#[tokio::test]
async fn u_of_the_same_image_the_spec_is_the_same_again() {
    let Some(world) = World::open().await else { return };
    let engine = &world.scene.engine;
    let mut all = everything(&world);
    let image = engine.inspect_image_json(&world.old).await.unwrap();
    all["Labels"]["com.docker.compose.image"] = image["Id"].clone();
    let plain = json!({ "HostConfig": { "NetworkMode": "none" } });
    let privileged =
        json!({ "HostConfig": { "NetworkMode": "default", "Privileged": true, "PidMode": "host" } });
    for (suffix, body) in [("all", all), ("plain", plain), ("privileged", privileged)] {
        let before = world.make(suffix, body).await;
        let first = Spec::read(engine, text(&before, "Id")).await.unwrap();
        let after = world.again(&before, &world.old, text(&image, "Id")).await;
        let second = Spec::read(engine, text(&after, "Id")).await.unwrap();
        assert_eq!(Spec { name: first.name.clone(), ..second }, first, "{suffix}");
    }
}

#[tokio::test]
async fn u_of_what_fails_half_way_nothing_is_left() {
    let Some(world) = World::open().await else { return };
    let engine = &world.scene.engine;
    let before = world.make("c", json!({ "HostConfig": { "NetworkMode": "none" } })).await;
    let mut spec = Spec::read(engine, text(&before, "Id")).await.unwrap();
    let name = world.scene.name("again");
    let moved = create(engine, &spec, &name, &world.new, "sha256:other").await.unwrap_err();
    assert!(matches!(&moved, RecreateError::ImageMoved { found, .. } if *found == world.new_id), "{moved}");
    // Also once nothing else holds its volumes, they stay; those made for it go.
    let carried = text(&before["Mounts"][0], "Name").to_owned();
    engine.remove_container(text(&before, "Id")).await.unwrap();
    create(engine, &spec, &name, &world.new, "sha256:other").await.unwrap_err();
    let volumes = world.scene.docker(&["volume", "ls", "-q", "--filter", "dangling=true"]);
    assert!(volumes.lines().any(|volume| volume == carried), "{carried} is gone");
    spec.host_config.insert("NetworkMode".to_owned(), json!(world.network));
    spec.networks = vec![(world.network.clone(), Map::new()), ("hf-no-such-network".to_owned(), Map::new())];
    let failed = create(engine, &spec, &name, &world.new, &world.new_id).await.unwrap_err();
    assert!(failed.to_string().contains("hf-no-such-network"), "{failed}");
    assert!(engine.inspect_container(&name).await.unwrap_err().is_not_found());

    // One that was disconnected from its network stays so.
    spec.networks.clear();
    let made = create(engine, &spec, &name, &world.new, &world.new_id).await.unwrap();
    let seen = engine.inspect_container_json(&made.id).await.unwrap();
    assert_eq!(seen["NetworkSettings"]["Networks"], json!({}));
}

#[tokio::test]
async fn u_a_shared_namespace_follows_the_container_of_that_name() {
    let Some(world) = World::open().await else { return };
    let engine = &world.scene.engine;
    let source = format!("container:{}", world.source);
    let body = json!({ "HostConfig": { "NetworkMode": source, "IpcMode": source, "PidMode": source, "VolumesFrom": [&world.source] } });
    let before = world.make("c", body).await;
    let spec = Spec::read(engine, text(&before, "Id")).await.unwrap();
    for key in ["NetworkMode", "IpcMode", "PidMode"] {
        assert_eq!(spec.host_config[key], source, "{key}");
    }
    assert!(!spec.config.contains_key("Hostname") && spec.networks.is_empty(), "{spec:?}");
    world.scene.docker(&["rm", "-f", &world.source]);
    world.scene.run_sleeper("source", &["-v", "/shared", "--ipc", "shareable"]).await;
    let again = create(engine, &spec, &world.scene.name("again"), &world.new, &world.new_id).await.unwrap();
    engine.start_container(&again.id).await.unwrap();
}

#[tokio::test]
async fn u_limits_of_the_engine_are_found_without_a_trace() {
    let Some(world) = World::open().await else { return };
    let engine = &world.scene.engine;
    let of = |limits: Value| json!({ "HostConfig": { "NetworkMode": "none", "Ulimits": limits } });
    let limits = json!([{ "Name": "nice", "Soft": 1, "Hard": 2 }]);
    for (suffix, asked) in [("none", Value::Null), ("own", limits)] {
        let made = world.make(suffix, of(asked.clone())).await;
        let spec = Spec::read(engine, text(&made, "Id")).await.unwrap();
        assert_eq!(spec.host_config.get("Ulimits").cloned().unwrap_or_default(), asked);
    }
    let image = engine.inspect_image_json(&world.old).await.unwrap();
    engine.default_ulimits(&image).await.unwrap();
    let mut containers = engine.list_containers().await.unwrap();
    containers.retain(|container| container.image == world.old || container.image == text(&image, "Id"));
    assert_eq!(containers.len(), 2, "{containers:?}");
}
