//! The other containers of a host, as far as one container's settings name
//! them. Settings name them by id, which is another one as soon as they are
//! recreated; a name stays.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::engine::{Engine, EngineError};

/// What is around a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    /// Ids of containers that had its name before.
    pub former_ids: Vec<String>,
    /// Id and name of every container; empty where nobody looked.
    pub(super) containers: Vec<(String, String)>,
    pub(super) sources: BTreeMap<String, Source>,
}

/// A container whose volumes another one shares.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// Nobody looked.
    Unknown,
    Gone,
    /// With its list of mounts, as inspected.
    Known {
        name: String,
        mounts: Vec<Value>,
    },
}

impl Surroundings {
    /// Looks at what an inspected container names.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn read(engine: &Engine, inspect: &Value, former_ids: &[String]) -> Result<Self, EngineError> {
        let containers = engine.list_containers().await?;
        let mut surroundings = Self {
            former_ids: former_ids.to_vec(),
            containers: containers.into_iter().map(|container| (container.id, container.name)).collect(),
            sources: BTreeMap::new(),
        };
        for entry in inspect["HostConfig"]["VolumesFrom"].as_array().into_iter().flatten() {
            let reference = entry.as_str().unwrap_or_default().split(':').next().unwrap_or_default();
            let source = match engine.inspect_container_json(reference).await {
                Ok(source) => Source::Known {
                    name: super::container_name(&source),
                    mounts: source["Mounts"].as_array().cloned().unwrap_or_default(),
                },
                Err(error) if error.is_not_found() => Source::Gone,
                Err(error) => return Err(error),
            };
            surroundings.sources.insert(reference.to_owned(), source);
        }
        Ok(surroundings)
    }

    pub(super) fn source(&self, reference: &str) -> Source {
        self.sources.get(reference).cloned().unwrap_or(Source::Unknown)
    }

    /// The name of a container told by name, id or the beginning of an id.
    pub(super) fn name_of(&self, reference: &str, setting: &str, notes: &mut Vec<String>) -> String {
        let named = |(_, name): &&(String, String)| name == reference;
        let with_id = |(id, _): &&(String, String)| reference.len() >= 12 && id.starts_with(reference);
        let found = self.containers.iter().find(named).or_else(|| self.containers.iter().find(with_id));
        match found {
            Some((_, name)) => name.clone(),
            None => {
                if !self.containers.is_empty() {
                    notes.push(format!(
                        "container `{reference}`, which its setting {setting} names, is gone: it cannot be recreated like that"
                    ));
                }
                reference.to_owned()
            }
        }
    }
}
