//! What a container keeps, in words. Pure.

use holdfast_archive::text::{self, counted};
use serde_json::{Map, Value};

use crate::engine::{Mount, MountKind};
use crate::spec::Spec;
use crate::upgrade::image::{keys, strings};

use super::changes::{argv, is_off};

/// One phrase for each thing a person gave the container.
pub(super) fn words(spec: &Spec, mounts: &[Mount]) -> Vec<String> {
    let mut words = of_mounts(mounts);
    words.extend(of_networks(spec));
    words.extend(of_config(&spec.config));
    words.extend(of_host(&spec.host_config));
    words.extend(spec.platform.as_ref().map(|platform| format!("platform {platform}")));
    words
}

fn of_mounts(mounts: &[Mount]) -> Vec<String> {
    let count = |kind| mounts.iter().filter(|mount| mount.kind == kind).count();
    let kinds = [(MountKind::Volume, "volume"), (MountKind::Bind, "bind"), (MountKind::Tmpfs, "tmpfs mount")];
    kinds
        .map(|(kind, word)| (count(kind), word))
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| counted(count, word))
        .collect()
}

/// "network backend (172.20.0.5, alias db)"
fn of_networks(spec: &Spec) -> Vec<String> {
    let mode = spec.host_config.get("NetworkMode").and_then(Value::as_str).unwrap_or("default");
    // Modes such as `host`, or another container's network, have no endpoints.
    if spec.networks.is_empty() {
        return vec![match mode.strip_prefix("container:") {
            Some(other) => format!("the network of {other}"),
            None => format!("network {}", if mode == "default" { "bridge" } else { mode }),
        }];
    }
    spec.networks.iter().map(|(name, endpoint)| network(name, endpoint)).collect()
}

fn network(name: &str, endpoint: &Map<String, Value>) -> String {
    let ipam = endpoint.get("IPAMConfig").unwrap_or(&Value::Null);
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let mut facts: Vec<String> =
        ["IPv4Address", "IPv6Address"].iter().filter_map(|key| text(&ipam[*key])).collect();
    facts.extend(endpoint.get("MacAddress").and_then(text));
    let aliases = strings(endpoint.get("Aliases").unwrap_or(&Value::Null));
    facts.extend(aliases.iter().map(|alias| format!("alias {alias}")));
    match facts.is_empty() {
        true => format!("network {name}"),
        false => format!("network {name} ({})", facts.join(", ")),
    }
}

fn of_config(config: &Map<String, Value>) -> Vec<String> {
    let value = |key: &str| config.get(key).unwrap_or(&Value::Null);
    let mut words = Vec::new();
    let mut add_count = |count: usize, one: &str, many: &str| {
        if count > 0 {
            words.push(format!("{count} {}", if count == 1 { one } else { many }));
        }
    };
    add_count(strings(value("Env")).len(), "env", "env");
    add_count(keys(value("Labels")).len(), "label", "labels");
    for (key, word) in [("Entrypoint", "entrypoint"), ("Cmd", "command")] {
        let words_of = strings(value(key));
        if !words_of.is_empty() {
            words.push(format!("{word} `{}`", argv(&words_of)));
        }
    }
    for (key, word) in
        [("User", "user"), ("WorkingDir", "workdir"), ("Hostname", "hostname"), ("StopSignal", "stop signal")]
    {
        if let Some(text) = value(key).as_str().filter(|text| !text.is_empty()) {
            words.push(format!("{word} {text}"));
        }
    }
    if let Some(seconds) = value("StopTimeout").as_i64() {
        words.push(format!("stop timeout {seconds} s"));
    }
    if is_off(value("Healthcheck")) {
        words.push("no healthcheck".to_owned());
    } else if value("Healthcheck").as_object().is_some_and(|check| !check.is_empty()) {
        words.push("own healthcheck".to_owned());
    }
    words
}

