//! What a container mounts, so that one recreated mounts the same.
//!
//! A volume without a name of its own is the trap: the settings say only *that*
//! there is one, and a container made of the settings gets a new, empty one.
//! Which volume it is stands in the list of mounts alone. So every volume there
//! that the settings do not name is named, as a mount of its own, and never
//! filled from the image, which is right for data that is already there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::surroundings::{Source, Surroundings};
use super::{Spec, list, text};

/// Names every volume in `host` and returns the targets of all that is mounted.
pub(super) fn carry(
    inspect: &Value,
    host: &mut Map<String, Value>,
    surroundings: &Surroundings,
    notes: &mut Vec<String>,
) -> BTreeSet<String> {
    let points = inspect.get("Mounts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let seen: BTreeMap<String, &Value> =
        points.iter().map(|point| (clean_path(text(point, "Destination")), point)).collect();
    // First what the settings name themselves, then what came from other containers.
    // What is left was asked for by the image, or came from a container that is gone.
    let mut covered: BTreeSet<String> = tmpfs_targets(host);
    covered.extend(bind_targets(host, &seen));
    covered.extend(mount_targets(host, &seen));
    let (shared, complete) = sources(host, &seen, surroundings, notes);

    let mut added = Vec::new();
    for (target, point) in &seen {
        if covered.contains(target) || shared.contains(target) {
            continue;
        }
        match text(point, "Type") {
            "volume" => added.push(volume_mount(point)),
            // Comes from a container whose mounts are not known here.
            "bind" if !complete => {}
            "bind" => added.push(bind_mount(point)),
            kind => notes.push(format!(
                "how `{target}` (of kind `{kind}`) came to be mounted is not known; it is not carried"
            )),
        }
    }
    if !added.is_empty() {
        let mounts = host.entry("Mounts").or_insert_with(|| json!([]));
        if let Value::Array(mounts) = mounts {
            mounts.extend(added);
        }
    }
    covered.extend(seen.into_keys());
    covered
}

fn tmpfs_targets(host: &Map<String, Value>) -> BTreeSet<String> {
    let tmpfs = host.get("Tmpfs").and_then(Value::as_object);
    tmpfs.into_iter().flat_map(Map::keys).map(|target| clean_path(target)).collect()
}

/// `source:target[:options]`. A target alone is a volume without a name, which
/// is taken out here and named with the others.
fn bind_targets(host: &mut Map<String, Value>, seen: &BTreeMap<String, &Value>) -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    let Some(Value::Array(binds)) = host.get_mut("Binds") else { return targets };
    let had_some = !binds.is_empty();
    binds.retain(|bind| {
        let mut parts = bind.as_str().unwrap_or_default().split(':');
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let target = clean_path(second.unwrap_or(first));
        // Asked for again it would be a new, empty volume. By the name the Engine gave it,
        // it is the one that holds the data.
        if second.is_none() && seen.contains_key(&target) {
            return false;
        }
        targets.insert(target);
        true
    });
    if had_some && binds.is_empty() {
        host.remove("Binds");
    }
    targets
}

fn mount_targets(host: &mut Map<String, Value>, seen: &BTreeMap<String, &Value>) -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    let Some(Value::Array(mounts)) = host.get_mut("Mounts") else { return targets };
    for mount in mounts {
        let target = clean_path(text(mount, "Target"));
        if text(mount, "Type") == "volume"
            && text(mount, "Source").is_empty()
            && let Some(name) =
                seen.get(&target).map(|point| text(point, "Name")).filter(|name| !name.is_empty())
        {
            mount["Source"] = json!(name);
            if !mount["VolumeOptions"].is_object() {
                mount["VolumeOptions"] = json!({});
            }
            // The Engine fills an empty volume from the image when it is mounted first; one
            // that is empty by now is so on purpose.
            mount["VolumeOptions"]["NoCopy"] = json!(true);
        }
        targets.insert(target);
    }
    targets
}

/// Targets that come from other containers, and whether all of these are known.
/// A container that is gone can share nothing: what came from it is mounted by
/// itself, as that is still there.
fn sources(
    host: &mut Map<String, Value>,
    seen: &BTreeMap<String, &Value>,
    surroundings: &Surroundings,
    notes: &mut Vec<String>,
) -> (BTreeSet<String>, bool) {
    let (mut shared, mut complete, mut entries) = (BTreeSet::new(), true, Vec::new());
    for entry in list(host, "VolumesFrom").iter().filter_map(Value::as_str) {
        let (reference, mode) =
            entry.split_once(':').map_or((entry, None), |(from, mode)| (from, Some(mode)));
        match surroundings.source(reference) {
            Source::Unknown => {
                complete = false;
                entries.push(entry.to_owned());
            }
            Source::Gone => notes.push(format!(
                "container `{reference}`, whose volumes it shares, is gone: they are mounted by their own names"
            )),
            Source::Known { name, mounts } => {
                entries.push(mode.map_or_else(|| name.clone(), |mode| format!("{name}:{mode}")));
                // What the source mounts elsewhere by now is not what is shared here: that
                // is carried by its own name.
                let same = |point: &Value| {
                    let key = if text(point, "Type") == "volume" { "Name" } else { "Source" };
                    seen.get(&clean_path(text(point, "Destination")))
                        .is_some_and(|own| text(own, "Type") == text(point, "Type") && text(own, key) == text(point, key))
                };
                let same = mounts.iter().filter(|point| same(point));
                shared.extend(same.map(|point| clean_path(text(point, "Destination"))));
            }
        }
    }
    match entries.is_empty() {
        true => host.remove("VolumesFrom"),
        false => host.insert("VolumesFrom".to_owned(), json!(entries)),
    };
    (shared, complete)
}

