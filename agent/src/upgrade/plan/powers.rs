//! What a container may do beyond itself, in words. Pure.
//!
//! Whoever chooses its image has as much: the controller asks more of them.

use serde_json::{Map, Value};

use crate::engine::{Mount, MountKind};

use crate::upgrade::image::strings;

/// Directories with which a container can become its host.
const SYSTEM: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/docker",
    "/var/run",
];

/// One phrase for each right over the host.
pub(super) fn words(host_config: &Map<String, Value>, mounts: &[Mount]) -> Vec<String> {
    let value = |key: &str| host_config.get(key).unwrap_or(&Value::Null);
    let mut words = Vec::new();
    if value("Privileged") == &Value::Bool(true) {
        words.push("privileged".to_owned());
    }
    words.extend(strings(value("CapAdd")).into_iter().map(|name| format!("capability {name}")));
    for (key, what) in [
        ("PidMode", "processes"),
        ("IpcMode", "shared memory"),
        ("NetworkMode", "network"),
        ("UsernsMode", "users"),
    ] {
        if value(key).as_str() == Some("host") {
            words.push(format!("the host's {what}"));
        }
    }
    for key in ["Devices", "DeviceRequests", "DeviceCgroupRules"] {
        if value(key).as_array().is_some_and(|list| !list.is_empty()) {
            words.push("devices".to_owned());
        }
    }
    let unconfined = |option: &String| option.contains("unconfined") || option.contains("disable");
    words.extend(strings(value("SecurityOpt")).into_iter().filter(unconfined));
    let binds = mounts.iter().filter(|mount| mount.kind == MountKind::Bind);
    words
        .extend(binds.filter(|mount| is_system(&mount.source)).map(|mount| format!("bind {}", mount.source)));
    // The three lists of devices give the same word, one after the other.
    words.dedup();
    words
}

fn is_system(path: &str) -> bool {
    let path = path.trim_end_matches('/');
    // A directory above one of them holds it.
    path.is_empty()
        || SYSTEM.iter().any(|system| {
            let inside =
                |path: &str, of: &str| path.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
            path == *system || inside(path, system) || inside(system, path)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::fake;

    #[test]
    fn v08_rights_over_the_host_are_named_and_others_are_not() {
        let words = |config: Value| words(config.as_object().unwrap(), &[]);
        assert_eq!(words(json!({})), Vec::<String>::new());
        let plain = json!({"Privileged": false, "CapAdd": null, "PidMode": "", "NetworkMode": "bridge",
            "Devices": [], "SecurityOpt": ["no-new-privileges"], "IpcMode": "private"});
        assert_eq!(words(plain), Vec::<String>::new());
        let mighty = json!({"Privileged": true, "CapAdd": ["SYS_ADMIN"], "PidMode": "host",
            "NetworkMode": "host", "Devices": [{"PathOnHost": "/dev/kvm"}],
            "SecurityOpt": ["seccomp=unconfined"]});
        let expected = [
            "privileged",
            "capability SYS_ADMIN",
            "the host's processes",
            "the host's network",
            "devices",
            "seccomp=unconfined",
        ];
        assert_eq!(words(mighty), expected);
    }

    #[test]
    fn v08_binds_of_the_system_are_rights_over_it() {
        for path in ["/", "/etc", "/etc/cron.d", "/var/run/docker.sock", "/run/docker.sock", "/var", "/root/"]
        {
            assert!(is_system(path), "{path}");
        }
        for path in ["/srv/data", "/var/lib/app", "/etcetera", "/home/anna", "/usrdata"] {
            assert!(!is_system(path), "{path}");
        }
    }

    #[test]
    fn v08_of_all_mounts_binds_of_the_system_are_named_and_no_others() {
        let mount = |kind: MountKind, source: &str| {
            let mount = fake::mount(kind, source, source, "/data");
            Mount { read_only: true, ..mount }
        };
        let mounts = [
            mount(MountKind::Bind, "/var/run/docker.sock"),
            mount(MountKind::Bind, "/srv/data"),
            mount(MountKind::Volume, "/etc"),
        ];
        assert_eq!(words(&Map::new(), &mounts), ["bind /var/run/docker.sock"]);
    }
}
