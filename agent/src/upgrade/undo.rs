//! A committed upgrade undone on request.
//!
//! What was written since the upgrade is discarded, and whoever asks may want a
//! snapshot of it. Taken before the stop it would miss what is written until
//! then. So everything rests first, and the data goes back only when the caller
//! says that it has its snapshot; if it does not, everything runs again and the
//! upgrade stays.
//!
//! That things rest for this is a state of its own, on disk before the first of
//! them is told to stop, with what is to be set going again: whoever finds it
//! after a crash does so.

use std::time::Duration;

use futures_util::FutureExt as _;
use holdfast_proto::v1::{self, UpgradeState as State, upgrade_event::Event};
use tokio::sync::Notify;

use crate::failpoint::failpoint;
use crate::spec::no_restart;

use super::back::Problems;
use super::context::Context;
use super::driven::{Driven, Ending, UpgradeJob, failed};
use super::forward::{cancelled, since};
use super::guards::{counted, writable_layer};
use super::handover::{Custody, Own};
use super::record::{Record, Rest, Resting, Source, now_unix_ms};
use super::{ASKED, Failure};

/// What the caller of an undoing wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// It takes a snapshot while everything rests.
    pub(super) wait: bool,
}

impl Context {
    /// None: a helper, or the agent that comes, knows the end.
    pub(super) async fn undo(
        &self,
        record: Record,
        job: &UpgradeJob,
        wish: Wish,
    ) -> Option<v1::UpgradeFinished> {
        if record.state() == State::RollingBack {
            return self.repeat(record.job, job).await;
        }
        let _turn = self.turn.clone().lock_owned().await;
        // One that rests was left so by an agent that is gone.
        let undoable = |record: &Record| {
            matches!(record.state(), State::Committed | State::Resting) && !record.is_finishing
        };
        let (hold, record) = match self.take_fresh(record.job, undoable) {
            Ok(taken) => taken,
            Err(failure) => return Some(failed(&failure)),
        };
        let mut driven = Driven { context: self, record, job: Some(job), tries: 0 };
        if driven.record.state() == State::Resting {
            driven.until_done(Ending::Wake, None).await;
        }
        if let Err(failure) = driven.may_undo().await {
            return Some(failed(&failure));
        }
        let asked = Failure::new(ASKED, "rolled back on request");
        // Its downtime is this one's, not the upgrade's.
        driven.record.stopped_unix_ms = now_unix_ms();
        // Whoever started the new container, the data goes back.
        driven.record.put_back = true;
        if let Some(own) = self.own.as_ref().filter(|own| own.is_one_of(&driven.record)) {
            return hand_back(&mut driven, own, &asked).await;
        }
        if wish.wait
            && !driven.record.sources.is_empty()
            && let Err(failure) = driven.rest_and_wait(job, &hold.bell).await
        {
            return Some(driven.awake_after(&failure).await);
        }
        // Not written down it would not be gone on with after a crash: the state
        // on disk would still lead to running containers on the new data.
        let rest = driven.record.rest.take();
        if let Err(failure) = driven.note_back(&asked).await {
            driven.record.rest = rest;
            return Some(driven.awake_after(&failure).await);
        }
        driven.until_done(Ending::Back, None).await;
        Some(driven.finished())
    }
}

async fn hand_back(driven: &mut Driven<'_>, own: &Own, asked: &Failure) -> Option<v1::UpgradeFinished> {
    match driven.hand_back(own, asked).await {
        Ok(Custody::Helper) => None,
        Ok(_) => Some(driven.finished()),
        Err(failure) => Some(failed(&failure)),
    }
}

