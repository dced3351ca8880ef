//! Undoes the merge of a container's `Config` with its image's.
//!
//! The Engine's rule, turned round: lists of variables merge by key, labels by
//! key, ports and volumes are unions, a health check merges per field, and the
//! command is inherited only where no entrypoint was given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::mounts::clean_path;
use super::{is_empty, list};
use crate::compose;

/// Single values that an image gives where a person gave none.
const INHERITED: [&str; 3] = ["User", "WorkingDir", "StopSignal"];

/// Has a rule of its own somewhere. The image is no setting of `Config`.
const TREATED: [&str; 11] = [
    "Env",
    "Labels",
    "Entrypoint",
    "Cmd",
    "ArgsEscaped",
    "Healthcheck",
    "ExposedPorts",
    "Volumes",
    "Image",
    // Belongs to the endpoint of the primary network.
    "MacAddress",
    "Hostname",
];

/// What of `seen` the image does not give. `covered` are the targets that
/// mounts of the container provide anyway. `Hostname` is not treated here.
pub(super) fn plain(
    seen: &Map<String, Value>,
    image: &Map<String, Value>,
    covered: &BTreeSet<String>,
) -> Map<String, Value> {
    let mut config = Map::new();
    for (key, value) in seen.iter().filter(|(key, _)| !TREATED.contains(&key.as_str())) {
        let inherited = INHERITED.contains(&key.as_str()) && image.get(key) == Some(value);
        if !is_empty(value) && !inherited {
            config.insert(key.clone(), value.clone());
        }
    }
    let mut put = |key: &str, value: Value| {
        if !is_empty(&value) {
            config.insert(key.to_owned(), value);
        }
    };
    put("Env", env(list(seen, "Env"), list(image, "Env")));
    put("Labels", labels(seen.get("Labels"), image.get("Labels")));
    for key in ["ExposedPorts", "Healthcheck"] {
        put(key, by_key(seen.get(key), image.get(key)));
    }
    let mut volumes = by_key(seen.get("Volumes"), image.get("Volumes"));
    if let Value::Object(volumes) = &mut volumes {
        // Each key that nothing covers makes a new anonymous volume.
        volumes.retain(|target, _| !covered.contains(&clean_path(target)));
    }
    put("Volumes", volumes);
    command(seen, image, &mut config);
    config
}

/// By key, then by value. All entries of a key stay as soon as one differs:
/// the last one counts, and it may be the one that equals the image's.
fn env(seen: &[Value], image: &[Value]) -> Value {
    let key = |entry: &Value| {
        let entry = entry.as_str().unwrap_or_default();
        entry.split_once('=').map_or(entry, |(key, _)| key).to_owned()
    };
    let defaults: BTreeMap<String, &Value> = image.iter().map(|entry| (key(entry), entry)).collect();
    let set: BTreeSet<String> =
        seen.iter().filter(|entry| defaults.get(&key(entry)) != Some(entry)).map(key).collect();
    seen.iter().filter(|entry| set.contains(&key(entry))).cloned().collect()
}

/// By key. Compose labels the images it builds, too, and would not know its
/// container without those that equal the image's.
fn labels(seen: Option<&Value>, image: Option<&Value>) -> Value {
    let of = |key: &str| seen.and_then(|seen| seen.get(key)).and_then(Value::as_str);
    match image {
        Some(Value::Object(image)) if compose::is_its_own(of) => {
            let others = image.iter().filter(|(key, _)| !key.starts_with(compose::PREFIX));
            let others: Map<String, Value> =
                others.map(|(key, value)| (key.clone(), value.clone())).collect();
            by_key(seen, Some(&others.into()))
        }
        _ => by_key(seen, image),
    }
}

/// The entries of an object that another does not have with the same value.
/// In a health check a zero means "the image's", which is the same rule.
pub(super) fn by_key(seen: Option<&Value>, image: Option<&Value>) -> Value {
    let Some(Value::Object(seen)) = seen else { return Value::Null };
    let entries = seen.iter().filter(|&(key, value)| image.and_then(|image| image.get(key)) != Some(value));
    entries.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
}

