//! What a job came to, as its row keeps it.
//!
//! A job that runs has one as well: what is known so far is recorded with every
//! fact, so that a controller that takes the job over goes on from there.

use serde::{Deserialize, Serialize};

use super::prune::PruneReport;
use super::quiesced::ContainerQuiesced;
use super::restore::RestoreFinished;
use crate::model::upgrade::UpgradeReport;

/// By kind of job one of these is filled, of a backup two. The JSON is kept in
/// the catalogue: names stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobResult {
    pub restore: Option<RestoreFinished>,
    pub prune: Option<PruneReport>,
    /// Of an upgrade, a rollback or a rollout.
    pub upgrade: Option<UpgradeReport>,
    /// Of a backup: containers that were quiesced for it.
    pub quiesced: Vec<ContainerQuiesced>,
    /// Of a backup: names of sources that it should have had and that were not
    /// there.
    pub missing_sources: Vec<String>,
}

impl From<RestoreFinished> for JobResult {
    fn from(finished: RestoreFinished) -> Self {
        Self { restore: Some(finished), ..Self::default() }
    }
}

impl From<PruneReport> for JobResult {
    fn from(report: PruneReport) -> Self {
        Self { prune: Some(report), ..Self::default() }
    }
}

impl From<UpgradeReport> for JobResult {
    fn from(report: UpgradeReport) -> Self {
        Self { upgrade: Some(report), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::upgrade::{UpgradeState, UpgradeStep};

    /// Results of every kind, as rows of the first version have them.
    const GOLDEN: &str = include_str!("golden/result-1.json");

    fn of_every_kind() -> Vec<JobResult> {
        let restore = RestoreFinished {
            ok: true,
            cancelled: true,
            entries: 1,
            files: 2,
            bytes: 3,
            duration_ms: 4,
            differences: 5,
            difference_list: vec!["a: content".into()],
            left_out: 6,
            left_out_list: vec!["b: device".into()],
            error_code: "x".into(),
            error: "y".into(),
            lost: 7,
            lost_list: vec!["c".into()],
        };
        let prune = PruneReport {
            packs_deleted: 1,
            bytes_deleted: 2,
            packs_kept: 3,
            bytes_kept: 4,
            snapshots_purged: 5,
            packs_condemned: 6,
            packs_revived: 7,
            notes: vec!["collection is off".into()],
        };
        let step = UpgradeStep { state: UpgradeState::Gating, text: "it is well".into(), unix_ms: 8 };
        let upgrade = UpgradeReport {
            container: "db".into(),
            from_image: "postgres:16.3".into(),
            to_image: "postgres:16.4".into(),
            state: UpgradeState::AwaitingRollbackSnapshot,
            rolled_back: true,
            downtime_ms: 9,
            grace_until_unix_ms: 10,
            snapshots_before: vec!["h/s/1".into()],
            snapshots_at_stop: vec!["h/s/2".into()],
            steps: vec![step],
            upgraded: 11,
            failed: 12,
            undone: 13,
            not_begun: 14,
        };
        let quiesced = ContainerQuiesced {
            container_id: "c".into(),
            container_name: "db".into(),
            how: "paused".into(),
            downtime_ms: 15,
            resumed: true,
            problem: "z".into(),
        };
        let backup = JobResult {
            quiesced: vec![quiesced],
            missing_sources: vec!["logs".into()],
            ..JobResult::default()
        };
        vec![JobResult::default(), restore.into(), prune.into(), upgrade.into(), backup]
    }

    /// A controller that is upgraded reads the rows of the one before. Who
    /// changes what is written adds a file, and goes on to read this one.
    #[test]
    fn rows_are_read_and_written_as_they_ever_were() {
        let rows: serde_json::Value = serde_json::from_str(GOLDEN).expect("JSON");
        let read: Vec<JobResult> = serde_json::from_value(rows.clone()).expect("reads");
        assert_eq!(read, of_every_kind());
        assert_eq!(serde_json::to_value(of_every_kind()).expect("JSON"), rows);
    }

    #[test]
    fn what_a_later_version_adds_or_leaves_out_does_not_make_a_row_unreadable() {
        let row = r#"{"quiesced":[{"container_name":"db","since_then":1}],"also_since_then":{}}"#;
        let read: JobResult = serde_json::from_str(row).expect("reads");
        assert_eq!(read.quiesced.iter().map(|one| one.container_name.as_str()).collect::<Vec<_>>(), ["db"]);
    }
}
