//! The containers that use a source, written down with its snapshot: data alone
//! is not yet a service.
//!
//! Values of environment variables, and what else looks like a secret, stay on
//! the host: the snapshot lies in a bucket in clear.

use holdfast_archive::snapshot::ContainerFacts;

use crate::engine::{Engine, EngineError};
use crate::quiesce::{Place, mounts_place};
use crate::spec::Specs;

/// What a snapshot says of each container that mounts the source, running or
/// not. One that cannot be described is left out and logged: a snapshot does
/// not fail for it.
pub(super) async fn describe(engine: &Engine, specs: &Specs, place: &Place) -> Vec<ContainerFacts> {
    match users(engine, specs, place).await {
        Ok(users) => users,
        Err(error) => {
            tracing::warn!(%error, "the containers that use a source are not written down with its snapshot");
            Vec::new()
        }
    }
}

async fn users(engine: &Engine, specs: &Specs, place: &Place) -> Result<Vec<ContainerFacts>, EngineError> {
    let mut facts = Vec::new();
    for summary in engine.list_containers().await?.iter().filter(|container| !container.is_holder()) {
        if !summary.mounts.iter().any(|mount| mounts_place(mount, place)) {
            continue;
        }
        match specs.read(&summary.id).await {
            Ok(spec) => facts.push(ContainerFacts {
                name: spec.name.clone(),
                image: spec.image.clone(),
                image_id: spec.image_id.clone(),
                spec: serde_json::to_string(&spec.without_secrets()).unwrap_or_default(),
            }),
            Err(error) => {
                tracing::warn!(%error, container.name = summary.name, "a container is not written down with the snapshot");
            }
        }
    }
    Ok(facts)
}
