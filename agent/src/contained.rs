//! Directories of the host as an agent in a container sees them.
//!
//! Its own image has an `/etc` and an `/srv`, too. Reading those, or restoring
//! into them, would succeed and be worth nothing, so a directory has to be on a
//! bind of the same path: then it is the host's, and the containers that use it
//! are found under the same name.

use std::path::{Path, PathBuf};

use holdfast_proto::ErrorCode;

use crate::engine::{Engine, EngineError, Mount, MountKind};

/// Why a directory is not taken for the host's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContainedError {
    #[error(
        "directory `{}` is not the host's: nothing is mounted there in the agent's container `{container}`, so it is one of its own image; make that container anew with `-v {}:{}:rslave`, in compose.yaml under the agent's `volumes`",
        .path.display(), .path.display(), .path.display()
    )]
    NotMounted { container: String, path: PathBuf },
    #[error(
        "directory `{}` in the agent's container `{container}` is {source_text} on the host: mount each directory at its own path, as `-v {}:{}:rslave`",
        .path.display(), .host_path.display(), .host_path.display()
    )]
    Elsewhere { container: String, path: PathBuf, host_path: PathBuf, source_text: String },
    #[error("what is mounted into the agent's own container cannot be asked for")]
    Engine(#[from] EngineError),
}

impl ContainedError {
    /// Error code for events.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotMounted { .. } | Self::Elsewhere { .. } => ErrorCode::NotMounted,
            Self::Engine(error) => error.kind().code(),
        }
    }
}

/// Refuses a directory that is not the host's of that path. `container` is the
/// id of the one this process runs in; without it every directory is the
/// host's. `path` is real: it leads over no link.
///
/// # Errors
/// What is refused, with the mount that is missing.
pub(crate) async fn check(
    engine: &Engine,
    container: Option<&str>,
    path: &Path,
) -> Result<(), ContainedError> {
    let Some(id) = container else { return Ok(()) };
    let own = engine.inspect_container(id).await?;
    judge(&own.name, &own.mounts, path)
}

fn judge(container: &str, mounts: &[Mount], path: &Path) -> Result<(), ContainedError> {
    let target = |mount: &Mount| {
        let target = Path::new(&mount.target);
        target.canonicalize().unwrap_or_else(|_| target.to_owned())
    };
    let innermost = mounts
        .iter()
        .map(|mount| (target(mount), mount))
        .filter(|(target, _)| path.starts_with(target))
        .max_by_key(|(target, _)| target.components().count());
    let (container, path) = (container.to_owned(), path.to_owned());
    let Some((target, mount)) = innermost else {
        return Err(ContainedError::NotMounted { container, path });
    };
    let below = path.strip_prefix(&target).unwrap_or(Path::new(""));
    // Joined with nothing it would end in a slash.
    let host_path = Path::new(&mount.host_path).join(below).components().collect::<PathBuf>();
    match mount.kind {
        // On some hosts `/var/run` is a link: the Engine gives the path as it was told.
        MountKind::Bind if host_path == path || Path::new(&mount.host_path) == Path::new(&mount.target) => {
            Ok(())
        }
        MountKind::Bind => {
            let source_text = format!("`{}`", host_path.display());
            Err(ContainedError::Elsewhere { container, path, host_path, source_text })
        }
        MountKind::Volume => {
            let source_text = format!("volume `{}`", mount.source);
            Err(ContainedError::Elsewhere { container, path, host_path, source_text })
        }
        MountKind::Tmpfs | MountKind::Other => Err(ContainedError::NotMounted { container, path }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;

    fn mount(kind: MountKind, host_path: &str, target: &str) -> Mount {
        fake::mount(kind, "state", host_path, target)
    }

    #[test]
    fn v22_only_a_bind_of_the_same_path_is_the_hosts_directory() {
        let mounts = [
            mount(MountKind::Bind, "/nowhere/srv/data", "/nowhere/srv/data"),
            mount(MountKind::Bind, "/nowhere/disk", "/nowhere/other"),
            mount(MountKind::Volume, "/docker/volumes/state/_data", "/nowhere/state"),
            mount(MountKind::Tmpfs, "", "/nowhere/srv/data/tmp"),
        ];
        let check = |path: &str| judge("agent", &mounts, Path::new(path)).map_err(|error| error.to_string());
        assert_eq!(check("/nowhere/srv/data"), Ok(()));
        assert_eq!(check("/nowhere/srv/data/below"), Ok(()));
        for path in ["/nowhere/srv", "/nowhere/srv/database", "/nowhere/srv/data/tmp/x"] {
            let error = check(path).unwrap_err();
            assert!(
                error.contains(&format!("-v {path}:{path}:rslave")) && error.contains("`agent`"),
                "{error}"
            );
        }
        let error = check("/nowhere/other/x").unwrap_err();
        assert!(error.contains("`/nowhere/disk/x`") && error.contains("-v /nowhere/disk/x:"), "{error}");
        let error = check("/nowhere/state").unwrap_err();
        assert!(error.contains("volume `state`"), "{error}");
    }
}
