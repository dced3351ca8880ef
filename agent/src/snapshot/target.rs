//! Where a restore writes: something new that nobody uses yet.

mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_archive::snapshot::SourceFacts;
use holdfast_archive::text::causes;
use holdfast_proto::ids::JobId;

use crate::allowed_directory::AllowedDirectory;
use crate::contained;
use crate::engine::{NewVolume, ROLE_LABEL, VolumeName};
use crate::failpoint::failpoint;
use crate::journal::{ActionId, CleanupAction};
use crate::own::ChangeError;
use crate::resume::{Act, Outcome, RESTORE_LABEL, RecoveryWorker, blocking};
use crate::secrets;
use crate::volume_path::{self, ReachedVolume};
use crate::volume_settings;

use super::Context;
use super::beside::{Filled, Wanted};
use super::source::SourceError;

pub(super) use self::error::TargetError;

/// Label the Engine puts on volumes it named itself.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// What the agent's own labels begin with.
const OWN_LABELS: &str = "holdfast.";

/// Whether no snapshot may set a label: with it a volume would be taken for the
/// agent's work, or for Holdfast's own, which is never backed up.
fn is_own_label(key: &str) -> bool {
    key.starts_with(OWN_LABELS) || key == ROLE_LABEL
}

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestoreTarget {
    Volume(VolumeTarget),
    /// Absolute; absent or an empty directory.
    Directory(PathBuf),
}

impl fmt::Display for RestoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(volume) => write!(f, "volume `{}`", volume.name),
            Self::Directory(path) => write!(f, "directory {}", path.display()),
        }
    }
}

/// A volume to make. Without a driver it is a plain local one. Driver and
/// options of the snapshot's volume are never taken over: a foreign host wrote
/// them. Its labels are, but for those named here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeTarget {
    pub name: VolumeName,
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// A target that is made and not yet kept. Dropping it leaves its removal to
/// the recovery worker.
#[derive(Debug)]
pub(super) struct Target {
    removal: Removal,
    place: Option<Place>,
}

#[derive(Debug)]
enum Place {
    Volume(Box<ReachedVolume>),
    Directory(Arc<Filled>),
}

/// The recorded action that removes a half-made target.
#[derive(Debug)]
struct Removal {
    recovery: RecoveryWorker,
    action: Option<(ActionId, CleanupAction)>,
}

