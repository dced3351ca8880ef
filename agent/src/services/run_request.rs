//! What a person asks for when a container is to be run, as the Engine's API
//! wants it. What is wrong is named before anything is made.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Component, Path};

use holdfast_proto::v1;
use holdfast_proto::v1::container_mount::Kind;
use serde_json::{Map, Value, json};

use crate::container_run::{InvalidRun, NewContainer};
use crate::engine::VolumeName;

const PROPAGATIONS: [&str; 7] = ["", "private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// The least memory the Engine lets a container have, in bytes.
const MIN_MEMORY_BYTES: u64 = 6 << 20;

/// What of a request has to be read before it can be passed on.
struct Checked {
    /// Ports of the host, and the container's own, as the Engine has them.
    bindings: Map<String, Value>,
    exposed: Map<String, Value>,
    restart_policy: Value,
    nano_cpus: u64,
    mounts: Vec<Value>,
}

/// Everything is checked before anything is made, so what is refused has left
/// nothing behind.
pub(super) fn parse(request: v1::RunContainerRequest) -> Result<NewContainer, InvalidRun> {
    let checked = check(&request)?;
    Ok(build(request, checked))
}

fn check(request: &v1::RunContainerRequest) -> Result<Checked, InvalidRun> {
    check_words(request)?;
    let (bindings, exposed) = published(&request.ports)?;
    check_network(request)?;
    let restart_policy = restart_policy(&request.restart)?;
    // The Engine refuses this as well, but only once the image was fetched.
    let restarts = restart_policy["Name"] != "no";
    refuse(
        restarts && request.remove_when_stopped,
        "restart",
        &request.restart,
        "a container that is removed when it stops cannot start again",
    )?;
    let memory_bytes = request.memory_bytes;
    let little = memory_bytes != 0 && memory_bytes < MIN_MEMORY_BYTES;
    refuse(
        little || i64::try_from(memory_bytes).is_err(),
        "memory",
        &memory_bytes.to_string(),
        "6 MiB at the least",
    )?;
    let nano_cpus = nano_cpus(request.cpus)?;
    let mounts = mounts(&request.mounts)?;
    Ok(Checked { bindings, exposed, restart_policy, nano_cpus, mounts })
}

fn check_words(request: &v1::RunContainerRequest) -> Result<(), InvalidRun> {
    let v1::RunContainerRequest { image, env, labels, workdir, hostname, .. } = request;
    refuse(image.is_empty(), "image", image, "the image to run has to be named")?;
    for entry in env {
        let named = entry.split_once('=').is_some_and(|(key, _)| !key.is_empty());
        refuse(!named, "env", entry, "KEY=VALUE is expected")?;
    }
    for key in labels.keys() {
        refuse(key.is_empty(), "label", key, "a label has a name")?;
        // With one of those a container would be taken for the agent's own work.
        refuse(
            key.starts_with("holdfast."),
            "label",
            key,
            "labels that begin with `holdfast.` are the agent's own",
        )?;
    }
    let relative = !workdir.is_empty() && !workdir.starts_with('/');
    refuse(relative, "workdir", workdir, "an absolute path is expected")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    refuse(
        hostname.len() > 63 || !hostname.bytes().all(allowed),
        "hostname",
        hostname,
        "63 letters, digits, `-` and `.` at most",
    )
}

/// What the container's network rules out.
fn check_network(request: &v1::RunContainerRequest) -> Result<(), InvalidRun> {
    let v1::RunContainerRequest { ports, network, hostname, .. } = request;
    let joined = network.starts_with("container:");
    let no_ports = joined || matches!(network.as_str(), "host" | "none");
    if let Some(port) = ports.first() {
        refuse(no_ports, "port", port, "nothing can be published in this network")?;
    }
    refuse(
        joined && !hostname.is_empty(),
        "hostname",
        hostname,
        "in the network of another container it has that one's",
    )
}

fn build(request: v1::RunContainerRequest, checked: Checked) -> NewContainer {
    // Every field is named, so that a new one cannot be forgotten.
    let v1::RunContainerRequest {
        name,
        image,
        command,
        entrypoint,
        env,
        labels,
        mounts: _,
        ports: _,
        network,
        restart: _,
        user,
        hostname,
        workdir,
        read_only,
        remove_when_stopped,
        memory_bytes,
        cpus: _,
        create_only,
        pull,
    } = request;
    let Checked { bindings, exposed, restart_policy, nano_cpus, mounts } = checked;
    let mut host = json!({
        "RestartPolicy": restart_policy,
        "ReadonlyRootfs": read_only,
        "AutoRemove": remove_when_stopped,
        "Memory": memory_bytes,
        "NanoCpus": nano_cpus,
    });
    put(&mut host, "Mounts", mounts.into());
    put(&mut host, "PortBindings", bindings.into());
    put(&mut host, "NetworkMode", network.into());
    let mut body = json!({ "Image": image, "HostConfig": host });
    for (key, value) in [
        ("Cmd", json!(command)),
        ("Entrypoint", json!(entrypoint)),
        ("Env", json!(env)),
        ("Labels", json!(labels)),
        ("User", json!(user)),
        ("Hostname", json!(hostname)),
        ("WorkingDir", json!(workdir)),
        ("ExposedPorts", exposed.into()),
    ] {
        put(&mut body, key, value);
    }
    NewContainer { name, image, body, pull, start: !create_only }
}

fn refuse(wrong: bool, what: &'static str, given: &str, why: &'static str) -> Result<(), InvalidRun> {
    if wrong { Err(InvalidRun { what, given: given.to_owned(), why }) } else { Ok(()) }
}

/// Leaves out what says nothing, so that the image's own stays.
fn put(object: &mut Value, key: &str, value: Value) {
    let empty = match &value {
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    if !empty {
        object[key] = value;
    }
}

fn restart_policy(text: &str) -> Result<Value, InvalidRun> {
    let (name, count) = match text.split_once(':') {
        Some((name @ "on-failure", count)) => (name, count.parse::<u32>().ok()),
        _ => (text, Some(0)),
    };
    let known = matches!(name, "" | "no" | "always" | "unless-stopped" | "on-failure");
    let Some(count) = count.filter(|_| known) else {
        let why = "`no`, `always`, `unless-stopped` or `on-failure[:count]` is expected";
        return Err(InvalidRun { what: "restart", given: text.to_owned(), why });
    };
    Ok(json!({ "Name": if name.is_empty() { "no" } else { name }, "MaximumRetryCount": count }))
}

fn nano_cpus(cpus: f64) -> Result<u64, InvalidRun> {
    refuse(!(0.0..=4096.0).contains(&cpus), "cpus", &cpus.to_string(), "a number of processors is expected")?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 and 4096 thousand million, as checked above"
    )]
    let nano = (cpus * 1e9).round() as u64;
    Ok(nano)
}

