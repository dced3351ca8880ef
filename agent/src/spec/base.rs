//! Images that an upgrade made of a container, to keep what was in its
//! writable layer. Their configuration is that of the container; what a person
//! set is told from the image the container was made of at first, which they
//! name.

use serde_json::{Map, Value};

use super::text;
use crate::engine::{Engine, EngineError};

/// What the labels of such an image begin with.
pub(crate) const PREFIX: &str = "holdfast.base-";

/// Label with the id of the image that a kept container was made of at first.
pub(crate) const IMAGE: &str = "holdfast.base-image";

/// Label with the reference of that image.
pub(crate) const REFERENCE: &str = "holdfast.base-reference";

/// Label with how much of the container's own is in the image, in words.
pub(crate) const FILES: &str = "holdfast.base-files";

/// The inspected image by which a container's settings are told: itself, unless
/// it is such a one.
///
/// # Errors
/// `NotFound` when the one it names is gone.
pub(crate) async fn of(engine: &Engine, image: Value) -> Result<Value, EngineError> {
    match text(&image["Config"]["Labels"], IMAGE) {
        "" => Ok(image),
        base => engine.inspect_image_json(base).await,
    }
}

/// Takes the labels out and gives the reference they name.
pub(super) fn take(config: &mut Map<String, Value>) -> Option<String> {
    let labels = config.get_mut("Labels")?.as_object_mut()?;
    let reference = labels.get(REFERENCE).and_then(Value::as_str).map(str::to_owned);
    labels.retain(|key, _| !key.starts_with(PREFIX));
    let is_empty = labels.is_empty();
    if is_empty {
        config.remove("Labels");
    }
    reference
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::{Facts, Spec};

    #[test]
    fn a_container_made_of_a_kept_layer_is_told_by_the_image_it_had_at_first() {
        let base = json!({ "Id": "sha256:1", "Config": { "Env": ["A=1"], "Labels": { "v": "1" } } });
        let inspect = json!({
            "Id": "0a", "Name": "/db", "Image": "sha256:kept",
            "Config": { "Image": "holdfast-kept:abc123-0", "Env": ["B=2", "A=1"],
                "Labels": { IMAGE: "sha256:1", REFERENCE: "app:1", FILES: "1 file", "v": "1" } },
            "HostConfig": {},
        });
        let spec = Spec::of(&inspect, &base, &Facts::default(), &[]).unwrap();
        assert_eq!((spec.image.as_str(), spec.image_id.as_str()), ("app:1", "sha256:kept"));
        assert_eq!(Value::from(spec.config), json!({ "Env": ["B=2"] }));
    }
}