fn volume_mount(point: &Value) -> Value {
    let mut options = json!({ "NoCopy": true });
    let driver = text(point, "Driver");
    if !matches!(driver, "" | "local") {
        options["DriverConfig"] = json!({ "Name": driver });
    }
    mount(point, "Name", "VolumeOptions", options)
}

fn bind_mount(point: &Value) -> Value {
    mount(point, "Source", "BindOptions", json!({ "Propagation": text(point, "Propagation") }))
}

fn mount(point: &Value, source: &str, options_of: &str, options: Value) -> Value {
    let mut mount = json!({
        "Type": point["Type"],
        "Source": text(point, source),
        "Target": text(point, "Destination"),
        options_of: options,
    });
    if point["RW"] == false {
        mount["ReadOnly"] = json!(true);
    }
    mount
}

impl Spec {
    /// The names of the volumes it mounts by itself.
    pub fn named_volumes(&self) -> Vec<&str> {
        let binds = list(&self.host_config, "Binds").iter().filter_map(Value::as_str);
        let sources = binds.filter_map(|bind| Some(bind.split_once(':')?.0));
        let mounts = list(&self.host_config, "Mounts").iter().filter(|mount| text(mount, "Type") == "volume");
        let named = sources.chain(mounts.map(|mount| text(mount, "Source")));
        named.filter(|name| !name.is_empty() && !name.starts_with('/')).collect()
    }
}

/// As the Engine compares targets: no doubled or trailing slashes, no dots.
pub(super) fn clean_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(target: &str, name: &str) -> Value {
        json!({ "Type": "volume", "Name": name, "Source": "/x", "Destination": target, "Driver": "local", "RW": true })
    }

    fn of(
        points: &[Value],
        host: Value,
        surroundings: &Surroundings,
    ) -> (Value, BTreeSet<String>, Vec<String>) {
        let (mut host, mut notes) = (host.as_object().cloned().unwrap(), Vec::new());
        let covered = carry(&json!({ "Mounts": points }), &mut host, surroundings, &mut notes);
        (host.into(), covered, notes)
    }

    fn mount(target: &str, name: &str) -> Value {
        json!({ "Type": "volume", "Source": name, "Target": target, "VolumeOptions": { "NoCopy": true } })
    }

    #[test]
    fn volumes_without_a_name_keep_theirs_however_they_were_asked_for() {
        let points =
            [point("/image", "a"), point("/bind", "b"), point("/mount", "c"), point("/named", "data")];
        let host = json!({
            "Binds": ["/bind", "data:/named:ro"],
            "Mounts": [{ "Type": "volume", "Target": "/mount/", "VolumeOptions": { "Labels": { "l": "1" } } }],
        });
        let (host, covered, notes) = of(&points, host, &Surroundings::default());
        let expected = json!({
            "Binds": ["data:/named:ro"],
            "Mounts": [
                { "Type": "volume", "Source": "c", "Target": "/mount/", "VolumeOptions": { "Labels": { "l": "1" }, "NoCopy": true } },
                mount("/bind", "b"),
                mount("/image", "a"),
            ],
        });
        assert_eq!((host, notes.len(), covered.len()), (expected, 0, 4));
    }

    #[test]
    fn a_driver_and_a_read_only_mount_are_carried() {
        let mut seen = point("/v", "a");
        seen["Driver"] = json!("nfs");
        seen["RW"] = json!(false);
        let (host, ..) = of(&[seen], json!({}), &Surroundings::default());
        let expected = json!([{ "Type": "volume", "Source": "a", "Target": "/v", "ReadOnly": true,
            "VolumeOptions": { "NoCopy": true, "DriverConfig": { "Name": "nfs" } } }]);
        assert_eq!(host["Mounts"], expected);
    }

    #[test]
    fn what_another_container_shares_is_followed_and_what_it_does_not_is_kept() {
        let bind = json!({ "Type": "bind", "Source": "/srv", "Destination": "/srv", "RW": true, "Propagation": "rprivate" });
        let points = [point("/shared", "a"), point("/own", "b"), bind.clone()];
        let host = json!({ "VolumesFrom": ["1234:ro"] });
        let mut surroundings = Surroundings::default();
        surroundings.sources.insert(
            "1234".to_owned(),
            Source::Known {
                name: "data".to_owned(),
                mounts: vec![point("/shared", "a"), point("/own", "other"), bind],
            },
        );
        let (seen, ..) = of(&points, host.clone(), &surroundings);
        assert_eq!(seen, json!({ "VolumesFrom": ["data:ro"], "Mounts": [mount("/own", "b")] }));

        surroundings.sources.insert("1234".to_owned(), Source::Gone);
        let (seen, _, notes) = of(&points, host.clone(), &surroundings);
        assert_eq!(seen["Mounts"].as_array().unwrap().len(), 3);
        assert_eq!(seen["Mounts"][2]["Source"], "/srv");
        assert!(seen.get("VolumesFrom").is_none() && notes.len() == 1, "{notes:?}");

        let (seen, ..) = of(&points, host, &Surroundings::default());
        let expected =
            json!({ "VolumesFrom": ["1234:ro"], "Mounts": [mount("/own", "b"), mount("/shared", "a")] });
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_tmpfs_is_no_volume() {
        let (host, covered, _) = of(&[], json!({ "Tmpfs": { "/t/": "size=1m" } }), &Surroundings::default());
        assert_eq!(host, json!({ "Tmpfs": { "/t/": "size=1m" } }));
        assert!(covered.contains("/t"));
    }
}
