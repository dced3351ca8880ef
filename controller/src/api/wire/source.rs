//! Sources of jobs, and counts of snapshots.

use holdfast_proto::v1;

use crate::model::job::source::{JobSource, SnapshotStats, SourceFinished, SourcePhase};

impl From<JobSource> for v1::JobSource {
    fn from(source: JobSource) -> Self {
        let JobSource { source_id, name, kind, phase, finished, stats, expected_bytes } = source;
        let phase = phase.map_or(v1::SourcePhase::Unspecified, v1::SourcePhase::from);
        Self {
            source_id,
            name,
            kind: v1::SourceKind::from(kind).into(),
            phase: phase.into(),
            finished: finished.map(v1::SourceFinished::from),
            stats: stats.map(v1::SnapshotStats::from),
            expected_bytes,
        }
    }
}

impl From<SourcePhase> for v1::SourcePhase {
    fn from(phase: SourcePhase) -> Self {
        match phase {
            SourcePhase::Queued => Self::Queued,
            SourcePhase::FirstPass => Self::FirstPass,
            SourcePhase::Quiescing => Self::Quiescing,
            SourcePhase::SecondPass => Self::SecondPass,
            SourcePhase::Committing => Self::Committing,
        }
    }
}

impl From<SourceFinished> for v1::SourceFinished {
    fn from(finished: SourceFinished) -> Self {
        let SourceFinished {
            source_id,
            ok,
            snapshot_id,
            stats,
            partial,
            problems,
            duration_ms,
            error_code,
            error,
            shrunk,
        } = finished;
        Self {
            source_id,
            ok,
            snapshot_id,
            stats: stats.map(v1::SnapshotStats::from),
            partial,
            problems,
            duration_ms,
            error_code,
            error,
            shrunk,
        }
    }
}

impl From<SnapshotStats> for v1::SnapshotStats {
    fn from(stats: SnapshotStats) -> Self {
        let SnapshotStats {
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
            retries,
        }
    }
}
