//! Upgrades of the container the agent itself runs in: a helper container,
//! made of the image the agent runs, stops the agent and goes on.
//!
//! The agent makes the new container, writes down that a helper has the
//! upgrade from here on, starts the helper and only watches. The helper takes
//! the same steps as for any other container, but without data: the agent's
//! state holds the record itself, stays where it is and passes from one agent
//! to the next.
//!
//! **Who writes.** Up to the mark in the record the agent does, after it the
//! helper alone, and again an agent once the record is over or the helper is
//! removed. Records are replaced by a rename, so whoever reads gets a whole
//! one. A helper holds a lock from before its first act to its end; nobody
//! removes a helper's container without having that lock, unless the record is
//! over. So at no time do two processes drive one upgrade.
//!
//! **A helper that dies**, killed or with its Engine, is started again by the
//! Engine: its restart policy is `always`, not `on-failure`, because the
//! latter says nothing of an Engine that restarts. It does what an agent does
//! after a crash: forward from the commit on, back otherwise. It finds no less
//! done than it left, since the lock of the dead one is gone with it, and each
//! act looks first at what is there. One whose container was removed by hand
//! is recreated by whichever of the two agents runs. They do not go back by
//! themselves: that would stop the new one in the middle of it.
//!
//! **Between the agents.** Both have restart policy `no` from before the stop
//! until the end, so no restarted Engine runs the wrong one; and the journal's
//! lock keeps a second agent from working on the same state.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_archive::text::causes;
use holdfast_proto::ids::JobId;
use serde_json::{Value, json};

use crate::clocks::now_unix_ms;
use crate::engine::HOLDER_LABEL;
use crate::failpoint::failpoint;
use crate::resume::blocking;
use crate::spec::{Spec, create, no_restart};

use super::begin::suffix;
use super::error::{HandOverError, NotCommitted};
use super::event::UpgradeEvent;
use super::record::{Helper, Phase, Record, RecordedFailure, since};
use super::steps::Step;
use super::{Context, FIRST_PAUSE, RequestError, UpgradeError, UpgradeRun, Upgrades};

/// A helper that has not begun after this long is given up: nothing was
/// stopped then.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How long a helper waits for another one to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Settings that would make a helper clash with the agent beside it, or be
/// taken for it.
const NOT_A_HELPERS: [&str; 6] =
    ["Domainname", "ExposedPorts", "Healthcheck", "Hostname", "Labels", "MacAddress"];
const NOT_A_HELPERS_HOST: [&str; 9] = [
    "AutoRemove",
    "ContainerIDFile",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "Links",
    "PortBindings",
    "PublishAllPorts",
];

/// The container the agent runs in, and what a helper of it has to reach there.
#[derive(Debug, Clone)]
pub struct Own {
    pub id: String,
    pub state_dir: PathBuf,
    pub docker_socket: PathBuf,
}

/// Who goes on with an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UpgradeOwner {
    Helper,
    Over,
    /// Whoever asked; no helper is there any more.
    Ours,
}

// === impl Own ===

impl Own {
    /// A helper that runs this very program, which is of image `image_id`.
    pub(super) fn helper(&self, record: &Record, image_id: &str) -> Result<Helper, HandOverError> {
        let program = std::env::current_exe().map_err(HandOverError::NoProgram)?;
        let job = record.job.to_string();
        let command = [
            program.display().to_string(),
            "hand-over".to_owned(),
            "--state-dir".to_owned(),
            self.state_dir.display().to_string(),
            "--docker-socket".to_owned(),
            self.docker_socket.display().to_string(),
            job.clone(),
        ];
        Ok(Helper {
            name: format!("{}.holdfast-helper-{}", record.target().name, suffix(&job)),
            image_id: image_id.to_owned(),
            command: command.into(),
            handed_over_unix_ms: None,
        })
    }

    /// Whether the agent is the old or the new container of an upgrade.
    pub(super) fn is_one_of(&self, record: &Record) -> bool {
        let target = record.target();
        self.id == target.id
            || target.recreation.as_ref().is_some_and(|recreation| recreation.new_id == self.id)
    }
}

