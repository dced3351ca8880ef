//! One number for everything a plan depends on, so that a stored plan is run
//! only while the world is as it was. Pure.
//!
//! Sizes, free space, health and when the container was started are left out:
//! they change nothing in what will be done, and the snapshot before may itself
//! stop and start the container. Refusals count by what they are, since
//! their sentences hold sizes.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a plan depends on. The field names are part of the number.
#[derive(Debug, Serialize)]
pub(super) struct World<'a> {
    pub(super) container_id: &'a str,
    pub(super) state: &'a str,
    pub(super) spec: Value,
    pub(super) from_image_id: &'a str,
    pub(super) to_image: &'a str,
    pub(super) to_image_id: &'a str,
    /// Ids, in order.
    pub(super) stops: Vec<&'a str>,
    /// Names and paths.
    pub(super) sources: Vec<(String, String)>,
    pub(super) losses: Vec<&'a str>,
    /// Codes and subjects.
    pub(super) refusals: Vec<(&'a str, &'a str)>,
}

impl World<'_> {
    /// 64 hexadecimal digits.
    pub(super) fn fingerprint(&self) -> String {
        let value = serde_json::to_value(self).expect("strings, lists and JSON become JSON");
        let mut text = String::new();
        write(&value, &mut text);
        hex::encode(Sha256::digest(text.as_bytes()))
    }
}

/// JSON with the keys of every object in order, whatever order the Engine or
/// a map here gave them.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(&map[key], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn world(spec: Value) -> World<'static> {
        World {
            container_id: "c1",
            state: "running",
            spec,
            from_image_id: "i1",
            to_image: "app:2",
            to_image_id: "i2",
            stops: vec!["c2", "c1"],
            sources: vec![("data".into(), "/v/data".into())],
            losses: vec!["tmpfs:/run"],
            refusals: vec![("state", "db")],
        }
    }

    #[test]
    fn the_same_world_has_the_same_fingerprint_in_whatever_order() {
        let one = serde_json::from_str(r#"{"a":{"x":1,"y":[1,2]},"b":2}"#).unwrap();
        let two = serde_json::from_str(r#"{"b":2,"a":{"y":[1,2],"x":1}}"#).unwrap();
        assert_eq!(world(one).fingerprint(), world(two).fingerprint());
        assert_eq!(world(json!({})).fingerprint().len(), 64);
    }

    #[test]
    fn every_part_of_the_world_is_in_the_fingerprint() {
        let mut all = [
            world(json!({})),
            world(json!({ "a": [1, 2] })),
            world(json!({ "a": [2, 1] })),
            World { container_id: "x", ..world(json!({})) },
            World { state: "exited", ..world(json!({})) },
            World { from_image_id: "x", ..world(json!({})) },
            World { to_image: "x", ..world(json!({})) },
            World { to_image_id: "x", ..world(json!({})) },
            World { stops: vec!["c1", "c2"], ..world(json!({})) },
            World { sources: vec![("data".into(), "/v/other".into())], ..world(json!({})) },
            World { losses: vec![], ..world(json!({})) },
            World { refusals: vec![("state", "db2")], ..world(json!({})) },
        ]
        .iter()
        .map(World::fingerprint)
        .collect::<Vec<_>>();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
