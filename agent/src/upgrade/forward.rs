//! The way forward: from a plan to a container that has shown that it is well.
//!
//! In this order, because: the new container exists before anything stops, so
//! that what cannot be made costs nothing; restart policies are off before the
//! stop, so that an Engine that restarts in the middle starts neither old nor
//! new by itself; the clone is whole and on disk before the new container may
//! touch the data; "it was started" is on disk before it is started. Names
//! change hands only while both are quiesced.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_proto::ErrorCode;
use holdfast_proto::v1::{self, upgrade_event::Event};
use serde_json::Value;
use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;

use crate::cancel::Cancel;
use crate::clocks::now_unix_ms;
use crate::clone;
use crate::engine::{Container, MountKind};
use crate::failpoint::failpoint;
use crate::quiesce::{Place, inspect_all, live_users};
use crate::recreate;
use crate::resume::blocking;
use crate::spec::{Spec, Specs, no_restart};

use super::guards::writable_layer;
use super::plan::Planned;
use super::plan::stops::recreated;
use super::record::{
    Identities, Member, NEW_INFIX, OLD_INFIX, Record, Recreation, Source, SourceKind, State,
};
use super::rollback::Problems;
use super::{Failure, RunRequest, UpgradeRun, gate, populate_guard};

/// How long cleanup of earlier jobs is waited for before containers are quiesced.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// What is known before anything is done.
pub(super) fn record(request: &RunRequest, planned: &Planned, recreations: &HashMap<String, Spec>) -> Record {
    let suffix = suffix(&request.job.to_string());
    let members = planned.stops.iter().map(|container| {
        let spec = if container.id == planned.old.id {
            Some((planned.spec.clone(), planned.to_image.clone(), planned.to_image_id.clone()))
        } else {
            let spec = recreations.get(&container.id);
            spec.map(|spec| (spec.clone(), spec.image.clone(), spec.image_id.clone()))
        };
        Member {
            id: container.id.clone(),
            name: container.name.clone(),
            was_running: container.state.is_live(),
            restart_policy: Value::Null,
            touched: false,
            recreation: spec.map(|(spec, image, image_id)| Recreation {
                spec,
                image,
                image_id,
                temporary_name: format!("{}{NEW_INFIX}{suffix}", container.name),
                aside_name: format!("{}{OLD_INFIX}{suffix}", container.name),
                new_id: String::new(),
                own_volumes: Vec::new(),
                started: false,
                stand_in: None,
            }),
            former_ids: Vec::new(),
        }
    });
    let sources = planned.sources.iter().zip(&planned.wire.sources).map(|(source, wire)| Source {
        kind: source.kind(),
        name: wire.name.clone(),
        target: source.target.clone(),
        path: source.path.clone(),
        clone: clone::clone_path(&source.path, request.job),
        size_bytes: source.size_bytes,
        means: wire.clone.clone(),
        identities: None,
    });
    let mut record = Record::new(request.job, members.collect(), request.options.clone());
    record.sources = sources.collect();
    record.from_image = planned.old.image.clone();
    record.from_image_id = planned.old.image_id.clone();
    record.to_image = planned.to_image.clone();
    record.to_image_id = planned.to_image_id.clone();
    record
}

/// The specs of dependents that name the old container, or another such
/// dependent, by its id: in a namespace mode, in volumes-from or in a link.
pub(super) async fn recreations(specs: &Specs, planned: &Planned) -> Result<HashMap<String, Spec>, Failure> {
    let others = planned.stops.iter().filter(|stop| stop.id != planned.old.id).collect();
    let mut recreations = HashMap::new();
    for container in recreated(others, &planned.old) {
        let spec = specs.read(&container.id).await;
        let mut spec = spec.map_err(|error| {
            Failure::new(
                ErrorCode::Dependent,
                format!("`{}` has to be recreated with it: {error}", container.name),
            )
        })?;
        // Its tag may mean another image by now: it is not what is upgraded.
        let meant = specs.engine().inspect_image_json(&spec.image).await;
        if !meant.is_ok_and(|image| image["Id"].as_str() == Some(spec.image_id.as_str())) {
            spec.image.clone_from(&spec.image_id);
        }
        recreations.insert(container.id.clone(), spec);
    }
    Ok(recreations)
}

