//! How a container is reached: endpoints, host name, ports.
//!
//! An endpoint shows what was asked for beside what the Engine chose. Only the
//! former is known by name here and carried; an address that was handed out
//! must not become one that is demanded.

use serde_json::{Map, Value, json};

use super::surroundings::Surroundings;
use super::{Facts, is_empty, text};

/// What a person can ask of an endpoint, but for aliases and the MAC address.
const ASKED: [&str; 4] = ["IPAMConfig", "Links", "DriverOpts", "GwPriority"];

/// What the Engine reports of an endpoint. `Aliases` and `MacAddress` are both.
const REPORTED: [&str; 12] = [
    "Aliases",
    "MacAddress",
    "NetworkID",
    "EndpointID",
    "Gateway",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "DNSNames",
    "IPAMData",
];

/// What the Engine refuses beside the network of another container.
const NOT_WHEN_JOINED: [&str; 7] =
    ["Links", "Dns", "DnsOptions", "DnsSearch", "ExtraHosts", "PortBindings", "PublishAllPorts"];

/// First API version at which aliases are only those that were asked for.
const PLAIN_ALIASES_MINOR: u32 = 45;

/// First API version at which each endpoint can be given a MAC address.
pub(super) const ENDPOINT_MAC_MINOR: u32 = 44;

/// The networks of a container, the primary one first.
pub(super) fn endpoints(
    inspect: &Value,
    facts: &Facts,
    surroundings: &Surroundings,
    notes: &mut Vec<String>,
) -> Vec<(String, Map<String, Value>)> {
    let mode = text(&inspect["HostConfig"], "NetworkMode");
    if mode.starts_with("container:") {
        return Vec::new();
    }
    let seen = inspect["NetworkSettings"]["Networks"].as_object();
    let mut endpoints: Vec<(String, Map<String, Value>)> = seen
        .into_iter()
        .flatten()
        .map(|(name, endpoint)| {
            let primary = is_primary(mode, name, endpoint);
            (name.clone(), asked_of(inspect, name, endpoint, primary, facts, surroundings, notes))
        })
        .collect();
    let primary = |name: &String| seen.is_some_and(|seen| is_primary(mode, name, &seen[name]));
    endpoints.sort_by(|(left, _), (right, _)| (!primary(left), left).cmp(&(!primary(right), right)));
    endpoints
}

/// Whether a network mode means a network of a name, and which.
pub(super) fn primary_name(mode: &str) -> Option<&str> {
    match mode {
        "" | "default" | "bridge" => Some("bridge"),
        "none" | "host" => None,
        mode if mode.starts_with("container:") => None,
        mode => Some(mode),
    }
}

fn is_primary(mode: &str, name: &str, endpoint: &Value) -> bool {
    let id = text(endpoint, "NetworkID");
    primary_name(mode).unwrap_or(mode) == name || (!id.is_empty() && mode.len() >= 12 && id.starts_with(mode))
}

fn asked_of(
    inspect: &Value,
    name: &str,
    endpoint: &Value,
    primary: bool,
    facts: &Facts,
    surroundings: &Surroundings,
    notes: &mut Vec<String>,
) -> Map<String, Value> {
    let mut asked = Map::new();
    if matches!(name, "none" | "host") {
        return asked;
    }
    // What is on neither list is of a newer Engine. It may be a value the Engine gave,
    // which would be pinned if it were carried: it is said instead.
    for (key, value) in endpoint.as_object().into_iter().flatten() {
        if ASKED.contains(&key.as_str()) {
            if !is_empty(value) && value != 0 {
                asked.insert(key.clone(), value.clone());
            }
        } else if !REPORTED.contains(&key.as_str()) && !is_empty(value) && value != 0 {
            notes.push(format!(
                "`{key}` of its endpoint in network `{name}` is not known here and not carried"
            ));
        }
    }
    // The default bridge knows no aliases and refuses them.
    if name != "bridge" {
        let aliases = aliases(inspect, endpoint, facts, surroundings);
        if !aliases.is_empty() {
            asked.insert("Aliases".to_owned(), json!(aliases));
        }
    }
    if let Some(address) = mac_address(inspect, name, endpoint, primary, facts, notes) {
        asked.insert("MacAddress".to_owned(), json!(address));
    }
    asked
}

/// Aliases less those the Engine added: ids of this container and of those it
/// replaced, and on an older API its host name, which is added again.
fn aliases(inspect: &Value, endpoint: &Value, facts: &Facts, surroundings: &Surroundings) -> Vec<String> {
    let host_name = text(&inspect["Config"], "Hostname");
    let mut aliases: Vec<String> = Vec::new();
    for alias in endpoint["Aliases"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let added = is_id(inspect, surroundings, alias)
            || (facts.api_minor < PLAIN_ALIASES_MINOR && alias == host_name);
        if !added && !aliases.iter().any(|known| known == alias) {
            aliases.push(alias.to_owned());
        }
    }
    aliases
}

