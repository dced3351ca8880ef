//! What an upgrade came to, as its job keeps it. Everything an agent reports may
//! be told again after a break; each fact is taken in once.

use holdfast_proto::ErrorCode;

use crate::catalog::jobs::Ending;
use crate::model::job::result::JobResult;
use crate::model::job::state::State;
use crate::model::upgrade::{
    Upgrade, UpgradeFinished, UpgradePlan, UpgradeReport, UpgradeState, UpgradeStep,
};
use crate::operations::{Failure, JobRun};
use holdfast_archive::text::millis;

/// Steps kept; an upgrade has a dozen.
const MAX_STEPS: usize = 200;

/// The report of one job, growing.
#[derive(Debug)]
pub(in crate::operations) struct Report(UpgradeReport);

impl Report {
    /// As far as it was recorded.
    pub(in crate::operations) fn of(run: &JobRun) -> Self {
        Self(run.job.result.upgrade.clone().unwrap_or_default())
    }

    pub(super) fn planned(&mut self, plan: &UpgradePlan) {
        self.0.container = plan.container_name.clone();
        self.0.from_image = plan.from_image.clone();
        self.0.to_image = plan.to_image.clone();
    }

    pub(in crate::operations) fn about(&mut self, upgrade: &Upgrade) {
        self.0.container = upgrade.container_name.clone();
        self.0.from_image = upgrade.from_image.clone();
        self.0.to_image = upgrade.to_image.clone();
        self.0.state = upgrade.state;
    }

    pub(in crate::operations) async fn before(
        &mut self,
        run: &JobRun,
        taken: Vec<String>,
    ) -> Result<(), Failure> {
        self.0.snapshots_before = taken;
        run.record(&self.result()).await
    }

    pub(super) fn at_stop(&mut self, taken: Vec<String>) {
        self.0.snapshots_at_stop = taken;
    }

    pub(in crate::operations) async fn step(
        &mut self,
        run: &JobRun,
        step: UpgradeStep,
    ) -> Result<(), Failure> {
        if self.0.steps.contains(&step) || self.0.steps.len() >= MAX_STEPS {
            return Ok(());
        }
        let line = step.text.clone();
        self.0.state = step.state;
        self.0.steps.push(step);
        // Recorded before it is told: that the upgrade has begun must be known.
        run.record(&self.result()).await?;
        run.step(&line).await
    }

    pub(in crate::operations) fn result(&self) -> JobResult {
        self.0.clone().into()
    }

    fn finished(&mut self, finished: &UpgradeFinished) {
        self.0.rolled_back = finished.rolled_back;
        self.0.downtime_ms = finished.downtime_ms;
        let Some(upgrade) = &finished.upgrade else {
            if finished.rolled_back {
                self.0.state = UpgradeState::RolledBack;
            }
            return;
        };
        self.0.state = upgrade.state;
        self.0.grace_until_unix_ms = upgrade.grace_until_unix_ms;
        // What a controller that was away did not hear.
        for step in &upgrade.steps {
            if !self.0.steps.contains(step) && self.0.steps.len() < MAX_STEPS {
                self.0.steps.push(step.clone());
            }
        }
        self.0.steps.sort_by_key(|step| step.unix_ms);
    }

    /// How an upgrade ends. `snapshot_failure`: why the snapshot at the stop did not
    /// do, and its error code.
    pub(super) fn ending(
        mut self,
        finished: &UpgradeFinished,
        snapshot_failure: Option<(ErrorCode, String)>,
        cancel_wanted: bool,
    ) -> Ending {
        self.finished(finished);
        if finished.ok {
            return ended(State::Succeeded, "", String::new(), &self);
        }
        let after = if finished.rolled_back { "rolled back: " } else { "" };
        if finished.cancelled && cancel_wanted {
            return ended(
                State::Cancelled,
                ErrorCode::Cancelled.as_str(),
                format!("{after}cancelled on request"),
                &self,
            );
        }
        let (code, cause) = match snapshot_failure {
            Some((code, problem)) => (code.as_str(), problem),
            None if finished.error.is_empty() => {
                (finished.error_code.as_str(), "the agent's log has the cause".to_owned())
            }
            None => (finished.error_code.as_str(), finished.error.clone()),
        };
        let code = if code.is_empty() { ErrorCode::UpgradeFailed.as_str() } else { code };
        ended(State::Failed, code, format!("{after}{cause}"), &self)
    }

