//! What of Holdfast itself lies on this host: it is never backed up, and no call
//! restores into it, removes it or puts something else in its place.
//!
//! A repository that is backed up into itself grows with every run, a
//! controller that is paused cannot take the upload it was paused for, and the
//! state directories hold private keys, which a bucket must not have.
//!
//! Places are known in three ways: by the containers and volumes with the label
//! of Holdfast's own, by the agent's own state directory, and by what the
//! controller says of its directories in its greeting. That last is believed
//! only from a controller on the same kernel, and compared by device and inode:
//! the same path in a container is another directory. Nothing that lies in the
//! data decides, or a container could take itself out of the backups.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::controller::{Controller, OwnDirectory};
use crate::engine::{Container, ContainerSummary, Engine, EngineError, MountKind, Role, Volume, VolumeName};

/// Where an agent's image keeps its state, for agents other than this one.
const AGENT_STATE: &str = "/var/lib/holdfast-agent";

/// Directories above a source that are looked at.
const DEPTH: usize = 256;

/// Finds what is Holdfast's own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Own {
    engine: Engine,
    /// The container this process runs in.
    container: Option<String>,
    state_dir: PathBuf,
    controller: Controller,
}

/// One place that is never backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Rest of a sentence that begins with what is found there.
    what: String,
    /// Name, where it is on a volume.
    volume: Option<String>,
    path: PathBuf,
    /// Device and inode, where another process told them.
    id: Option<(u64, u64)>,
}

/// Everything of Holdfast's on this host at one moment.
#[derive(Debug, Clone, Default)]
pub struct OwnPlaces {
    places: Vec<Place>,
}

/// Why a source is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("`{name}` is never backed up: it is Holdfast's own, {what}")]
    Is { name: String, what: String },
    #[error("`{name}` is never backed up: it lies in {}, which is Holdfast's own, {what}", .path.display())]
    Below { name: String, path: PathBuf, what: String },
    #[error(
        "`{name}` is not backed up, because {} in it is Holdfast's own, {what}: name the directories beside that one instead, or move it away",
        .path.display()
    )]
    Above { name: String, path: PathBuf, what: String },
}

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnRefused {
    #[error(
        "volume `{name}` is Holdfast's own, {what}: Holdfast neither makes, fills nor removes it; choose another volume, or on its host, with what uses it gone: docker volume rm {name}"
    )]
    Volume { name: String, what: String },
    #[error(
        "container `{name}` is Holdfast's own, the {what}: Holdfast neither stops nor removes it; on its host: docker stop {name}, docker rm {name}"
    )]
    Container { name: String, what: &'static str },
    #[error(
        "nothing is restored to {}: it lies in {}, which is Holdfast's own, {what}; choose a directory elsewhere",
        .target.display(),
        .path.display()
    )]
    Directory { target: PathBuf, path: PathBuf, what: String },
}

/// Why it is not known, or not allowed, to change something.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Refused(#[from] OwnRefused),
    #[error("what on this host is Holdfast's own is not known")]
    Unknown(#[from] EngineError),
}

impl Own {
    /// `container` is the id of the container the agent runs in, if any.
    pub fn new(
        engine: Engine,
        container: Option<String>,
        state_dir: PathBuf,
        controller: Controller,
    ) -> Self {
        Self { engine, container, state_dir, controller }
    }