/// Whether a text is the short or whole id of this container or a former one.
fn is_id(inspect: &Value, surroundings: &Surroundings, text_: &str) -> bool {
    let ids = surroundings.former_ids.iter().map(String::as_str).chain([text(inspect, "Id")]);
    ids.into_iter().any(|id| id == text_ || id.get(..12) == Some(text_))
}

/// A MAC address that was asked for. Of the primary network the pinned API
/// versions tell it apart, in `Config`. Of another one nothing does while the
/// container runs, so there a generated one is assumed and said.
fn mac_address(
    inspect: &Value,
    name: &str,
    endpoint: &Value,
    primary: bool,
    facts: &Facts,
    notes: &mut Vec<String>,
) -> Option<String> {
    if primary {
        return Some(text(&inspect["Config"], "MacAddress").to_owned()).filter(|address| !address.is_empty());
    }
    let address = text(endpoint, "MacAddress");
    if facts.api_minor < ENDPOINT_MAC_MINOR || address.is_empty() || address == generated_mac(endpoint) {
        return None;
    }
    // A stopped container has no generated one.
    if inspect["State"]["Running"] == false {
        return Some(address.to_owned());
    }
    notes.push(format!(
        "whether its MAC address {address} in network `{name}` was asked for cannot be told while it runs; it is taken for one the Engine made"
    ));
    None
}

/// As Engines before 28 make one, of the IPv4 address.
fn generated_mac(endpoint: &Value) -> String {
    let octets = text(endpoint, "IPAddress").split('.').map(str::parse::<u8>).collect::<Result<Vec<_>, _>>();
    match octets.as_deref() {
        Ok([a, b, c, d]) => format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
        _ => String::new(),
    }
}

/// The host name, where a person gave one: not the id of this container or of
/// one that it replaced, and not the host's own.
pub(super) fn hostname(
    inspect: &Value,
    facts: &Facts,
    surroundings: &Surroundings,
    config: &mut Map<String, Value>,
    notes: &mut Vec<String>,
) {
    let (seen, host) = (text(&inspect["Config"], "Hostname"), &inspect["HostConfig"]);
    let the_hosts = text(host, "NetworkMode") == "host" && seen == facts.host_name;
    // The Engine refuses a name of its own there.
    let shared = text(host, "UTSMode") == "host";
    if seen.is_empty() || the_hosts || shared || is_id(inspect, surroundings, seen) {
        return;
    }
    if looks_like_an_id(seen) {
        notes.push(format!(
            "its host name `{seen}` looks like the id of a container that another tool replaced; asked for a clean spec it goes"
        ));
    }
    config.insert("Hostname".to_owned(), json!(seen));
}

