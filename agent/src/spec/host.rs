//! A container's `HostConfig`: carried as it is, but for what the Engine put
//! in by itself and for the names of other containers.

use serde_json::{Map, Value, json};

use super::surroundings::Surroundings;
use super::{list, text};

/// Belong to the host or to the session that made the container.
const DROPPED: [&str; 2] = ["ContainerIDFile", "ConsoleSize"];

/// Settings that may name a container: `container:NAME`.
const MODES: [&str; 4] = ["NetworkMode", "IpcMode", "PidMode", "Cgroup"];

/// What released Engines hid by default. Lists differ between them, and one
/// that is carried would freeze an old Engine's.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/dev/block",
];

/// On every such list.
const MASKED_BY_ALL: [&str; 3] = ["/proc/kcore", "/proc/timer_list", "/sys/firmware"];

const READ_ONLY: [&str; 7] =
    ["/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const READ_ONLY_BY_ALL: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(super) fn plain(
    seen: &Map<String, Value>,
    facts: &super::Facts,
    surroundings: &Surroundings,
    notes: &mut Vec<String>,
) -> Map<String, Value> {
    // By what is dropped and not by what is carried: a setting newer than this agent
    // stays.
    let mut host: Map<String, Value> = seen
        .iter()
        .filter(|(key, value)| !DROPPED.contains(&key.as_str()) && !value.is_null())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    restart(&mut host);
    ulimits(&mut host, facts, notes);
    default_paths(&mut host);
    security(&mut host);
    // The Engine reports ids here. The container of that id may be replaced before the
    // new one starts; its name stays.
    for key in MODES {
        let Some(of) = text_of(&host, key).strip_prefix("container:").map(str::to_owned) else { continue };
        let name = surroundings.name_of(&of, key, notes);
        host.insert(key.to_owned(), json!(format!("container:{name}")));
    }
    links(&mut host, surroundings, notes);
    host
}

pub(super) fn has_ulimits(inspect: &Value) -> bool {
    inspect["HostConfig"]["Ulimits"].as_array().is_some_and(|limits| !limits.is_empty())
}

fn text_of<'a>(host: &'a Map<String, Value>, key: &str) -> &'a str {
    host.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A policy without a name is `no`; only `no` can be set later.
fn restart(host: &mut Map<String, Value>) {
    if host.get("RestartPolicy").is_none_or(|policy| text(policy, "Name").is_empty()) {
        host.insert("RestartPolicy".to_owned(), super::no_restart());
    }
}

/// The Engine shows its own defaults among a container's limits.
fn ulimits(host: &mut Map<String, Value>, facts: &super::Facts, notes: &mut Vec<String>) {
    let Some(Value::Array(limits)) = host.get_mut("Ulimits") else { return };
    match &facts.default_ulimits {
        Some(defaults) => limits.retain(|limit| !defaults.contains(limit)),
        None if limits.is_empty() => {}
        None => notes.push(
            "which of the ulimits are the Engine's own defaults was not looked at; all are listed".to_owned(),
        ),
    }
    if limits.is_empty() {
        host.remove("Ulimits");
    }
}

fn default_paths(host: &mut Map<String, Value>) {
    // One for each processor of the machine.
    let throttle =
        |path: &str| path.starts_with("/sys/devices/system/cpu/cpu") && path.ends_with("/thermal_throttle");
    let is_default = |paths: &[Value], known: &[&str], by_all: &[&str]| {
        let has = |wanted: &str| paths.iter().any(|path| path == wanted);
        let fits = |path: &Value| path.as_str().is_some_and(|path| known.contains(&path) || throttle(path));
        by_all.iter().all(|path| has(path)) && paths.iter().all(fits)
    };
    // Carried, the list of the old Engine would keep what a newer one hides in sight.
    if is_default(list(host, "MaskedPaths"), &MASKED, &MASKED_BY_ALL) {
        host.remove("MaskedPaths");
    }
    if is_default(list(host, "ReadonlyPaths"), &READ_ONLY, &READ_ONLY_BY_ALL) {
        host.remove("ReadonlyPaths");
    }
}

/// Options the Engine adds for what shares the host's namespaces or another
/// container's. Carried, they would be added once more each time.
fn security(host: &mut Map<String, Value>) {
    let shares = |key: &str, mode: &str| text_of(host, key).starts_with(mode);
    let unlabelled = host.get("Privileged").is_some_and(|privileged| privileged == true)
        || shares("IpcMode", "host")
        || shares("PidMode", "host");
    let labelled_as_another = shares("IpcMode", "container:") || shares("PidMode", "container:");
    let Some(Value::Array(options)) = host.get_mut("SecurityOpt") else { return };
    let had_some = !options.is_empty();
    options.retain(|option| {
        let option = option.as_str().unwrap_or_default().replacen("label:", "label=", 1);
        !(unlabelled && option == "label=disable" || labelled_as_another && option.starts_with("label="))
    });
    if had_some && options.is_empty() {
        host.remove("SecurityOpt");
    }
}

