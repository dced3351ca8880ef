//! A committed upgrade rolled back on request.
//!
//! What was written since the upgrade is discarded, and whoever asks may want a
//! snapshot of it. Taken before the stop it would miss what is written until
//! then. So everything is quiesced first, and the data goes back only when the caller
//! says that it has its snapshot; if it does not, everything runs again and the
//! upgrade stays.
//!
//! That containers are stopped for this is a state of its own, on disk before the
//! first of them is told to stop, with what is to be started again: whoever finds it
//! after a crash does so.

use std::time::Duration;

use futures_util::FutureExt as _;
use holdfast_archive::text::counted;
use tokio::sync::Notify;

use crate::clocks::now_unix_ms;
use crate::failpoint::failpoint;
use crate::spec::no_restart;

use super::UpgradeError;
use super::context::Context;
use super::error::Disturbed;
use super::event::{Finished, Stopped, UpgradeEvent};
use super::executor::Ending;
use super::guards::writable_layer;
use super::handover::{Own, UpgradeOwner};
use super::record::{Phase, QuiescedForRollback, QuiescedMember, Record, RecordedFailure, State};
use super::run::{UpgradeJob, UpgradeRun};

/// How a rollback is to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct RollbackOptions {
    /// It takes a snapshot while everything is quiesced.
    pub(super) wait: bool,
}

impl Context {
    /// None: a helper, or the agent that comes, knows the end.
    pub(super) async fn roll_back(
        &self,
        record: Record,
        job: &UpgradeJob,
        options: RollbackOptions,
    ) -> Option<Finished> {
        if record.rollback().is_some() {
            return self.repeat(record.job, job).await;
        }
        let _lock = self.quiesce_lock.clone().lock_owned().await;
        // One that is stopped for this was left so by an agent that is gone.
        let can_roll_back =
            |record: &Record| matches!(record.phase(), Phase::Committed | Phase::AwaitingRollbackSnapshot);
        let (hold, record) = match self.take_fresh(record.job, can_roll_back) {
            Ok(taken) => taken,
            Err(error) => return Some(Finished::failed(&error)),
        };
        let mut run = UpgradeRun::of_job(self, record, job, &hold.proceed);
        if run.record.quiesced().is_some() {
            run.until_done(Ending::Resume, None).await;
        }
        if let Err(error) = run.check_rollback().await {
            return Some(Finished::failed(&error));
        }
        let asked = RecordedFailure::from(&UpgradeError::Asked);
        // Its downtime is this one's, not the upgrade's.
        run.record.stopped_unix_ms = Some(now_unix_ms());
        if let Some(own) = self.own.as_ref().filter(|own| own.is_one_of(&run.record)) {
            return hand_back(&mut run, own, &asked).await;
        }
        if options.wait
            && !run.record.sources.is_empty()
            && let Err(error) = run.quiesce_and_wait(job, &hold.proceed).await
        {
            return Some(run.resumed_after(error).await);
        }
        // Not written down it would not be gone on with after a crash: the state
        // on disk would still lead to running containers on the new data.
        let before = run.record.state().clone();
        if let Err(error) = run.note_rollback(&asked, true).await {
            run.record.set_state(before);
            return Some(run.resumed_after(error).await);
        }
        run.until_done(Ending::RollBack, None).await;
        Some(run.finished())
    }
}

async fn hand_back(run: &mut UpgradeRun<'_>, own: &Own, asked: &RecordedFailure) -> Option<Finished> {
    match run.hand_back(own, asked).await {
        Ok(UpgradeOwner::Helper) => None,
        Ok(_) => Some(run.finished()),
        Err(error) => Some(Finished::failed(&error)),
    }
}

