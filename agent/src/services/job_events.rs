//! What jobs tell, as messages. Every field is named, so that a new one cannot be
//! forgotten here.

use std::time::Duration;

use holdfast_archive::snapshot::Stats;
use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::{self, restore_event::Event as Restore, snapshot_event::Event as Backup};

use crate::quiesce::QuiesceReport;
use crate::snapshot::{
    BackupEvent, Counts, Failure, KnownJob, RestoreEvent, RestoreFinished, RestorePhase, RestoreProgress,
    Restored, SourceFinished, SourcePhase, SourceProgress, Taken,
};

pub(crate) fn backup_event(job: JobId, event: BackupEvent) -> v1::SnapshotEvent {
    let event = match event {
        BackupEvent::Progress(progress) => Backup::Progress(source_progress(progress)),
        BackupEvent::Source(finished) => Backup::Source(source_finished(finished)),
        BackupEvent::Quiesced(report) => Backup::Quiesced(container_quiesced(report)),
        BackupEvent::Ended(ended) => Backup::Ended(job_ended(ended)),
    };
    v1::SnapshotEvent { job_id: job.to_string(), event: Some(event) }
}

pub(crate) fn restore_event(job: JobId, event: RestoreEvent) -> v1::RestoreEvent {
    let event = match event {
        RestoreEvent::Progress(progress) => Restore::Progress(restore_progress(progress)),
        RestoreEvent::Finished(finished) => Restore::Finished(restore_finished(finished)),
    };
    v1::RestoreEvent { job_id: job.to_string(), event: Some(event) }
}

pub(super) fn known_job(job: KnownJob) -> v1::RunningJob {
    let KnownJob { job, kind, generation, started_unix_ms, sources, ended } = job;
    v1::RunningJob {
        job_id: job.to_string(),
        kind: kind.to_owned(),
        generation,
        started_unix_ms,
        sources,
        ended,
    }
}

fn source_progress(progress: SourceProgress) -> v1::SourceProgress {
    let SourceProgress { source, phase, stats, expected_bytes } = progress;
    let phase = match phase {
        SourcePhase::Queued => v1::SourcePhase::Queued,
        SourcePhase::FirstPass => v1::SourcePhase::FirstPass,
        SourcePhase::Quiescing => v1::SourcePhase::Quiescing,
        SourcePhase::SecondPass => v1::SourcePhase::SecondPass,
        SourcePhase::Committing => v1::SourcePhase::Committing,
    };
    v1::SourceProgress {
        source_id: source.to_string(),
        phase: phase.into(),
        // Retries are those of the whole session: they come when the source has ended.
        stats: Some(snapshot_stats(Counts { stats, retries: 0 })),
        expected_bytes: expected_bytes.unwrap_or_default(),
    }
}

fn source_finished(finished: SourceFinished) -> v1::SourceFinished {
    let SourceFinished { source, took, counts, result } = finished;
    let told = v1::SourceFinished {
        source_id: source.to_string(),
        stats: counts.map(snapshot_stats),
        duration_ms: millis(took),
        ..Default::default()
    };
    match result {
        Ok(Taken { snapshot, partial, shrunk, problems }) => {
            v1::SourceFinished { ok: true, snapshot_id: snapshot, partial, shrunk, problems, ..told }
        }
        Err(Failure { code, message }) => {
            v1::SourceFinished { error_code: code.as_str().to_owned(), error: message, ..told }
        }
    }
}

fn container_quiesced(report: QuiesceReport) -> v1::ContainerQuiesced {
    let QuiesceReport { container_id, container_name, mode, downtime_ms, resumed, problem } = report;
    let how = mode.as_str().to_owned();
    v1::ContainerQuiesced { container_id, container_name, how, downtime_ms, resumed, problem }
}

fn job_ended(ended: Result<(), Failure>) -> v1::JobEnded {
    match ended {
        Ok(()) => v1::JobEnded { ok: true, ..Default::default() },
        Err(Failure { code, message }) => v1::JobEnded {
            ok: false,
            cancelled: code == ErrorCode::Cancelled,
            error_code: code.as_str().to_owned(),
            error: message,
        },
    }
}

fn restore_progress(progress: RestoreProgress) -> v1::RestoreProgress {
    let RestoreProgress { phase, entries, files, bytes, total_entries, total_bytes } = progress;
    let phase = match phase {
        RestorePhase::Writing => v1::RestorePhase::Writing,
        RestorePhase::Verifying => v1::RestorePhase::Verifying,
    };
    v1::RestoreProgress { phase: phase.into(), entries, files, bytes, total_entries, total_bytes }
}

fn restore_finished(finished: RestoreFinished) -> v1::RestoreFinished {
    let RestoreFinished { took, restored, failure } = finished;
    let Restored {
        entries,
        files,
        bytes,
        differences,
        difference_list,
        left_out,
        left_out_list,
        lost,
        lost_list,
    } = restored;
    v1::RestoreFinished {
        ok: failure.is_none(),
        cancelled: failure.as_ref().is_some_and(|failure| failure.code == ErrorCode::Cancelled),
        entries,
        files,
        bytes,
        duration_ms: millis(took),
        differences,
        difference_list,
        left_out,
        left_out_list,
        error_code: failure.as_ref().map_or("", |failure| failure.code.as_str()).to_owned(),
        error: failure.map(|failure| failure.message).unwrap_or_default(),
        lost,
        lost_list,
    }
}

pub(crate) fn snapshot_stats(counts: Counts) -> v1::SnapshotStats {
    let Counts { stats, retries } = counts;
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
    v1::SnapshotStats {
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

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