pub(super) fn looks_like_an_id(name: &str) -> bool {
    name.len() == 12 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A port can be published only where it is exposed, which a new image need
/// not do.
pub(super) fn publish(host: &Map<String, Value>, config: &mut Map<String, Value>) {
    let Some(Value::Object(bindings)) = host.get("PortBindings") else { return };
    if bindings.is_empty() {
        return;
    }
    let exposed = config.entry("ExposedPorts").or_insert_with(|| json!({}));
    if let Value::Object(exposed) = exposed {
        for port in bindings.keys() {
            exposed.entry(port.clone()).or_insert_with(|| json!({}));
        }
    }
}

/// In the network of another container all this belongs to that one. The
/// Engine copies its host and domain name over.
pub(super) fn joined(config: &mut Map<String, Value>, host: &mut Map<String, Value>) {
    let mode = host.get("NetworkMode").and_then(Value::as_str).unwrap_or_default();
    if !mode.starts_with("container:") {
        return;
    }
    for key in NOT_WHEN_JOINED {
        host.remove(key);
    }
    for key in ["Hostname", "Domainname", "ExposedPorts"] {
        config.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const FORMER: &str = "aaaaaaaaaaaa0000000000000000000000000000000000000000000000000000";

    fn container(mode: &str, networks: Value) -> Value {
        json!({
            "Id": ID, "Name": "/web", "State": { "Running": true },
            "Config": { "Hostname": "webhost" }, "HostConfig": { "NetworkMode": mode },
            "NetworkSettings": { "Networks": networks },
        })
    }

    fn of(inspect: &Value, api_minor: u32) -> (Value, Vec<String>) {
        let surroundings = Surroundings { former_ids: vec![FORMER.to_owned()], ..Default::default() };
        let mut notes = Vec::new();
        let facts = Facts { api_minor, ..Default::default() };
        (json!(endpoints(inspect, &facts, &surroundings, &mut notes)), notes)
    }

    #[test]
    fn addresses_that_were_handed_out_are_not_demanded() {
        let inspect = container(
            "back",
            json!({
                "back": { "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "IPAddress": "10.0.0.9", "Gateway": "10.0.0.1",
                    "Links": null, "DriverOpts": { "o": "1" }, "GwPriority": 5, "MacAddress": "02:42:0a:00:00:09",
                    "Aliases": ["db", "webhost", "0123456789ab", "aaaaaaaaaaaa", "db"], "NetworkID": "n", "EndpointID": "e" },
                "alpha": { "IPAMConfig": {}, "IPAddress": "10.1.0.2", "DriverOpts": null, "GwPriority": 0, "Newest": 7 },
            }),
        );
        let (seen, notes) = of(&inspect, 41);
        let expected = json!([
            ["back", { "IPAMConfig": { "IPv4Address": "10.0.0.9" }, "DriverOpts": { "o": "1" }, "GwPriority": 5, "Aliases": ["db"] }],
            ["alpha", {}],
        ]);
        assert_eq!((seen, notes.len()), (expected, 1), "{notes:?}");
        let (seen, _) = of(&inspect, 48);
        assert_eq!(seen[0][1]["Aliases"], json!(["db", "webhost"]));
    }

    #[test]
    fn a_mac_address_is_carried_only_where_it_was_asked_for() {
        let mut inspect = container(
            "a",
            json!({
                "a": { "MacAddress": "02:42:0a:00:00:09", "IPAddress": "10.0.0.9" },
                "b": { "MacAddress": "02:42:0a:01:00:09", "IPAddress": "10.1.0.9" },
                "c": { "MacAddress": "76:11:22:33:44:55", "IPAddress": "10.2.0.9" },
            }),
        );
        let (seen, notes) = of(&inspect, 48);
        assert_eq!((seen, notes.len()), (json!([["a", {}], ["b", {}], ["c", {}]]), 1));
        inspect["Config"]["MacAddress"] = json!("02:11:22:33:44:55");
        inspect["State"]["Running"] = json!(false);
        let (seen, notes) = of(&inspect, 48);
        assert_eq!(
            (&seen[0][1]["MacAddress"], &seen[2][1]["MacAddress"]),
            (&json!("02:11:22:33:44:55"), &json!("76:11:22:33:44:55"))
        );
        assert!(notes.is_empty());
        assert_eq!(of(&inspect, 41).0[2][1], json!({}));
    }

    #[test]
    fn the_default_bridge_is_primary_and_takes_no_alias() {
        let inspect = container("default", json!({ "alpha": {}, "bridge": { "Aliases": ["x"] } }));
        assert_eq!(of(&inspect, 41).0, json!([["bridge", {}], ["alpha", {}]]));
        assert_eq!(of(&container("container:x", json!({ "a": {} })), 41).0, json!([]));
    }

    #[test]
    fn a_host_name_that_is_an_id_or_the_hosts_goes() {
        let named = |name: &str, host: Value| {
            let inspect = json!({ "Id": ID, "Config": { "Hostname": name }, "HostConfig": host });
            let facts = Facts { host_name: "vm".to_owned(), ..Default::default() };
            let surroundings = Surroundings { former_ids: vec![FORMER.to_owned()], ..Default::default() };
            let (mut config, mut notes) = (Map::new(), Vec::new());
            hostname(&inspect, &facts, &surroundings, &mut config, &mut notes);
            (config.contains_key("Hostname"), notes.len())
        };
        for gone in ["0123456789ab", "aaaaaaaaaaaa", ""] {
            assert_eq!(named(gone, json!({})), (false, 0), "{gone}");
        }
        assert_eq!(named("vm", json!({ "NetworkMode": "host" })), (false, 0));
        assert_eq!(named("vm", json!({ "NetworkMode": "a" })), (true, 0));
        assert_eq!(named("web", json!({ "UTSMode": "host" })), (false, 0));
        assert_eq!(named("bbbbbbbbbbbb", json!({})), (true, 1));
    }

    #[test]
    fn in_the_network_of_another_container_nothing_is_published() {
        let mut host = json!({ "NetworkMode": "container:x", "PortBindings": { "80/tcp": [] }, "Dns": ["1.1.1.1"], "CapAdd": ["A"] });
        let mut config = json!({ "Hostname": "h", "ExposedPorts": {}, "User": "1" });
        joined(config.as_object_mut().unwrap(), host.as_object_mut().unwrap());
        assert_eq!(
            (host, config),
            (json!({ "NetworkMode": "container:x", "CapAdd": ["A"] }), json!({ "User": "1" }))
        );
    }
}