fn mounts(wanted: &[v1::ContainerMount]) -> Result<Vec<Value>, InvalidRun> {
    let mut targets = BTreeSet::new();
    wanted
        .iter()
        .map(|mount| {
            let v1::ContainerMount { kind, target, read_only } = mount;
            refuse(
                !is_plain(target) || target == "/",
                "mount",
                target,
                "the target is an absolute path without `..`, and not `/`",
            )?;
            refuse(
                // `/data` and `/data/` are one place.
                !targets.insert(target.trim_end_matches('/')),
                "mount",
                target,
                "something else is mounted there, too",
            )?;
            let mut mount = json!({ "Target": target, "ReadOnly": read_only });
            match kind {
                None => refuse(
                    true,
                    "mount",
                    target,
                    "what to mount there has to be said: a volume, a path or a tmpfs",
                )?,
                Some(Kind::Volume(v1::VolumeMount { name, no_copy })) => {
                    // With an empty name the Engine makes an anonymous volume.
                    let named = name.is_empty() || name.parse::<VolumeName>().is_ok();
                    refuse(!named, "volume", name, "it cannot be the name of a volume")?;
                    mount["Type"] = json!("volume");
                    mount["VolumeOptions"] = json!({ "NoCopy": no_copy });
                    put(&mut mount, "Source", json!(name));
                }
                Some(Kind::Bind(v1::BindMount { source, propagation })) => {
                    refuse(!is_plain(source), "bind", source, "an absolute path without `..` is expected")?;
                    let known = PROPAGATIONS.contains(&propagation.as_str());
                    refuse(
                        !known,
                        "propagation",
                        propagation,
                        "`private`, `shared` or `slave`, or one of these after an `r`",
                    )?;
                    mount["Type"] = json!("bind");
                    mount["Source"] = json!(source);
                    if !propagation.is_empty() {
                        mount["BindOptions"] = json!({ "Propagation": propagation });
                    }
                }
                Some(Kind::Tmpfs(v1::TmpfsMount { size_bytes })) => {
                    mount["Type"] = json!("tmpfs");
                    if *size_bytes > 0 {
                        mount["TmpfsOptions"] = json!({ "SizeBytes": size_bytes });
                    }
                }
            }
            Ok(mount)
        })
        .collect()
}

