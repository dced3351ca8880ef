//! For containers that another tool once recreated with everything the Engine
//! showed of them: an old image's defaults stand there as if a person had set
//! them, and that image's own are no help any more.

use serde_json::{Map, Value};

use super::config::by_key;
use super::networks::looks_like_an_id;
use super::{Spec, is_empty, text};

impl Spec {
    /// Also takes out what equals the defaults of any of these images, and
    /// says of each thing which.
    pub fn cleaned(&self, images: &[Value]) -> (Self, Vec<String>) {
        let (mut spec, mut dropped) = (self.clone(), Vec::new());
        for image in images {
            let (of, none) = (name_of(image), Map::new());
            let defaults = image.get("Config").and_then(Value::as_object).unwrap_or(&none);
            clean_config(&mut spec.config, defaults, &mut |what| {
                dropped.push(format!("{what}: the default of image `{of}`"));
            });
        }
        // The Engine names a container's host after its id; a copy has that of the former one.
        let hostname = spec.config.get("Hostname").and_then(Value::as_str).unwrap_or_default();
        if looks_like_an_id(hostname) {
            dropped.push(format!("hostname {hostname}: looks like the id of a former container"));
            spec.config.remove("Hostname");
            // The note is about the host name that was taken out.
            spec.notes.retain(|note| !note.starts_with("its host name"));
        }
        (spec, dropped)
    }
}

fn clean_config(
    config: &mut Map<String, Value>,
    defaults: &Map<String, Value>,
    drop: &mut impl FnMut(String),
) {
    if let Some(Value::Array(env)) = config.get_mut("Env") {
        let defaults = defaults.get("Env").and_then(Value::as_array);
        env.retain(|entry| {
            let is_default = defaults.is_some_and(|defaults| defaults.contains(entry));
            if is_default {
                let entry = entry.as_str().unwrap_or_default();
                drop(format!("env {}", entry.split_once('=').map_or(entry, |(key, _)| key)));
            }
            !is_default
        });
    }
    for (key, word) in [
        ("Labels", "label"),
        ("ExposedPorts", "port"),
        ("Volumes", "volume"),
        ("Healthcheck", "health check"),
    ] {
        let left = by_key(config.get(key), defaults.get(key));
        let Some(seen @ Value::Object(entries)) = config.get(key) else { continue };
        entries
            .keys()
            .filter(|&entry| left.get(entry).is_none())
            .for_each(|entry| drop(format!("{word} {entry}")));
        if left != *seen {
            config.insert(key.to_owned(), left);
        }
    }
    // A command alone means something else under another entrypoint.
    let both = |of: &Map<String, Value>| {
        ["Entrypoint", "Cmd"].map(|key| of.get(key).cloned().filter(|value| !is_empty(value)))
    };
    let command = both(config);
    if command != [None, None] && command == both(defaults) {
        drop("entrypoint and command".to_owned());
        config.remove("Entrypoint");
        config.remove("Cmd");
    }
    for (key, word) in [("User", "user"), ("WorkingDir", "working directory"), ("StopSignal", "stop signal")]
    {
        if let Some(value) = config.get(key).filter(|&value| defaults.get(key) == Some(value)) {
            drop(format!("{word} {}", value.as_str().unwrap_or_default()));
            config.remove(key);
        }
    }
    config.retain(|key, value| key == "Entrypoint" || !is_empty(value));
}

fn name_of(image: &Value) -> String {
    let tag = image["RepoTags"].as_array().and_then(|tags| tags.first()).and_then(Value::as_str);
    tag.filter(|&tag| tag != "<none>:<none>").unwrap_or_else(|| text(image, "Id")).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_defaults_of_a_former_image_go_and_each_is_said() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let config = object(json!({
            "Env": ["PG=13", "MINE=1"], "Labels": { "v": "13" }, "Cmd": ["serve"], "User": "70",
            "Hostname": "bbbbbbbbbbbb", "StopTimeout": 5,
        }));
        let spec = Spec {
            name: "db".to_owned(),
            image: "pg:14".to_owned(),
            image_id: "sha256:14".to_owned(),
            platform: None,
            config,
            host_config: Map::new(),
            networks: Vec::new(),
            notes: vec!["its host name looks odd".to_owned(), "other".to_owned()],
        };
        let image = json!({ "Id": "sha256:13", "RepoTags": ["pg:13"],
            "Config": { "Env": ["PG=13"], "Labels": { "v": "13" }, "Cmd": ["serve"], "User": "70", "Entrypoint": null } });
        let (clean, dropped) = spec.cleaned(&[json!({ "Id": "sha256:0" }), image]);
        assert_eq!(Value::from(clean.config), json!({ "Env": ["MINE=1"], "StopTimeout": 5 }));
        assert_eq!(clean.notes, ["other"]);
        let expected = ["env PG", "label v", "entrypoint and command", "user 70"]
            .map(|what| format!("{what}: the default of image `pg:13`"));
        assert_eq!(dropped[..4], expected);
        assert!(dropped[4].starts_with("hostname bbbbbbbbbbbb") && dropped.len() == 5, "{dropped:?}");

        let other = json!({ "Id": "sha256:1", "Config": { "Entrypoint": ["x"], "Cmd": ["serve"] } });
        let kept = spec.cleaned(&[other]).0;
        assert_eq!(kept.config["Cmd"], json!(["serve"]));
    }
}
