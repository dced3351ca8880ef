//! What a person set is there afterwards, and what an image sets is the new
//! image's.

use e2e::app_images::App;
use e2e::command::run;
use e2e::docker::Engine;
use e2e::require_engine;
use e2e::upgrades::{self, differences, run_app, wait_healthy};
use serde_json::Value;

use super::fleet_with;

/// Places that another container, or another image, makes different. A line
/// begins with one of them, or it is a setting that got lost.
const DERIVED: [&str; 22] = [
    "/Created",
    "/State/",
    // A health check that runs at this very moment.
    "/ExecIDs",
    "/Image:",
    "/Path:",
    "/Args",
    "/GraphDriver/",
    "/Config/Image:",
    "/Config/Env",
    "/Config/Entrypoint:",
    "/Config/Labels/maker:",
    "/Config/Labels/tier:",
    "/Config/ExposedPorts/9090",
    // The anonymous volume is carried by its name.
    "/Config/Volumes",
    "/HostConfig/Mounts",
    // In no order; compared below.
    "/Mounts/",
    "/NetworkSettings/Ports/9090",
    "/NetworkSettings/SandboxID",
    "/NetworkSettings/SandboxKey",
    "/NetworkSettings/Networks/one/EndpointID",
    "/NetworkSettings/Networks/two/EndpointID",
    "/NetworkSettings/EndpointID",
];

/// Every setting that can be given on a command line and is harmless here.
const SETTINGS: &str = "--label team=shop --cap-add NET_ADMIN --cap-drop MKNOD --ulimit nofile=1024:2048 \
    --memory 64m --memory-swap 96m --cpus 0.5 --cpu-shares 512 --pids-limit 100 --oom-score-adj 100 \
    --network one --ip 10.78.1.10 --network-alias web \
    --health-interval 700ms --health-retries 40 -e COLOUR=blue -e MODE=mine --hostname shop --domainname example.org \
    --dns 10.9.9.9 --dns-search example.org --dns-option ndots:2 --add-host db:10.1.2.3 \
    --tmpfs /scratch:size=1m --shm-size 8m --sysctl net.core.somaxconn=100 --restart on-failure:3 \
    --log-opt max-size=1m --device /dev/null:/dev/other --security-opt no-new-privileges --init --read-only \
    --stop-signal USR1 --stop-timeout 7 --group-add 100 --user 0:0 -p 127.0.0.1:18080:8080 --expose 7000 \
    -w /data -v app-data:/data -v /anonymous --ipc shareable --cgroupns host";

/// `app`, on two networks, with all of [`SETTINGS`] and a file bound into it.
fn run_with_settings(engine: &Engine) {
    engine.docker(["network", "create", "--subnet", "10.78.1.0/24", "one"]);
    engine.docker(["network", "create", "--subnet", "10.78.2.0/24", "two"]);
    let settings = engine.dir().join("app.conf");
    std::fs::write(&settings, "colour = blue\n").unwrap();
    let mut create = engine.command(["create", "--name", "app"]);
    create.args(SETTINGS.split_whitespace());
    create.args(["--health-cmd", "wget -q -O /dev/null http://localhost:8080/health"]);
    create.arg("-v").arg(format!("{}:/etc/app.conf:ro", settings.display()));
    run(create.args([App::V1.image(), "/serve", "mine"]));
    engine.docker(["network", "connect", "--ip", "10.78.2.10", "--alias", "web-two", "two", "app"]);
    engine.docker(["start", "app"]);
}

/// The words of a list, sorted.
fn words(inspect: &Value, path: &str) -> Vec<String> {
    let list = inspect.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut list: Vec<String> = list.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    list.sort();
    list
}

/// What is mounted, where and how, sorted.
fn mounts(inspect: &Value) -> Vec<String> {
    let mounts = inspect["Mounts"].as_array().expect("mounts").iter();
    let mut mounts: Vec<String> = mounts
        .map(|mount| {
            format!("{} {} {} {}", mount["Type"], mount["Source"], mount["Destination"], mount["RW"])
        })
        .collect();
    mounts.sort();
    mounts
}

/// Panics where two containers differ in anything but [`DERIVED`].
fn assert_nothing_lost(before: &Value, after: &Value) {
    let id = |inspect: &Value| inspect["Id"].as_str().expect("an id").to_owned();
    let (old, new) = (id(before), id(after));
    assert_ne!(old, new);
    let text = before.to_string().replace(&old, &new).replace(&old[..12], &new[..12]);
    let renamed: Value = serde_json::from_str(&text).unwrap();
    let mut found = differences(&renamed, after);
    // A client that had nothing to say said it in two ways.
    found.retain(|line| !line.ends_with(": {} -> null"));
    found.retain(|line| !DERIVED.iter().any(|place| line.starts_with(place)));
    assert!(found.is_empty(), "lost or changed:\n{}", found.join("\n"));
}