// === impl Helper ===

impl Helper {
    /// As the Engine is told to make it: the agent's own settings, without
    /// network and name. It has the label of holders, so that it is not listed
    /// and no backup or upgrade touches it.
    fn body(&self, spec: &Spec, api_minor: u32) -> Value {
        let mut spec = spec.clone();
        for key in NOT_A_HELPERS {
            spec.config.remove(key);
        }
        for key in NOT_A_HELPERS_HOST {
            spec.host_config.remove(key);
        }
        spec.networks.clear();
        spec.config.insert("Labels".to_owned(), json!({ HOLDER_LABEL: self.name }));
        spec.config.insert("Healthcheck".to_owned(), json!({ "Test": ["NONE"] }));
        spec.config.insert("Entrypoint".to_owned(), json!(self.command));
        spec.config.insert("Cmd".to_owned(), json!([]));
        spec.host_config.insert("NetworkMode".to_owned(), json!("none"));
        let mut body = create::plan(&spec, &self.image_id, &self.image_id, api_minor).body;
        body["HostConfig"]["RestartPolicy"] = json!({ "Name": "always", "MaximumRetryCount": 0 });
        body
    }
}

// === impl Upgrades ===

impl Upgrades {
    /// What a helper does, from beginning to end, or to the end after a crash.
    ///
    /// # Errors
    /// When there is no such upgrade, or another helper is at work on it.
    pub async fn help(&self, job: JobId) -> Result<(), RequestError> {
        let context = &self.context;
        let _lock = context.helper_lock(job).await?;
        let record = context.record(job).filter(Record::is_handed_over);
        let record = record.ok_or_else(|| NotCommitted::Unknown { name: job.to_string() })?;
        let helper = record.helper.clone();
        let mut run = UpgradeRun::new(context, record);
        if run.record.is_under_way() {
            run.help().await;
        }
        // Started again after this it would find nothing to do.
        if let Some(helper) = helper {
            context
                .engine
                .set_restart_policy(&helper.name, &no_restart())
                .await
                .map_err(UpgradeError::from)?;
        }
        Ok(())
    }
}

// === impl Context ===

impl Context {
    /// The record, if nobody else goes on with it.
    pub(super) async fn left_to_us(&self, record: Record) -> Option<Record> {
        if !record.is_handed_over() {
            return Some(record);
        }
        match self.owner(record.job).await {
            Ok(UpgradeOwner::Ours) => self.record(record.job),
            Ok(UpgradeOwner::Helper | UpgradeOwner::Over) => None,
            Err(error) => {
                tracing::error!(job.id = %record.job, error = %causes(&error), "the helper of an upgrade could not be looked at");
                None
            }
        }
    }

    /// Who goes on with an upgrade that was handed over. A helper that never
    /// began is removed, one that went missing in the middle is recreated.
    async fn owner(&self, job: JobId) -> Result<UpgradeOwner, UpgradeError> {
        let Some(record) = self.record(job) else { return Ok(UpgradeOwner::Over) };
        let Some((helper, handed_over)) =
            record.helper.as_ref().and_then(|helper| Some((helper, helper.handed_over_unix_ms?)))
        else {
            return Ok(UpgradeOwner::Ours);
        };
        if !record.is_under_way() {
            return Ok(UpgradeOwner::Over);
        }
        let live = match self.engine.inspect_container(&helper.name).await {
            Ok(container) => container.state.is_live(),
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
        };
        let in_time = u128::from(since(handed_over)) < START_LIMIT.as_millis();
        if live && (in_time || record.phase() != Phase::Preparing) {
            return Ok(UpgradeOwner::Helper);
        }
        let store = self.store.clone();
        let Some(lock) = blocking(move || store.lock(job)).await? else { return Ok(UpgradeOwner::Helper) };
        self.engine.remove_container(&helper.name).await?;
        // Nobody writes any more: this is its last word.
        let Some(record) = self.record(job) else { return Ok(UpgradeOwner::Over) };
        if !record.is_under_way() {
            return Ok(UpgradeOwner::Over);
        }
        let is_ours = self.own.as_ref().is_none_or(|own| !own.is_one_of(&record));
        // In that state nothing was stopped, so that going back stops nobody.
        if is_ours || record.phase() == Phase::Preparing {
            let mut run = UpgradeRun::new(self, record);
            run.record.helper = None;
            run.save().await?;
            self.store.forget_lock(job);
            return Ok(UpgradeOwner::Ours);
        }
        drop(lock);
        tracing::warn!(job.id = %job, "the helper of an upgrade was gone; another one is started");
        self.start_helper(&record).await?;
        Ok(UpgradeOwner::Helper)
    }

