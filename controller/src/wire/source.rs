//! Sources of jobs: how far each is, and how it ended.

use holdfast_proto::v1;

use super::fields::optional;
use super::number;
use crate::model::job::source::{JobSource, SnapshotStats, SourceFinished, SourcePhase, SourceProgress};
use crate::model::source::SourceKind;

same_words!(SourceKind, SourceKind { Volume, Directory });

same_words!(SourcePhase, SourcePhase { Queued, FirstPass, Quiescing, SecondPass, Committing });

impl From<JobSource> for v1::JobSource {
    fn from(source: JobSource) -> Self {
        let JobSource { source_id, name, kind, phase, finished, stats, expected_bytes } = source;
        Self {
            source_id,
            name,
            kind: number::write(Some(kind)),
            phase: number::write(phase),
            finished: optional::write(finished),
            stats: optional::write(stats),
            expected_bytes,
        }
    }
}

from_message!(SourceProgress { source_id, phase: number, stats: optional, expected_bytes });

both_ways!(SourceFinished {
    source_id,
    ok,
    snapshot_id,
    stats: optional,
    partial,
    problems,
    duration_ms,
    error_code,
    error,
    shrunk,
});

both_ways!(SnapshotStats {
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
    retries,
});
