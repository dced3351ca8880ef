//! What a snapshot is taken of, held open and told apart from what may later
//! be found under its name.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use holdfast_archive::snapshot::SourceFacts;

use crate::allow::Allow;
use crate::allowed_directory::{AllowedDirectory, DirectoryError};
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
    Directory(AllowedDirectory),
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    Name(#[from] InvalidVolumeName),
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
}

impl SourceError {
    /// Stable word for events.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Name(_) => "invalid-name",
            Self::Directory(error) => directory_code(error),
            Self::Reach(ReachError::Replaced { .. }) => "source-replaced",
            Self::Reach(ReachError::Engine(error)) => engine_code(error),
            Self::Reach(ReachError::Refused { .. } | ReachError::Holder(_)) => "volume-not-reachable",
            Self::Reach(ReachError::Open { .. }) => "unreadable",
        }
    }
}

fn directory_code(error: &DirectoryError) -> &'static str {
    match error {
        DirectoryError::NotAllowed(_) => "not-allowed",
        DirectoryError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "not-found",
        DirectoryError::Open { .. } => "unreadable",
        DirectoryError::Replaced { .. } => "source-replaced",
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
            SourceName::Directory(path) => Ok(Self::Directory(AllowedDirectory::open(allow, path)?)),
        }
    }

    /// A handle on the root of the data.
    pub(super) fn root(&self) -> Result<OwnedFd, SourceError> {
        match self {
            Self::Volume(volume) => Ok(volume.open_root()?),
            Self::Directory(directory) => Ok(directory.root()?),
        }
    }

    /// Refuses when the name means other data by now.
    pub(super) async fn check_identity(&self, engine: &Engine) -> Result<(), SourceError> {
        match self {
            Self::Volume(volume) => Ok(volume.check_identity(engine).await?),
            Self::Directory(directory) => Ok(directory.root().map(drop)?),
        }
    }

    /// Where containers would write to it.
    pub(super) fn place(&self) -> Place {
        match self {
            Self::Volume(reached) => {
                Place::Volume { name: reached.volume().name.clone(), path: reached.path().to_owned() }
            }
            Self::Directory(directory) => Place::Directory { path: directory.path().to_owned() },
        }
    }

    /// Enough to make it again.
    pub(super) fn facts(&self) -> SourceFacts {
        match self {
            Self::Volume(reached) => volume_facts(reached.volume()),
            Self::Directory(directory) => SourceFacts {
                kind: "directory".to_owned(),
                name: directory.path().display().to_string(),
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
    fn secrets_of_mount_options_stay_on_the_host() {
        assert_eq!(
            without_secrets("addr=nas,username=u,password=p,vers=3.0"),
            "addr=nas,username=u,vers=3.0"
        );
        assert_eq!(without_secrets("/srv/data"), "/srv/data");
        assert_eq!(without_secrets("Password=p"), "");
    }
}
