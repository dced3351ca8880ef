//! The way back: to the old container and its data as they were at the stop.
//!
//! One function that can be entered at any time and any number of times: it
//! looks at what is there and does what is missing. The new container ends
//! before the data is exchanged, and the data is exchanged before the old one
//! starts. Whether an exchange has happened is read from the trees themselves.

use std::time::Duration;

use holdfast_proto::ErrorCode;
use serde_json::Value;

use crate::clone;
use crate::engine::{Container, EngineError, EngineErrorKind, HealthWait, VolumeName};
use crate::failpoint::failpoint;
use crate::resume::blocking;
use crate::spec::no_restart;

use super::forward::since;
use super::record::{Member, State};
use super::{Failure, UpgradeRun, populate_guard};

/// How long the old container's health is waited for; it stays in any case.
const HEALTH_LIMIT: Duration = Duration::from_secs(60);

/// How often what the Engine refuses is tried: a name or a port that is taken
/// may be free a minute later. With the pauses between, some three minutes.
const TRIES: u32 = 10;

impl UpgradeRun<'_> {
    /// Written down before the first act: a crash from here on goes back too.
    pub(super) async fn begin_rollback(&mut self, failure: &Failure) {
        if let Err(error) = self.note_rollback(failure).await {
            // The state before it is on disk, and leads back as well.
            tracing::error!(job.id = %self.record.job, error = %error, "that an upgrade goes back could not be written down");
        }
    }

    pub(super) async fn note_rollback(&mut self, failure: &Failure) -> Result<(), Failure> {
        self.record.error_code = failure.code.as_str().to_owned();
        self.record.error = failure.message.clone();
        self.step(State::RollingBack, format!("going back: {}", failure.message)).await?;
        failpoint("agent.upgrade.rollback-begun");
        Ok(())
    }

    /// Idempotent: entered again after a crash, or an Engine that went away.
    /// What fails for one container does not keep the others stopped.
    pub(super) async fn roll_back(&mut self) -> Result<(), Failure> {
        // A placeholder that cannot be taken away, from a filesystem that has
        // become read-only, keeps nothing stopped: the data beside it is in place.
        let removed = self.placeholders(populate_guard::remove).await;
        if !self.record.data_is_back {
            self.bring_data_back().await?;
        }
        let mut problems = Problems::default();
        problems.note(&self.record.target().name, removed);
        let mut gone = Vec::with_capacity(self.record.members.len());
        for index in 0..self.record.members.len() {
            gone.push(self.remove_new(index).await);
        }
        // The upgraded one first: who names it finds by its name the old one.
        for (index, gone) in gone.into_iter().enumerate().rev() {
            let named = match gone {
                Ok(()) => self.give_name_back(index).await,
                failed => failed,
            };
            problems.note(&self.record.members[index].name, named);
        }
        failpoint("agent.upgrade.rollback-renamed");
        for index in (0..self.record.members.len()).rev() {
            let started = self.start_old(index).await;
            problems.note(&self.record.members[index].name, started);
        }
        failpoint("agent.upgrade.rollback-started");
        self.settle(problems)?;
        if self.record.stopped_unix_ms > 0 {
            self.record.downtime_ms = since(self.record.stopped_unix_ms);
            self.await_old().await?;
        }
        let mut problems = Problems::default();
        let cleared = match self.remove_stand_ins().await {
            Ok(()) => self.remove_kept_images().await,
            failed => failed,
        };
        problems.note(&self.record.target().name, cleared);
        self.settle(problems)?;
        failpoint("agent.upgrade.rollback-cleared");
        self.remove_clones().await;
        self.record.set_ended(self.context.clocks.now());
        self.tell_of_kept_volumes().await?;
        let text = if self.record.stopped_unix_ms > 0 {
            format!("`{}` is as it was when it was stopped", self.record.target().name)
        } else {
            format!("nothing was stopped; `{}` was never touched", self.record.target().name)
        };
        self.step(State::RolledBack, text).await
    }

    /// The data as it was at the stop, with nobody on it. On disk is then that
    /// this is done: a later attempt must not stop again what runs by then.
    async fn bring_data_back(&mut self) -> Result<(), Failure> {
        let exchange = self.record.put_back || self.record.was_started();
        if exchange {
            self.add_external_writers().await?;
        }
        for member in self.record.members.clone() {
            self.end_new(&member, exchange).await?;
        }
        if exchange {
            self.put_data_back().await?;
            failpoint("agent.upgrade.rollback-exchanged");
        }
        self.record.data_is_back = true;
        self.save().await
    }

    /// Whoever else came to use the data is stopped meanwhile, as a member is: it
    /// would go on writing to what is thrown away.
    async fn add_external_writers(&mut self) -> Result<(), Failure> {
        for writer in self.external_writers().await? {
            let inspected = self.context.engine.inspect_container_json(&writer.id).await?;
            let removed =
                if writer.auto_remove { ", and the Engine removes it, as it was told to" } else { "" };
            let text =
                format!("`{}` uses the data that goes back: it is quiesced meanwhile{removed}", writer.name);
            let member = Member {
                id: writer.id.clone(),
                name: writer.name.clone(),
                was_running: true,
                restart_policy: inspected["HostConfig"]["RestartPolicy"].clone(),
                touched: true,
                recreation: None,
                former_ids: Vec::new(),
            };
            self.record.members.insert(0, member);
            // What has to be undone is on disk before it is done.
            self.note(text).await?;
            self.set_policy(&writer.id, &no_restart()).await?;
        }
        Ok(())
    }

    /// With problems it is tried again; if that is no use, they are what is
    /// said in the end. An Engine that is away is waited for without end: given
    /// up, everything would stay stopped.
    pub(super) fn settle(&mut self, problems: Problems) -> Result<(), Failure> {
        let Problems { texts, away } = problems;
        if let Some(failure) = away {
            return Err(failure);
        }
        if texts.is_empty() {
            return Ok(());
        }
        let text = texts.join("; ");
        self.tries += 1;
        if self.tries < TRIES {
            return Err(Failure::new(ErrorCode::Unsettled, text));
        }
        tracing::error!(job.id = %self.record.job, problems = text, "an upgrade ends with what could not be done");
        if self.record.error_code.is_empty() {
            self.record.error_code = ErrorCode::Unsettled.as_str().to_owned();
        }
        if !self.record.error.contains(&text) {
            let separator = if self.record.error.is_empty() { "" } else { "; " };
            self.record.error.push_str(&format!("{separator}{text}"));
        }
        Ok(())
    }

    /// Starts a container; one that is not there any more is its owner's business.
    pub(super) async fn start(&self, id: &str) -> Result<(), Failure> {
        match self.context.engine.start_container(id).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(super) async fn set_policy(&self, id: &str, policy: &Value) -> Result<(), Failure> {
        match self.context.engine.set_restart_policy(id, policy).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Nobody may use the data while it is exchanged: neither what was made
    /// anew, nor a dependent that runs again already, nor the old one, should
    /// somebody have started it. Without restart policies first: an Engine that
    /// restarts in the middle would start them on data that is not theirs.
    async fn end_new(&self, member: &Member, exchange: bool) -> Result<(), Failure> {
        let old = if exchange { look(self, &member.id).await? } else { None };
        for container in self.new_of(member).await?.into_iter().chain(old) {
            self.set_policy(&container.id, &no_restart()).await?;
            if container.state.is_live() {
                self.context.engine.stop_container(&container, None).await?;
            }
        }
        Ok(())
    }

    async fn put_data_back(&self) -> Result<(), Failure> {
        for source in &self.record.sources {
            let Some(identities) = source.identities.clone() else { continue };
            let (root, clone) = (source.path.clone(), source.clone.clone());
            let put = blocking(move || clone::put_back(&root, &clone, identities.original, identities.clone));
            put.await.map_err(|error| Failure::new(ErrorCode::ExchangeFailed, error.to_string()))?;
        }
        Ok(())
    }

    /// The new container goes, and then the volumes the Engine made for it
    /// alone, which were written down when it was made.
    async fn remove_new(&mut self, index: usize) -> Result<(), Failure> {
        let member = self.record.members[index].clone();
        if member.recreation.is_none() {
            return Ok(());
        }
        if let Some(new) = self.new_of(&member).await? {
            self.note_its_volumes(index, &new).await?;
            self.context.engine.remove_container(&new.id).await?;
        }
        let engine = &self.context.engine;
        let Some(recreation) = &self.record.members[index].recreation else { return Ok(()) };
        // After a commit they may hold what was written for days, and no
        // snapshot of the sources has it: they stay, and are said.
        if self.record.put_back {
            return Ok(());
        }
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

    async fn tell_of_kept_volumes(&mut self) -> Result<(), Failure> {
        if !self.record.put_back {
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
    pub(super) async fn remove_orphans(&mut self) -> Result<(), Failure> {
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

    /// Of a container that was made and not noted. Without the container nobody
    /// would know its volumes; without the old one nobody can tell which are.
    async fn note_its_volumes(&mut self, index: usize, new: &Container) -> Result<(), Failure> {
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

    /// As it was found: running if it ran, and its restart policy.
    async fn start_old(&self, index: usize) -> Result<(), Failure> {
        let member = &self.record.members[index];
        if !member.touched {
            return Ok(());
        }
        let started = if member.was_running { self.start(&member.id).await } else { Ok(()) };
        let policy = self.set_policy(&member.id, &member.restart_policy).await;
        started.and(policy)
    }

    /// It is the old one again, well or not: what is not is said. An Engine that
    /// died meanwhile took down with it what has no restart policy, so that
    /// everything is to be started once more.
    async fn await_old(&mut self) -> Result<(), Failure> {
        let target = self.record.target().clone();
        if !target.was_running {
            return Ok(());
        }
        let health = self.context.engine.wait_healthy(&target.id, HEALTH_LIMIT).await;
        self.record.downtime_ms = since(self.record.stopped_unix_ms);
        let problem = match health {
            Ok(HealthWait::Healthy | HealthWait::NoCheck) => return Ok(()),
            Ok(HealthWait::Unhealthy) => "is unhealthy".to_owned(),
            Ok(HealthWait::Ended { exit_code }) => format!("ended with exit code {exit_code}"),
            Ok(HealthWait::TimedOut) => "is not healthy yet".to_owned(),
            Err(error) if error.kind() == EngineErrorKind::Unreachable => return Err(error.into()),
            Err(error) => format!("could not be looked at: {error}"),
        };
        self.record.error.push_str(&format!("; `{}` was started again and {problem}", target.name));
        Ok(())
    }

    /// What is left of the clones, which by now may be the discarded data. One
    /// that cannot be removed takes space and nothing else: it is said.
    async fn remove_clones(&mut self) {
        for source in self.record.sources.clone() {
            let clone = source.clone.clone();
            if let Err(error) = blocking(move || clone::remove(&clone)).await {
                tracing::error!(path = %source.clone.display(), %error, "a clone could not be removed");
                self.record.error.push_str(&format!("; {} is left over: {error}", source.clone.display()));
            }
        }
    }

    /// Ends a grace period: what a rollback would need goes. That there is no
    /// way back any more is on disk before the first of it goes: half of a
    /// clone must never be taken for the data.
    pub(super) async fn finish(&mut self) -> Result<(), Failure> {
        self.record.is_finishing = true;
        self.save().await?;
        for member in self.record.members.clone() {
            if member.recreation.is_some() {
                self.context.engine.remove_container(&member.id).await?;
            }
        }
        self.remove_stand_ins().await?;
        self.remove_kept_images().await?;
        for source in self.record.sources.clone() {
            let clone = source.clone.clone();
            let removed = blocking(move || clone::remove(&clone)).await;
            removed.map_err(|error| {
                Failure::new(
                    ErrorCode::CloneStays,
                    format!("{} could not be removed: {error}", source.clone.display()),
                )
            })?;
        }
        self.step(State::Finished, "the old container and the clone are gone; there is no way back from here")
            .await
    }

    /// The new container of a member, also one that was made and not yet noted.
    async fn new_of(&self, member: &Member) -> Result<Option<Container>, Failure> {
        let Some(recreation) = &member.recreation else { return Ok(None) };
        let name = if recreation.new_id.is_empty() { &recreation.temporary_name } else { &recreation.new_id };
        Ok(look(self, name).await?.filter(|found| found.id != member.id))
    }
}

/// What could not be done for single containers.
#[derive(Debug, Default)]
pub(super) struct Problems {
    texts: Vec<String>,
    /// Nothing is known to be impossible: the Engine is away.
    away: Option<Failure>,
}

impl Problems {
    pub(super) fn note(&mut self, name: &str, result: Result<(), Failure>) {
        let Err(failure) = result else { return };
        self.texts.push(format!("`{name}`: {failure}"));
        if failure.is_engine_away() {
            self.away.get_or_insert(failure);
        }
    }
}

pub(super) async fn look(run: &UpgradeRun<'_>, id: &str) -> Result<Option<Container>, EngineError> {
    match run.context.engine.inspect_container(id).await {
        Ok(container) => Ok(Some(container)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
