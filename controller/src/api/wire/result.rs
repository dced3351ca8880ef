//! What jobs came to: restores, prunes, containers that were quiesced.

use holdfast_proto::v1;

use crate::model::job::prune::PruneReport;
use crate::model::job::quiesced::ContainerQuiesced;
use crate::model::job::restore::{RestoreFinished, RestorePhase, RestoreProgress};

impl From<RestoreFinished> for v1::RestoreFinished {
    fn from(finished: RestoreFinished) -> Self {
        let RestoreFinished {
            ok,
            cancelled,
            entries,
            files,
            bytes,
            duration_ms,
            differences,
            difference_list,
            left_out,
            left_out_list,
            error_code,
            error,
            lost,
            lost_list,
        } = finished;
        Self {
            ok,
            cancelled,
            entries,
            files,
            bytes,
            duration_ms,
            differences,
            difference_list,
            left_out,
            left_out_list,
            error_code,
            error,
            lost,
            lost_list,
        }
    }
}

impl From<RestoreProgress> for v1::RestoreProgress {
    fn from(progress: RestoreProgress) -> Self {
        let RestoreProgress { phase, entries, files, bytes, total_entries, total_bytes } = progress;
        let phase = match phase {
            None => v1::RestorePhase::Unspecified,
            Some(RestorePhase::Preparing) => v1::RestorePhase::Preparing,
            Some(RestorePhase::Writing) => v1::RestorePhase::Writing,
            Some(RestorePhase::Verifying) => v1::RestorePhase::Verifying,
        };
        Self { phase: phase.into(), entries, files, bytes, total_entries, total_bytes }
    }
}

impl From<PruneReport> for v1::PruneReport {
    fn from(report: PruneReport) -> Self {
        let PruneReport {
            packs_deleted,
            bytes_deleted,
            packs_kept,
            bytes_kept,
            snapshots_purged,
            packs_condemned,
            packs_revived,
            notes,
        } = report;
        Self {
            packs_deleted,
            bytes_deleted,
            packs_kept,
            bytes_kept,
            snapshots_purged,
            packs_condemned,
            packs_revived,
            notes,
        }
    }
}

impl From<ContainerQuiesced> for v1::ContainerQuiesced {
    fn from(quiesced: ContainerQuiesced) -> Self {
        let ContainerQuiesced { container_id, container_name, how, downtime_ms, resumed, problem } = quiesced;
        Self { container_id, container_name, how, downtime_ms, resumed, problem }
    }
}
