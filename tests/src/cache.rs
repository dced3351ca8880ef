//! What the tests build or install once, and keep between runs.

use std::path::PathBuf;

/// Its folder.
///
/// # Errors
/// The environment names neither a cache nor a home.
pub(crate) fn folder() -> Result<PathBuf, String> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("holdfast"))
}
