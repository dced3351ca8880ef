//! What an upgrade, a rollback or a rollout came to.

use holdfast_proto::v1::{JobChild, UpgradeReport, UpgradeState, UpgradeStep};
use serde::Serialize;

use super::{JobView, kind_word, state_word as job_state_word};
use crate::output::{Millis, When};

#[derive(Serialize)]
pub(super) struct UpgradeView {
    container: String,
    from_image: String,
    to_image: String,
    state: &'static str,
    rolled_back: bool,
    downtime_ms: Millis,
    grace_until: When,
    snapshots_before: Vec<String>,
    snapshots_at_stop: Vec<String>,
    steps: Vec<StepView>,
    upgraded: u32,
    failed: u32,
    undone: u32,
    not_begun: u32,
}

/// One step of an upgrade.
#[derive(Serialize)]
pub(in crate::commands) struct StepView {
    state: &'static str,
    text: String,
    at: When,
}

/// A job that another started.
#[derive(Serialize)]
pub(super) struct ChildView {
    id: String,
    kind: &'static str,
    state: &'static str,
    host: String,
    container: String,
    error: String,
}

// === conversions ===

impl From<UpgradeReport> for UpgradeView {
    fn from(report: UpgradeReport) -> Self {
        let state = state_word(report.state());
        let UpgradeReport {
            container,
            from_image,
            to_image,
            state: _,
            rolled_back,
            downtime_ms,
            grace_until_unix_ms,
            snapshots_before,
            snapshots_at_stop,
            steps,
            upgraded,
            failed,
            undone,
            not_begun,
        } = report;
        Self {
            container,
            from_image,
            to_image,
            state,
            rolled_back,
            downtime_ms: Millis(downtime_ms),
            grace_until: When(grace_until_unix_ms),
            snapshots_before,
            snapshots_at_stop,
            steps: steps.into_iter().map(StepView::from).collect(),
            upgraded,
            failed,
            undone,
            not_begun,
        }
    }
}

impl From<UpgradeStep> for StepView {
    fn from(step: UpgradeStep) -> Self {
        Self { state: state_word(step.state()), text: step.text, at: When(step.unix_ms) }
    }
}

impl From<JobChild> for ChildView {
    fn from(child: JobChild) -> Self {
        Self {
            kind: kind_word(child.kind()),
            state: job_state_word(child.state()),
            id: child.id,
            host: child.host,
            container: child.container,
            error: child.error,
        }
    }
}

/// The name of a state, as tables and JSON have it.
pub(in crate::commands) fn state_word(state: UpgradeState) -> &'static str {
    match state {
        UpgradeState::Unspecified => "",
        UpgradeState::Preparing => "preparing",
        UpgradeState::Stopping => "stopping",
        UpgradeState::Stopped => "stopped",
        UpgradeState::Switching => "switching",
        UpgradeState::Gating => "gating",
        UpgradeState::Committing => "committing",
        UpgradeState::Committed => "committed",
        UpgradeState::Finished => "finished",
        UpgradeState::RollingBack => "rolling back",
        UpgradeState::RolledBack => "rolled back",
        UpgradeState::AwaitingRollbackSnapshot => "awaiting snapshot",
    }
}

// === for people ===

/// `postgres:16.3 → 16.4`: the second name in full only where it differs in
/// more than the tag.
pub(in crate::commands) fn images(from: &str, to: &str) -> String {
    match (tagged(from), tagged(to)) {
        _ if from == to => format!("{to}, fetched anew"),
        (Some((old, _)), Some((new, tag))) if old == new => format!("{from} → {tag}"),
        _ => format!("{from} → {to}"),
    }
}

/// Repository and tag; nothing for a digest or a name without a tag.
fn tagged(reference: &str) -> Option<(&str, &str)> {
    // A colon before the last slash is a registry's port.
    reference.rsplit_once(':').filter(|(name, tag)| !tag.contains('/') && !name.contains('@'))
}

impl StepView {
    /// The step and how long after the first it came.
    fn line(&self, first: When) -> String {
        let after = Millis(self.at.0.saturating_sub(first.0).max(0).unsigned_abs());
        format!("  {:>9}  {:<13} {}", format!("+{after}"), self.state, self.text).trim_end().to_owned()
    }
}

