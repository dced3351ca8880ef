//! What is kept of an old container that compose made.
//!
//! Compose knows its containers by their labels, and labels of a container
//! cannot be changed. The kept old one would be recreated, and so removed, by
//! the next `docker-compose up`. So once the new one stays, another container
//! is made of the old one's settings and image: with compose's labels under
//! other names, with the restart policy `no`, and never started. It is
//! compared with the old one, and then the old one is removed without its
//! volumes. The stand-in keeps image and volumes from a prune. A rollback makes
//! the old container again of its settings, which are in the record.
//!
//! With the old container go the ids by which others name it. So those that
//! were recreated with it, because they name it by id, have stand-ins, too:
//! their old forms could not be started any more.
//!
//! **After a crash.** The state of [`StandIns`] is on disk before the act. While
//! they are made no old container is removed; what is found under a stand-in's
//! name may be half made, and is made again. Old ones are removed only once all
//! stand-ins were compared. So at any time the old container is there or a whole
//! stand-in. Where one cannot be made, or is not like its old container, all
//! go, and the old ones are kept as those that are none of compose's.

pub(super) mod layer;
mod likeness;

use std::collections::BTreeMap;

use holdfast_archive::text::causes;
use serde_json::Value;

use crate::compose;
use crate::engine::Container;
use crate::failpoint::failpoint;
use crate::recreate;

use super::error::StandInError;
use super::members::look;
use super::record::{Member, Recreation, StandIn, StandIns};
use super::{UpgradeError, UpgradeRun};

/// Label of a stand-in: the upgrade it was made for.
const MARK: &str = "holdfast.kept-for";