fn is_plain(path: &str) -> bool {
    let path = Path::new(path);
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

type Published = (Map<String, Value>, Map<String, Value>);

/// `[address:][host port:]container port[/protocol]`: bindings, and what is
/// exposed for them.
fn published(ports: &[String]) -> Result<Published, InvalidRun> {
    let (mut bindings, mut exposed) = (Map::new(), Map::new());
    for port in ports {
        let wrong = || InvalidRun {
            what: "port",
            given: port.clone(),
            why: "`[address:][host port:]container port[/protocol]` is expected",
        };
        let (inside, address, outside) = parse_port(port).ok_or_else(wrong)?;
        exposed.insert(inside.clone(), json!({}));
        let binding = json!({ "HostIp": address, "HostPort": outside });
        if let Value::Array(all) = bindings.entry(inside).or_insert_with(|| json!([])) {
            refuse(all.contains(&binding), "port", port, "it is there twice")?;
            all.push(binding);
        }
    }
    Ok((bindings, exposed))
}

/// The container's port with its protocol, address and port of the host.
fn parse_port(text: &str) -> Option<(String, String, String)> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return None;
    }
    let number = |text: &str| text.parse::<u16>().ok().filter(|&port| port > 0 && !text.starts_with('+'));
    let (before, inside) = rest.rsplit_once(':').map_or(("", rest), |(before, inside)| (before, inside));
    let inside = number(inside)?;
    let is_address =
        |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let (address, outside) = match before.rsplit_once(':') {
        _ if before.is_empty() => ("", ""),
        _ if is_address(before) && (before.starts_with('[') || !before.contains(':')) => (before, ""),
        Some((address, outside)) if is_address(address) => (address, outside),
        Some(_) => return None,
        None => ("", before),
    };
    if !outside.is_empty() {
        number(outside)?;
    }
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Some((format!("{inside}/{protocol}"), address.to_owned(), outside.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::RunContainerRequest {
        v1::RunContainerRequest { name: "web".to_owned(), image: "app:1".to_owned(), ..Default::default() }
    }

    fn refused(change: impl FnOnce(&mut v1::RunContainerRequest)) -> String {
        let mut request = request();
        change(&mut request);
        parse(request).unwrap_err().to_string()
    }

    fn bind(target: &str, source: &str, propagation: &str) -> v1::ContainerMount {
        let kind =
            Kind::Bind(v1::BindMount { source: source.to_owned(), propagation: propagation.to_owned() });
        v1::ContainerMount { kind: Some(kind), target: target.to_owned(), read_only: true }
    }

    #[test]
    fn what_is_not_said_is_left_to_the_image() {
        let wanted = parse(request()).unwrap();
        let keys: Vec<_> = wanted.body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["HostConfig", "Image"]);
        assert_eq!(wanted.body["HostConfig"]["RestartPolicy"]["Name"], "no");
        assert!(wanted.start && !wanted.pull);
    }

    #[test]
    fn everything_that_is_said_is_in_the_body() {
        let volume = Kind::Volume(v1::VolumeMount { name: "data".to_owned(), no_copy: true });
        let tmpfs = Kind::Tmpfs(v1::TmpfsMount { size_bytes: 1 << 20 });
        let mount = |kind, target: &str| v1::ContainerMount {
            kind: Some(kind),
            target: target.to_owned(),
            read_only: false,
        };
        let wanted = parse(v1::RunContainerRequest {
            command: vec!["serve".to_owned()],
            env: vec!["A=".to_owned()],
            mounts: vec![
                mount(volume, "/data"),
                bind("/etc/app", "/srv/app", "rslave"),
                mount(tmpfs, "/run"),
            ],
            ports: ["80", "8080:80", "127.0.0.1:53:53/udp", "[::1]:8443:443", "10.0.0.1:81"]
                .map(str::to_owned)
                .to_vec(),
            restart: "on-failure:3".to_owned(),
            memory_bytes: 1 << 30,
            cpus: 0.5,
            create_only: true,
            ..request()
        })
        .unwrap();
        let host = &wanted.body["HostConfig"];
        assert_eq!(host["RestartPolicy"], json!({ "Name": "on-failure", "MaximumRetryCount": 3 }));
        assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(1 << 30), &json!(500_000_000)));
        let at = |address: &str, port: &str| json!({ "HostIp": address, "HostPort": port });
        let bindings = json!({
            "80/tcp": [at("", ""), at("", "8080")], "53/udp": [at("127.0.0.1", "53")],
            "443/tcp": [at("::1", "8443")], "81/tcp": [at("10.0.0.1", "")],
        });
        assert_eq!(host["PortBindings"], bindings);
        assert_eq!(wanted.body["ExposedPorts"].as_object().unwrap().len(), 4);
        let expected = json!([
            { "Type": "volume", "Source": "data", "Target": "/data", "ReadOnly": false, "VolumeOptions": { "NoCopy": true } },
            { "Type": "bind", "Source": "/srv/app", "Target": "/etc/app", "ReadOnly": true, "BindOptions": { "Propagation": "rslave" } },
            { "Type": "tmpfs", "Target": "/run", "ReadOnly": false, "TmpfsOptions": { "SizeBytes": 1 << 20 } },
        ]);
        assert_eq!(host["Mounts"], expected);
        assert!(!wanted.start);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refused(|request| request.image.clear()).starts_with("image ``"));
        assert!(refused(|request| request.env = vec!["A".to_owned()]).starts_with("env `A`"));
        assert!(
            refused(|request| drop(request.labels.insert("holdfast.holder".to_owned(), String::new())))
                .starts_with("label")
        );
        assert!(
            refused(|request| request.restart = "sometimes".to_owned()).starts_with("restart `sometimes`")
        );
        assert!(refused(|request| request.restart = "on-failure:x".to_owned()).starts_with("restart"));
        assert!(refused(|request| request.memory_bytes = 1).starts_with("memory `1`"));
        assert!(refused(|request| request.cpus = f64::NAN).starts_with("cpus `NaN`"));
        assert!(refused(|request| request.workdir = "here".to_owned()).starts_with("workdir `here`"));
        assert!(
            refused(|request| (request.restart, request.remove_when_stopped) = ("always".to_owned(), true))
                .starts_with("restart `always`")
        );
        for (target, source, propagation) in
            [("/", "/a", ""), ("a", "/a", ""), ("/a/../b", "/a", ""), ("/a", "a", ""), ("/a", "/a", "odd")]
        {
            refused(|request| request.mounts = vec![bind(target, source, propagation)]);
        }
        assert!(
            refused(|request| request.mounts = vec![bind("/a", "/a", ""), bind("/a/", "/b", "")])
                .contains("/a/")
        );
        for port in ["", "0", "x", "80/icmp", "1:2:3:4", "x:80", "70000", "host:80:80", ":80:80", "8080:"] {
            assert!(refused(|request| request.ports = vec![port.to_owned()]).starts_with("port"), "{port}");
        }
        assert!(refused(|request| request.ports = vec!["80".to_owned(), "80".to_owned()]).contains("twice"));
        assert!(
            refused(|request| (request.network, request.ports) =
                ("container:db".to_owned(), vec!["80".to_owned()]))
            .starts_with("port `80`")
        );
    }
}