    async fn start_helper(&self, record: &Record) -> Result<(), UpgradeError> {
        let (Some(helper), Some(recreation)) = (&record.helper, &record.target().recreation) else {
            return Err(HandOverError::NoHelper.into());
        };
        // What is left of one that did not start.
        self.engine.remove_container(&helper.name).await?;
        let body = helper.body(&recreation.spec, self.engine.api_minor().await?);
        let made = self
            .engine
            .create_container_json(&helper.name, recreation.spec.platform.as_deref(), &body)
            .await?;
        Ok(self.engine.start_container(&made.id).await?)
    }

    async fn helper_lock(&self, job: JobId) -> Result<std::fs::File, UpgradeError> {
        let deadline = tokio::time::Instant::now() + LOCK_TIMEOUT;
        loop {
            let store = self.store.clone();
            if let Some(lock) = blocking(move || store.lock(job)).await? {
                return Ok(lock);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(HandOverError::Busy.into());
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    /// Removes helpers whose upgrade is over.
    pub(super) async fn dismiss_helpers(&self) {
        let over = |record: &&Record| record.is_handed_over() && !record.is_under_way();
        let over: Vec<Record> = self.records().values().filter(over).cloned().collect();
        for record in over {
            let Ok(_hold) = self.take(record.job) else { continue };
            let mut run = UpgradeRun::new(self, record);
            if let Err(error) = run.dismiss_helper().await {
                tracing::error!(job.id = %run.record.job, error = %causes(&error),
                    "the helper of an upgrade could not be removed; it is tried again");
            }
        }
    }
}

// === impl UpgradeRun ===

impl UpgradeRun<'_> {
    /// Makes the new container and lets a helper go on. `Helper`: the agent
    /// stops before it was over. On an error the caller goes back.
    pub(super) async fn hand_over(&mut self) -> Result<UpgradeOwner, UpgradeError> {
        self.execute(Step::before_quiesce()).await?;
        self.mark_handed_over();
        self.note("a helper container goes on from here: it stops the agent and starts the new one").await?;
        failpoint("agent.upgrade.handed-over");
        self.watch_helper().await
    }

    /// As [`UpgradeRun::hand_over`], for the way back from a committed upgrade.
    pub(super) async fn hand_back(
        &mut self,
        own: &Own,
        asked: &RecordedFailure,
    ) -> Result<UpgradeOwner, UpgradeError> {
        let image_id = match own.id == self.record.target().id {
            true => self.record.from_image_id.clone(),
            false => self.record.to_image_id.clone(),
        };
        self.record.helper = Some(own.helper(&self.record, &image_id)?);
        self.mark_handed_over();
        self.note_rollback(asked, true).await?;
        self.watch_helper().await
    }

    fn mark_handed_over(&mut self) {
        if let Some(helper) = &mut self.record.helper {
            helper.handed_over_unix_ms = Some(now_unix_ms());
        }
    }

    /// Starts the helper and passes on what it does, until it is done or has
    /// stopped this agent. From here on only the end of the agent ends the
    /// wait: an order to cancel would have to stop the helper half-way.
    async fn watch_helper(&mut self) -> Result<UpgradeOwner, UpgradeError> {
        let lost = match self.context.start_helper(&self.record).await {
            Ok(()) => HandOverError::EndedEarly,
            Err(error) => {
                tracing::error!(job.id = %self.record.job, error = %causes(&error), "the helper could not be started");
                HandOverError::NotStarted(Box::new(error))
            }
        };
        loop {
            // The owner first: if it is over by now, the record that is read next is the last one.
            let owner = self.context.owner(self.record.job).await;
            let told = self.record.steps.len();
            if let Some(record) = self.context.record(self.record.job) {
                self.record = record;
            }
            for step in self.record.steps.iter().skip(told) {
                self.push(UpgradeEvent::Step(step.clone()));
            }
            match owner {
                Ok(UpgradeOwner::Over) => return Ok(UpgradeOwner::Over),
                Ok(UpgradeOwner::Ours) => return Err(lost.into()),
                Ok(UpgradeOwner::Helper) => {}
                // The Engine may be away for a moment, and the helper goes on meanwhile.
                Err(error) => {
                    tracing::warn!(job.id = %self.record.job, error = %causes(&error), "the helper could not be looked at");
                }
            }
            if self.context.registry.is_stopping() {
                return Ok(UpgradeOwner::Helper);
            }
            tokio::time::sleep(FIRST_PAUSE).await;
        }
    }

    async fn help(&mut self) {
        if self.record.phase() != Phase::Preparing {
            return self.go_on(None).await;
        }
        // The agent did the first steps; the rest is as for any other container.
        if let Err(error) = self.execute(&Step::ALL).await {
            self.end_otherwise(&error).await;
        }
    }

    async fn dismiss_helper(&mut self) -> Result<(), UpgradeError> {
        let Some(helper) = self.record.helper.take() else { return Ok(()) };
        self.context.engine.remove_container(&helper.name).await?;
        self.save().await?;
        self.context.store.forget_lock(self.record.job);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_has_the_agents_mounts_and_rights_and_nothing_it_would_clash_over() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let spec = Spec {
            name: "agent".into(),
            image: "agent:1".into(),
            image_id: "sha256:1".into(),
            platform: None,
            config: object(json!({
                "Env": ["HOLDFAST_LOG=info"], "Cmd": ["run"], "Hostname": "web-1", "WorkingDir": "/srv",
                "Labels": { "com.docker.compose.service": "agent" }, "ExposedPorts": { "80/tcp": {} },
                "Healthcheck": { "Test": ["CMD", "true"] },
            })),
            host_config: object(json!({
                "Binds": ["/var/run/docker.sock:/var/run/docker.sock"], "CapAdd": ["SYS_ADMIN"], "PidMode": "host",
                "NetworkMode": "front", "PortBindings": { "80/tcp": [{ "HostPort": "80" }] },
                "RestartPolicy": { "Name": "unless-stopped" },
            })),
            networks: vec![("front".into(), object(json!({ "IPAMConfig": { "IPv4Address": "10.0.0.2" } })))],
            notes: Vec::new(),
        };
        let helper = Helper {
            name: "agent.holdfast-helper-abc123".into(),
            image_id: "sha256:1".into(),
            command: vec!["/agent".into(), "hand-over".into()],
            handed_over_unix_ms: None,
        };
        let expected = json!({
            "Image": "sha256:1", "Env": ["HOLDFAST_LOG=info"], "WorkingDir": "/srv",
            "Entrypoint": ["/agent", "hand-over"], "Cmd": [], "Healthcheck": { "Test": ["NONE"] },
            "Labels": { HOLDER_LABEL: "agent.holdfast-helper-abc123" },
            "HostConfig": {
                "Binds": ["/var/run/docker.sock:/var/run/docker.sock"], "CapAdd": ["SYS_ADMIN"], "PidMode": "host",
                "NetworkMode": "none", "RestartPolicy": { "Name": "always", "MaximumRetryCount": 0 },
            },
        });
        assert_eq!(helper.body(&spec, 41), expected);
    }
}
