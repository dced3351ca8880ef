//! What the new image makes different. Pure.
//!
//! Only what a person did not set follows the image: a variable, a command, a
//! field of the health check that was given with the container stays as it is,
//! whatever the images say.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::upgrade::image::{ImageFacts, env, strings};

/// Fields of a health check, and what to call them.
const HEALTH_FIELDS: [(&str, &str); 6] = [
    ("Test", "healthcheck"),
    ("Interval", "healthcheck interval"),
    ("Timeout", "healthcheck timeout"),
    ("StartPeriod", "healthcheck start period"),
    ("StartInterval", "healthcheck start interval"),
    ("Retries", "healthcheck retries"),
];

/// One thing that the new image makes different; empty: not set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// "env PG_VERSION", "command", "user", "volume /data", "port 80/tcp", ...
    pub what: String,
    pub from: String,
    pub to: String,
}

/// Compares two images for a container with this user-only configuration.
pub(crate) fn between(
    old: &ImageFacts,
    new: &ImageFacts,
    config: &Map<String, Value>,
    mounted: &[&str],
) -> Vec<Change> {
    let mut changes = Changes::default();
    let own = |key: &str| config.get(key).unwrap_or(&Value::Null);
    changes.add("platform", &old.platform(), &new.platform());
    let own_env = env(own("Env"));
    changes.of_maps("env", &old.env, &new.env, |key| own_env.contains_key(key));
    // An entrypoint given with the container also drops the image's command.
    if own("Entrypoint").is_null() {
        changes.add("entrypoint", &argv(&old.entrypoint), &argv(&new.entrypoint));
        if own("Cmd").is_null() {
            changes.add("command", &argv(&old.command), &argv(&new.command));
        }
    }
    let is_set = |key: &str| own(key).as_str().is_some_and(|text| !text.is_empty());
    for (key, what, from, to) in [
        ("User", "user", &old.user, &new.user),
        ("WorkingDir", "workdir", &old.workdir, &new.workdir),
        ("StopSignal", "stop signal", &old.stop_signal, &new.stop_signal),
    ] {
        if !is_set(key) {
            changes.add(what, from, to);
        }
    }
    for port in old.ports.symmetric_difference(&new.ports) {
        let exposed = |ports: bool| if ports { "exposed" } else { "" };
        changes.add(
            format!("port {port}"),
            exposed(old.ports.contains(port)),
            exposed(new.ports.contains(port)),
        );
    }
    changes.of_volumes(old, new, mounted);
    changes.of_health(&old.healthcheck, &new.healthcheck, own("Healthcheck"));
    changes.0
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, what: impl Into<String>, from: &str, to: &str) {
        if from != to {
            let (from, to) = (from.to_owned(), to.to_owned());
            self.0.push(Change { what: what.into(), from, to });
        }
    }

    fn of_maps(
        &mut self,
        kind: &str,
        old: &BTreeMap<String, String>,
        new: &BTreeMap<String, String>,
        stays: impl Fn(&str) -> bool,
    ) {
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys.into_iter().filter(|key| !stays(key)) {
            // Set to nothing and not set are two things.
            let shown = |map: &BTreeMap<String, String>| {
                map.get(key).map(|value| quoted_if_empty(value)).unwrap_or_default()
            };
            self.add(format!("{kind} {key}"), &shown(old), &shown(new));
        }
    }

    fn of_volumes(&mut self, old: &ImageFacts, new: &ImageFacts, mounted: &[&str]) {
        for path in new.volumes.difference(&old.volumes) {
            let to = match mounted.contains(&path.as_str()) {
                true => "declared; what is mounted there stays",
                false => "a new anonymous volume",
            };
            self.add(format!("volume {path}"), "", to);
        }
        for path in old.volumes.difference(&new.volumes) {
            let to = match mounted.contains(&path.as_str()) {
                true => "no longer declared; what is mounted there stays",
                false => "no longer declared",
            };
            self.add(format!("volume {path}"), "declared", to);
        }
    }

    fn of_health(&mut self, old: &Map<String, Value>, new: &Map<String, Value>, own: &Value) {
        if is_off(own) {
            return;
        }
        for (field, what) in HEALTH_FIELDS {
            let is_own = own.get(field).is_some_and(|value| !is_zero(value));
            if !is_own {
                self.add(what, &health_word(field, old.get(field)), &health_word(field, new.get(field)));
            }
        }
    }
}

/// Whether a health check says that there is none.
pub(super) fn is_off(check: &Value) -> bool {
    strings(&check["Test"]).first().is_some_and(|word| word == "NONE")
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn health_word(field: &str, value: Option<&Value>) -> String {
    let Some(value) = value.filter(|value| !is_zero(value)) else { return String::new() };
    match field {
        "Test" => test_words(&strings(value)),
        "Retries" => value.to_string(),
        _ => duration_words(value.as_u64().unwrap_or_default()),
    }
}

fn test_words(test: &[String]) -> String {
    match test.split_first() {
        Some((kind, rest)) if kind == "CMD-SHELL" => rest.join(" "),
        Some((kind, rest)) if kind == "CMD" => argv(rest),
        Some((kind, _)) if kind == "NONE" => "none".to_owned(),
        _ => test.join(" "),
    }
}

/// Nanoseconds, as people set them.
fn duration_words(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    match milliseconds {
        0 => format!("{nanoseconds}ns"),
        _ if !milliseconds.is_multiple_of(1000) => format!("{milliseconds}ms"),
        _ if !milliseconds.is_multiple_of(60_000) => format!("{}s", milliseconds / 1000),
        _ => format!("{}m", milliseconds / 60_000),
    }
}

/// A command line as one would type it.
pub(super) fn argv(words: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty()
            && word.chars().all(|letter| letter.is_alphanumeric() || "-_./:=,@%+".contains(letter))
    };
    let typed = |word: &String| match plain(word) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    words.iter().map(typed).collect::<Vec<_>>().join(" ")
}