    /// The id of the container the agent runs in, if any.
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// Refuses to make, fill or remove a volume that is Holdfast's own. One that
    /// is not there is nobody's.
    ///
    /// # Errors
    /// What is refused, or that the Engine cannot be asked.
    pub async fn refuse_volume(&self, name: &VolumeName) -> Result<(), ChangeError> {
        let volume = match self.engine.inspect_volume(name).await {
            Ok(volume) => volume,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match self.look().await?.volume(&volume) {
            None => Ok(()),
            Some(what) => Err(OwnRefused::Volume { name: volume.name, what }.into()),
        }
    }

    /// Refuses to stop or remove a container that is Holdfast's own.
    ///
    /// # Errors
    /// What is refused.
    pub fn refuse_container(&self, container: &Container) -> Result<(), OwnRefused> {
        let this = self.container.as_deref() == Some(container.id.as_str());
        let what = match (this, container.role()) {
            (true, _) => "agent of this host",
            (false, Some(role)) => role.as_str(),
            (false, None) => return Ok(()),
        };
        Err(OwnRefused::Container { name: container.name.clone(), what })
    }

    /// Looks at the host as it is now.
    ///
    /// # Errors
    /// When the Engine cannot be asked.
    pub async fn look(&self) -> Result<OwnPlaces, EngineError> {
        Ok(self.places(&self.engine.list_containers().await?))
    }

    /// The same, of containers that were listed already.
    pub fn places(&self, containers: &[ContainerSummary]) -> OwnPlaces {
        let mut places: Vec<Place> =
            containers.iter().flat_map(|container| self.of_container(container)).collect();
        places.push(Place {
            what: "the state of this host's agent".to_owned(),
            volume: None,
            path: self.state_dir.canonicalize().unwrap_or_else(|_| self.state_dir.clone()),
            id: None,
        });
        let greeting = self.controller.last();
        let told = greeting.into_iter().flat_map(|greeting| greeting.own);
        places.extend(told.map(|directory| of_controller(directory, containers)));
        OwnPlaces { places }
    }

    fn of_container(&self, container: &ContainerSummary) -> Vec<Place> {
        let this = self.container.as_deref() == Some(container.id.as_str());
        let Some(role) = container.role().or(this.then_some(Role::Agent)) else { return Vec::new() };
        let state_dir = if this { self.state_dir.as_path() } else { Path::new(AGENT_STATE) };
        let places = container.mounts.iter().filter(|mount| !mount.read_only).filter_map(|mount| {
            // An agent mounts what it is to read as well, so only the mount of
            // its state is its own. What a controller binds, it tells itself.
            let below = match role {
                Role::Controller if mount.kind == MountKind::Volume => Path::new(""),
                Role::Controller => return None,
                Role::Agent => state_dir.strip_prefix(&mount.target).ok()?,
            };
            matches!(mount.kind, MountKind::Volume | MountKind::Bind).then(|| Place {
                what: format!("the state of the {} in container `{}`", role.as_str(), container.name),
                volume: (mount.kind == MountKind::Volume).then(|| mount.source.clone()),
                path: Path::new(&mount.host_path).join(below),
                id: None,
            })
        });
        places.collect()
    }
}

/// A directory as a controller told it. Where that runs in a container, its
/// path on the host is found by the container's mounts.
fn of_controller(directory: OwnDirectory, containers: &[ContainerSummary]) -> Place {
    let OwnDirectory { what, path, device, inode } = directory;
    let id = (device, inode);
    let controllers = containers.iter().filter(|container| container.role() == Some(Role::Controller));
    let on_host = controllers.flat_map(|container| &container.mounts).find_map(|mount| {
        let below = path.strip_prefix(&mount.target).ok()?;
        let path = Path::new(&mount.host_path).join(below);
        (id_at(&path) == Some(id)).then_some(path)
    });
    Place { what, volume: None, path: on_host.unwrap_or(path), id: Some(id) }
}

impl OwnPlaces {
    /// Why a volume is Holdfast's own; none for everybody else's.
    pub fn volume(&self, volume: &Volume) -> Option<String> {
        let on_it = |place: &&Place| place.volume.as_deref() == Some(volume.name.as_str());
        if let Some(place) = self.places.iter().find(on_it) {
            return Some(place.what.clone());
        }
        if let Some(role) = volume.role() {
            return Some(format!("the state of a Holdfast {}, by its label", role.as_str()));
        }
        let root = &volume.mountpoint;
        let inside = |place: &&Place| root.has_root() && place.path.starts_with(root) && place.is_visible();
        self.places.iter().find(inside).map(|place| place.what.clone())
    }

    /// Refuses a source that is one of these places, lies in one, or has one
    /// in it. `root` is a handle of the source's root.
    ///
    /// # Errors
    /// What is refused, with the place.
    pub fn check(&self, name: &str, root: impl AsFd) -> Result<(), Refused> {
        let above = chain(root);
        let Some(&root) = above.first() else { return Ok(()) };
        for place in &self.places {
            let Place { what, path, .. } = place.clone();
            let name = name.to_owned();
            // A place that is not there holds nothing.
            let Some(id) = place.id() else { continue };
            if id == root {
                return Err(Refused::Is { name, what });
            }
            if above.contains(&id) {
                return Err(Refused::Below { name, path, what });
            }
            if place.is_visible() && open(&place.path).is_some_and(|own| chain(own).contains(&root)) {
                return Err(Refused::Above { name, path, what });
            }
        }
        Ok(())
    }
}

impl OwnPlaces {
    /// Refuses a restore to `target`, which is to lie in the directory `parent`
    /// is a handle of, where that is one of these places or lies in one.
    ///
    /// # Errors
    /// What is refused, with the place.
    pub fn check_target(&self, target: &Path, parent: impl AsFd) -> Result<(), OwnRefused> {
        let above = chain(parent);
        let inside = |place: &&Place| place.id().is_some_and(|id| above.contains(&id));
        match self.places.iter().find(inside) {
            None => Ok(()),
            Some(Place { what, path, .. }) => Err(OwnRefused::Directory {
                target: target.to_owned(),
                path: path.clone(),
                what: what.clone(),
            }),
        }
    }
}

impl Place {
    fn id(&self) -> Option<(u64, u64)> {
        self.id.or_else(|| id_at(&self.path))
    }

    /// Whether it is seen here under its path.
    fn is_visible(&self) -> bool {
        id_at(&self.path).is_some_and(|found| self.id.is_none_or(|told| told == found))
    }
}

fn id_at(path: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::stat(path).ok().filter(|_| path.has_root())?;
    Some((found.st_dev, found.st_ino))
}

fn open(path: &Path) -> Option<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Device and inode of a directory and of all above it, up to the root.
fn chain(directory: impl AsFd) -> Vec<(u64, u64)> {
    let mut chain = Vec::new();
    let id = |handle: &dyn AsFd| rustix::fs::fstat(handle.as_fd()).map(|found| (found.st_dev, found.st_ino));
    let Ok(first) = id(&directory) else { return chain };
    chain.push(first);
    let parent = |handle: &dyn AsFd| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(handle.as_fd(), "..", flags, Mode::empty())
    };
    // By handles and not by the path: links and mounts on the way do not mislead it.
    let mut above = parent(&directory);
    while let Ok(handle) = above {
        match id(&handle) {
            // Above the root is the root.
            Ok(found) if chain.last() != Some(&found) && chain.len() < DEPTH => chain.push(found),
            _ => break,
        }
        above = parent(&handle);
    }
    chain
}

#[cfg(test)]
mod tests;
