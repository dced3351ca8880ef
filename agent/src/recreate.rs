//! Makes a container of a spec, beside whatever is there.
//!
//! It is made stopped and with the restart policy `no`, so that nothing starts
//! it before whoever made it does; the spec's own policy is set later, by
//! [`Engine::set_restart_policy`]. All its networks are connected before it can
//! start: their order decides its interfaces and its default gateway.
//!
//! A container that the Engine removes as soon as it stops (`AutoRemove`) is
//! made so again. It must not be upgraded by stopping it, as there would be
//! nothing to go back to; that is for the plan of an upgrade to refuse.

use crate::engine::{CreatedContainer, Engine, EngineError};
use crate::spec::{Spec, create, text};

/// A container that was not made. Nothing of it is left, but for
/// [`RecreateError::Left`].
#[derive(Debug, thiserror::Error)]
pub enum RecreateError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("image `{image}` is {found} by now, not {wanted}: look at it and plan again")]
    ImageMoved { image: String, wanted: String, found: String },
    #[error(
        "container `{name}` was only half made ({cause}) and could not be removed again: remove it by hand"
    )]
    Left {
        name: String,
        cause: String,
        #[source]
        source: EngineError,
    },
}

/// Makes a container from a spec: stopped, restart policy `no`, all networks
/// connected. `image` is the reference it will be known by, which must mean
/// `image_id`. What was made is removed again when a later step fails.
///
/// # Errors
/// When the Engine refuses any of it, or the reference means another image.
pub(crate) async fn create(
    engine: &Engine,
    spec: &Spec,
    name: &str,
    image: &str,
    image_id: &str,
) -> Result<CreatedContainer, RecreateError> {
    let plan = create::plan(spec, image, image_id, engine.api_minor().await?);
    // The Engine takes any name here and fails only when it starts.
    for (network, _) in &spec.networks {
        engine.inspect_network_json(network).await?;
    }
    let made = engine.create_container_json(name, spec.platform.as_deref(), &plan.body).await?;
    let Err(error) = complete(engine, &plan, &made.id, image, image_id).await else { return Ok(made) };
    // It never ran. What goes with it are volumes the Engine made for it just
    // now; those of the spec are mounted by name and stay.
    match engine.remove_container_with(&made.id, true, true).await {
        Ok(()) => Err(error),
        Err(source) => Err(RecreateError::Left { name: name.to_owned(), cause: error.to_string(), source }),
    }
}

async fn complete(
    engine: &Engine,
    plan: &create::Plan,
    id: &str,
    image: &str,
    image_id: &str,
) -> Result<(), RecreateError> {
    let seen = engine.inspect_container_json(id).await?;
    let found = text(&seen, "Image");
    if found != image_id {
        return Err(RecreateError::ImageMoved {
            image: image.to_owned(),
            wanted: image_id.to_owned(),
            found: found.to_owned(),
        });
    }
    if let Some(network) = &plan.disconnect {
        engine.disconnect_network(network, id).await?;
    }
    for (network, endpoint) in &plan.connect {
        engine.connect_network(network, id, endpoint).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
