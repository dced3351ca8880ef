//! A spec as the body of a request to make a container.

use serde_json::{Map, Value, json};

use super::networks::{ENDPOINT_MAC_MINOR, primary_name};
use super::{Spec, no_restart};

/// Label in which compose keeps the id of the image a container was made of;
/// another one there makes it make the container anew.
const COMPOSE_IMAGE: &str = "com.docker.compose.image";

/// How to make a container of a spec, in steps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub(crate) body: Value,
    /// Networks to connect before it starts, in this order.
    pub(crate) connect: Vec<(String, Value)>,
    /// A network the Engine connects it to by its mode, where the container
    /// had been disconnected from it.
    pub(crate) disconnect: Option<String>,
}

/// Decides how to make a container of `image` that has the settings of `spec`
/// and is never started by the Engine on its own.
pub(crate) fn plan(spec: &Spec, image: &str, image_id: &str, api_minor: u32) -> Plan {
    let mut body = spec.config.clone();
    body.insert("Image".to_owned(), json!(image));
    // Of the image it had it keeps what is there, which need not be that id.
    if image_id != spec.image_id
        && let Some(label) = body.get_mut("Labels").and_then(|labels| labels.get_mut(COMPOSE_IMAGE))
    {
        *label = json!(image_id);
    }
    let mut host = spec.host_config.clone();
    host.insert("RestartPolicy".to_owned(), no_restart());
    let mode = host.get("NetworkMode").and_then(Value::as_str).unwrap_or_default();
    let primary = primary_name(mode);
    let is_primary = |index: usize, name: &str| {
        index == 0
            && (primary == Some(name) || primary.is_some_and(|mode| is_id(mode) && !spec.has_network(mode)))
    };
    let disconnect = primary.filter(|_| spec.networks.first().is_none_or(|(name, _)| !is_primary(0, name)));

    let (mut endpoints, mut connect) = (Map::new(), Vec::new());
    for (index, (name, asked)) in spec.networks.iter().enumerate() {
        if matches!(name.as_str(), "none" | "host") {
            continue;
        }
        let mut asked = asked.clone();
        if is_primary(index, name) {
            if api_minor < ENDPOINT_MAC_MINOR
                && let Some(address) = asked.remove("MacAddress")
            {
                body.insert("MacAddress".to_owned(), address);
            }
            endpoints.insert(name.clone(), asked.into());
        } else if api_minor >= ENDPOINT_MAC_MINOR {
            endpoints.insert(name.clone(), asked.into());
        } else {
            connect.push((name.clone(), asked.into()));
        }
    }
    let disconnect = disconnect.map(str::to_owned);
    body.insert("HostConfig".to_owned(), host.into());
    if !endpoints.is_empty() {
        body.insert("NetworkingConfig".to_owned(), json!({ "EndpointsConfig": endpoints }));
    }
    Plan { body: body.into(), connect, disconnect }
}

/// Whether a mode may name its network by id.
fn is_id(mode: &str) -> bool {
    mode.len() >= 12 && mode.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Spec {
    fn has_network(&self, wanted: &str) -> bool {
        self.networks.iter().any(|(name, _)| name == wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(mode: &str, networks: Value) -> Spec {
        let object = |value: Value| value.as_object().cloned().unwrap();
        Spec {
            name: "web".to_owned(),
            image: "app:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            platform: None,
            config: object(json!({ "Labels": { COMPOSE_IMAGE: "sha256:1", "a": "1" } })),
            host_config: object(
                json!({ "NetworkMode": mode, "RestartPolicy": { "Name": "always" }, "AutoRemove": true }),
            ),
            networks: serde_json::from_value(networks).unwrap(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn it_is_not_started_by_the_engine_and_compose_finds_its_image() {
        let plan = plan(&spec("none", json!([["none", {}]])), "app:2", "sha256:2", 41);
        let expected = json!({
            "Image": "app:2",
            "Labels": { COMPOSE_IMAGE: "sha256:2", "a": "1" },
            "HostConfig": { "NetworkMode": "none", "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 }, "AutoRemove": true },
        });
        assert_eq!((plan.body, plan.connect, plan.disconnect), (expected, Vec::new(), None));
    }

    #[test]
    fn an_older_engine_is_given_one_network_and_the_others_in_order() {
        let spec = spec(
            "b",
            json!([["b", { "MacAddress": "02:11:22:33:44:55" }], ["a", { "Aliases": ["x"] }], ["c", {}]]),
        );
        let older = plan(&spec, "app:2", "sha256:2", 43);
        assert_eq!(older.body["MacAddress"], "02:11:22:33:44:55");
        assert_eq!(older.body["NetworkingConfig"], json!({ "EndpointsConfig": { "b": {} } }));
        assert_eq!(json!(older.connect), json!([["a", { "Aliases": ["x"] }], ["c", {}]]));
        let newer = plan(&spec, "app:2", "sha256:2", 44);
        assert!(newer.body.get("MacAddress").is_none() && newer.connect.is_empty());
        let expected =
            json!({ "a": { "Aliases": ["x"] }, "b": { "MacAddress": "02:11:22:33:44:55" }, "c": {} });
        assert_eq!(newer.body["NetworkingConfig"]["EndpointsConfig"], expected);
    }

    #[test]
    fn a_network_it_was_disconnected_from_is_left_again() {
        let plan_of = |mode: &str, networks: Value| plan(&spec(mode, networks), "app:2", "sha256:2", 41);
        let plan = plan_of("a", json!([["b", {}]]));
        assert_eq!((plan.disconnect.as_deref(), plan.connect.len()), (Some("a"), 1));
        assert_eq!(plan_of("default", json!([])).disconnect.as_deref(), Some("bridge"));
        assert_eq!(plan_of("default", json!([["bridge", {}]])).disconnect, None);
        assert_eq!(plan_of(&"0a".repeat(32), json!([["a", {}]])).disconnect, None);
        assert_eq!(plan_of("container:x", json!([])).disconnect, None);
    }
}