impl Driven<'_> {
    /// Whether a committed upgrade can be undone now, and how those that were
    /// not made anew were left by their owner meanwhile: what was stopped by
    /// hand in the grace period is not to be started.
    async fn may_undo(&mut self) -> Result<(), Failure> {
        self.owe_nothing().await?;
        self.refuse_undo().await?;
        for index in 0..self.record.members.len() {
            let member = &self.record.members[index];
            if member.remake.is_some() {
                continue;
            }
            let Some((container, policy)) = self.found(&member.id).await? else { continue };
            let member = &mut self.record.members[index];
            member.was_running = container.state.is_live();
            member.restart_policy = policy;
        }
        Ok(())
    }

    /// A container and its restart policy, if it is there.
    async fn found(
        &self,
        id: &str,
    ) -> Result<Option<(crate::engine::Container, serde_json::Value)>, Failure> {
        let inspected = match self.context.engine.inspect_container_json(id).await {
            Err(error) if error.is_not_found() => return Ok(None),
            inspected => inspected?,
        };
        let container = self.context.engine.inspect_container(id).await?;
        Ok(Some((container, inspected["HostConfig"]["RestartPolicy"].clone())))
    }

    async fn rest_and_wait(&mut self, job: &UpgradeJob, bell: &Notify) -> Result<(), Failure> {
        self.rest(job).await?;
        let most = Duration::from_secs(self.record.options.stopped_seconds.into());
        let until = now_unix_ms().saturating_add(i64::try_from(most.as_millis()).unwrap_or(i64::MAX));
        if let Some(rest) = self.record.rest.as_mut() {
            rest.until_unix_ms = until;
        }
        self.save().await?;
        // What rang until now meant an earlier rest, left by an agent that died.
        let _ = bell.notified().now_or_never();
        let sources = self.record.sources.iter().map(Source::wire).collect();
        self.push(Event::Stopped(v1::UpgradeStopped { sources, until_unix_ms: until }));
        tokio::select! {
            () = bell.notified() => {}
            () = job.cancel.cancelled() => return Err(cancelled()),
            () = tokio::time::sleep(most) => {
                let message = format!("nobody said within {} s that the snapshot is taken", most.as_secs());
                return Err(Failure::new("abandoned", message));
            }
        }
        self.refuse_awake().await
    }

    /// Brings to rest what uses the data, dependents first, and the kept old
    /// container, should somebody have started it.
    async fn rest(&mut self, job: &UpgradeJob) -> Result<(), Failure> {
        let mut containers = Vec::new();
        for member in &self.record.members {
            let new = member.remake.as_ref().map(|remake| remake.new_id.as_str());
            for id in [Some(member.id.as_str()), new].into_iter().flatten() {
                let Some((container, restart_policy)) = self.found(id).await? else { continue };
                containers.push(Resting {
                    id: container.id,
                    name: container.name,
                    was_running: container.state.is_live(),
                    restart_policy,
                });
            }
        }
        let names: Vec<&str> =
            containers.iter().filter(|one| one.was_running).map(|one| one.name.as_str()).collect();
        let text = format!("stopping {} for a snapshot of what is discarded", names.join(", "));
        self.record.rest = Some(Rest { undoing: job.id, until_unix_ms: 0, containers: containers.clone() });
        self.step(State::Resting, text).await?;
        failpoint("agent.upgrade.undo-noted");
        for resting in &containers {
            self.set_policy(&resting.id, &no_restart()).await?;
        }
        for resting in containers.iter().filter(|one| one.was_running) {
            if job.cancel.is_cancelled() {
                return Err(cancelled());
            }
            let container = self.context.engine.inspect_container(&resting.id).await?;
            self.context.engine.stop_container(&container, None).await?;
        }
        failpoint("agent.upgrade.undo-rested");
        self.tell_of_layers().await?;
        self.refuse_awake().await
    }

    /// The snapshot is of volumes and directories: what else the new container
    /// wrote goes with it, and is said.
    async fn tell_of_layers(&mut self) -> Result<(), Failure> {
        let new: Vec<String> = self
            .record
            .members
            .iter()
            .filter_map(|member| member.remake.as_ref().map(|remake| remake.new_id.clone()))
            .collect();
        for id in new {
            let Some((container, _)) = self.found(&id).await? else { continue };
            let inspected = self.context.engine.inspect_container_json(&id).await?;
            let layer = writable_layer::look(&self.context.engine, &container, &inspected).await?;
            if !layer.files.is_empty() {
                let files = counted(layer.files.len(), "file");
                self.note(format!("`{}` goes with {files} it wrote outside its mounts", container.name))
                    .await?;
            }
        }
        Ok(())
    }

    /// Refuses to go on when somebody started what has to rest.
    async fn refuse_awake(&self) -> Result<(), Failure> {
        for resting in self.record.rest.iter().flat_map(|rest| &rest.containers) {
            if let Some((container, _)) = self.found(&resting.id).await?
                && container.state.is_live()
            {
                let name = &resting.name;
                let message = format!("container `{name}` was started by somebody else while it had to rest");
                return Err(Failure::new("disturbed", message));
            }
        }
        self.refuse_external_writers().await
    }

    async fn awake_after(&mut self, failure: &Failure) -> v1::UpgradeFinished {
        self.until_done(Ending::Wake, None).await;
        let message = format!("nothing went back and everything runs as before: {failure}");
        failed(&Failure::new(failure.code.clone(), message))
    }

    /// Everything as it was before it rested. Idempotent: entered again after a
    /// crash.
    pub(super) async fn wake(&mut self) -> Result<(), Failure> {
        let rest = self.record.rest.clone();
        let mut problems = Problems::default();
        for resting in rest.iter().flat_map(|rest| &rest.containers).rev() {
            let started = if resting.was_running { self.start(&resting.id).await } else { Ok(()) };
            let policy = self.set_policy(&resting.id, &resting.restart_policy).await;
            problems.note(&resting.name, started.and(policy));
        }
        self.settle(problems)?;
        failpoint("agent.upgrade.undo-awake");
        self.record.rest = None;
        self.record.put_back = false;
        let text = format!(
            "nothing went back; everything runs again after {} s",
            since(self.record.stopped_unix_ms) / 1000
        );
        self.step(State::Committed, text).await
    }
}