fn quoted_if_empty(value: &str) -> String {
    if value.is_empty() { "\"\"".to_owned() } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(config: Value) -> ImageFacts {
        ImageFacts::of(&json!({ "Id": "sha256:1", "Os": "linux", "Architecture": "amd64", "Config": config }))
    }

    fn lines(old: Value, new: Value, own: Value, mounted: &[&str]) -> Vec<String> {
        let own = own.as_object().unwrap().clone();
        let changes = between(&image(old), &image(new), &own, mounted);
        changes
            .into_iter()
            .map(|change| format!("{}: {} → {}", change.what, change.from, change.to))
            .collect()
    }

    #[test]
    fn defaults_of_the_image_change_and_what_a_person_set_stays() {
        let old = json!({ "Env": ["PG_VERSION=16.3", "PATH=/bin", "GONE=1", "EMPTY="], "User": "postgres" });
        let new = json!({ "Env": ["PG_VERSION=16.4", "PATH=/usr/bin", "NEW=2"], "User": "999" });
        let own = json!({ "Env": ["PATH=/opt/bin", "MINE=1"] });
        let expected = [
            "env EMPTY: \"\" → ",
            "env GONE: 1 → ",
            "env NEW:  → 2",
            "env PG_VERSION: 16.3 → 16.4",
            "user: postgres → 999",
        ];
        assert_eq!(lines(old.clone(), new.clone(), own, &[]), expected);
        let own =
            json!({ "Env": ["PG_VERSION=16.3", "EMPTY=x", "GONE=2", "NEW=3", "PATH=/x"], "User": "root" });
        assert!(lines(old, new, own, &[]).is_empty());
    }

    #[test]
    fn an_own_entrypoint_also_drops_the_images_command() {
        let old = json!({ "Entrypoint": ["/entry"], "Cmd": ["run"], "StopSignal": "SIGINT" });
        let new = json!({ "Entrypoint": ["/entry", "--x"], "Cmd": ["run", "a b"], "StopSignal": "SIGTERM" });
        let all =
            ["entrypoint: /entry → /entry --x", "command: run → run 'a b'", "stop signal: SIGINT → SIGTERM"];
        assert_eq!(lines(old.clone(), new.clone(), json!({}), &[]), all);
        assert_eq!(lines(old.clone(), new.clone(), json!({ "Cmd": ["mine"] }), &[]), [all[0], all[2]]);
        assert_eq!(lines(old, new, json!({ "Entrypoint": ["/mine"] }), &[]), [all[2]]);
    }

    #[test]
    fn a_health_check_changes_field_by_field() {
        let old = json!({ "Healthcheck": { "Test": ["CMD", "ok"], "Interval": 30_000_000_000_u64 } });
        let new = json!({ "Healthcheck": { "Test": ["CMD-SHELL", "ok || exit 1"], "Interval": 10_000_000_000_u64,
            "StartPeriod": 120_000_000_000_u64, "Timeout": 1_500_000_000_u64, "Retries": 3 } });
        let all = [
            "healthcheck: ok → ok || exit 1",
            "healthcheck interval: 30s → 10s",
            "healthcheck timeout:  → 1500ms",
            "healthcheck start period:  → 2m",
            "healthcheck retries:  → 3",
        ];
        assert_eq!(lines(old.clone(), new.clone(), json!({}), &[]), all);
        let own = json!({ "Healthcheck": { "Interval": 5_000_000_000_u64, "Timeout": 0, "Retries": 9 } });
        assert_eq!(lines(old.clone(), new.clone(), own, &[]), [all[0], all[2], all[3]]);
        assert!(lines(old, new, json!({ "Healthcheck": { "Test": ["NONE"] } }), &[]).is_empty());
    }

    #[test]
    fn ports_volumes_and_the_platform_are_named() {
        let old = json!({ "ExposedPorts": { "80/tcp": {} }, "Volumes": { "/old": {}, "/both": {} } });
        let new = json!({ "ExposedPorts": { "8080/tcp": {} }, "Volumes": { "/new": {}, "/there": {}, "/both": {} } });
        let expected = [
            "port 80/tcp: exposed → ",
            "port 8080/tcp:  → exposed",
            "volume /new:  → a new anonymous volume",
            "volume /there:  → declared; what is mounted there stays",
            "volume /old: declared → no longer declared; what is mounted there stays",
        ];
        assert_eq!(lines(old, new, json!({}), &["/old", "/there"]), expected);
        let arm = ImageFacts { architecture: "arm64".into(), os: "linux".into(), ..Default::default() };
        let changes = between(&image(json!({})), &arm, &Map::new(), &[]);
        assert_eq!((changes[0].from.as_str(), changes[0].to.as_str()), ("linux/amd64", "linux/arm64"));
    }
}
