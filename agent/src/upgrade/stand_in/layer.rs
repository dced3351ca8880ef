//! What an old container wrote outside its mounts, kept as an image of this
//! host.
//!
//! A stand-in made of the old image would not have it. So the old container is
//! committed first, while the new one runs, and the stand-in is made of that
//! image, which it keeps from a prune. A container made of it is told by labels
//! which image it was made of at first: see [`crate::spec::base`].

use serde_json::{Map, Value, json};

use crate::compose;
use crate::engine::{Container, EngineErrorKind};
use crate::failpoint::failpoint;
use crate::spec::base;
use crate::upgrade::error::StandInError;
use crate::upgrade::guards::writable_layer::{self, Layer};
use crate::upgrade::record::{KeptLayer, Recreation, StandIn, StandIns};
use crate::upgrade::{UpgradeError, UpgradeRun};

/// Of the images, which have the end of the upgrade's job id as a tag.
const REPOSITORY: &str = "holdfast-kept";

impl UpgradeRun<'_> {
    /// Gives the image a stand-in is made of.
    pub(super) async fn keep_layer(
        &mut self,
        index: usize,
        old: &Container,
        recreation: &Recreation,
    ) -> Result<String, UpgradeError> {
        let engine = self.context.engine.clone();
        if let Some(known) = recreation.stand_in.as_ref().and_then(|one| one.layer.as_ref())
            && !known.image_id.is_empty()
        {
            return Ok(known.image_id.clone());
        }
        let inspected = engine.inspect_container_json(&old.id).await?;
        let layer = writable_layer::look(&engine, old, &inspected).await?;
        if layer.files.is_empty() && layer.deleted.is_empty() {
            return Ok(recreation.spec.image_id.clone());
        }
        // It may have grown since the plan.
        let too_large = writable_layer::too_large(&layer, &self.record.members[index].name);
        if let Some(loss) = too_large.filter(|loss| !loss.is_allowed(&self.record.options.allow_loss)) {
            return Err(StandInError::LayerTooLarge(loss).into());
        }
        let tag = format!("{}-{index}", recreation.aside_name.rsplit('-').next().unwrap_or_default());
        let reference = format!("{REPOSITORY}:{tag}");
        self.note_layer(index, &reference, "").await?;
        failpoint("agent.upgrade.layer-noted");
        // Made by an attempt that did not come to note it.
        self.remove_image(&reference).await?;
        let labels = labels(&inspected["Config"]["Labels"], recreation, &layer);
        let image_id = engine.commit_container(&old.id, REPOSITORY, &tag, &labels).await?;
        failpoint("agent.upgrade.layer-kept");
        self.note_layer(index, &reference, &image_id).await?;
        Ok(image_id)
    }

    async fn note_layer(
        &mut self,
        index: usize,
        reference: &str,
        image_id: &str,
    ) -> Result<(), UpgradeError> {
        if let Some(StandIn { layer, .. }) = self.stand_in_mut(index) {
            *layer = Some(KeptLayer { reference: reference.to_owned(), image_id: image_id.to_owned() });
        }
        self.save().await
    }

    /// The images go with the stand-ins. One of which a container is made stays.
    pub(super) async fn remove_layers(&self) -> Result<(), UpgradeError> {
        for member in &self.record.members {
            let Some(recreation) = &member.recreation else { continue };
            if let Some(layer) = recreation.stand_in.as_ref().and_then(|one| one.layer.as_ref()) {
                self.remove_image(&layer.reference).await?;
            }
        }
        Ok(())
    }

    /// Also images that an earlier upgrade kept, and whose last container went
    /// with this one. They go by their names: the next such image may be made of
    /// one, which then goes with that.
    pub(in crate::upgrade) async fn remove_kept_images(&self) -> Result<(), UpgradeError> {
        let recreations = self.record.members.iter().filter_map(|member| member.recreation.as_ref());
        let image_ids: Vec<String> = recreations.map(|recreation| recreation.spec.image_id.clone()).collect();
        for image_id in image_ids {
            let image = match self.context.engine.inspect_image_json(&image_id).await {
                Err(error) if error.is_not_found() => continue,
                image => image?,
            };
            for reference in names_of(&image) {
                self.remove_image(&reference).await?;
            }
        }
        Ok(())
    }

    async fn remove_image(&self, reference: &str) -> Result<(), UpgradeError> {
        match self.context.engine.remove_image(reference).await {
            Err(error) if !matches!(error.kind(), EngineErrorKind::NotFound | EngineErrorKind::Conflict) => {
                Err(error.into())
            }
            _ => Ok(()),
        }
    }
}

/// The names that upgrades gave an image.
fn names_of(image: &Value) -> Vec<String> {
    let all = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let own = all.filter(|name| name.strip_prefix(REPOSITORY).is_some_and(|rest| rest.starts_with(':')));
    own.map(str::to_owned).collect()
}

/// The image would have the labels of its container: those of compose, by which
/// a container made of it would be known, are made empty.
fn labels(of_container: &Value, recreation: &Recreation, layer: &Layer) -> Map<String, Value> {
    let all = of_container.as_object().into_iter().flat_map(Map::keys);
    let of_compose = all.filter(|key| key.starts_with(compose::PREFIX));
    let mut labels: Map<String, Value> = of_compose.map(|key| (key.clone(), json!(""))).collect();
    // Of a container that is made of such an image already, the first one's.
    if !of_container.get(base::IMAGE).is_some_and(Value::is_string) {
        labels.insert(base::IMAGE.to_owned(), json!(recreation.spec.image_id));
        labels.insert(base::REFERENCE.to_owned(), json!(recreation.spec.image));
    }
    labels.insert(base::FILES.to_owned(), json!(writable_layer::summary(layer)));
    labels
}

impl StandIns {
    /// Whether stand-ins are what is kept.
    pub(in crate::upgrade) fn are_kept(self) -> bool {
        self == Self::Compared
    }
}

/// The image of which an old container is made again.
pub(in crate::upgrade) fn image_of(recreation: &Recreation, stand_ins: StandIns) -> Option<&KeptLayer> {
    let layer = recreation.stand_in.as_ref()?.layer.as_ref()?;
    Some(layer).filter(|layer| stand_ins.are_kept() && !layer.image_id.is_empty())
}
