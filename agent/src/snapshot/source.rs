//! What a snapshot is taken of, held open and told apart from what may later
//! be found under its name.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_archive::snapshot::SourceFacts;
use rustix::fs::{Mode, OFlags};

use crate::allow::{Allow, NotAllowed};
use crate::engine::{Engine, EngineError, EngineErrorKind, InvalidVolumeName, Volume, VolumeName};
use crate::holder::Holders;
use crate::quiesce::Place;
use crate::resume::RESTORE_LABEL;
use crate::volume_path::{self, ReachError, ReachedVolume};

/// What a caller names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceName {
    Volume(String),
    Directory(PathBuf),
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(name) => f.write_str(name),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// A source whose data can be read until it is released.
#[derive(Debug)]
pub(super) enum Source {
    Volume(Box<ReachedVolume>),
    Directory(Directory),
}

/// A directory on the host that its own file allows.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Name(#[from] InvalidVolumeName),
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error("directory `{}` cannot be opened: {source}", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("directory `{}` was replaced by another one meanwhile", .path.display())]
    Replaced { path: PathBuf },
}

impl SourceError {
    /// Stable word for events.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Name(_) => "invalid-name",
            Self::NotAllowed(_) => "not-allowed",
            Self::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "not-found",
            Self::Open { .. } => "unreadable",
            Self::Replaced { .. } | Self::Reach(ReachError::Replaced { .. }) => "source-replaced",
            Self::Reach(ReachError::Engine(error)) => engine_code(error),
            Self::Reach(ReachError::Refused { .. } | ReachError::Holder(_)) => "volume-not-reachable",
            Self::Reach(ReachError::Open { .. }) => "unreadable",
        }
    }
}

/// The stable word for what the Engine did not do.
pub(crate) fn engine_code(error: &EngineError) -> &'static str {
    match error.kind() {
        EngineErrorKind::NotFound => "not-found",
        EngineErrorKind::Conflict => "conflict",
        EngineErrorKind::Invalid => "invalid-request",
        EngineErrorKind::Permission => "engine-permission",
        EngineErrorKind::Unreachable => "engine-unreachable",
        EngineErrorKind::Timeout => "engine-timeout",
        EngineErrorKind::Unsupported => "engine-unsupported",
        EngineErrorKind::Failed => "engine-failed",
    }
}

impl Source {
    /// Finds the data and keeps it reachable.
    pub(super) async fn open(
        engine: &Engine,
        holders: &Holders,
        allow: &Allow,
        name: &SourceName,
    ) -> Result<Self, SourceError> {
        match name {
            SourceName::Volume(name) => {
                let name: VolumeName = name.parse()?;
                let reached = volume_path::resolve(engine, holders, &name).await?;
                Ok(Self::Volume(Box::new(reached)))
            }
            SourceName::Directory(path) => Ok(Self::Directory(Directory::open(allow, path)?)),
        }
    }

    /// A handle on the root of the data.
    pub(super) fn root(&self) -> Result<OwnedFd, SourceError> {
        match self {
            Self::Volume(volume) => Ok(volume.open_root()?),
            Self::Directory(directory) => directory.root(),
        }
    }

    /// Refuses when the name means other data by now.
    pub(super) async fn check_identity(&self, engine: &Engine) -> Result<(), SourceError> {
        match self {
            Self::Volume(volume) => Ok(volume.check_identity(engine).await?),
            Self::Directory(directory) => directory.root().map(drop),
        }
    }

    /// Where containers would write to it.
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Volume(reached) => {
                Place::Volume { name: reached.volume().name.clone(), path: reached.path().to_owned() }
            }
            Self::Directory(directory) => Place::Directory { path: directory.path.clone() },
        }
    }

    /// Enough to make it again.
    pub(super) fn facts(&self) -> SourceFacts {
        match self {
            Self::Volume(reached) => volume_facts(reached.volume()),
            Self::Directory(directory) => SourceFacts {
                kind: "directory".to_owned(),
                name: directory.path.display().to_string(),
                ..SourceFacts::default()
            },
        }
    }

    pub(super) async fn release(self) {
        if let Self::Volume(volume) = self
            && let Err(error) = volume.release().await
        {
            tracing::warn!(%error, "a holder container stays behind; the journal owes it");
        }
    }
}

impl Directory {
    /// Opens first and asks afterwards where that is, so that no link can be
    /// changed in between.
    fn open(allow: &Allow, path: &Path) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        let handle = open_directory(path).map_err(failed)?;
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        let real = std::fs::read_link(link).map_err(failed)?;
        allow.check_path(&real)?;
        let found = rustix::fs::fstat(&handle).map_err(|error| failed(error.into()))?;
        Ok(Self { path: real, device: found.st_dev, inode: found.st_ino })
    }

    fn root(&self) -> Result<OwnedFd, SourceError> {
        let failed = |source| SourceError::Open { path: self.path.clone(), source };
        let handle = open_directory(&self.path).map_err(failed)?;
        let found = rustix::fs::fstat(handle.as_fd()).map_err(|error| failed(error.into()))?;
        if (found.st_dev, found.st_ino) != (self.device, self.inode) {
            return Err(SourceError::Replaced { path: self.path.clone() });
        }
        Ok(handle)
    }
}

fn open_directory(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn volume_facts(volume: &Volume) -> SourceFacts {
    let options = volume.options.iter().map(|(key, value)| (key.clone(), without_secrets(value)));
    let labels = volume.labels.iter().filter(|(key, _)| key.as_str() != RESTORE_LABEL);
    SourceFacts {
        kind: "volume".to_owned(),
        name: volume.name.clone(),
        driver: volume.driver.clone(),
        options: options.collect(),
        labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect::<BTreeMap<_, _>>(),
    }
}

/// Mount options such as `addr=nas,username=u,password=p` without the secret:
/// the snapshot lies in a bucket, in clear.
fn without_secrets(options: &str) -> String {
    let secret = |option: &&str| {
        let key = option.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        ["pass", "passwd", "password", "password2", "secret", "token", "sas_token"].contains(&key.as_str())
    };
    options.split(',').filter(|option| !secret(option)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_out_of_what_is_allowed_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let (allowed, secret) = (base.join("data"), base.join("database"));
        std::fs::create_dir(&allowed).unwrap();
        std::fs::create_dir(&secret).unwrap();
        std::os::unix::fs::symlink(&secret, allowed.join("out")).unwrap();
        let allow = Allow::parse([allowed.to_str().unwrap()]).unwrap();
        let open = |path: &Path| Directory::open(&allow, path).map_err(|error| error.code());
        assert_eq!(open(&allowed.join("out")).unwrap_err(), "not-allowed");
        assert_eq!(open(&secret).unwrap_err(), "not-allowed");
        assert_eq!(open(&allowed.join("../database")).unwrap_err(), "not-allowed");
        assert_eq!(open(&allowed.join("none")).unwrap_err(), "not-found");
        let directory = open(&allowed).unwrap();
        directory.root().unwrap();
        std::fs::rename(&allowed, base.join("moved")).unwrap();
        std::fs::create_dir(&allowed).unwrap();
        assert_eq!(directory.root().unwrap_err().code(), "source-replaced");
    }

    #[test]
    fn secrets_of_mount_options_stay_on_the_host() {
        assert_eq!(
            without_secrets("addr=nas,username=u,password=p,vers=3.0"),
            "addr=nas,username=u,vers=3.0"
        );
        assert_eq!(without_secrets("/srv/data"), "/srv/data");
        assert_eq!(without_secrets("Password=p"), "");
    }
}