impl UpgradeRun<'_> {
    /// Whether a committed upgrade can be undone now, and how those that were
    /// not recreated were left by their owner meanwhile: what was stopped by
    /// hand in the grace period is not to be started.
    async fn check_rollback(&mut self) -> Result<(), UpgradeError> {
        self.await_cleanup().await?;
        self.refuse_rollback().await?;
        for index in 0..self.record.members.len() {
            let member = &self.record.members[index];
            if member.recreation.is_some() {
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
    ) -> Result<Option<(crate::engine::Container, serde_json::Value)>, UpgradeError> {
        let inspected = match self.context.engine.inspect_container_json(id).await {
            Err(error) if error.is_not_found() => return Ok(None),
            inspected => inspected?,
        };
        let container = self.context.engine.inspect_container(id).await?;
        Ok(Some((container, inspected["HostConfig"]["RestartPolicy"].clone())))
    }

    async fn quiesce_and_wait(&mut self, job: &UpgradeJob, proceed: &Notify) -> Result<(), UpgradeError> {
        self.quiesce(job).await?;
        let most = Duration::from_secs(self.record.options.stopped_seconds.into());
        let until = now_unix_ms().saturating_add(i64::try_from(most.as_millis()).unwrap_or(i64::MAX));
        if let Some(quiesced) = self.record.quiesced().cloned() {
            let quiesced = QuiescedForRollback { until_unix_ms: Some(until), ..quiesced };
            self.record.set_state(State::AwaitingRollbackSnapshot(quiesced));
        }
        self.save().await?;
        // A signal until now meant an earlier stop, left by an agent that died.
        let _ = proceed.notified().now_or_never();
        let sources = self.record.sources.clone();
        self.push(UpgradeEvent::Stopped(Stopped { sources, until_unix_ms: until }));
        tokio::select! {
            () = proceed.notified() => {}
            () = job.cancel.cancelled() => return Err(UpgradeError::Cancelled),
            () = tokio::time::sleep(most) => {
                return Err(UpgradeError::RollbackAbandoned { seconds: most.as_secs() });
            }
        }
        self.refuse_running().await
    }

    /// Quiesces what uses the data, dependents first, and the kept old
    /// container, should somebody have started it.
    async fn quiesce(&mut self, job: &UpgradeJob) -> Result<(), UpgradeError> {
        let mut containers = Vec::new();
        for member in &self.record.members {
            let new = member.recreation.as_ref().map(|recreation| recreation.new_id.as_str());
            for id in [Some(member.id.as_str()), new].into_iter().flatten() {
                let Some((container, restart_policy)) = self.found(id).await? else { continue };
                containers.push(QuiescedMember {
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
        let quiesced =
            QuiescedForRollback { rollback: job.id, until_unix_ms: None, containers: containers.clone() };
        // On disk before the first act: after a crash it says what ran, and under which policy.
        self.enter(State::AwaitingRollbackSnapshot(quiesced), text).await?;
        failpoint("agent.upgrade.rollback-asked");
        // All policies first: the Engine must not start one again while the others stop.
        for one in &containers {
            self.set_policy(&one.id, &no_restart()).await?;
        }
        for one in containers.iter().filter(|one| one.was_running) {
            if job.cancel.is_cancelled() {
                return Err(UpgradeError::Cancelled);
            }
            let container = self.context.engine.inspect_container(&one.id).await?;
            self.context.engine.stop_container(&container, None).await?;
        }
        failpoint("agent.upgrade.rollback-quiesced");
        self.tell_of_layers().await?;
        self.refuse_running().await
    }

    /// The snapshot is of volumes and directories: what else the new container
    /// wrote goes with it, and is said.
    async fn tell_of_layers(&mut self) -> Result<(), UpgradeError> {
        let new: Vec<String> = self
            .record
            .members
            .iter()
            .filter_map(|member| member.recreation.as_ref().map(|recreation| recreation.new_id.clone()))
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

    /// Refuses to go on when somebody started what has to be quiesced.
    async fn refuse_running(&self) -> Result<(), UpgradeError> {
        for one in self.record.quiesced().into_iter().flat_map(|quiesced| &quiesced.containers) {
            if let Some((container, _)) = self.found(&one.id).await?
                && container.state.is_live()
            {
                return Err(Disturbed::Started { container: one.name.clone() }.into());
            }
        }
        self.refuse_external_writers().await
    }

    async fn resumed_after(&mut self, error: UpgradeError) -> Finished {
        self.until_done(Ending::Resume, None).await;
        Finished::failed(&UpgradeError::NothingWentBack(Box::new(error)))
    }

    /// Everything as it was before it was stopped. Idempotent: entered again after a
    /// crash.
    pub(super) async fn resume(&mut self) -> Result<(), UpgradeError> {
        let quiesced = self.record.quiesced().cloned();
        for one in quiesced.iter().flat_map(|quiesced| &quiesced.containers).rev() {
            let started = if one.was_running { self.start(&one.id).await } else { Ok(()) };
            let policy = self.set_policy(&one.id, &one.restart_policy).await;
            self.problems.note(&one.name, started.and(policy));
        }
        self.settle()?;
        failpoint("agent.upgrade.rollback-resumed");
        let text = format!(
            "nothing went back; everything runs again after {} s",
            self.record.since_stop_ms() / 1000
        );
        self.enter(State::Committed, text).await
    }
}
