//! The sources of a backup: how far each is, and how it ended.

use holdfast_archive::snapshot::Stats;
use serde::{Deserialize, Serialize};

use crate::model::source::SourceKind;

/// A source of a job. The JSON is kept in the catalogue: names stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSource {
    pub source_id: String,
    pub name: String,
    pub kind: SourceKind,
    /// `None` once it has ended.
    pub phase: Option<SourcePhase>,
    pub finished: Option<SourceFinished>,
    pub stats: Option<SnapshotStats>,
    /// What the snapshot before suggests the total will be; 0: not known.
    pub expected_bytes: u64,
}

/// How a source ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFinished {
    pub source_id: String,
    pub ok: bool,
    /// Of the snapshot; empty unless `ok`.
    pub snapshot_id: String,
    pub stats: Option<SnapshotStats>,
    pub partial: bool,
    /// The first of what made it partial; the counts are in `stats`.
    pub problems: Vec<String>,
    pub duration_ms: u64,
    pub error_code: String,
    pub error: String,
    /// Less than a tenth is left of what the snapshot before has.
    pub shrunk: bool,
}

/// Totals since a source was begun; in memory alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceProgress {
    pub source_id: String,
    pub phase: Option<SourcePhase>,
    pub stats: Option<SnapshotStats>,
    pub expected_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourcePhase {
    Queued,
    /// Read while the containers run.
    FirstPass,
    Quiescing,
    /// What changed since is read, with the containers quiesced.
    SecondPass,
    Committing,
}

/// Counts of a snapshot, and of how it was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotStats {
    pub entries: u64,
    pub files: u64,
    pub size_bytes: u64,
    pub read_bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    pub changed_files: u64,
    pub torn_files: u64,
    pub vanished_entries: u64,
    pub unreadable_entries: u64,
    /// Calls to the repository that were made again.
    pub retries: u64,
}

/// How a backup ended on its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobEnded {
    pub ok: bool,
    pub cancelled: bool,
    pub error_code: String,
    pub error: String,
}

impl From<Stats> for SnapshotStats {
    fn from(stats: Stats) -> Self {
        let Stats {
            entries,
            files,
            size_bytes,
            read_bytes,
            new_bytes,
            stored_bytes,
            changed_files,
            torn_files,
            vanished_entries,
            unreadable_entries,
        } = stats;
        Self {
            entries,
            files,
            size_bytes,
            read_bytes,
            new_bytes,
            stored_bytes,
            changed_files,
            torn_files,
            vanished_entries,
            unreadable_entries,
            // A snapshot does not keep how often its agent had to call.
            retries: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sources as rows of the first version have them.
    const GOLDEN: &str = include_str!("golden/source-1.json");

    fn sources() -> Vec<JobSource> {
        let stats = SnapshotStats {
            entries: 1,
            files: 2,
            size_bytes: 3,
            read_bytes: 4,
            new_bytes: 5,
            stored_bytes: 6,
            changed_files: 7,
            torn_files: 8,
            vanished_entries: 9,
            unreadable_entries: 10,
            retries: 11,
        };
        let finished = SourceFinished {
            source_id: "s".into(),
            ok: true,
            snapshot_id: "h/s/7".into(),
            stats: Some(stats),
            partial: true,
            problems: vec!["a: changed while it was read".into()],
            duration_ms: 12,
            error_code: "x".into(),
            error: "y".into(),
            shrunk: true,
        };
        let queued = JobSource {
            source_id: "s".into(),
            name: "db_data".into(),
            phase: Some(SourcePhase::Queued),
            expected_bytes: 13,
            ..JobSource::default()
        };
        let ended = JobSource {
            name: "/srv".into(),
            kind: SourceKind::Directory,
            phase: None,
            finished: Some(finished),
            stats: Some(stats),
            ..queued.clone()
        };
        vec![queued, ended]
    }

    /// A controller that is upgraded reads the rows of the one before. Who
    /// changes what is written adds a file, and goes on to read this one.
    #[test]
    fn rows_are_read_and_written_as_they_ever_were() {
        let rows: serde_json::Value = serde_json::from_str(GOLDEN).expect("JSON");
        let read: Vec<JobSource> = serde_json::from_value(rows.clone()).expect("reads");
        assert_eq!(read, sources());
        assert_eq!(serde_json::to_value(sources()).expect("JSON"), rows);
    }
}