    /// How a rollback ends.
    /// `snapshot_failure`: why the snapshot of what is discarded did not do, and its error
    /// code.
    pub(in crate::operations) fn rolled_back(
        mut self,
        finished: &UpgradeFinished,
        snapshot_failure: Option<(ErrorCode, String)>,
        cancel_wanted: bool,
    ) -> Ending {
        self.finished(finished);
        if finished.rolled_back {
            return ended(State::Succeeded, "", String::new(), &self);
        }
        if finished.cancelled && cancel_wanted {
            let text = "cancelled on request; everything runs as before".to_owned();
            return ended(State::Cancelled, ErrorCode::Cancelled.as_str(), text, &self);
        }
        if let Some((code, problem)) = snapshot_failure {
            return ended(State::Failed, code.as_str(), problem, &self);
        }
        let code = if finished.error_code.is_empty() {
            ErrorCode::RollbackFailed.as_str()
        } else {
            &finished.error_code
        };
        let error = if finished.error.is_empty() {
            "the agent's log has the cause".to_owned()
        } else {
            finished.error.clone()
        };
        ended(State::Failed, code, error, &self)
    }
}

fn ended(state: State, code: &str, error: String, report: &Report) -> Ending {
    Ending { state, error_code: code.to_owned(), error, result: report.result() }
}

/// One line about an end that was heard.
pub(in crate::operations) fn downtime_line(finished: &UpgradeFinished) -> Option<String> {
    (finished.downtime_ms > 0).then(|| format!("stood still for {}", millis(finished.downtime_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(finished: UpgradeFinished, snapshot_failure: Option<&str>, cancel: bool) -> Ending {
        let snapshot_failure =
            snapshot_failure.map(|problem| (ErrorCode::SnapshotAtStopFailed, problem.to_owned()));
        Report(UpgradeReport::default()).ending(&finished, snapshot_failure, cancel)
    }

    #[test]
    fn an_upgrade_that_went_back_is_no_success_and_says_why() {
        let ok = UpgradeFinished { ok: true, downtime_ms: 7, ..UpgradeFinished::default() };
        let end = ending(ok, None, false);
        assert_eq!((end.state, end.result.upgrade.map(|u| u.downtime_ms)), (State::Succeeded, Some(7)));
        let back = UpgradeFinished {
            rolled_back: true,
            error_code: "unhealthy".into(),
            error: "it is unhealthy".into(),
            ..UpgradeFinished::default()
        };
        let end = ending(back.clone(), None, true);
        assert_eq!((end.state, end.error_code.as_str()), (State::Failed, "unhealthy"));
        assert_eq!(end.error, "rolled back: it is unhealthy");
        assert!(end.result.upgrade.is_some_and(|u| u.rolled_back));
        let sent_back = UpgradeFinished { cancelled: true, ..back.clone() };
        let end = ending(sent_back.clone(), Some("the snapshot failed"), false);
        assert_eq!((end.state, end.error.as_str()), (State::Failed, "rolled back: the snapshot failed"));
        assert_eq!(ending(sent_back, Some("the snapshot was cancelled"), true).state, State::Cancelled);
        let stuck = UpgradeFinished { rolled_back: false, ..back };
        assert_eq!(ending(stuck.clone(), None, false).error, "it is unhealthy");
        assert_eq!(Report(UpgradeReport::default()).rolled_back(&stuck, None, true).state, State::Failed);
    }
}
