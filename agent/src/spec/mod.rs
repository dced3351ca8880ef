//! What a person set of a container: its configuration less what the image
//! and the Engine set by themselves.
//!
//! The Engine reports a container as it is, which is a merge: settings of the
//! image stand among those of the person, and addresses the Engine gave among
//! addresses that were asked for. A container recreated of all that would pin
//! the old image's defaults, and would clash or lie where the Engine had
//! chosen. So here the merge is undone: the configuration of the image the
//! container *runs* (by id, never by tag) is subtracted field by field, by the
//! rule the Engine merged with, and of what the Engine adds only what was
//! asked for is kept.
//!
//! Read by `services`, `snapshot` and `upgrade`. Changes no container; what is kept
//! of specs lies below the state directory ([`Specs`]).
//!
//! All but the reading is pure. JSON stays JSON throughout, so that a setting
//! newer than this agent is carried, too.

pub(crate) mod base;
mod clean;
mod config;
pub(crate) mod create;
mod defaults;
mod host;
mod mounts;
mod networks;
mod store;
mod surroundings;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub(crate) use self::defaults::Defaults;
pub(crate) use self::store::Specs;
pub(crate) use self::surroundings::Surroundings;
use crate::engine::{Engine, EngineError};
use crate::secrets::{self, REMOVED};

/// A container's settings as a person gave them. Serialises to the object of
/// `ContainerSpec.json`, with keys in a fixed order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Without the leading slash.
    pub name: String,
    /// The reference the container was made with.
    pub image: String,
    /// The image it runs, which that reference may not mean any more.
    pub image_id: String,
    /// "os/architecture[/variant]", where it is not the Engine's own.
    pub platform: Option<String>,
    /// Of `Config`, as the Engine's API names it.
    pub config: Map<String, Value>,
    pub host_config: Map<String, Value>,
    /// Networks it is connected to, the primary one first, the others by name,
    /// each with the settings of its endpoint that were asked for.
    pub networks: Vec<(String, Map<String, Value>)>,
    /// What a reader should know, a sentence each.
    pub notes: Vec<String>,
}

/// What the subtraction needs to know of the Engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    pub api_minor: u32,
    /// The host's own name, which containers in its network get.
    pub host_name: String,
    pub os: String,
    /// In Go's words: "amd64", "arm64", "arm".
    pub architecture: String,
    /// Limits the Engine shows on every container; none where nobody asked.
    pub default_ulimits: Option<Vec<Value>>,
}

/// A container whose settings cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(
        "the image that container `{container}` runs ({image_id}, made as `{image}`) is not on this host any more, so what was set by hand cannot be told from the image's defaults: fetch that very image again, or make the container anew from its compose file"
    )]
    ImageGone { container: String, image: String, image_id: String },
    #[error("the Engine's answer about container `{container}` has no {missing}")]
    Odd { container: String, missing: &'static str },
}

impl Facts {
    /// Asks the Engine. Its default limits are left open: see
    /// [`Engine::default_ulimits`].
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn of(engine: &Engine) -> Result<Self, EngineError> {
        let (version, info) = (engine.version_json().await?, engine.info_json().await?);
        Ok(Self {
            api_minor: engine.api_minor().await?,
            host_name: text(&info, "Name").to_owned(),
            os: text(&version, "Os").to_owned(),
            architecture: text(&version, "Arch").to_owned(),
            default_ulimits: None,
        })
    }

    fn platform_of(&self, image: &Value) -> Option<String> {
        let (os, architecture) = (text(image, "Os"), text(image, "Architecture"));
        let variant = text(image, "Variant");
        // On arm the variant is part of the platform: v6 and v7 are both `arm`.
        let native = os == self.os && architecture == self.architecture;
        if os.is_empty()
            || architecture.is_empty()
            || (native && (architecture != "arm" || variant.is_empty()))
        {
            return None;
        }
        Some(
            [os, architecture, variant]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("/"),
        )
    }
}

impl Spec {
    /// Subtracts. `image` is the inspected image of the id the container runs;
    /// `former_ids` are ids of containers that had its name before. Names of
    /// other containers stay as the Engine reports them.
    ///
    /// # Errors
    /// When the inspected JSON is not that of a container.
    pub fn of(
        inspect: &Value,
        image: &Value,
        facts: &Facts,
        former_ids: &[String],
    ) -> Result<Self, SpecError> {
        Self::within(
            inspect,
            image,
            facts,
            &Surroundings { former_ids: former_ids.to_vec(), ..Default::default() },
        )
    }