/// Every step on a line.
pub(in crate::commands) fn step_lines(steps: &[StepView]) -> Vec<String> {
    let first = steps.first().map_or(When(0), |step| step.at);
    steps.iter().map(|step| step.line(first)).collect()
}

impl ChildView {
    pub(super) fn line(&self) -> String {
        let place = match (self.host.as_str(), self.container.as_str()) {
            (host, "") => host.to_owned(),
            (host, container) => format!("{host}/{container}"),
        };
        let error = if self.error.is_empty() { String::new() } else { format!(": {}", self.error) };
        format!("  {} {} · {place} · {}{error}", self.kind, self.id, self.state)
    }
}

impl UpgradeView {
    /// One line of what it is about.
    pub(super) fn summary(&self, kind: &str) -> String {
        match kind {
            "rollout" => self.counts(),
            _ if self.from_image.is_empty() => self.container.clone(),
            "rollback" => {
                format!("{}: rolling back {}", self.container, images(&self.from_image, &self.to_image))
            }
            _ => format!("{}: {}", self.container, images(&self.from_image, &self.to_image)),
        }
    }

    fn counts(&self) -> String {
        let mut counts = vec![format!("{} upgraded", self.upgraded)];
        for (count, word) in
            [(self.failed, "failed"), (self.undone, "rolled back again"), (self.not_begun, "not begun")]
        {
            if count > 0 {
                counts.push(format!("{count} {word}"));
            }
        }
        counts.join(", ")
    }

    /// The lines of `job`, which this belongs to.
    pub(super) fn lines(&self, job: &JobView) -> Vec<String> {
        let mut lines = vec![format!("  {}", self.summary(job.kind))];
        lines.extend(step_lines(&self.steps));
        let undone = job.kind == "upgrade" && self.rolled_back;
        let cause = if undone { "because" } else { "error" };
        if undone {
            lines.push(format!("  ROLLED BACK: {}", self.back()));
        } else if job.kind == "rollback" && job.state == "succeeded" {
            lines.push(format!("  {}", self.back()));
        }
        if !job.error.is_empty() {
            lines.push(format!("  {cause}: {}", job.error));
        }
        for (when, snapshots) in
            [("before", &self.snapshots_before), ("at the stop", &self.snapshots_at_stop)]
        {
            if !snapshots.is_empty() {
                lines.push(format!("  snapshots {when}: {}", snapshots.join(", ")));
            }
        }
        if self.downtime_ms.0 > 0 {
            lines.push(format!("  {} was down for {}", self.container, self.downtime_ms));
        }
        if self.state == "committed" && !self.rolled_back {
            lines.extend(kept(&self.container, &job.host, self.grace_until));
        }
        lines
    }

    fn back(&self) -> String {
        // Before the stop nothing of the data was touched.
        let data = if self.downtime_ms.0 > 0 { ", its data as of the stop" } else { "" };
        match self.from_image.as_str() {
            "" => format!("{} is the old container again{data}", self.container),
            image => format!("{} is {image} again{data}", self.container),
        }
    }
}

/// What can still be done about a committed upgrade.
fn kept(container: &str, host: &str, until: When) -> Option<String> {
    (until != When(0)).then(|| {
        format!(
            "  kept until {}: `holdfast upgrade rollback {container} --host {host}` goes back, \
             `holdfast upgrade commit {container} --host {host}` ends it now",
            until.local()
        )
    })
}

#[cfg(test)]
mod tests {
    use holdfast_proto::v1::{Job, JobKind, JobState};

    use super::*;
    use crate::output::Render as _;

    fn step(state: UpgradeState, text: &str, unix_ms: i64) -> UpgradeStep {
        UpgradeStep { state: state as i32, text: text.to_owned(), unix_ms }
    }

    fn job(state: JobState, report: UpgradeReport) -> Job {
        Job {
            id: "01JOB".to_owned(),
            kind: JobKind::Upgrade as i32,
            state: state as i32,
            host: "db-1".to_owned(),
            upgrade: Some(report),
            ..Job::default()
        }
    }

    fn report(state: UpgradeState) -> UpgradeReport {
        UpgradeReport {
            container: "db".to_owned(),
            from_image: "postgres:16.3".to_owned(),
            to_image: "postgres:16.4".to_owned(),
            state: state as i32,
            downtime_ms: 9_300,
            steps: vec![
                step(UpgradeState::Stopping, "stopping db", 1_000),
                step(UpgradeState::Gating, "waiting until db is healthy", 8_200),
            ],
            ..UpgradeReport::default()
        }
    }

