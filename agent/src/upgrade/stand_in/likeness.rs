//! How a stand-in is made of the settings of an old container, and whether it
//! came out like it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::compose;
use crate::spec::{Spec, base};

/// What the names of compose's labels begin with on a stand-in.
const KEPT: &str = "holdfast.kept.";

/// Of `Config`: what differs between any two containers, or is compared in
/// another place.
const NOT_OF_CONFIG: [&str; 6] = ["ArgsEscaped", "Env", "ExposedPorts", "Image", "Labels", "Volumes"];

/// The same of `HostConfig`. Lists of paths are the Engine's own unless the
/// spec has them.
const NOT_OF_HOST: [&str; 8] = [
    "Binds",
    "ConsoleSize",
    "ContainerIDFile",
    "Links",
    "Mounts",
    "RestartPolicy",
    "SecurityOpt",
    "VolumesFrom",
];

/// Of `HostConfig`, only where a person set it.
const ENGINES_OWN: [&str; 2] = ["MaskedPaths", "ReadonlyPaths"];

/// The settings of a stand-in. `image` are the labels of its image; what of
/// them is compose's is made empty, as it cannot be taken away.
pub(super) fn stand_in(spec: &Spec, image: &Value, mark: (&str, &str)) -> Spec {
    let mut spec = spec.clone();
    let mut labels = Map::new();
    for (key, value) in spec.config.get("Labels").and_then(Value::as_object).into_iter().flatten() {
        labels.insert(kept_label(key), value.clone());
    }
    for key in
        image.as_object().into_iter().flat_map(Map::keys).filter(|key| key.starts_with(compose::PREFIX))
    {
        labels.insert(key.clone(), json!(""));
    }
    labels.insert(mark.0.to_owned(), json!(mark.1));
    spec.config.insert("Labels".to_owned(), labels.into());
    never_filled(&mut spec.host_config);
    spec
}

fn kept_label(key: &str) -> String {
    if key.starts_with(compose::PREFIX) { format!("{KEPT}{key}") } else { key.to_owned() }
}

/// The Engine fills an empty volume from the image when a container is made
/// on it, and the new container uses it by then.
fn never_filled(host: &mut Map<String, Value>) {
    for bind in host.get_mut("Binds").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(text) = bind.as_str() else { continue };
        let parts: Vec<&str> = text.split(':').collect();
        let filled = match parts[..] {
            [source, _] if !source.starts_with('/') => format!("{text}:nocopy"),
            [source, _, options]
                if !source.starts_with('/') && !options.split(',').any(|one| one == "nocopy") =>
            {
                format!("{text},nocopy")
            }
            _ => continue,
        };
        *bind = json!(filled);
    }
    for mount in host.get_mut("Mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        if mount["Type"] == "volume" {
            if !mount["VolumeOptions"].is_object() {
                mount["VolumeOptions"] = json!({});
            }
            mount["VolumeOptions"]["NoCopy"] = json!(true);
        }
    }
}

/// Settings in which a stand-in differs from its old container, but for those
/// it is meant to differ in. Both as inspected; none where they are alike.
pub(super) fn differences(old: &Value, new: &Value, spec: &Spec) -> Vec<String> {
    let mut found = Vec::new();
    let joined = old["HostConfig"]["NetworkMode"].as_str().is_some_and(|mode| mode.starts_with("container:"));
    // The Engine gives what joins a network the names of its owner, and else
    // the id as a host name.
    let given = |key: &str| match key {
        "Hostname" => joined || !spec.config.contains_key("Hostname"),
        "Domainname" => joined,
        _ => NOT_OF_CONFIG.contains(&key),
    };
    found.extend(of_objects("Config", &old["Config"], &new["Config"], given));
    let left_out = |key: &str| {
        NOT_OF_HOST.contains(&key) || (ENGINES_OWN.contains(&key) && !spec.host_config.contains_key(key))
    };
    found.extend(of_objects("HostConfig", &old["HostConfig"], &new["HostConfig"], left_out));
    let mut unlike = |what: &str, same: bool| {
        if !same {
            found.push(what.to_owned());
        }
    };
    unlike("Config.Env", set(&old["Config"]["Env"]) == set(&new["Config"]["Env"]));
    unlike("Config.Labels", kept_labels(&old["Config"]["Labels"]) == own_labels(&new["Config"]["Labels"]));
    unlike("HostConfig.SecurityOpt", {
        let asked = spec.host_config.get("SecurityOpt").unwrap_or(&Value::Null);
        set(asked).is_subset(&set(&new["HostConfig"]["SecurityOpt"]))
    });
    let exposed = |of: &Value| -> BTreeSet<String> { keys(&of["Config"]["ExposedPorts"]) };
    unlike("Config.ExposedPorts", exposed(old).is_subset(&exposed(new)));
    unlike("HostConfig.Links", links(old) == links(new));
    unlike("Mounts", mounts(old) == mounts(new));
    unlike("HostConfig.Mounts", mount_options(old).is_subset(&mount_options(new)));
    if !joined {
        let networks = keys(&old["NetworkSettings"]["Networks"]);
        unlike("NetworkSettings.Networks", networks == keys(&new["NetworkSettings"]["Networks"]));
        for (name, asked) in &spec.networks {
            unlike(name, has_endpoint(&new["NetworkSettings"]["Networks"][name], asked));
        }
    }
    found
}

