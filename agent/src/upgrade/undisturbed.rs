//! Whether what is quiesced is left alone: by jobs before this one, by whoever
//! starts a container, and by containers that take no part and use the data.

use std::time::Duration;

use crate::engine::Container;
use crate::quiesce::{Place, inspect_all, live_users};

use super::UpgradeError;
use super::error::Disturbed;
use super::record::SourceKind;
use super::run::UpgradeRun;

/// How long cleanup of earlier jobs is waited for before containers are quiesced.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

impl UpgradeRun<'_> {
    /// A cleanup action carried out meanwhile would start what must stay quiesced.
    pub(super) async fn await_cleanup(&self) -> Result<(), UpgradeError> {
        if let Some(recovery) = &self.context.recovery
            && !recovery.resumed(CLEANUP_LIMIT).await
        {
            return Err(Disturbed::CleanupPending.into());
        }
        Ok(())
    }

    /// Refuses to go on when somebody started what has to stay quiesced, or uses the
    /// data otherwise.
    pub(super) async fn refuse_disturbed(&self) -> Result<(), UpgradeError> {
        for member in &self.record.members {
            // A member that cannot be inspected may be running: the error refuses as well.
            let container: Container = self.context.engine.inspect_container(&member.id).await?;
            if container.state.is_live() {
                return Err(Disturbed::Started { container: member.name.clone() }.into());
            }
        }
        self.refuse_external_writers().await
    }

    /// Refuses to go on while a container that takes no part could write to
    /// the data.
    pub(super) async fn refuse_external_writers(&self) -> Result<(), UpgradeError> {
        let containers: Vec<String> =
            self.external_writers().await?.into_iter().map(|container| container.name).collect();
        if containers.is_empty() { Ok(()) } else { Err(Disturbed::ExternalWriters { containers }.into()) }
    }

    /// Running containers that could write to the data and are no members, in
    /// their old or new form.
    pub(super) async fn external_writers(&self) -> Result<Vec<Container>, UpgradeError> {
        let places: Vec<Place> = self
            .record
            .sources
            .iter()
            .map(|source| match source.kind == SourceKind::Volume {
                true => Place::Volume { name: source.name.clone(), path: source.path.clone() },
                false => Place::Directory { path: source.path.clone() },
            })
            .collect();
        // Nobody's data is at stake, so the look at all containers is spared.
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let takes_part = |container: &Container| {
            self.record.members.iter().any(|member| {
                // Until the commit the old and the new container of a member are both there.
                let new = member.recreation.as_ref().map(|recreation| recreation.new_id.as_str());
                member.id == container.id || new == Some(container.id.as_str())
            })
        };
        let mut containers = inspect_all(&self.context.engine).await?;
        containers.retain(|container| !takes_part(container));
        let own = self.context.own.as_ref().map(|own| own.id.as_str());
        Ok(live_users(&containers, &places, own).into_iter().cloned().collect())
    }
}
