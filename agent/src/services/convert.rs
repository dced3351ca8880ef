//! The agent's own types as messages. Every field is named, so that a new one
//! cannot be forgotten here.

use holdfast_proto::v1;
use serde_json::{Value, json};

use crate::engine::{Container, ContainerSummary, EngineInfo, Mount, MountKind, Volume};
use crate::prune::{Kept, Pruned};
use crate::secrets;
use crate::spec::{Spec, container_name, text};
use crate::usage::Usage;
use crate::volume_path::{ReachPlan, plan_reach};

pub(super) fn volume(
    volume: Volume,
    users: Vec<v1::VolumeUser>,
    usage: Option<Usage>,
    own: Option<String>,
) -> v1::Volume {
    let (reach, reach_reason) = match plan_reach(&volume) {
        ReachPlan::Direct => (v1::VolumeReach::Direct, String::new()),
        ReachPlan::Holder(reason) => (v1::VolumeReach::Holder, reason),
        ReachPlan::Refused(reason) => (v1::VolumeReach::Refused, reason),
    };
    let (created_unix_ms, anonymous) = (volume.created_unix_ms(), volume.is_anonymous());
    let Volume { name, driver, mountpoint, labels, options, scope, created_at: _ } = volume;
    v1::Volume {
        name,
        driver,
        mountpoint: mountpoint.display().to_string(),
        labels: secrets::settings(&labels).into_iter().collect(),
        options: secrets::settings(&options).into_iter().collect(),
        scope,
        created_unix_ms,
        anonymous,
        users,
        reach: reach.into(),
        reach_reason,
        size_bytes: usage.map(|usage| usage.size_bytes),
        entries: usage.map(|usage| usage.entries),
        own: own.unwrap_or_default(),
    }
}

/// How one container uses a volume: once for each of its mounts.
pub(super) fn volume_users<'a>(
    container: &'a ContainerSummary,
) -> impl Iterator<Item = (&'a str, v1::VolumeUser)> + 'a {
    let ContainerSummary { id, name, image: _, state, labels: _, mounts } = container;
    mounts.iter().filter(|mount| mount.kind == MountKind::Volume).map(move |mount| {
        let user = v1::VolumeUser {
            container_id: id.clone(),
            container_name: name.clone(),
            state: state.as_str().to_owned(),
            target: mount.target.clone(),
            read_only: mount.read_only,
        };
        (mount.source.as_str(), user)
    })
}

pub(super) fn container_mounts(container: Container) -> v1::ContainerMounts {
    v1::ContainerMounts {
        own: container.role().is_some(),
        container_id: container.id,
        container_name: container.name,
        state: container.state.as_str().to_owned(),
        image: container.image,
        mounts: container.mounts.into_iter().map(mount).collect(),
    }
}

fn mount(mount: Mount) -> v1::Mount {
    let Mount { kind, source, target, host_path: _, read_only, propagation, driver, size_bytes } = mount;
    let anonymous = kind == MountKind::Volume && is_random_name(&source);
    let kind = match kind {
        MountKind::Volume => v1::MountKind::Volume,
        MountKind::Bind => v1::MountKind::Bind,
        MountKind::Tmpfs => v1::MountKind::Tmpfs,
        MountKind::Other => v1::MountKind::Other,
    };
    v1::Mount { kind: kind.into(), source, target, read_only, propagation, driver, anonymous, size_bytes }
}

/// A container as the Engine reports it.
pub(super) fn container(inspect: &Value) -> v1::Container {
    let (state, config) = (&inspect["State"], &inspect["Config"]);
    let labels = config["Labels"].as_object().into_iter().flatten();
    let networks = inspect["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    v1::Container {
        id: text(inspect, "Id").to_owned(),
        name: container_name(inspect),
        image: text(config, "Image").to_owned(),
        image_id: text(inspect, "Image").to_owned(),
        state: text(state, "Status").to_owned(),
        health: Some(text(&state["Health"], "Status"))
            .filter(|&health| health != "none")
            .unwrap_or_default()
            .to_owned(),
        labels: labels
            .map(|(key, value)| (key.clone(), secrets::value(key, value.as_str().unwrap_or_default())))
            .collect(),
        created_unix_ms: unix_ms(text(inspect, "Created")),
        networks: networks.map(|(name, _)| name.clone()).collect(),
        mounts: inspect["Mounts"]
            .as_array()
            .map_or(0, |mounts| u32::try_from(mounts.len()).unwrap_or(u32::MAX)),
        exit_code: state["ExitCode"].as_i64().unwrap_or_default(),
    }
}

/// With its settings, where they can be told and the caller may know them;
/// secrets left out.
pub(super) fn container_details(inspect: &Value, spec: Option<&Spec>) -> v1::ContainerDetails {
    let policy = &inspect["HostConfig"]["RestartPolicy"];
    let restart_policy =
        match (text(policy, "Name"), policy["MaximumRetryCount"].as_u64().unwrap_or_default()) {
            ("", _) => "no".to_owned(),
            ("on-failure", count @ 1..) => format!("on-failure:{count}"),
            (name, _) => name.to_owned(),
        };
    v1::ContainerDetails {
        container: Some(container(inspect)),
        spec_json: spec.map(|spec| spec_json(&spec.without_secrets())).unwrap_or_default(),
        restart_policy,
        started_unix_ms: unix_ms(text(&inspect["State"], "StartedAt")),
    }
}

/// A spec as its one JSON object; its notes travel apart.
pub(super) fn spec_json(spec: &Spec) -> String {
    let Spec { name, image, image_id, platform, config, host_config, networks, notes: _ } = spec;
    json!({
        "name": name, "image": image, "image_id": image_id, "platform": platform,
        "config": config, "host_config": host_config, "networks": networks,
    })
    .to_string()
}

/// 0 for a time that is not known; the Engine writes the year 1 then.
fn unix_ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).map_or(0, |time| time.timestamp_millis().max(0))
}