fn of_host(host: &Map<String, Value>) -> Vec<String> {
    let value = |key: &str| host.get(key).unwrap_or(&Value::Null);
    let mut words = Vec::new();
    words.extend(ports(value("PortBindings")));
    let restart = &value("RestartPolicy");
    let policy = restart["Name"].as_str().filter(|name| !name.is_empty() && *name != "no");
    words.extend(policy.map(|name| match restart["MaximumRetryCount"].as_u64() {
        Some(most) if most > 0 => format!("restart {name}:{most}"),
        _ => format!("restart {name}"),
    }));
    let positive = |key: &str| value(key).as_u64().filter(|&number| number > 0);
    words.extend(positive("Memory").map(|bytes| format!("memory {}", text::bytes(bytes))));
    words.extend(positive("NanoCpus").map(|nano| {
        let text = format!("{}.{:02}", nano / 1_000_000_000, nano % 1_000_000_000 / 10_000_000);
        format!("cpus {}", text.trim_end_matches('0').trim_end_matches('.'))
    }));
    words.extend(positive("CpuShares").map(|shares| format!("cpu shares {shares}")));
    words.extend(positive("PidsLimit").map(|most| format!("pids {most}")));
    if value("Privileged") == &Value::Bool(true) {
        words.push("privileged".to_owned());
    }
    if value("ReadonlyRootfs") == &Value::Bool(true) {
        words.push("read-only root".to_owned());
    }
    let added = strings(value("CapAdd")).into_iter().map(|name| format!("+{name}"));
    let dropped = strings(value("CapDrop")).into_iter().map(|name| format!("-{name}"));
    let capabilities: Vec<String> = added.chain(dropped).collect();
    if !capabilities.is_empty() {
        words.push(format!("capabilities {}", capabilities.join(" ")));
    }
    for (key, one) in [
        ("Devices", "device"),
        ("DeviceRequests", "device request"),
        ("ExtraHosts", "extra host"),
        ("Ulimits", "ulimit"),
    ] {
        let count = value(key).as_array().map_or(0, Vec::len);
        if count > 0 {
            words.push(counted(count, one));
        }
    }
    words
}

/// "ports 8080:80/tcp, 127.0.0.1:5432:5432/tcp"
fn ports(bindings: &Value) -> Option<String> {
    let mut words = Vec::new();
    for (port, hosts) in bindings.as_object()? {
        for host in hosts.as_array().into_iter().flatten() {
            let part = |key: &str| host[key].as_str().unwrap_or_default();
            let address =
                if part("HostIp").is_empty() { String::new() } else { format!("{}:", part("HostIp")) };
            words.push(format!("{address}{}:{port}", part("HostPort")));
        }
    }
    words.sort();
    (!words.is_empty())
        .then(|| format!("port{} {}", if words.len() == 1 { "" } else { "s" }, words.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stays_is_said_as_an_operator_would() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let spec = Spec {
            name: "db".into(),
            image: "postgres:16.3".into(),
            image_id: "sha256:1".into(),
            platform: None,
            config: object(
                json!({ "Env": ["A=1", "B=2"], "Labels": { "tier": "gold" }, "Cmd": ["postgres", "-c", "x=a b"],
                "Healthcheck": { "Test": ["CMD", "ok"] }, "StopTimeout": 60 }),
            ),
            host_config: object(
                json!({ "NetworkMode": "backend", "Memory": 2_147_483_648_u64, "NanoCpus": 1_500_000_000_u64,
                "RestartPolicy": { "Name": "unless-stopped", "MaximumRetryCount": 0 }, "CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"],
                "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "8080" }, { "HostIp": "127.0.0.1", "HostPort": "" }] } }),
            ),
            networks: vec![
                (
                    "backend".into(),
                    object(json!({ "IPAMConfig": { "IPv4Address": "172.20.0.5" }, "Aliases": ["db"] })),
                ),
                ("front".into(), Map::new()),
            ],
            notes: Vec::new(),
        };
        let expected = [
            "network backend (172.20.0.5, alias db)",
            "network front",
            "2 env",
            "1 label",
            "command `postgres -c 'x=a b'`",
            "stop timeout 60 s",
            "own healthcheck",
            "ports 127.0.0.1::80/tcp, 8080:80/tcp",
            "restart unless-stopped",
            "memory 2.0 GiB",
            "cpus 1.5",
            "capabilities +NET_ADMIN -ALL",
        ];
        assert_eq!(words(&spec, &[]), expected);
        let mut lonely = spec.clone();
        (lonely.config, lonely.networks) = (Map::new(), Vec::new());
        lonely.host_config = object(json!({ "NetworkMode": "container:vpn" }));
        assert_eq!(words(&lonely, &[]), ["the network of vpn"]);
        lonely.host_config = Map::new();
        assert_eq!(words(&lonely, &[]), ["network bridge"]);
    }
}