/// A command that equals the image's may go only with an entrypoint that does:
/// an entrypoint that is given keeps the Engine from taking the image's command.
fn command(seen: &Map<String, Value>, image: &Map<String, Value>, config: &mut Map<String, Value>) {
    let (entrypoint, command) = (list(seen, "Entrypoint"), list(seen, "Cmd"));
    let (image_entrypoint, image_command) = (list(image, "Entrypoint"), list(image, "Cmd"));
    let is_list = |config: &Map<String, Value>| config.get("Entrypoint").is_some_and(Value::is_array);
    // Given with an empty command, where the image has one.
    let emptied = command.is_empty() && !image_command.is_empty();
    let (set_entrypoint, inherits_command) = match (entrypoint.is_empty(), image_entrypoint.is_empty()) {
        // `[""]` takes the image's away and is not shown; `[]` is shown as it is.
        (true, false) if !is_list(seen) => (Some(json!([""])), false),
        (true, false) => (Some(json!([])), true),
        (true, true) => ((is_list(seen) && !is_list(image)).then(|| json!([])), true),
        (false, _) if entrypoint == image_entrypoint && !emptied => (None, true),
        (false, _) => (Some(json!(entrypoint)), false),
    };
    let command_is_the_images = inherits_command && command == image_command;
    if let Some(entrypoint) = set_entrypoint {
        config.insert("Entrypoint".to_owned(), entrypoint);
    }
    if command_is_the_images {
        return;
    }
    if !command.is_empty() {
        config.insert("Cmd".to_owned(), json!(command));
    }
    if let Some(escaped) = seen.get("ArgsEscaped").filter(|escaped| !is_empty(escaped)) {
        config.insert("ArgsEscaped".to_owned(), escaped.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seen: Value, image: Value) -> Value {
        let object = |value: Value| value.as_object().cloned().unwrap();
        plain(&object(seen), &object(image), &BTreeSet::new()).into()
    }

    #[test]
    fn variables_go_by_key_then_value() {
        let image = json!({ "Env": ["PATH=/bin", "V=1", "W=1"] });
        let seen = json!({ "Env": ["A=1", "V=2", "PATH=/bin", "W=1"] });
        assert_eq!(of(seen, image.clone()), json!({ "Env": ["A=1", "V=2"] }));
        // The last one counts.
        let seen = json!({ "Env": ["V=2", "V=1", "EMPTY", "PATH=/bin", "W=1"] });
        assert_eq!(of(seen, image), json!({ "Env": ["V=2", "V=1", "EMPTY"] }));
    }

    #[test]
    fn labels_by_which_compose_knows_its_container_stay_where_the_image_has_them_too() {
        let built =
            json!({ "com.docker.compose.project": "shop", "com.docker.compose.service": "db", "own": "1" });
        let image = json!({ "Labels": built });
        let mut labels = built.clone();
        assert_eq!(of(json!({ "Labels": labels }), image.clone()), json!({}));
        labels["com.docker.compose.config-hash"] = json!("1");
        let kept = json!({ "com.docker.compose.project": "shop", "com.docker.compose.service": "db",
            "com.docker.compose.config-hash": "1" });
        assert_eq!(of(json!({ "Labels": labels }), image), json!({ "Labels": kept }));
    }

    #[test]
    fn labels_ports_and_health_go_by_key() {
        let image = json!({
            "Labels": { "a": "1", "b": "1" },
            "ExposedPorts": { "80/tcp": {} },
            "Healthcheck": { "Test": ["CMD", "x"], "Interval": 5, "StartInterval": 7 },
        });
        let seen = json!({
            "Labels": { "a": "1", "b": "2", "c": "3" },
            "ExposedPorts": { "80/tcp": {}, "81/tcp": {} },
            "Healthcheck": { "Test": ["CMD", "x"], "Interval": 9, "StartInterval": 7, "Retries": 2 },
        });
        let expected = json!({
            "Labels": { "b": "2", "c": "3" },
            "ExposedPorts": { "81/tcp": {} },
            "Healthcheck": { "Interval": 9, "Retries": 2 },
        });
        assert_eq!(of(seen, image.clone()), expected);
        let none = json!({ "Healthcheck": { "Test": ["NONE"] } });
        assert_eq!(of(none.clone(), image.clone()), none);
        assert_eq!(of(image.clone(), image), json!({}));
    }

    #[test]
    fn single_values_follow_the_image_and_others_stay() {
        let image =
            json!({ "User": "1000", "WorkingDir": "/app", "StopSignal": "SIGINT", "Shell": ["/bin/sh"] });
        let seen = json!({ "User": "1000", "WorkingDir": "/data", "StopSignal": "SIGINT", "Shell": ["/bin/sh"],
            "Tty": true, "OpenStdin": false, "StopTimeout": 0, "Domainname": "", "Newest": { "x": 1 } });
        let expected = json!({ "WorkingDir": "/data", "Shell": ["/bin/sh"], "Tty": true, "StopTimeout": 0,
            "Newest": { "x": 1 } });
        assert_eq!(of(seen, image), expected);
    }

    #[test]
    fn only_volumes_that_no_mount_provides_are_asked_for() {
        let seen = json!({ "Volumes": { "/a": {}, "/b/": {}, "/image": {} } });
        let image = json!({ "Volumes": { "/image": {} } });
        let covered = BTreeSet::from(["/b".to_owned()]);
        let config = plain(seen.as_object().unwrap(), image.as_object().unwrap(), &covered);
        assert_eq!(Value::from(config), json!({ "Volumes": { "/a": {} } }));
    }

    /// The Engine's own rule, from its `merge`; what a person gave on the left.
    fn merged(user: &Value, image: &Value) -> Value {
        let (mut entrypoint, mut command) = (user["Entrypoint"].clone(), user["Cmd"].clone());
        let none = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
        if none(&entrypoint) {
            if none(&command) {
                command = image["Cmd"].clone();
            }
            if entrypoint.is_null() {
                entrypoint = image["Entrypoint"].clone();
            }
        }
        if entrypoint == json!([""]) {
            entrypoint = Value::Null;
        }
        json!({ "Entrypoint": entrypoint, "Cmd": command })
    }

    #[test]
    fn every_command_is_the_same_again_and_follows_what_it_followed() {
        let entrypoints = [Value::Null, json!([]), json!(["e"]), json!(["f"])];
        let commands = [Value::Null, json!(["c"]), json!(["d"])];
        // An empty list in an image is no entrypoint, in either writing.
        let image_entrypoints = [Value::Null, json!(["e"]), json!(["f"])];
        let mut tried = 0;
        for (image_entrypoint, image_command) in image_entrypoints
            .iter()
            .flat_map(|entrypoint| commands.iter().map(move |command| (entrypoint, command)))
        {
            let image = json!({ "Entrypoint": image_entrypoint, "Cmd": image_command });
            for entrypoint in entrypoints.iter().chain([&json!([""])]) {
                for command in &commands {
                    let user = json!({ "Entrypoint": entrypoint, "Cmd": command });
                    let seen = merged(&user, &image);
                    let nothing = |key: &str| seen[key].as_array().is_none_or(Vec::is_empty);
                    if nothing("Entrypoint") && nothing("Cmd") {
                        continue; // The Engine refuses it.
                    }
                    let spec = of(seen.clone(), image.clone());
                    assert_eq!(merged(&spec, &image), seen, "{user} on {image} gave {spec}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 80, "{tried}");
        // A given entrypoint holds its command, also where that equals the image's.
        let image = json!({ "Entrypoint": ["e"], "Cmd": ["c"] });
        let seen = json!({ "Entrypoint": ["x"], "Cmd": ["c"] });
        assert_eq!(of(seen.clone(), image.clone()), seen);
        assert_eq!(of(image.clone(), image), json!({}));
    }
}
