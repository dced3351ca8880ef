//! What the Engine fills in where nobody set anything, taken out for people.
//!
//! The Engine reports all settings of a host configuration, some sixty, most of
//! them zero. A container that is recreated gets them as they are, since a
//! newer Engine may mean something else by leaving one out; a reader wants
//! what somebody set.

use serde_json::{Map, Value, json};

use super::{Spec, is_empty, no_restart, text};
use crate::engine::{Engine, EngineError};

/// Where empty, false or zero is a choice: the Engine shows nothing, or
/// something else, where none was made.
const CHOSEN: [&str; 4] = ["Init", "MaskedPaths", "MemorySwappiness", "ReadonlyPaths"];

/// Belong to the terminal that made the container.
const OF_A_SESSION: [&str; 3] = ["AttachStderr", "AttachStdin", "AttachStdout"];

/// What this Engine fills in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// "1" or "2".
    pub cgroup_version: String,
    pub runtime: String,
    pub log_driver: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            cgroup_version: "2".to_owned(),
            runtime: "runc".to_owned(),
            log_driver: "json-file".to_owned(),
        }
    }
}

impl Defaults {
    /// Asks the Engine.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn of(engine: &Engine) -> Result<Self, EngineError> {
        Ok(Self::told(&engine.info_json().await?))
    }

    fn told(info: &Value) -> Self {
        let or = |key: &str, other: String| match text(info, key) {
            "" => other,
            said => said.to_owned(),
        };
        let built_in = Self::default();
        Self {
            cgroup_version: or("CgroupVersion", built_in.cgroup_version),
            runtime: or("DefaultRuntime", built_in.runtime),
            log_driver: or("LoggingDriver", built_in.log_driver),
        }
    }

    fn is_default(&self, key: &str, value: &Value, host: &Map<String, Value>) -> bool {
        let is = |known: &str| value == known;
        match key {
            _ if value.is_null() => true,
            "MemorySwappiness" => value == &json!(-1),
            _ if CHOSEN.contains(&key) => false,
            _ if is_empty(value) || value == &json!(0) => true,
            "NetworkMode" => is("default") || is("bridge"),
            "IpcMode" => is("private"),
            "CgroupnsMode" => is(if self.cgroup_version == "1" { "host" } else { "private" }),
            "Runtime" => is(&self.runtime),
            "ShmSize" => value == &json!(64 << 20),
            "RestartPolicy" => *value == no_restart(),
            "LogConfig" => text(value, "Type") == self.log_driver && value.get("Config").is_none_or(is_empty),
            // Where only the memory is limited, the Engine allows as much again.
            "MemorySwap" => {
                let memory = host.get("Memory").and_then(Value::as_i64).unwrap_or_default();
                memory > 0 && value.as_i64() == memory.checked_mul(2)
            }
            _ => false,
        }
    }
}

impl Spec {
    /// What was set, and nothing the Engine fills in by itself.
    #[must_use]
    pub fn without_defaults(&self, defaults: &Defaults) -> Self {
        let mut spec = self.clone();
        spec.host_config.retain(|key, value| !defaults.is_default(key, value, &self.host_config));
        spec.config.retain(|key, _| !OF_A_SESSION.contains(&key.as_str()));
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: Value, host: Value, defaults: &Defaults) -> Value {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let spec = Spec {
            name: "db".to_owned(),
            image: "pg:14".to_owned(),
            image_id: "sha256:14".to_owned(),
            platform: None,
            config: object(config),
            host_config: object(host),
            networks: Vec::new(),
            notes: Vec::new(),
        };
        let spec = spec.without_defaults(defaults);
        json!({ "config": spec.config, "host_config": spec.host_config })
    }

    /// All that Engine 28 tells of `docker run image`.
    fn untouched() -> Value {
        let told = r#"{
            "Binds": null, "ContainerIDFile": "", "LogConfig": { "Type": "json-file", "Config": {} },
            "NetworkMode": "bridge", "PortBindings": {}, "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
            "AutoRemove": false, "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [24, 80], "CapAdd": null,
            "CapDrop": null, "CgroupnsMode": "private", "Dns": [], "DnsOptions": [], "DnsSearch": [],
            "ExtraHosts": null, "GroupAdd": null, "IpcMode": "private", "Cgroup": "", "Links": null,
            "OomScoreAdj": 0, "PidMode": "", "Privileged": false, "PublishAllPorts": false,
            "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "", "ShmSize": 67108864,
            "Runtime": "runc", "Isolation": "", "CpuShares": 0, "Memory": 0, "NanoCpus": 0, "CgroupParent": "",
            "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [],
            "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0, "CpuQuota": 0,
            "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": [],
            "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
            "MemorySwappiness": null, "OomKillDisable": null, "PidsLimit": null, "Ulimits": [], "CpuCount": 0,
            "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0
        }"#;
        serde_json::from_str(told).unwrap()
    }

    #[test]
    fn of_an_untouched_container_nothing_is_shown() {
        let mut host = untouched();
        // Taken out before, as settings of nobody.
        host.as_object_mut().unwrap().remove("ConsoleSize");
        let config = json!({ "AttachStdout": true, "AttachStderr": true });
        assert_eq!(shown(config, host, &Defaults::default()), json!({ "config": {}, "host_config": {} }));
    }

    #[test]
    fn what_somebody_set_is_shown_all_of_it() {
        let set = json!({
            "Binds": ["/srv:/srv:ro"], "LogConfig": { "Type": "json-file", "Config": { "max-size": "1m" } },
            "NetworkMode": "backend", "PortBindings": { "80/tcp": [{ "HostIp": "", "HostPort": "8080" }] },
            "RestartPolicy": { "Name": "unless-stopped", "MaximumRetryCount": 0 }, "AutoRemove": true,
            "CapAdd": ["NET_ADMIN"], "CgroupnsMode": "host", "Dns": ["10.0.0.1"], "IpcMode": "shareable",
            "OomScoreAdj": -500, "Privileged": true, "ReadonlyRootfs": true, "ShmSize": 1024, "Runtime": "kata",
            "Memory": 1024, "MemorySwap": -1, "NanoCpus": 1_500_000_000, "PidsLimit": -1, "Init": false,
            "MaskedPaths": [], "ReadonlyPaths": [], "MemorySwappiness": 0, "Newest": { "x": 1 },
            "Ulimits": [{ "Name": "nofile", "Soft": 5, "Hard": 5 }],
        });
        let config = json!({ "Env": ["A=1"], "StopTimeout": 0 });
        let expected = json!({ "config": config, "host_config": set });
        assert_eq!(shown(config.clone(), set, &Defaults::default()), expected);
    }

    #[test]
    fn defaults_are_those_of_the_engine() {
        let old = Defaults::told(
            &json!({ "CgroupVersion": "1", "DefaultRuntime": "crun", "LoggingDriver": "journald" }),
        );
        let of = |host: Value, defaults: &Defaults| shown(json!({}), host, defaults)["host_config"].clone();
        let host = json!({ "CgroupnsMode": "host", "Runtime": "crun", "LogConfig": { "Type": "journald", "Config": {} } });
        assert_eq!(of(host.clone(), &old), json!({}));
        assert_eq!(of(host.clone(), &Defaults::told(&json!({}))), host);
        // The Engine's own doing is no wish for swap.
        assert_eq!(of(json!({ "Memory": 64, "MemorySwap": 128 }), &old), json!({ "Memory": 64 }));
    }
}
