//! Removes what a restore wrote into a volume whose content lies elsewhere: in
//! a directory, on a device, on a server. The Engine removes the volume alone,
//! and a second attempt would find its place in use.

use std::os::fd::AsFd as _;
use std::path::Path;

use crate::clone::{CloneError, remove_contents};
use crate::engine::{Engine, EngineError, VolumeName};
use crate::holder::{HolderError, Holders};
use crate::volume_path::{self, ReachError, ReachedVolume};

use super::blocking;

/// What became of a volume's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptied {
    Done,
    /// A container mounts the volume, or the directory it is bound to.
    InUse,
    /// Its root is not the directory that the restore saw to be empty.
    AnotherRoot,
}

/// Why a volume could not be emptied; what is left of it is found again.
#[derive(Debug, thiserror::Error)]
pub enum EmptyError {
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Holder(#[from] HolderError),
    #[error(transparent)]
    Remove(#[from] CloneError),
    #[error("its root directory cannot be looked at: {0}")]
    Root(#[from] rustix::io::Errno),
}

/// Removes everything below the root of a volume if the root is the directory
/// with this inode number.
pub(super) async fn empty(
    engine: &Engine,
    holders: &Holders,
    name: &VolumeName,
    inode: u64,
) -> Result<Emptied, EmptyError> {
    let reached = volume_path::resolve(engine, holders, name).await?;
    let emptied = empty_reached(engine, &reached, name, inode).await;
    let released = reached.release().await;
    let emptied = emptied?;
    released?;
    Ok(emptied)
}

async fn empty_reached(
    engine: &Engine,
    reached: &ReachedVolume,
    name: &VolumeName,
    inode: u64,
) -> Result<Emptied, EmptyError> {
    // Asked with the volume in hand: whoever begins to use it from here on
    // meets a volume that is about to be removed.
    if is_used(engine, reached, name).await? {
        return Ok(Emptied::InUse);
    }
    let root = reached.open_root()?;
    if rustix::fs::fstat(&root)?.st_ino != inode {
        return Ok(Emptied::AnotherRoot);
    }
    let path = reached.path().to_owned();
    blocking(move || remove_contents(root.as_fd(), &path)).await?;
    Ok(Emptied::Done)
}

/// A container may mount the directory of a bind by its path, and not the volume.
async fn is_used(engine: &Engine, reached: &ReachedVolume, name: &VolumeName) -> Result<bool, EngineError> {
    if !engine.volume_users(name).await?.is_empty() {
        return Ok(true);
    }
    let Some(device) = reached.volume().options.get("device").map(Path::new) else { return Ok(false) };
    let containers = engine.list_containers().await?;
    let mut mounts =
        containers.iter().filter(|container| !container.is_holder()).flat_map(|container| &container.mounts);
    Ok(device.is_absolute() && mounts.any(|mount| Path::new(&mount.host_path).starts_with(device)))
}
