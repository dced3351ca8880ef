//! Makes a container of what somebody asks for, and starts it.

use serde_json::Value;

use crate::engine::{CreatedContainer, Engine, EngineError};

/// A container to make, checked as far as that goes without the Engine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewContainer {
    /// Empty: the Engine gives it one.
    pub name: String,
    pub image: String,
    /// As the Engine's API wants it.
    pub body: Value,
    /// Fetch the image where it is not there.
    pub pull: bool,
    pub start: bool,
}

/// What was asked for and cannot be; nothing was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{}`: {why}", .given.escape_debug())]
pub struct InvalidRun {
    /// The setting: "port", "env", ...
    pub what: &'static str,
    pub given: String,
    pub why: &'static str,
}

/// Makes a container and starts it unless told not to. One that does not start
/// is removed again, with the volumes that were made for it without a name.
///
/// # Errors
/// `NotFound` when the image is not there and was not to be fetched, or cannot
/// be; otherwise what the Engine refuses.
pub(crate) async fn run(engine: &Engine, wanted: &NewContainer) -> Result<CreatedContainer, EngineError> {
    if wanted.pull && !engine.has_image(&wanted.image).await? {
        engine.pull_image(&wanted.image, None).await?;
    }
    let made = engine.create_container_json(&wanted.name, None, &wanted.body).await?;
    if !wanted.start {
        return Ok(made);
    }
    if let Err(error) = engine.start_container(&made.id).await {
        // It never ran, so nothing has written to what goes with it.
        if let Err(left) = engine.remove_container_with(&made.id, true, true).await {
            tracing::warn!(error = %left, container.id = %made.id, "a container that did not start is left");
        }
        return Err(error);
    }
    Ok(made)
}