/// The places that may differ hold just what they should.
fn assert_places_hold_what_they_should(before: &Value, after: &Value) {
    assert_eq!(
        words(after, "/Config/Env"),
        ["APP_VERSION=7", "COLOUR=blue", "MODE=mine", "NEW_DEFAULT=yes", "PATH=/bin"]
    );
    let labels = &after["Config"]["Labels"];
    assert_eq!(
        (&labels["maker"], &labels["tier"], &labels["team"]),
        (&"other".into(), &"new".into(), &"shop".into())
    );
    assert_eq!(mounts(before), mounts(after));
}

/// Where nobody set anything, all is as the new image has it.
fn assert_all_from_the_image(plain: &Value) {
    assert_eq!(words(plain, "/Config/Env"), ["APP_VERSION=7", "MODE=fast", "NEW_DEFAULT=yes", "PATH=/bin"]);
    let config = &plain["Config"];
    assert_eq!(
        [&config["User"], &config["WorkingDir"], &config["StopSignal"]],
        [&Value::from("1000:1000"), &"/www".into(), &"SIGINT".into()]
    );
    assert_eq!(words(plain, "/Config/Cmd"), ["--fast", "/serve"]);
    assert_eq!(config["Hostname"], plain["Id"].as_str().unwrap()[..12]);
}

#[test]
fn u06_inspect_differs_by_what_the_image_sets_alone() {
    require_engine!();
    let fleet = fleet_with(&[App::V1, App::OtherDefaults]);
    let engine = fleet.engine("host-a");
    run_with_settings(engine);
    // And one that leaves everything to its image.
    run_app(engine, "plain", App::V1, &[]);
    wait_healthy(engine, "app");
    let before = engine.inspect("app");

    for name in ["app", "plain"] {
        let job = fleet.upgrade("host-a", name, App::OtherDefaults.image(), &[]);
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    let after = engine.inspect("app");
    wait_healthy(engine, "app");
    assert_nothing_lost(&before, &after);
    assert_places_hold_what_they_should(&before, &after);
    let kept =
        upgrades::family(engine, "app").into_iter().find(|one| one.name != "app").expect("the old one");
    assert!(engine.docker(["logs", &kept.name]).contains("ended by USR1"), "not stopped with its own signal");
    assert_all_from_the_image(&engine.inspect("plain"));
}

/// U07: an image that adds a volume, and one that moves it away from the data.
#[test]
fn u07_old_volumes_stay_where_an_image_adds_or_moves_one() {
    require_engine!();
    let fleet = fleet_with(&[App::V1, App::AddsVolume, App::MovesVolume]);
    let engine = fleet.engine("host-a");
    engine.docker(["run", "-d", "--name", "app", App::V1.image()]);
    wait_healthy(engine, "app");
    let volume_at = |path: &str| {
        let mounts = engine.inspect("app")["Mounts"].as_array().expect("mounts").clone();
        let mount = mounts.into_iter().find(|mount| mount["Destination"] == path)?;
        Some(mount["Name"].as_str().expect("a volume").to_owned())
    };
    let volumes = || engine.docker(["volume", "ls", "-q"]).lines().count();
    let data = volume_at("/data").expect("an anonymous volume");
    let first = super::rows(engine, &data);
    assert_eq!((first.len(), volumes()), (50, 1));

    // One more volume: it is new, and stays with a rollback, for what is in it is
    // in no snapshot.
    let job = fleet.upgrade("host-a", "app", App::AddsVolume.image(), &[]);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(volume_at("/data").as_ref(), Some(&data));
    let added = volume_at("/cache").expect("declared by the image");
    fleet.ok(&["upgrade", "rollback", "app", "--host", "host-a"]);
    assert!(engine.has_volume(&added));
    engine.docker(["volume", "rm", &added]);
    assert_eq!((volume_at("/data").as_ref(), volumes()), (Some(&data), 1));
    let job = fleet.upgrade("host-a", "app", App::AddsVolume.image(), &[]);
    assert_eq!(job["state"], "succeeded", "{job}");
    fleet.ok(&["upgrade", "commit", "app", "--host", "host-a"]);
    assert_eq!((volume_at("/data").as_ref(), volumes()), (Some(&data), 2));
    assert_eq!(super::rows(engine, &data), first);

    // One that would look for the data elsewhere: only when that is allowed.
    let said = fleet.try_upgrade("host-a", "app", App::MovesVolume.image(), &[]);
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("volume:/data") && said.stderr.contains("/srv/data"), "{}", said.stderr);
    let job = fleet.upgrade("host-a", "app", App::MovesVolume.image(), &["--allow-loss", "volume"]);
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(volume_at("/data"), Some(data.clone()));
    assert_eq!(super::rows(engine, &data), first);
    assert_ne!(volume_at("/srv/data"), Some(data));
}