/// A mount does not carry its volume's labels: the name has to do.
fn is_random_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn engine(info: EngineInfo) -> v1::Engine {
    let EngineInfo {
        id,
        name,
        version,
        api_version,
        api_version_used,
        operating_system,
        kernel_version,
        architecture: _,
        storage_driver,
        data_root,
        cgroup_version,
        rootless,
        userns_remap,
    } = info;
    v1::Engine {
        id,
        name,
        version,
        api_version,
        api_version_used,
        operating_system,
        kernel_version,
        storage_driver,
        data_root: data_root.display().to_string(),
        cgroup_version,
        rootless,
        userns_remap,
    }
}

pub(super) fn pruned(pruned: Pruned) -> v1::PruneVolumesResponse {
    let Pruned { volumes, kept } = pruned;
    v1::PruneVolumesResponse {
        volumes: volumes.into_iter().map(|removed| volume(removed, Vec::new(), None, None)).collect(),
        kept: kept.into_iter().map(|Kept { name, reason }| v1::KeptVolume { name, reason }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v07_secrets_are_not_listed() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let listed = volume(
            Volume {
                name: "share".to_owned(),
                driver: "local".to_owned(),
                mountpoint: "/x".into(),
                labels: map(&[("app", "shop"), ("api_key", "hunter2")]),
                options: map(&[("device", "//server/share"), ("o", "username=me,password=hunter2")]),
                scope: "local".to_owned(),
                created_at: String::new(),
            },
            Vec::new(),
            None,
            None,
        );
        assert!(!format!("{listed:?}").contains("hunter2"), "{listed:?}");
        assert_eq!(
            (listed.labels["app"].as_str(), listed.options["device"].as_str()),
            ("shop", "//server/share")
        );
        let inspect =
            json!({ "Name": "/c", "Config": { "Labels": { "db.password": "hunter2", "app": "shop" } } });
        let listed = container(&inspect);
        assert!(!format!("{listed:?}").contains("hunter2") && listed.labels["app"] == "shop", "{listed:?}");
    }

    #[test]
    fn v07_a_specification_is_shown_without_its_secrets() {
        let inspect = json!({ "Name": "/c", "Config": {}, "HostConfig": {} });
        let spec = Spec {
            name: "c".to_owned(),
            image: "app".to_owned(),
            image_id: String::new(),
            platform: None,
            config: json!({ "Env": ["MODE=hunter2"], "Cmd": ["serve"] }).as_object().unwrap().clone(),
            host_config: serde_json::Map::new(),
            networks: Vec::new(),
            notes: Vec::new(),
        };
        let shown = container_details(&inspect, Some(&spec)).spec_json;
        assert!(shown.contains("MODE") && shown.contains("serve"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