/// Links of the default bridge: `/source:/me/alias`, in no order.
fn links(host: &mut Map<String, Value>, surroundings: &Surroundings, notes: &mut Vec<String>) {
    let mut links: Vec<String> = list(host, "Links")
        .iter()
        .filter_map(Value::as_str)
        .map(|link| {
            let (source, alias) = link.split_once(':').unwrap_or((link, link));
            let alias = alias.rsplit('/').next().unwrap_or(alias);
            let source = surroundings.name_of(source.trim_start_matches('/'), "Links", notes);
            format!("{source}:{alias}")
        })
        .collect();
    // The Engine lists them from a map: sorted, the same container has the same spec.
    links.sort();
    match links.is_empty() {
        true => host.remove("Links"),
        false => host.insert("Links".to_owned(), json!(links)),
    };
}

#[cfg(test)]
mod tests {
    use super::super::Facts;
    use super::*;

    fn of(seen: Value, facts: &Facts) -> Value {
        let mut host = plain(seen.as_object().unwrap(), facts, &Surroundings::default(), &mut Vec::new());
        host.remove("RestartPolicy");
        host.into()
    }

    #[test]
    fn unknown_settings_and_empty_lists_are_carried() {
        let seen = json!({ "Newest": [1], "MaskedPaths": [], "Init": false, "PidsLimit": null, "ShmSize": 5,
            "ConsoleSize": [0, 0], "ContainerIDFile": "/x", "MemorySwappiness": 0 });
        let expected =
            json!({ "Newest": [1], "MaskedPaths": [], "Init": false, "ShmSize": 5, "MemorySwappiness": 0 });
        assert_eq!(of(seen, &Facts::default()), expected);
    }

    #[test]
    fn limits_the_engine_puts_on_all_are_not_the_containers() {
        let seen = json!({ "Ulimits": [{ "Name": "core", "Soft": 1, "Hard": 2 }, { "Name": "nofile", "Soft": 5, "Hard": 5 }] });
        let defaults = vec![json!({ "Name": "nofile", "Hard": 5, "Soft": 5 })];
        let facts = Facts { default_ulimits: Some(defaults), ..Default::default() };
        assert_eq!(of(seen.clone(), &facts)["Ulimits"], json!([{ "Name": "core", "Soft": 1, "Hard": 2 }]));
        let mut notes = Vec::new();
        let host = plain(seen.as_object().unwrap(), &Facts::default(), &Surroundings::default(), &mut notes);
        assert_eq!((host["Ulimits"].as_array().unwrap().len(), notes.len()), (2, 1));
    }

    #[test]
    fn hidden_paths_are_carried_only_where_they_were_chosen() {
        let of_20_10 = json!([
            "/proc/asound",
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware"
        ]);
        let of_28 = json!([
            "/proc/asound",
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
            "/sys/devices/system/cpu/cpu0/thermal_throttle"
        ]);
        let read_only = json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
        for masked in [of_20_10, of_28] {
            let seen = json!({ "MaskedPaths": masked, "ReadonlyPaths": read_only });
            assert_eq!(of(seen, &Facts::default()), json!({}));
        }
        for own in [
            json!(["/proc/kcore"]),
            json!([]),
            json!(["/proc/kcore", "/proc/timer_list", "/sys/firmware", "/own"]),
        ] {
            let seen = json!({ "MaskedPaths": own, "ReadonlyPaths": own });
            assert_eq!(of(seen.clone(), &Facts::default()), seen);
        }
    }

    #[test]
    fn security_options_the_engine_adds_do_not_pile_up() {
        let seen = json!({ "Privileged": true, "SecurityOpt": ["label=disable"] });
        assert_eq!(of(seen, &Facts::default()), json!({ "Privileged": true }));
        let seen = json!({ "PidMode": "host", "SecurityOpt": ["seccomp=unconfined", "label=disable"] });
        assert_eq!(of(seen, &Facts::default())["SecurityOpt"], json!(["seccomp=unconfined"]));
        let seen = json!({ "Privileged": false, "SecurityOpt": ["label=disable"] });
        assert_eq!(of(seen.clone(), &Facts::default()), seen);
        let seen =
            json!({ "IpcMode": "container:a", "SecurityOpt": ["label=level:s0:c1", "no-new-privileges"] });
        assert_eq!(of(seen, &Facts::default())["SecurityOpt"], json!(["no-new-privileges"]));
    }

    #[test]
    fn links_are_told_as_they_are_given() {
        let seen = json!({ "Links": ["/web:/me/w", "/db:/me/database"] });
        assert_eq!(of(seen, &Facts::default())["Links"], json!(["db:database", "web:w"]));
    }
}
