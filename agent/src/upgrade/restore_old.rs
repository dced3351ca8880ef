//! The old containers back under their names, and whether they can be.
//!
//! An old container may be gone: a stand-in is kept of it, or somebody pruned
//! it. Then it is made again of its settings, which are in the record. That is
//! done under the name it was kept by: what is found there was made by an
//! attempt that did not come to note it, may lack some of its networks, never
//! ran, and goes. Only once its id is on disk does it take the name.

use crate::compose;
use crate::engine::{Container, ContainerState, CreatedContainer, EngineError, VolumeName};
use crate::failpoint::failpoint;
use crate::recreate;
use crate::spec::Spec;

use super::error::NoWayBack;
use super::members::look;
use super::record::{Member, Recreation};
use super::stand_in::{labels_of, layer};
use super::{UpgradeError, UpgradeRun, populate_guard};

impl UpgradeRun<'_> {
    /// The old one has its name again.
    pub(super) async fn give_name_back(&mut self, index: usize) -> Result<(), UpgradeError> {
        let member = self.record.members[index].clone();
        let Some(recreation) = member.recreation.as_ref().filter(|_| member.touched) else { return Ok(()) };
        if let Some(old) = look(self, &member.id).await? {
            if !self.names_a_former_one(index, &old) {
                if old.name != member.name {
                    self.context.engine.rename_container(&old.id, &member.name).await?;
                }
                return Ok(());
            }
            // It could not be started: what it names by id is not there any more.
            self.context.engine.remove_container(&old.id).await?;
        }
        if let Some(left) = look(self, &recreation.aside_name).await?
            && left.state == ContainerState::Created
        {
            self.context.engine.remove_container(&left.id).await?;
        }
        self.placeholders(populate_guard::place).await?;
        let made = self.make_again(recreation).await;
        self.placeholders(populate_guard::remove).await?;
        let made = made?;
        failpoint("agent.upgrade.old-made");
        tracing::info!(
            container.name = member.name,
            "the old container is made again: it was not kept itself"
        );
        let gone = std::mem::replace(&mut self.record.members[index].id, made.id.clone());
        self.record.members[index].former_ids.push(gone);
        self.save().await?;
        failpoint("agent.upgrade.old-noted");
        Ok(self.context.engine.rename_container(&made.id, &member.name).await?)
    }

    async fn make_again(&self, recreation: &Recreation) -> Result<CreatedContainer, UpgradeError> {
        let (engine, name) = (&self.context.engine, &recreation.aside_name);
        if let Some(layer) = layer::image_of(recreation, self.record.stand_ins) {
            // Of that image's id, so that labels stay as they are.
            let spec = Spec { image_id: layer.image_id.clone(), ..recreation.spec.clone() };
            let made = recreate::create(engine, &spec, name, &layer.reference, &layer.image_id).await;
            return made.map_err(UpgradeError::OldNotMade);
        }
        let (spec, image_id) = (&recreation.spec, &recreation.spec.image_id);
        match recreate::create(engine, spec, name, &spec.image, image_id).await {
            Ok(made) => Ok(made),
            // Its tag means the new image by now.
            Err(_) => recreate::create(engine, spec, name, image_id, image_id)
                .await
                .map_err(UpgradeError::OldNotMade),
        }
    }

    /// Whether an old container names by its id another one that had to be
    /// made again.
    fn names_a_former_one(&self, index: usize, old: &Container) -> bool {
        let others = self.record.members.iter().enumerate().filter(|(other, _)| *other != index);
        let mut former = others.flat_map(|(_, other)| &other.former_ids);
        former.any(|id| old.needs.iter().any(|need| need.len() >= 12 && id.starts_with(need.as_str())))
    }

    /// Whether everything is there that a rollback needs, and nobody in the way.
    pub(super) async fn refuse_rollback(&mut self) -> Result<(), UpgradeError> {
        for index in 0..self.record.members.len() {
            let member = self.record.members[index].clone();
            let Some(recreation) = &member.recreation else { continue };
            if look(self, &member.id).await?.is_none() {
                self.refuse_lost(&member, recreation).await?;
            }
            let Some(named) = look(self, &member.name).await? else { continue };
            if named.id == recreation.new_id || named.id == member.id {
                continue;
            }
            let place = labels_of(recreation.spec.config.get("Labels"));
            if look(self, &recreation.new_id).await?.is_some()
                || !compose::has_place_of(&named.labels, &place)
            {
                return Err(NoWayBack::NameTaken { name: member.name }.into());
            }
            if let Some(recreation) = self.record.members[index].recreation.as_mut() {
                recreation.new_id = named.id;
            }
            let text =
                format!("`{}` is by now a container that compose made in its place: it goes", member.name);
            self.note(text).await?;
        }
        self.refuse_external_writers().await
    }

    /// An old container that is gone can be made again while its image, its
    /// networks and the volumes it alone used are there.
    async fn refuse_lost(&self, member: &Member, recreation: &Recreation) -> Result<(), UpgradeError> {
        let (engine, name) = (&self.context.engine, member.name.clone());
        let layer = layer::image_of(recreation, self.record.stand_ins);
        let image = layer.map_or(&recreation.spec.image_id, |layer| &layer.image_id);
        if !is_there(engine.inspect_image_json(image).await)? {
            let kept = self.record.kept_name(recreation).to_owned();
            let gone = match layer {
                Some(layer) => NoWayBack::LayerGone { kept, layer: layer.reference.clone(), name },
                None => NoWayBack::ImageGone { kept, image: image.clone(), name },
            };
            return Err(gone.into());
        }
        for (network, _) in &recreation.spec.networks {
            if !is_there(engine.inspect_network_json(network).await)? {
                return Err(NoWayBack::NetworkGone { network: network.clone(), name }.into());
            }
        }
        for volume in recreation.spec.named_volumes() {
            let Ok(volume) = volume.parse::<VolumeName>() else { continue };
            if !is_there(engine.inspect_volume(&volume).await)? {
                return Err(NoWayBack::VolumeGone { volume, name }.into());
            }
        }
        Ok(())
    }
}

fn is_there<T>(found: Result<T, EngineError>) -> Result<bool, EngineError> {
    match found {
        Err(error) if error.is_not_found() => Ok(false),
        found => found.map(|_| true),
    }
}