/// The last letters of an id are its random ones.
pub(super) fn suffix(job: &str) -> String {
    job[job.len().saturating_sub(6)..].to_lowercase()
}

impl UpgradeRun<'_> {
    /// Runs to `Committed`. On an error the caller goes back.
    pub(super) async fn forward(&mut self, cancel: &Cancel, proceed: &Notify) -> Result<(), Failure> {
        let first = self.prepare(cancel).await?;
        let lock = self.take_quiesce_lock(cancel).await?;
        self.look_again().await?;
        self.stop(first, cancel).await?;
        self.wait(cancel, proceed).await?;
        self.replace(cancel).await?;
        drop(lock);
        Ok(())
    }

    /// Nobody else quiesces containers while this is held.
    pub(super) async fn take_quiesce_lock(&self, cancel: &Cancel) -> Result<OwnedMutexGuard<()>, Failure> {
        let lock = tokio::select! {
            lock = self.context.quiesce_lock.clone().lock_owned() => lock,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        self.await_cleanup().await?;
        Ok(lock)
    }

    /// A cleanup action carried out meanwhile would start what must stay quiesced.
    pub(super) async fn await_cleanup(&self) -> Result<(), Failure> {
        if let Some(recovery) = &self.context.recovery
            && !recovery.resumed(CLEANUP_LIMIT).await
        {
            return Err(Failure::new(
                ErrorCode::CleanupPending,
                "containers that an earlier job left quiesced have not resumed yet",
            ));
        }
        Ok(())
    }

    /// Hours may lie between the plan and the lock. What was stopped by its
    /// owner meanwhile stays stopped, and somebody new on the data is a reason
    /// not to begin.
    async fn look_again(&mut self) -> Result<(), Failure> {
        for index in 0..self.record.members.len() {
            let id = self.record.members[index].id.clone();
            let inspected = self.context.engine.inspect_container_json(&id).await?;
            let container = self.context.engine.inspect_container(&id).await?;
            let member = &mut self.record.members[index];
            member.restart_policy = inspected["HostConfig"]["RestartPolicy"].clone();
            member.was_running = container.state.is_live();
            if member.recreation.is_some() {
                self.refuse_written(index, &container, &inspected).await?;
            }
        }
        self.refuse_new_dependents().await?;
        self.refuse_external_writers().await
    }

    /// What was written to a layer since the plan would go with it, unnamed.
    async fn refuse_written(
        &self,
        index: usize,
        container: &Container,
        inspected: &Value,
    ) -> Result<(), Failure> {
        let layer = writable_layer::look(&self.context.engine, container, inspected).await?;
        let is_target = index + 1 == self.record.members.len();
        let of = (!is_target).then_some(container.name.as_str());
        match writable_layer::loss_of(&layer, of) {
            Some(loss) if !loss.is_allowed(&self.record.options.allow_loss) => {
                let message = format!(
                    "since the plan was made `{}` wrote outside its mounts, and nothing was stopped: {} (allow it as `{}`)",
                    container.name, loss.text, loss.name
                );
                Err(Failure::new(ErrorCode::PlanChanged, message))
            }
            _ => Ok(()),
        }
    }

    /// Who lives in the old container's namespaces and was not there when the
    /// plan was made would be left in dead ones.
    async fn refuse_new_dependents(&self) -> Result<(), Failure> {
        let containers = inspect_all(&self.context.engine).await?;
        let members = &self.record.members;
        let Some(old) = containers.iter().find(|one| one.id == self.record.target().id) else {
            return Ok(());
        };
        let is_new = |one: &&Container| {
            one.state.is_live() && old.is_needed_by(one) && !members.iter().any(|member| member.id == one.id)
        };
        match containers.iter().find(is_new) {
            Some(one) => {
                let message = format!(
                    "`{}` was started since the plan was made and needs `{}`; nothing was stopped: plan again",
                    one.name, old.name
                );
                Err(Failure::new(ErrorCode::PlanChanged, message))
            }
            None => Ok(()),
        }
    }

    /// With everything quiesced, to the end.
    pub(super) async fn replace(&mut self, cancel: &Cancel) -> Result<(), Failure> {
        self.switch().await?;
        if self.record.target().was_running {
            self.gate(cancel).await?;
        }
        self.start_dependents().await?;
        // Those that wait for it stood still for longer.
        if self.record.downtime_ms > 0 && self.record.members.len() > 1 {
            self.record.downtime_ms = since(self.record.stopped_unix_ms);
        }
        self.begin_commit().await?;
        self.finish_commit().await
    }

    /// Makes the new container beside the old one and most of the clone.
    pub(super) async fn prepare(&mut self, cancel: &Cancel) -> Result<Vec<clone::FirstPass>, Failure> {
        for index in 0..self.record.members.len() {
            let inspected =
                self.context.engine.inspect_container_json(&self.record.members[index].id).await?;
            self.record.members[index].restart_policy = inspected["HostConfig"]["RestartPolicy"].clone();
        }
        self.note(format!("making the new container from {} beside the old one", self.record.to_image))
            .await?;
        failpoint("agent.upgrade.record-written");
        let last = self.record.members.len() - 1;
        self.make(last).await?;
        failpoint("agent.upgrade.new-created");
        let mut passes = Vec::with_capacity(self.record.sources.len());
        for source in self.record.sources.clone() {
            self.note(format!("cloning {} while it is in use", source.name)).await?;
            let flag = cancel.flag();
            let pass = blocking(move || clone::first_pass(&source.path, &source.clone, &flag)).await;
            passes.push(pass.map_err(|error| clone_failed(&error))?);
        }
        failpoint("agent.upgrade.first-pass-done");
        if cancel.is_cancelled() { Err(cancelled()) } else { Ok(passes) }
    }

    /// Makes the new container of a member under its temporary name.
    async fn make(&mut self, index: usize) -> Result<(), Failure> {
        let Some(recreation) = self.record.members[index].recreation.clone() else { return Ok(()) };
        self.placeholders(populate_guard::place).await?;
        let made = recreate::create(
            &self.context.engine,
            &recreation.spec,
            &recreation.temporary_name,
            &recreation.image,
            &recreation.image_id,
        );
        let made = made.await;
        self.placeholders(populate_guard::remove).await?;
        let made = made.map_err(|error| Failure::new(ErrorCode::CreateFailed, error.to_string()))?;
        if let Some(recreation) = self.record.members[index].recreation.as_mut() {
            recreation.new_id.clone_from(&made.id);
        }
        self.save().await?;
        let own = self.volumes_of_its_own(index, &made.id).await?;
        if let Some(recreation) = self.record.members[index].recreation.as_mut() {
            recreation.own_volumes = own;
        }
        self.save().await
    }

    /// Volumes of a new container that no old one has and no spec names.
    pub(super) async fn volumes_of_its_own(&self, index: usize, id: &str) -> Result<Vec<String>, Failure> {
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
    pub(super) async fn placeholders(&self, act: fn(&Path) -> io::Result<()>) -> Result<(), Failure> {
        let volumes = self.record.sources.iter().filter(|source| source.kind == SourceKind::Volume);
        let paths: Vec<PathBuf> = volumes.map(|source| source.path.clone()).collect();
        let done = blocking(move || {
            let done: Vec<_> =
                paths.into_iter().map(|path| act(&path).map_err(|error| (path, error))).collect();
            done.into_iter().collect::<Result<(), _>>()
        });
        done.await.map_err(|(path, error)| {
            Failure::new(
                ErrorCode::Unreadable,
                format!("the data at {} cannot be reached: {error}", path.display()),
            )
        })
    }

    /// Quiesce everything that uses the data and makes the clone whole.
    pub(super) async fn stop(
        &mut self,
        first: Vec<clone::FirstPass>,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        for member in &mut self.record.members {
            member.touched = true;
        }
        self.record.stopped_unix_ms = now_unix_ms();
        let names: Vec<&str> = self.record.members.iter().map(|member| member.name.as_str()).collect();
        let text = format!("stopping {}", names.join(", "));
        self.step(State::Stopping, text).await?;
        let members = self.record.members.clone();
        for member in &members {
            self.context.engine.set_restart_policy(&member.id, &no_restart()).await?;
        }
        failpoint("agent.upgrade.policy-set");
        for member in &members {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            let container = self.context.engine.inspect_container(&member.id).await?;
            if container.state.is_live() {
                self.context.engine.stop_container(&container, None).await?;
            }
        }
        failpoint("agent.upgrade.stopped");
        self.refuse_disturbed().await?;
        for (index, pass) in first.into_iter().enumerate() {
            let source = self.record.sources[index].clone();
            let flag = cancel.flag();
            let whole = blocking(move || {
                clone::second_pass(&source.path, &source.clone, Some(pass), &flag)?;
                let original = clone::identity(&source.path)?;
                Ok(Identities { original, clone: clone::identity(&source.clone)? })
            });
            let whole = whole.await.map_err(|error| clone_failed(&error))?;
            self.record.sources[index].identities = Some(whole);
        }
        self.save().await?;
        failpoint("agent.upgrade.cloned");
        Ok(())
    }

    /// Waits until the caller has its snapshots of the quiesced data.
    async fn wait(&mut self, cancel: &Cancel, proceed: &Notify) -> Result<(), Failure> {
        let most = Duration::from_secs(self.record.options.stopped_seconds.into());
        let until = now_unix_ms().saturating_add(i64::try_from(most.as_millis()).unwrap_or(i64::MAX));
        self.step(State::Stopped, "everything is quiesced and cloned; waiting for the snapshot").await?;
        let sources = self.record.sources.iter().map(Source::wire).collect();
        self.push(Event::Stopped(v1::UpgradeStopped { sources, until_unix_ms: until }));
        tokio::select! {
            () = proceed.notified() => {}
            () = cancel.cancelled() => return Err(cancelled()),
            () = tokio::time::sleep(most) => {
                let message = format!("nobody said within {} s that the snapshots are taken", most.as_secs());
                return Err(Failure::new(ErrorCode::Abandoned, message));
            }
        }
        self.refuse_disturbed().await
    }

    /// Old and new change names, and the new one starts.
    async fn switch(&mut self) -> Result<(), Failure> {
        self.step(State::Switching, "the new container takes the name and starts").await?;
        let last = self.record.members.len() - 1;
        self.change_names(last, true).await?;
        if self.record.target().was_running {
            self.start_new(last).await?;
            failpoint("agent.upgrade.new-started");
        }
        Ok(())
    }

    async fn change_names(&mut self, index: usize, watched: bool) -> Result<(), Failure> {
        let member = self.record.members[index].clone();
        let Some(recreation) = member.recreation else { return Ok(()) };
        self.context.engine.rename_container(&member.id, &recreation.aside_name).await?;
        if watched {
            failpoint("agent.upgrade.old-renamed");
        }
        self.context.engine.rename_container(&recreation.new_id, &member.name).await?;
        if watched {
            failpoint("agent.upgrade.new-renamed");
        }
        Ok(())
    }

    async fn start_new(&mut self, index: usize) -> Result<(), Failure> {
        let Some(recreation) = self.record.members[index].recreation.as_mut() else { return Ok(()) };
        recreation.started = true;
        let id = recreation.new_id.clone();
        self.save().await?;
        Ok(self.context.engine.start_container(&id).await?)
    }

    async fn gate(&mut self, cancel: &Cancel) -> Result<(), Failure> {
        self.step(State::Gating, "the new container runs; waiting until it is well").await?;
        let id = self
            .record
            .target()
            .recreation
            .as_ref()
            .map(|recreation| recreation.new_id.clone())
            .unwrap_or_default();
        let passed = tokio::select! {
            passed = self.is_well(&id) => passed,
            () = cancel.cancelled() => Err(cancelled()),
        };
        let well = passed?;
        self.record.downtime_ms = since(self.record.stopped_unix_ms);
        self.note(well).await?;
        failpoint("agent.upgrade.gate-passed");
        Ok(())
    }

    async fn is_well(&self, id: &str) -> Result<String, Failure> {
        let (engine, options) = (&self.context.engine, &self.record.options);
        let deadline = Instant::now() + Duration::from_secs(options.health_timeout_seconds.into());
        let well = gate::pass(engine, id, options).await?;
        if !self.record.is_handed_over() {
            return Ok(well);
        }
        gate::has_state(engine, id, &self.context.state_dir, deadline).await?;
        Ok(format!("{well}, and it has taken over the agent's state"))
    }

    /// Those that need the new container, nearest first. One that lives in its
    /// namespaces or uses its mounts names it by id, so it is recreated.
    async fn start_dependents(&mut self) -> Result<(), Failure> {
        for index in (0..self.record.members.len() - 1).rev() {
            let member = self.record.members[index].clone();
            if member.recreation.is_some() {
                self.make(index).await?;
                self.change_names(index, false).await?;
                if member.was_running {
                    self.start_new(index).await?;
                }
            } else if member.was_running {
                self.context.engine.start_container(&member.id).await?;
            }
        }
        Ok(())
    }

    /// From here on it only goes forward.
    async fn begin_commit(&mut self) -> Result<(), Failure> {
        self.step(State::Committing, "the new container stays").await?;
        failpoint("agent.upgrade.committing");
        Ok(())
    }

    /// Idempotent: entered again after a crash. A container that its owner
    /// removed meanwhile is nothing to wait for.
    pub(super) async fn finish_commit(&mut self) -> Result<(), Failure> {
        let mut problems = Problems::default();
        for member in self.record.members.clone().iter().rev() {
            let id = member.recreation.as_ref().map_or(&member.id, |recreation| &recreation.new_id);
            // An Engine that restarted meanwhile has ended what has no policy yet.
            let started = if member.was_running { self.start(id).await } else { Ok(()) };
            let policy = self.set_policy(id, &member.restart_policy).await;
            problems.note(&member.name, started.and(policy));
        }
        self.settle(problems)?;
        self.put_stand_ins().await?;
        let grace = i64::from(self.record.options.grace_seconds) * 1000;
        self.record.set_ended(self.context.clocks.now());
        self.record.grace_until_unix_ms = self.record.ended_unix_ms.saturating_add(grace);
        let kept = if self.record.sources.is_empty() { "" } else { " and the clone of its data" };
        let is = if kept.is_empty() { "is" } else { "are" };
        self.step(State::Committed, format!("upgraded; the old container{kept} {is} kept for a while"))
            .await?;
        failpoint("agent.upgrade.committed");
        Ok(())
    }

    /// Refuses to go on when somebody started what has to stay quiesced, or uses the
    /// data otherwise.
    async fn refuse_disturbed(&self) -> Result<(), Failure> {
        for member in &self.record.members {
            let container: Container = self.context.engine.inspect_container(&member.id).await?;
            if container.state.is_live() {
                let message = format!(
                    "container `{}` was started by somebody else while it had to stay quiesced",
                    member.name
                );
                return Err(Failure::new(ErrorCode::Disturbed, message));
            }
        }
        self.refuse_external_writers().await
    }

    /// Refuses to go on while a container that takes no part could write to
    /// the data.
    pub(super) async fn refuse_external_writers(&self) -> Result<(), Failure> {
        let names: Vec<String> =
            self.external_writers().await?.iter().map(|container| format!("`{}`", container.name)).collect();
        if names.is_empty() {
            return Ok(());
        }
        let message = format!("{} uses the same data by now: stop it first", names.join(", "));
        Err(Failure::new(ErrorCode::Disturbed, message))
    }

    /// Running containers that could write to the data and are no members, in
    /// their old or new form.
    pub(super) async fn external_writers(&self) -> Result<Vec<Container>, Failure> {
        let places: Vec<Place> = self
            .record
            .sources
            .iter()
            .map(|source| match source.kind == SourceKind::Volume {
                true => Place::Volume { name: source.name.clone(), path: source.path.clone() },
                false => Place::Directory { path: source.path.clone() },
            })
            .collect();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let takes_part = |container: &Container| {
            self.record.members.iter().any(|member| {
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

pub(super) fn since(unix_ms: i64) -> u64 {
    u64::try_from(now_unix_ms().saturating_sub(unix_ms)).unwrap_or(0)
}

pub(super) fn cancelled() -> Failure {
    Failure::new(ErrorCode::Cancelled, "cancelled on request")
}

fn clone_failed(error: &clone::CloneError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::new(ErrorCode::CloneFailed, format!("the data could not be cloned: {error}{cause}"))
}
