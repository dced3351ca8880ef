//! What happens while everything is stopped, for an upgrade or for the
//! rollback of one: a snapshot of that moment, then the call to proceed. Or, if
//! the snapshot fails, the call to go back to what was.
//!
//! Runs beside the agent's stream, which may bring the end at any time: the
//! agent waits only so long. Each call is repeated until the agent answers;
//! it is dropped when the end is heard.

use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;
use tonic::Status;
use tonic::transport::Channel;

use super::snapshots::{self, AT_STOP};
use crate::failpoint::failpoint;
use crate::fleet::calls;
use crate::model::upgrade::{UpgradePlan, UpgradeState};
use crate::operations::Failure;
use crate::operations::children::Children;
use crate::policy::Consistency;

/// What everything is stopped for.
#[derive(Debug, Clone)]
pub(in crate::operations) enum Stop {
    /// The old container's data is about to be the new one's.
    Upgrade,
    /// What was written since this upgrade is about to be discarded.
    Rollback { upgrade: String, until_unix_ms: i64 },
}

/// What is done between the stop and the call to proceed.
#[derive(Debug, Clone)]
pub(in crate::operations) struct AtStop {
    children: Children,
    host: HostId,
    plan: UpgradePlan,
    stop: Stop,
}

/// What the agent is called for.
#[derive(Debug, Clone, Copy)]
enum Call {
    State,
    Proceed,
    GoBack,
}

impl Stop {
    /// The child that takes its snapshot.
    pub(in crate::operations) fn role(&self) -> String {
        match self {
            Self::Upgrade => AT_STOP.to_owned(),
            Self::Rollback { until_unix_ms, .. } => snapshots::discarded_at_stop(*until_unix_ms),
        }
    }

    fn until_unix_ms(&self) -> i64 {
        match self {
            Self::Upgrade => 0,
            Self::Rollback { until_unix_ms, .. } => *until_unix_ms,
        }
    }

    /// The snapshot, as the beginning of a sentence about it.
    pub(in crate::operations) fn snapshot(&self) -> &'static str {
        match self {
            Self::Upgrade => "the snapshot at the stop",
            Self::Rollback { .. } => "the snapshot of what would be discarded",
        }
    }
}

impl AtStop {
    pub(in crate::operations) fn new(
        children: Children,
        host: HostId,
        plan: UpgradePlan,
        stop: Stop,
    ) -> Self {
        Self { children, host, plan, stop }
    }

    pub(in crate::operations) async fn run(self) {
        let Err(failure) = self.snapshot_and_proceed().await else { return };
        tracing::warn!(error = %failure, "the upgrade is sent back");
        self.until_answered(Call::GoBack).await;
    }

    async fn snapshot_and_proceed(&self) -> Result<(), Failure> {
        if !self.still_stopped().await {
            return Ok(());
        }
        if !self.plan.sources.is_empty() {
            self.snapshot().await?;
        }
        // After the snapshot was judged and not before: what follows the stop changes the data.
        failpoint("controller.upgrade.before-proceed");
        self.until_answered(Call::Proceed).await;
        failpoint("controller.upgrade.after-proceed");
        Ok(())
    }

    /// Takes the snapshot of the stop, or finds the one that is being taken.
    async fn snapshot(&self) -> Result<(), Failure> {
        let jobs = &self.children.jobs;
        let role = self.stop.role();
        let told = self.children.find(&role).await?.is_some();
        if !told {
            jobs.log_event(self.children.parent, "stopped; snapshot of this moment").await?;
        }
        // Quiesced already: nothing is left to pause.
        let parameters = snapshots::parameters(&self.plan, Consistency::None, true);
        let id = self.children.make(&role, self.host, parameters).await?;
        failpoint("controller.upgrade.at-stop-snapshot");
        let child = jobs.ended(id).await?;
        if let Err(unfit) = snapshots::judge(jobs, &child, &self.plan.sources).await? {
            let message = format!("{} {}", self.stop.snapshot(), unfit.why);
            jobs.log_event(self.children.parent, &format!("{message}; going back")).await?;
            return Err(Failure::failed(unfit.code_or(ErrorCode::SnapshotAtStopFailed), message));
        }
        Ok(())
    }

    /// A stop that is told again may be long over.
    async fn still_stopped(&self) -> bool {
        let state = self.until_answered(Call::State).await;
        if matches!(self.stop, Stop::Rollback { .. }) {
            return state == UpgradeState::AwaitingRollbackSnapshot;
        }
        match state {
            UpgradeState::Unknown
            | UpgradeState::Preparing
            | UpgradeState::Stopping
            | UpgradeState::Stopped => true,
            UpgradeState::Switching
            | UpgradeState::Gating
            | UpgradeState::Committing
            | UpgradeState::Committed
            | UpgradeState::Finished
            | UpgradeState::RollingBack
            | UpgradeState::AwaitingRollbackSnapshot
            | UpgradeState::RolledBack => false,
        }
    }

    /// Makes a call until it is answered. A refusal is no answer either: the
    /// generation may just have been raised by who follows the stream.
    async fn until_answered(&self, call: Call) -> UpgradeState {
        let (fleet, settings) = (self.children.jobs.fleet(), self.children.jobs.settings());
        let mut failed_attempts = 0;
        loop {
            let answer = match fleet.channel(self.host) {
                Some(channel) => self.make(call, channel, settings.call).await,
                None => Err(Status::unavailable("the host is not connected")),
            };
            match answer {
                Ok(state) => return state,
                Err(status) => tracing::warn!(%status, ?call, "the agent did not take a call of its upgrade"),
            }
            failed_attempts += 1;
            tokio::time::sleep(settings.retry_pause(failed_attempts)).await;
        }
    }

    /// One call; the state is told by the one that asks for it alone.
    async fn make(&self, call: Call, channel: Channel, most: Duration) -> Result<UpgradeState, Status> {
        let job = self.children.parent;
        match call {
            Call::State => {
                let upgrade = match &self.stop {
                    Stop::Upgrade => job.to_string(),
                    Stop::Rollback { upgrade, .. } => upgrade.clone(),
                };
                let known = calls::upgrade(channel, &upgrade, most).await?;
                return Ok(known.map(|upgrade| upgrade.state).unwrap_or_default());
            }
            Call::Proceed => {
                let generation = self.children.token.get();
                calls::proceed_upgrade(channel, (job, generation), self.stop.until_unix_ms(), most).await?;
            }
            Call::GoBack => calls::cancel_job(channel, job, most).await?,
        }
        Ok(UpgradeState::Unknown)
    }
}