    #[test]
    fn a_rollback_is_said_plainly_with_its_cause() {
        let mut job =
            job(JobState::Failed, UpgradeReport { rolled_back: true, ..report(UpgradeState::RolledBack) });
        job.error = "db was not healthy within 2m".to_owned();
        job.children = vec![JobChild {
            id: "01KID".to_owned(),
            kind: JobKind::Backup as i32,
            state: JobState::Succeeded as i32,
            host: "db-1".to_owned(),
            ..JobChild::default()
        }];
        assert_eq!(
            JobView::from(job).lines().to_string(),
            "job 01JOB upgrade · db-1 · failed\n  \
             db: postgres:16.3 → 16.4\n      \
             +0 ms  stopping      stopping db\n     \
             +7.2 s  gating        waiting until db is healthy\n  \
             ROLLED BACK: db is postgres:16.3 again, its data as of the stop\n  \
             because: db was not healthy within 2m\n  \
             db was down for 9.3 s\n  \
             backup 01KID · db-1 · succeeded"
        );
    }

    #[test]
    fn a_committed_one_says_how_long_there_is_a_way_back() {
        let report = UpgradeReport {
            grace_until_unix_ms: 1_700_000_000_000,
            snapshots_before: vec!["db_data@#7".to_owned()],
            snapshots_at_stop: vec!["db_data@#8".to_owned()],
            ..report(UpgradeState::Committed)
        };
        let mut job = job(JobState::Succeeded, report);
        job.parent_id = "01TOP".to_owned();
        let view = JobView::from(job);
        let until = When(1_700_000_000_000).local();
        let text = view.lines().to_string();
        assert!(
            text.ends_with(&format!(
                "  snapshots before: db_data@#7\n  \
                 snapshots at the stop: db_data@#8\n  \
                 db was down for 9.3 s\n  \
                 kept until {until}: `holdfast upgrade rollback db --host db-1` goes back, \
                 `holdfast upgrade commit db --host db-1` ends it now\n  \
                 part of job 01TOP"
            )),
            "{text}"
        );
        let json = serde_json::to_value(&view).expect("json");
        assert_eq!((&json["parent"], &json["upgrade"]["state"]), (&"01TOP".into(), &"committed".into()));
        assert_eq!(json["upgrade"]["downtime_ms"], 9_300);
        assert_eq!(json["upgrade"]["grace_until"], "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn a_rollout_counts_and_names_each_container() {
        let child = |container: &str, state: JobState, error: &str| JobChild {
            id: format!("01-{container}"),
            kind: JobKind::Upgrade as i32,
            state: state as i32,
            host: "web-1".to_owned(),
            container: container.to_owned(),
            error: error.to_owned(),
        };
        let job = Job {
            id: "01JOB".to_owned(),
            kind: JobKind::Rollout as i32,
            state: JobState::Failed as i32,
            upgrade: Some(UpgradeReport { upgraded: 1, failed: 1, not_begun: 3, ..UpgradeReport::default() }),
            children: vec![
                child("a", JobState::Succeeded, ""),
                child("b", JobState::Failed, "b did not start"),
            ],
            error: "stopped after 1 failure".to_owned(),
            ..Job::default()
        };
        assert_eq!(
            JobView::from(job).lines().to_string(),
            "job 01JOB rollout · failed\n  \
             1 upgraded, 1 failed, 3 not begun\n  \
             error: stopped after 1 failure\n  \
             upgrade 01-a · web-1/a · succeeded\n  \
             upgrade 01-b · web-1/b · failed: b did not start"
        );
    }

    #[test]
    fn the_second_image_is_short_where_only_the_tag_differs() {
        for (from, to, text) in [
            ("postgres:16.3", "postgres:16.4", "postgres:16.3 → 16.4"),
            ("postgres:16", "postgres:16", "postgres:16, fetched anew"),
            ("r:5000/a", "r:5000/b", "r:5000/a → r:5000/b"),
            ("a@sha256:1", "a@sha256:2", "a@sha256:1 → a@sha256:2"),
            ("a:1", "a", "a:1 → a"),
        ] {
            assert_eq!(images(from, to), text);
        }
    }
}
