//! The new container, made beside the old one under a temporary name.

use crate::engine::{Container, VolumeName};
use crate::failpoint::failpoint;
use crate::upgrade::members::look;
use crate::upgrade::record::{Member, Record};
use crate::upgrade::run::UpgradeRun;
use crate::upgrade::{UpgradeError, populate_guard};

pub(super) fn is_done(record: &Record) -> bool {
    record.target().recreation.as_ref().is_some_and(|recreation| !recreation.new_id.is_empty())
}

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for index in 0..run.record.members.len() {
        let inspected = run.context.engine.inspect_container_json(&run.record.members[index].id).await?;
        run.record.members[index].restart_policy = inspected["HostConfig"]["RestartPolicy"].clone();
    }
    // The first time it is on disk: from here on somebody goes on with it.
    run.note(format!("making the new container from {} beside the old one", run.record.to_image)).await?;
    failpoint("agent.upgrade.record-written");
    let last = run.record.members.len() - 1;
    run.make(last).await
}

/// New containers go, also those of dependents. What cannot be removed keeps
/// nothing else stopped.
pub(super) async fn undo(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    // A placeholder that cannot be taken away, from a filesystem that has become
    // read-only, keeps nothing stopped either: the data beside it is in place.
    let removed = run.placeholders(populate_guard::remove).await;
    let name = run.record.target().name.clone();
    run.problems.note(&name, removed);
    for index in 0..run.record.members.len() {
        let removed = run.remove_new(index).await;
        let name = run.record.members[index].name.clone();
        run.problems.note_removal(index, &name, removed);
    }
    Ok(())
}

impl UpgradeRun<'_> {
    /// The new container goes, and then the volumes the Engine made for it
    /// alone, which were written down when it was made.
    pub(in crate::upgrade) async fn remove_new(&mut self, index: usize) -> Result<(), UpgradeError> {
        let member = self.record.members[index].clone();
        if member.recreation.is_none() {
            return Ok(());
        }
        if let Some(new) = self.new_of(&member).await? {
            self.note_its_volumes(index, &new).await?;
            self.context.engine.remove_container(&new.id).await?;
        }
        // After a commit they may hold what was written for days, and no
        // snapshot of the sources has it: they stay, and are said.
        if self.record.rollback().is_some_and(|rollback| rollback.requested) {
            return Ok(());
        }
        let engine = &self.context.engine;
        let Some(recreation) = &self.record.members[index].recreation else { return Ok(()) };
        for volume in &recreation.own_volumes {
            let Ok(name) = volume.parse::<VolumeName>() else { continue };
            if self.record.sources.iter().any(|source| source.name == *volume)
                || !engine.volume_users(&name).await?.is_empty()
            {
                continue;
            }
            match engine.remove_volume(&name).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Says which volumes only the new container used, where they stay.
    pub(in crate::upgrade) async fn tell_of_kept_volumes(&mut self) -> Result<(), UpgradeError> {
        if !self.record.rollback().is_some_and(|rollback| rollback.requested) {
            return Ok(());
        }
        let recreations = self.record.members.iter().filter_map(|member| member.recreation.as_ref());
        let kept: Vec<String> = recreations.flat_map(|recreation| recreation.own_volumes.clone()).collect();
        if kept.is_empty() {
            return Ok(());
        }
        let text = format!("kept, because only the new container used it: volume {}", kept.join(", "));
        self.note(text).await
    }

    /// A container that appeared under its temporary name after the upgrade
    /// had ended, with the volumes made for it alone.
    pub(in crate::upgrade) async fn remove_orphans(&mut self) -> Result<(), UpgradeError> {
        for index in 0..self.record.members.len() {
            let member = self.record.members[index].clone();
            if !member.is_creation_unanswered() {
                continue;
            }
            if let Some(late) = self.new_of(&member).await? {
                tracing::warn!(
                    container.name = late.name,
                    "a container came too late for its upgrade; it is removed"
                );
            }
            self.remove_new(index).await?;
        }
        Ok(())
    }

    /// The new container of a member, also one that was made and not yet noted.
    pub(in crate::upgrade) async fn new_of(
        &self,
        member: &Member,
    ) -> Result<Option<Container>, UpgradeError> {
        let Some(recreation) = &member.recreation else { return Ok(None) };
        let name = if recreation.new_id.is_empty() { &recreation.temporary_name } else { &recreation.new_id };
        Ok(look(self, name).await?.filter(|found| found.id != member.id))
    }

    /// Of a container that was made and not noted. Without the container nobody
    /// would know its volumes; without the old one nobody can tell which are.
    async fn note_its_volumes(&mut self, index: usize, new: &Container) -> Result<(), UpgradeError> {
        let member = &self.record.members[index];
        if !member.is_creation_unanswered() || look(self, &member.id).await?.is_none() {
            return Ok(());
        }
        let own = self.volumes_of_its_own(index, &new.id).await?;
        if let Some(recreation) = self.record.members[index].recreation.as_mut() {
            recreation.own_volumes = own;
        }
        self.save().await
    }
}