impl UpgradeRun<'_> {
    /// Idempotent: entered again after a crash. An Engine that is away is an
    /// error; what it refuses only leaves the old containers kept as they are.
    pub(super) async fn put_stand_ins(&mut self) -> Result<(), UpgradeError> {
        if self.record.stand_ins == StandIns::None {
            self.choose().await?;
        }
        if self.record.stand_ins == StandIns::Making {
            match self.make_stand_ins().await {
                Ok(()) => {
                    self.record.stand_ins = StandIns::Compared;
                    self.save().await?;
                    failpoint("agent.upgrade.stand-in-compared");
                }
                Err(error) if error.is_engine_away() => return Err(error),
                Err(error) => self.give_up(&error).await?,
            }
        }
        if self.record.stand_ins == StandIns::GivenUp {
            self.remove_stand_ins().await?;
        }
        if self.record.stand_ins == StandIns::Compared {
            self.remove_replaced().await?;
        }
        Ok(())
    }

    /// Old containers of compose, and those that name one of them by its id.
    async fn choose(&mut self) -> Result<(), UpgradeError> {
        let mut chosen: Vec<Container> = Vec::new();
        for index in (0..self.record.members.len()).rev() {
            let member = &self.record.members[index];
            let Some(recreation) = &member.recreation else { continue };
            let name = format!("{}-kept", recreation.aside_name);
            let Some(old) = look(self, &member.id).await? else { continue };
            let own = compose::is_its_own(|key| old.labels.get(key).map(String::as_str));
            if !own && !chosen.iter().any(|other| other.is_needed_by(&old)) {
                continue;
            }
            if let Some(recreation) = self.record.members[index].recreation.as_mut() {
                recreation.stand_in = Some(StandIn { name, id: String::new(), layer: None });
            }
            chosen.push(old);
        }
        if chosen.is_empty() {
            return Ok(());
        }
        self.record.stand_ins = StandIns::Making;
        self.save().await?;
        failpoint("agent.upgrade.stand-in-noted");
        Ok(())
    }

    async fn make_stand_ins(&mut self) -> Result<(), UpgradeError> {
        for index in (0..self.record.members.len()).rev() {
            let member = self.record.members[index].clone();
            let Some((recreation, stand_in)) = standing_in(&member) else { continue };
            let found = self.stand_in_of(stand_in).await?;
            let made = match found {
                Some(found) if found.id == stand_in.id => found.id,
                // Made and not noted: it may lack some of its networks.
                found => {
                    if let Some(found) = found {
                        self.context.engine.remove_container(&found.id).await?;
                    }
                    let Some(old) = look(self, &member.id).await? else {
                        return Err(StandInError::OldGone.into());
                    };
                    let image_id = self.keep_layer(index, &old, recreation).await?;
                    self.make_stand_in(recreation, stand_in, &image_id).await?
                }
            };
            failpoint("agent.upgrade.stand-in-made");
            if let Some(stand_in) = self.stand_in_mut(index) {
                stand_in.id.clone_from(&made);
            }
            self.save().await?;
            self.compare(&member, recreation, &made).await?;
        }
        Ok(())
    }

    async fn make_stand_in(
        &self,
        recreation: &Recreation,
        stand_in: &StandIn,
        image_id: &str,
    ) -> Result<String, UpgradeError> {
        let image = self.context.engine.inspect_image_json(image_id).await?;
        let job = self.record.job.to_string();
        let spec = likeness::stand_in(&recreation.spec, &image["Config"]["Labels"], (MARK, &job));
        let made = recreate::create(&self.context.engine, &spec, &stand_in.name, image_id, image_id).await;
        Ok(made.map_err(UpgradeError::OldNotMade)?.id)
    }

    /// Whether the stand-in is what the old container is. One that its owner
    /// removed meanwhile cannot be asked.
    async fn compare(
        &self,
        member: &Member,
        recreation: &Recreation,
        made: &str,
    ) -> Result<(), UpgradeError> {
        let engine = &self.context.engine;
        let old = match engine.inspect_container_json(&member.id).await {
            Err(error) if error.is_not_found() => return Ok(()),
            old => old?,
        };
        let new = engine.inspect_container_json(made).await?;
        let differences = likeness::differences(&old, &new, &recreation.spec);
        if differences.is_empty() {
            return Ok(());
        }
        Err(StandInError::Differs { container: member.name.clone(), differences }.into())
    }

    async fn give_up(&mut self, error: &UpgradeError) -> Result<(), UpgradeError> {
        self.record.stand_ins = StandIns::GivenUp;
        let text = format!(
            "the old container is kept with the labels of compose, and the next `docker-compose up` takes it for its own: no stand-in could be made ({})",
            causes(error)
        );
        self.note(text).await
    }

    /// The old containers go, and no volume with them.
    async fn remove_replaced(&mut self) -> Result<(), UpgradeError> {
        for index in 0..self.record.members.len() {
            let member = self.record.members[index].clone();
            let Some((_, stand_in)) = standing_in(&member) else { continue };
            // One that somebody removed holds nothing: then the old one stays.
            if self.stand_in_of(stand_in).await?.is_none() && look(self, &member.id).await?.is_some() {
                if let Some(recreation) = self.record.members[index].recreation.as_mut() {
                    recreation.stand_in = None;
                }
                self.save().await?;
                continue;
            }
            self.context.engine.remove_container(&member.id).await?;
            failpoint("agent.upgrade.old-removed");
        }
        Ok(())
    }

    /// With the old containers back, or not to come back. Nothing happens to
    /// another container that got such a name.
    pub(super) async fn remove_stand_ins(&mut self) -> Result<(), UpgradeError> {
        for member in self.record.members.clone() {
            let Some((_, stand_in)) = standing_in(&member) else { continue };
            if let Some(found) = self.stand_in_of(stand_in).await? {
                self.context.engine.remove_container(&found.id).await?;
            }
        }
        self.remove_layers().await
    }

    /// As a step of a rollback: what was kept in the place of the old containers,
    /// which have their names and run by now.
    pub(super) async fn undo_stand_ins(&mut self) -> Result<(), UpgradeError> {
        let cleared = match self.remove_stand_ins().await {
            Ok(()) => self.remove_kept_images().await,
            failed => failed,
        };
        let name = self.record.target().name.clone();
        self.problems.note(&name, cleared);
        self.settle()
    }

    /// The container of that name, if it was made for this upgrade.
    async fn stand_in_of(&self, stand_in: &StandIn) -> Result<Option<Container>, UpgradeError> {
        let job = self.record.job.to_string();
        let found = look(self, &stand_in.name).await?;
        Ok(found.filter(|found| found.labels.get(MARK) == Some(&job)))
    }

    fn stand_in_mut(&mut self, index: usize) -> Option<&mut StandIn> {
        self.record.members[index].recreation.as_mut()?.stand_in.as_mut()
    }
}

/// How a member is recreated, and the stand-in of its old form.
fn standing_in(member: &Member) -> Option<(&Recreation, &StandIn)> {
    let recreation = member.recreation.as_ref()?;
    Some((recreation, recreation.stand_in.as_ref()?))
}

/// Labels of a spec, as a container has them.
pub(super) fn labels_of(labels: Option<&Value>) -> BTreeMap<String, String> {
    let entries = labels.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