fn of_objects(of: &str, old: &Value, new: &Value, left_out: impl Fn(&str) -> bool) -> Vec<String> {
    let all: BTreeSet<String> = keys(old).into_iter().chain(keys(new)).collect();
    let differ = all.into_iter().filter(|key| !left_out(key) && plain(&old[key]) != plain(&new[key]));
    differ.map(|key| format!("{of}.{key}")).collect()
}

/// None of the ways to write "nothing"; of a namespace of another container
/// only that it is one: the stand-in names the one that is there by now.
fn plain(value: &Value) -> Value {
    match value {
        Value::Bool(false) => Value::Null,
        Value::Number(number) if number.as_f64() == Some(0.0) => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        Value::String(text) if text.starts_with("container:") => json!("container:"),
        Value::Array(entries) if entries.is_empty() => Value::Null,
        Value::Array(entries) => entries.iter().map(plain).collect(),
        Value::Object(entries) => {
            let kept = entries.iter().map(|(key, value)| (key.clone(), plain(value)));
            let kept: Map<String, Value> = kept.filter(|(_, value)| !value.is_null()).collect();
            if kept.is_empty() { Value::Null } else { kept.into() }
        }
        other => other.clone(),
    }
}

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().into_iter().flat_map(Map::keys).cloned().collect()
}

fn set(list: &Value) -> BTreeSet<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Of an old container, under the names they have on a stand-in.
fn kept_labels(labels: &Value) -> BTreeMap<String, Value> {
    let entries = labels.as_object().into_iter().flatten();
    let own = entries.filter(|(key, _)| !key.starts_with(base::PREFIX));
    own.map(|(key, value)| (kept_label(key), value.clone())).collect()
}