impl Target {
    /// Refuses a target that is there already, before anything is done.
    pub(super) async fn refuse_existing(
        context: &Context,
        target: &RestoreTarget,
    ) -> Result<(), TargetError> {
        match target {
            RestoreTarget::Volume(volume) => {
                let settings = settings(volume, &SourceFacts::default(), JobId::generate());
                volume_settings::check(&context.allow, &settings)?;
                // First: that is not to be removed to make room.
                context.own.refuse_volume(&volume.name).await?;
                match context.engine.inspect_volume(&volume.name).await {
                    Ok(_) => Err(TargetError::VolumeExists { name: volume.name.clone() }),
                    Err(error) if error.is_not_found() => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            RestoreTarget::Directory(path) => wanted(context, path).await.map(drop),
        }
    }

    /// Makes what is to be filled. If this fails, nothing of it is left, or it
    /// is left to the recovery worker.
    pub(super) async fn make(
        context: &Context,
        job: JobId,
        target: &RestoreTarget,
        facts: &SourceFacts,
    ) -> Result<Self, TargetError> {
        match target {
            RestoreTarget::Volume(volume) => Self::make_volume(context, job, volume, facts).await,
            RestoreTarget::Directory(path) => Self::make_directory(context, job, path).await,
        }
    }

    async fn make_volume(
        context: &Context,
        job: JobId,
        asked: &VolumeTarget,
        facts: &SourceFacts,
    ) -> Result<Self, TargetError> {
        let wanted = settings(asked, facts, job);
        let bound = volume_settings::check(&context.allow, &wanted)?;
        let action = CleanupAction::RemoveVolume { job, name: wanted.name.to_string(), seen_empty: None };
        let removal = Removal::write(context, action).await?;
        let mut target = Self { removal, place: None };
        // The removal is on disk. From here on, dying leaves a volume that is known.
        let made = context.engine.create_volume(&wanted).await;
        // Somebody may have made it since it was looked for. The label tells:
        // only this job's is removed again.
        let refusal = match made {
            Ok(made) if made.created => None,
            Ok(_) => Some(TargetError::VolumeExists { name: wanted.name.clone() }),
            Err(error) => Some(error.into()),
        };
        if let Some(error) = refusal {
            target.discard().await;
            return Err(error);
        }
        failpoint("agent.restore.volume-created");
        let reached = volume_path::resolve(&context.engine, &context.holders, &wanted.name).await;
        match reached {
            Ok(reached) => target.place = Some(Place::Volume(Box::new(reached))),
            Err(error) => {
                target.discard().await;
                return Err(SourceError::Reach(error).into());
            }
        }
        if let Some(directory) = bound {
            target = target.checked_bound(&directory).await?;
        }
        target.checked_empty().await
    }

    /// The Engine followed the device's path after it was checked: what it
    /// mounted must be the directory that was.
    async fn checked_bound(self, directory: &AllowedDirectory) -> Result<Self, TargetError> {
        let same = self.root().and_then(|root| directory.is(root).map_err(TargetError::Unreadable));
        let error = match same {
            Ok(true) => return Ok(self),
            Ok(false) => TargetError::OtherDirectory { path: directory.path().to_owned() },
            Err(error) => error,
        };
        self.discard().await;
        Err(error)
    }

    async fn make_directory(context: &Context, job: JobId, path: &Path) -> Result<Self, TargetError> {
        let wanted = wanted(context, path).await?;
        let path = wanted.staging_path(job);
        let mut target = Self {
            removal: Removal::write(context, CleanupAction::RemoveDirectory { job, path }).await?,
            place: None,
        };
        match wanted.make(job) {
            Ok(filled) => {
                target.place = Some(Place::Directory(Arc::new(filled)));
                Ok(target)
            }
            Err(error) => {
                target.discard().await;
                Err(error)
            }
        }
    }

    /// A new volume may still show old data: that of the device, export or
    /// directory it was made for.
    async fn checked_empty(mut self) -> Result<Self, TargetError> {
        let empty = self.root().and_then(|root| is_empty(root).map_err(TargetError::Unreadable));
        let error = match empty {
            Ok(true) => match self.note_root().await {
                Ok(()) => return Ok(self),
                Err(error) => error,
            },
            Ok(false) => TargetError::NotEmpty,
            Err(error) => error,
        };
        self.discard().await;
        Err(error)
    }

    /// Writes down that the root was empty, before the first byte goes below
    /// it: from here on what is in it may be removed.
    async fn note_root(&mut self) -> Result<(), TargetError> {
        let held = matches!(&self.place, Some(Place::Volume(volume)) if volume.is_held());
        if !held {
            return Ok(());
        }
        let root = rustix::fs::fstat(self.root()?).map_err(|error| TargetError::Unreadable(error.into()))?;
        self.removal.note_root(root.st_ino).await?;
        failpoint("agent.restore.root-noted");
        Ok(())
    }

    /// A handle on the root of what is to be filled.
    pub(super) fn root(&self) -> Result<OwnedFd, TargetError> {
        match &self.place {
            Some(Place::Volume(volume)) => Ok(volume.open_root().map_err(SourceError::Reach)?),
            Some(Place::Directory(filled)) => filled.root(),
            None => Err(TargetError::Gone),
        }
    }

    /// It is whole: gives it its name and forgets that it is half made.
    pub(super) async fn keep(mut self) -> Result<(), TargetError> {
        match self.place.take() {
            Some(Place::Directory(filled)) => {
                let kept = filled.clone();
                if let Err(error) = blocking(move || kept.keep()).await {
                    self.place = Some(Place::Directory(filled));
                    self.discard().await;
                    return Err(error);
                }
                self.removal.forget().await
            }
            Some(Place::Volume(volume)) => {
                // From here on it is the caller's, and a crash removes it no more.
                let forgotten = self.removal.forget().await;
                release(*volume).await;
                forgotten
            }
            None => Ok(()),
        }
    }

    /// It is not whole: removes it, now or as soon as it can be.
    pub(super) async fn discard(mut self) {
        match self.place.take() {
            Some(Place::Volume(volume)) => release(*volume).await,
            // By its handle, wherever it is now; by its path if that fails.
            Some(Place::Directory(filled)) => {
                if let Err(error) = blocking(move || filled.remove()).await {
                    tracing::warn!(error = causes(&error), "what was half restored is not removed yet");
                }
            }
            None => {}
        }
        self.removal.carry_out().await;
    }
}

impl Removal {
    async fn write(context: &Context, action: CleanupAction) -> Result<Self, TargetError> {
        let (recovery, written) = (context.recovery.clone(), action.clone());
        let id = blocking(move || recovery.journal().record(written)).await?;
        Ok(Self { recovery: context.recovery.clone(), action: Some((id, action)) })
    }

    async fn note_root(&mut self, inode: u64) -> Result<(), TargetError> {
        let Some((id, CleanupAction::RemoveVolume { job, name, .. })) = &self.action else { return Ok(()) };
        let (id, noted) =
            (*id, CleanupAction::RemoveVolume { job: *job, name: name.clone(), seen_empty: Some(inode) });
        self.recovery.amend(id, noted.clone()).await?;
        self.action = Some((id, noted));
        Ok(())
    }

    async fn forget(&mut self) -> Result<(), TargetError> {
        let Some((id, _)) = &self.action else { return Ok(()) };
        let (recovery, id) = (self.recovery.clone(), *id);
        blocking(move || recovery.journal().complete(id)).await?;
        self.action = None;
        Ok(())
    }

    async fn carry_out(&mut self) {
        let Some((id, action)) = &self.action else { return };
        match self.recovery.carry_out(*id, action, Outcome::Over).await {
            Ok(_) => self.action = None,
            // Dropping it hands it over.
            Err(error) => tracing::warn!(%error, "what was half restored is not removed yet"),
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some((id, action)) = self.action.take() {
            self.recovery.hand_over([(id, action, Act::over())]);
        }
    }
}

async fn release(volume: ReachedVolume) {
    if let Err(error) = volume.release().await {
        tracing::warn!(%error, "a holder container stays behind; the journal lists its removal");
    }
}

/// Settings of the new volume. Labels of the agent's own are never a snapshot's.
fn settings(asked: &VolumeTarget, facts: &SourceFacts, job: JobId) -> NewVolume {
    let mut labels = facts.labels.clone();
    labels.retain(|key, value| key != ANONYMOUS_LABEL && !is_own_label(key) && !secrets::was_removed(value));
    labels.extend(asked.labels.clone());
    labels.insert(RESTORE_LABEL.to_owned(), job.to_string());
    NewVolume {
        name: asked.name.clone(),
        driver: if asked.driver.is_empty() { "local".to_owned() } else { asked.driver.clone() },
        options: asked.options.clone(),
        labels,
    }
}

/// The directory that may be made, on the host itself: what is restored into
/// the agent's own image goes with its container.
async fn wanted(context: &Context, path: &Path) -> Result<Wanted, TargetError> {
    let (engine, own) = (&context.engine, context.own.container());
    match Wanted::resolve(&context.allow, path) {
        Ok(wanted) => {
            contained::check(engine, own, wanted.parent_path()).await?;
            let places = context.own.look().await.map_err(ChangeError::from)?;
            places.check_target(path, wanted.parent()).map_err(ChangeError::from)?;
            Ok(wanted)
        }
        // It may be there on the host, and only not mounted.
        Err(error @ TargetError::NoParent { .. }) => {
            contained::check(engine, own, path.parent().unwrap_or(path)).await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// What of the snapshot's volume the new one lacks because its value was a
/// secret and stayed on its host, unless it was asked for.
pub(super) fn withheld(target: &RestoreTarget, facts: &SourceFacts) -> Vec<String> {
    let RestoreTarget::Volume(asked) = target else { return Vec::new() };
    let removed = facts.labels.iter().filter(|(key, value)| {
        secrets::was_removed(value) && !is_own_label(key) && !asked.labels.contains_key(*key)
    });
    removed
        .map(|(key, _)| {
            format!(
                "label `{}` of the volume: its value is a secret, which no snapshot holds",
                key.escape_debug()
            )
        })
        .collect()
}

fn is_empty(root: OwnedFd) -> std::io::Result<bool> {
    for entry in rustix::fs::Dir::new(root)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(options: &[(&str, &str)]) -> SourceFacts {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        SourceFacts {
            kind: "volume".into(),
            name: "db".into(),
            driver: "local".into(),
            options: map(options),
            labels: map(&[("app", "shop"), (ANONYMOUS_LABEL, "")]),
        }
    }

    fn asked() -> VolumeTarget {
        VolumeTarget {
            name: "new".parse().unwrap(),
            driver: String::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::from([("app".to_owned(), "blog".to_owned())]),
        }
    }

    #[test]
    fn v01_labels_come_from_the_snapshot_and_neither_driver_nor_options_do() {
        let job = JobId::generate();
        let mut facts = facts(&[("type", "none"), ("o", "bind"), ("device", "/usr/local/sbin")]);
        facts.labels.insert("holdfast.restore".to_owned(), "another".to_owned());
        facts.labels.insert("holdfast.anything".to_owned(), String::new());
        // It would take the new volume out of every backup.
        facts.labels.insert(ROLE_LABEL.to_owned(), "controller".to_owned());
        for driver in ["local", "vieux/sshfs"] {
            facts.driver = driver.to_owned();
            let new = settings(&asked(), &facts, job);
            assert_eq!((new.driver.as_str(), new.options.len()), ("local", 0));
            assert_eq!(new.labels.keys().collect::<Vec<_>>(), ["app", RESTORE_LABEL]);
            assert_eq!((new.labels["app"].as_str(), &new.labels[RESTORE_LABEL]), ("blog", &job.to_string()));
        }
        let given = VolumeTarget {
            driver: "other".into(),
            options: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            ..asked()
        };
        let new = settings(&given, &facts, job);
        assert_eq!((new.driver.as_str(), new.options["k"].as_str()), ("other", "v"));
    }

    #[test]
    fn v07_labels_whose_value_stayed_on_the_host_are_named() {
        let mut facts = facts(&[]);
        facts.labels.insert("deploy.token".to_owned(), "***".to_owned());
        facts.labels.insert("url".to_owned(), "http://u:***@x".to_owned());
        let target = RestoreTarget::Volume(asked());
        let new = settings(&asked(), &facts, JobId::generate());
        assert_eq!(new.labels.keys().collect::<Vec<_>>(), ["app", RESTORE_LABEL]);
        let named = withheld(&target, &facts);
        assert_eq!(named.len(), 2);
        assert!(named[0].starts_with("label `deploy.token` of the volume"), "{named:?}");
        let mut given = asked();
        given.labels.insert("url".to_owned(), "http://u:p@x".to_owned());
        assert_eq!(withheld(&RestoreTarget::Volume(given), &facts).len(), 1);
        assert!(withheld(&RestoreTarget::Directory("/x".into()), &facts).is_empty());
    }
}