    /// As [`Spec::of`], with other containers of the host named by name.
    ///
    /// # Errors
    /// When the inspected JSON is not that of a container.
    pub fn within(
        inspect: &Value,
        image: &Value,
        facts: &Facts,
        surroundings: &Surroundings,
    ) -> Result<Self, SpecError> {
        let name = container_name(inspect);
        let part = |key: &'static str| {
            let odd = SpecError::Odd { container: name.clone(), missing: key };
            inspect.get(key).and_then(Value::as_object).ok_or(odd)
        };
        let (seen, seen_host) = (part("Config")?, part("HostConfig")?);
        let none = Map::new();
        let image_config = image.get("Config").and_then(Value::as_object).unwrap_or(&none);
        let mut notes = Vec::new();

        let mut host_config = host::plain(seen_host, facts, surroundings, &mut notes);
        let covered = mounts::carry(inspect, &mut host_config, surroundings, &mut notes);
        let mut config = config::plain(seen, image_config, &covered);
        networks::hostname(inspect, facts, surroundings, &mut config, &mut notes);
        networks::publish(&host_config, &mut config);
        let networks = networks::endpoints(inspect, facts, surroundings, &mut notes);
        networks::joined(&mut config, &mut host_config);
        let reference = base::take(&mut config);
        Ok(Self {
            image: reference.unwrap_or_else(|| text(&inspect["Config"], "Image").to_owned()),
            image_id: text(inspect, "Image").to_owned(),
            platform: facts.platform_of(image),
            name,
            config,
            host_config,
            networks,
            notes,
        })
    }

    /// Reads a container's settings. Where the Engine shows limits, a container
    /// is made and removed, never started, to see which of them it puts on all.
    ///
    /// # Errors
    /// When there is no such container, or its image is gone.
    pub async fn read(engine: &Engine, id: &str) -> Result<Self, SpecError> {
        let inspect = engine.inspect_container_json(id).await?;
        Self::read_inspected(engine, &inspect, &[]).await
    }

    pub(crate) async fn read_inspected(
        engine: &Engine,
        inspect: &Value,
        former_ids: &[String],
    ) -> Result<Self, SpecError> {
        let image = image_of(engine, inspect).await?;
        let mut facts = Facts::of(engine).await?;
        // The question makes a container, so it is asked only where its answer matters.
        if host::has_ulimits(inspect) {
            facts.default_ulimits = Some(engine.default_ulimits(&image).await?);
        }
        let surroundings = Surroundings::read(engine, inspect, former_ids).await?;
        Self::within(inspect, &image, &facts, &surroundings)
    }

    /// The same without the values of environment variables, all of which may
    /// be secrets, and without what else looks like one.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut spec = self.clone();
        secrets::of_settings(&mut spec.config);
        secrets::of_settings(&mut spec.host_config);
        spec.networks.iter_mut().for_each(|(_, endpoint)| secrets::of_settings(endpoint));
        // Names of variables stay: they show which ones were set.
        if let Some(Value::Array(env)) = spec.config.get_mut("Env") {
            for entry in env {
                if let Some((key, _)) = entry.as_str().and_then(|entry| entry.split_once('=')) {
                    *entry = json!(format!("{key}={REMOVED}"));
                }
            }
        }
        spec
    }

    /// When the Engine starts the container again, as `HostConfig` has it.
    pub fn restart_policy(&self) -> Value {
        self.host_config.get("RestartPolicy").cloned().unwrap_or_else(no_restart)
    }
}

/// The restart policy `no`.
pub(crate) fn no_restart() -> Value {
    json!({ "Name": "no", "MaximumRetryCount": 0 })
}

/// The image by which a container's settings are told: the one it runs, by its
/// id, or the one that names.
async fn image_of(engine: &Engine, inspect: &Value) -> Result<Value, SpecError> {
    let image_id = text(inspect, "Image");
    let found = match engine.inspect_image_json(image_id).await {
        Ok(image) => base::of(engine, image).await,
        failed => failed,
    };
    found.map_err(|error| match error.is_not_found() {
        true => SpecError::ImageGone {
            container: container_name(inspect),
            image: text(&inspect["Config"], "Image").to_owned(),
            image_id: image_id.to_owned(),
        },
        false => error.into(),
    })
}

/// Without the leading slash.
pub(crate) fn container_name(inspect: &Value) -> String {
    text(inspect, "Name").trim_start_matches('/').to_owned()
}

/// A text of an object; empty where it is not there.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The entries of a list; none where it is not there or `null`.
fn list<'a>(object: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a value means the same as none: also to the Engine, but for lists,
/// where it tells empty from absent in a few places.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(entries) => entries.is_empty(),
    }
}

#[cfg(test)]
mod tests;