/// Of a stand-in, without its mark and those of its image it made empty.
fn own_labels(labels: &Value) -> BTreeMap<String, Value> {
    let is_emptied =
        |key: &str, value: &Value| key.starts_with(compose::PREFIX) && value.as_str() == Some("");
    let entries = labels.as_object().into_iter().flatten();
    let own = entries.filter(|(key, value)| {
        *key != super::MARK && !key.starts_with(base::PREFIX) && !is_emptied(key, value)
    });
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// `/other:/its-name/alias`, where its name is another one.
fn links(of: &Value) -> BTreeSet<(String, String)> {
    let links = of["HostConfig"]["Links"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let both = links.filter_map(|link| {
        let (source, target) = link.split_once(':')?;
        Some((source.trim_start_matches('/').to_owned(), target.rsplit('/').next()?.to_owned()))
    });
    both.collect()
}

/// By target: of which kind, from where, and how it is mounted.
fn mounts(of: &Value) -> BTreeMap<String, Value> {
    let point = |point: &Value| {
        let target = point["Destination"].as_str().unwrap_or_default().to_owned();
        let from = if point["Type"] == "volume" { &point["Name"] } else { &point["Source"] };
        (target, json!([point["Type"], plain(from), point["RW"], plain(&point["Propagation"])]))
    };
    of["Mounts"].as_array().into_iter().flatten().map(point).collect()
}

/// Options of mounts that the list of what is mounted does not show. A volume
/// without a name has one on the stand-in.
fn mount_options(of: &Value) -> BTreeSet<String> {
    let options = |mount: &Value| {
        let mut mount = mount.clone();
        mount["Source"] = Value::Null;
        if let Some(options) = mount.get_mut("VolumeOptions").and_then(Value::as_object_mut) {
            options.remove("NoCopy");
        }
        plain(&mount).to_string()
    };
    of["HostConfig"]["Mounts"].as_array().into_iter().flatten().map(options).collect()
}

/// Whether an endpoint has what was asked for. What the Engine adds does not matter.
fn has_endpoint(endpoint: &Value, asked: &Map<String, Value>) -> bool {
    asked.iter().all(|(key, value)| match key.as_str() {
        "Aliases" => set(value).is_subset(&set(&endpoint["Aliases"])),
        // Shown of a container that runs.
        "MacAddress" => true,
        key => plain(value) == plain(&endpoint[key]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let object = |value: Value| value.as_object().cloned().unwrap();
        Spec {
            name: "shop_db_1".into(),
            image: "app:1".into(),
            image_id: "sha256:1".into(),
            platform: None,
            config: object(json!({ "Labels": { "com.docker.compose.project": "shop", "tier": "gold" } })),
            host_config: object(json!({
                "Binds": ["rows:/data", "rows2:/more:ro", "rows3:/third:nocopy,rw", "/etc/app:/etc/app:ro"],
                "Mounts": [{ "Type": "volume", "Source": "v", "Target": "/a" }, { "Type": "bind", "Source": "/b", "Target": "/b" }],
            })),
            networks: vec![("shop_default".into(), object(json!({ "Aliases": ["db"] })))],
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_stand_in_has_the_labels_under_other_names_and_fills_no_volume() {
        let image =
            json!({ "com.docker.compose.project": "built", "com.docker.compose.version": "2", "own": "1" });
        let made = stand_in(&spec(), &image, ("holdfast.kept-for", "job"));
        let labels = json!({
            "holdfast.kept.com.docker.compose.project": "shop", "tier": "gold", "holdfast.kept-for": "job",
            "com.docker.compose.project": "", "com.docker.compose.version": "",
        });
        assert_eq!(made.config["Labels"], labels);
        let binds = json!([
            "rows:/data:nocopy",
            "rows2:/more:ro,nocopy",
            "rows3:/third:nocopy,rw",
            "/etc/app:/etc/app:ro"
        ]);
        assert_eq!(made.host_config["Binds"], binds);
        assert_eq!(made.host_config["Mounts"][0]["VolumeOptions"], json!({ "NoCopy": true }));
        assert!(made.host_config["Mounts"][1].get("VolumeOptions").is_none());
    }

    /// As the Engine reports about a container and of its stand-in.
    fn pair() -> (Value, Value) {
        let old = json!({
            "Config": { "Hostname": "0a0a0a0a0a0a", "Env": ["B=2", "A=1"], "Image": "app:1", "OnBuild": null, "Tty": false,
                "Labels": { "com.docker.compose.project": "shop", "tier": "gold" }, "Volumes": { "/a": {} } },
            "HostConfig": { "Binds": ["rows:/data:rw"], "Mounts": null, "Memory": 7, "PidMode": "container:old",
                "RestartPolicy": { "Name": "no" }, "Links": ["/cache:/shop_db_1.holdfast-old-1/cache"], "CpuShares": 0 },
            "Mounts": [{ "Type": "volume", "Name": "rows", "Destination": "/data", "RW": true, "Mode": "rw", "Propagation": "" }],
            "NetworkSettings": { "Networks": { "shop_default": { "Aliases": ["db", "0a0a0a0a0a0a"], "IPAMConfig": {} } } },
        });
        let mut new = old.clone();
        new["Config"]["Hostname"] = json!("0b0b0b0b0b0b");
        new["Config"]["Env"] = json!(["A=1", "B=2"]);
        new["Config"]["Image"] = json!("sha256:1");
        new["Config"]["OnBuild"] = json!([]);
        new["Config"]["Labels"] = json!({ "holdfast.kept.com.docker.compose.project": "shop", "tier": "gold",
            "holdfast.kept-for": "job", "com.docker.compose.version": "" });
        new["HostConfig"]["Binds"] = json!(["rows:/data:rw,nocopy"]);
        new["HostConfig"]["PidMode"] = json!("container:new");
        new["HostConfig"]["Links"] = json!(["/cache:/shop_db_1.holdfast-old-1-kept/cache"]);
        new["HostConfig"]["CpuShares"] = Value::Null;
        new["Mounts"][0]["Mode"] = json!("rw,nocopy");
        new["NetworkSettings"]["Networks"]["shop_default"]["Aliases"] = json!(["db", "0b0b0b0b0b0b"]);
        (old, new)
    }

    #[test]
    fn what_a_stand_in_is_meant_to_differ_in_is_no_difference() {
        let (old, new) = pair();
        assert_eq!(differences(&old, &new, &spec()), Vec::<String>::new());
    }

    #[test]
    fn every_other_difference_is_named() {
        for (pointer, value, named) in [
            ("/Config/User", json!("7"), "Config.User"),
            ("/Config/Env", json!(["A=1"]), "Config.Env"),
            ("/Config/Labels/tier", json!("silver"), "Config.Labels"),
            ("/Config/Labels/com.docker.compose.service", json!("db"), "Config.Labels"),
            ("/HostConfig/Memory", json!(8), "HostConfig.Memory"),
            ("/HostConfig/Privileged", json!(true), "HostConfig.Privileged"),
            ("/HostConfig/PidMode", json!("host"), "HostConfig.PidMode"),
            ("/HostConfig/Links", json!([]), "HostConfig.Links"),
            ("/Mounts/0/Name", json!("other"), "Mounts"),
            ("/Mounts/0/RW", json!(false), "Mounts"),
            ("/NetworkSettings/Networks/extra", json!({}), "NetworkSettings.Networks"),
            ("/NetworkSettings/Networks/shop_default/Aliases", json!([]), "shop_default"),
        ] {
            let (old, mut new) = pair();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            new.pointer_mut(parent).unwrap()[key] = value;
            assert_eq!(differences(&old, &new, &spec()), [named], "{pointer}");
        }
    }
}
