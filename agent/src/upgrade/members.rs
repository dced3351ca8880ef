//! What steps do to a single container: made, renamed, started.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::engine::{Container, EngineError, MountKind};
use crate::recreate;
use crate::resume::blocking;

use super::error::DataError;
use super::record::SourceKind;
use super::run::UpgradeRun;
use super::{UpgradeError, populate_guard};

impl UpgradeRun<'_> {
    /// Makes the new container of a member under its temporary name.
    pub(super) async fn make(&mut self, index: usize) -> Result<(), UpgradeError> {
        let Some(recreation) = self.record.members[index].recreation.clone() else { return Ok(()) };
        // The Engine fills an empty volume from the image at creation, unless something lies in it.
        self.placeholders(populate_guard::place).await?;
        let made = recreate::create(
            &self.context.engine,
            &recreation.spec,
            &recreation.temporary_name,
            &recreation.image,
            &recreation.image_id,
        );
        let made = made.await;
        // Also after a failure: a placeholder must not stay in the data.
        self.placeholders(populate_guard::remove).await?;
        let made = made.map_err(UpgradeError::NewNotMade)?;
        if let Some(recreation) = self.record.members[index].recreation.as_mut() {
            recreation.new_id.clone_from(&made.id);
        }
        // The id is on disk before more is asked of the container: a crash finds it by that.
        self.save().await?;
        let own = self.volumes_of_its_own(index, &made.id).await?;
        if let Some(recreation) = self.record.members[index].recreation.as_mut() {
            recreation.own_volumes = own;
        }
        self.save().await
    }

    /// Volumes of a new container that no old one has and no spec names.
    pub(super) async fn volumes_of_its_own(
        &self,
        index: usize,
        id: &str,
    ) -> Result<Vec<String>, UpgradeError> {
        let member = &self.record.members[index];
        let new = self.context.engine.inspect_container(id).await?;
        let old = self.context.engine.inspect_container(&member.id).await?;
        let spec = member.recreation.as_ref().map(|recreation| &recreation.spec);
        let named = serde_json::to_string(&spec).unwrap_or_default();
        let volumes = new.mounts.iter().filter(|mount| mount.kind == MountKind::Volume);
        let own = volumes.filter(|mount| {
            !old.mounts.iter().any(|other| other.source == mount.source)
                && !self.record.sources.iter().any(|source| source.name == mount.source)
                && !named.contains(&mount.source)
        });
        Ok(own.map(|mount| mount.source.clone()).collect())
    }

    /// Does this to every volume the upgrade keeps, whatever comes of the others.
    pub(super) async fn placeholders(&self, act: fn(&Path) -> io::Result<()>) -> Result<(), UpgradeError> {
        let volumes = self.record.sources.iter().filter(|source| source.kind == SourceKind::Volume);
        let paths: Vec<PathBuf> = volumes.map(|source| source.path.clone()).collect();
        let done = blocking(move || {
            let done: Vec<_> = paths
                .into_iter()
                .map(|path| act(&path).map_err(|source| DataError::Unreadable { path, source }))
                .collect();
            Ok(done.into_iter().collect::<Result<(), _>>()?)
        });
        done.await
    }

    /// An old container gives up its name.
    pub(super) async fn set_aside(&self, index: usize) -> Result<(), UpgradeError> {
        let member = &self.record.members[index];
        let Some(recreation) = &member.recreation else { return Ok(()) };
        Ok(self.context.engine.rename_container(&member.id, &recreation.aside_name).await?)
    }

    /// The new container of a member takes the name the old one gave up.
    pub(super) async fn take_name(&self, index: usize) -> Result<(), UpgradeError> {
        let member = &self.record.members[index];
        let Some(recreation) = &member.recreation else { return Ok(()) };
        Ok(self.context.engine.rename_container(&recreation.new_id, &member.name).await?)
    }

    /// That it was started, and may have written, is on disk before it is.
    pub(super) async fn start_new(&mut self, index: usize) -> Result<(), UpgradeError> {
        let Some(recreation) = self.record.members[index].recreation.as_mut() else { return Ok(()) };
        recreation.started = true;
        let id = recreation.new_id.clone();
        self.save().await?;
        Ok(self.context.engine.start_container(&id).await?)
    }

    /// Starts a container; one that is not there any more is its owner's business.
    pub(super) async fn start(&self, id: &str) -> Result<(), UpgradeError> {
        match self.context.engine.start_container(id).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn set_policy(&self, id: &str, policy: &Value) -> Result<(), UpgradeError> {
        match self.context.engine.set_restart_policy(id, policy).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// A container, if it is there.
pub(super) async fn look(run: &UpgradeRun<'_>, id: &str) -> Result<Option<Container>, EngineError> {
    match run.context.engine.inspect_container(id).await {
        Ok(container) => Ok(Some(container)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
