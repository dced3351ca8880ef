//! What a snapshot is taken of, held open and told apart from what may later
//! be found under its name.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use holdfast_archive::snapshot::SourceFacts;
use holdfast_proto::ErrorCode;

use crate::allowed_directory::{AllowedDirectory, DirectoryError};
use crate::contained::{self, ContainedError};
use crate::engine::{Engine, EngineError, InvalidVolumeName, Volume, VolumeName};
use crate::own::{OwnPlaces, Refused};
use crate::quiesce::Place;
use crate::resume::RESTORE_LABEL;
use crate::secrets;
use crate::volume_path::{self, ReachError, ReachedVolume};

use super::Context;

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
pub(crate) enum SourceError {
    #[error(transparent)]
    Name(#[from] InvalidVolumeName),
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Contained(#[from] ContainedError),
    #[error(transparent)]
    Own(#[from] Refused),
    #[error("what on this host is Holdfast's own is not known")]
    OwnUnknown(#[source] EngineError),
}

impl SourceError {
    /// Error code for events.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Name(_) => ErrorCode::InvalidName,
            Self::Directory(error) => directory_code(error),
            Self::Contained(error) => error.code(),
            Self::Own(_) => ErrorCode::HoldfastOwn,
            Self::OwnUnknown(error) => error.kind().code(),
            Self::Reach(ReachError::Replaced { .. }) => ErrorCode::SourceReplaced,
            Self::Reach(ReachError::Engine(error)) => error.kind().code(),
            Self::Reach(ReachError::Refused { .. } | ReachError::Holder(_)) => ErrorCode::VolumeNotReachable,
            Self::Reach(ReachError::Open { .. }) => ErrorCode::Unreadable,
        }
    }
}

fn directory_code(error: &DirectoryError) -> ErrorCode {
    match error {
        DirectoryError::NotAllowed(_) => ErrorCode::NotAllowed,
        DirectoryError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            ErrorCode::NotFound
        }
        DirectoryError::Open { .. } => ErrorCode::Unreadable,
        DirectoryError::Replaced { .. } => ErrorCode::SourceReplaced,
    }
}

impl Source {
    /// Finds the data and keeps it reachable. What is Holdfast's own is not
    /// opened, whoever asks for it.
    pub(super) async fn open(context: &Context, name: &SourceName) -> Result<Self, SourceError> {
        // Not knowing is a refusal too: what is backed up cannot be taken back out of a
        // bucket, and it might be a private key.
        let own = context.own.look().await.map_err(SourceError::OwnUnknown)?;
        let source = Self::find(context, name).await?;
        match source.is_not_own(name, &own) {
            Ok(()) => Ok(source),
            Err(error) => {
                // It may be held mounted by now.
                source.release().await;
                Err(error)
            }
        }
    }

    fn is_not_own(&self, name: &SourceName, own: &OwnPlaces) -> Result<(), SourceError> {
        if let Self::Volume(volume) = self
            && let Some(what) = own.volume(volume.volume())
        {
            return Err(Refused::Is { name: name.to_string(), what }.into());
        }
        Ok(own.check(&name.to_string(), self.root()?)?)
    }

    async fn find(context: &Context, name: &SourceName) -> Result<Self, SourceError> {
        let Context { engine, holders, allow, .. } = context;
        match name {
            SourceName::Volume(name) => {
                let name: VolumeName = name.parse()?;
                let reached = volume_path::resolve(engine, holders, &name).await?;
                Ok(Self::Volume(Box::new(reached)))
            }
            SourceName::Directory(path) => {
                let container = context.own.container();
                match AllowedDirectory::open(allow, path) {
                    Ok(directory) => {
                        contained::check(engine, container, directory.path()).await?;
                        Ok(Self::Directory(directory))
                    }
                    Err(error @ DirectoryError::Open { .. }) => {
                        // It may be there on the host, and only not mounted.
                        contained::check(engine, container, path).await?;
                        Err(error.into())
                    }
                    Err(error) => Err(error.into()),
                }
            }
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
            tracing::warn!(%error, "a holder container stays behind; the journal lists its removal");
        }
    }
}

fn volume_facts(volume: &Volume) -> SourceFacts {
    let labels = volume.labels.iter().filter(|(key, _)| key.as_str() != RESTORE_LABEL);
    // The snapshot lies in a bucket, in clear.
    SourceFacts {
        kind: "volume".to_owned(),
        name: volume.name.clone(),
        driver: volume.driver.clone(),
        options: secrets::settings(&volume.options),
        labels: secrets::settings(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v07_secrets_of_a_volume_stay_on_the_host() {
        let map = |pairs: [(&str, &str); 2]| {
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect()
        };
        let volume = Volume {
            name: "share".to_owned(),
            driver: "vieux/sshfs".to_owned(),
            mountpoint: PathBuf::new(),
            labels: map([("app", "shop"), ("deploy.token", "hunter2")]),
            options: map([("password", "hunter2"), ("o", "addr=nas,username=u,password=hunter2")]),
            scope: "local".to_owned(),
            created_at: String::new(),
        };
        let facts = volume_facts(&volume);
        assert_eq!(
            (facts.options["password"].as_str(), facts.options["o"].as_str()),
            ("***", "addr=nas,username=u,password=***")
        );
        assert_eq!((facts.labels["app"].as_str(), facts.labels["deploy.token"].as_str()), ("shop", "***"));
    }
}
