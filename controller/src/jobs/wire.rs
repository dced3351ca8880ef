//! Jobs as operators see them: the row, its sources, and what is in memory.

use holdfast_archive::snapshot::Stats;
use holdfast_proto::v1::{self, JobChild, JobSource, SnapshotStats};

use super::progress::Live;
use crate::catalog::jobs::JobRecord;

/// Counts of a snapshot for the wire.
pub fn snapshot_stats(stats: Stats) -> SnapshotStats {
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
    SnapshotStats {
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
        retries: 0,
    }
}

/// A job for the wire. `host` is its name, empty for a job of no host.
pub fn job(
    record: &JobRecord,
    host: &str,
    mut sources: Vec<JobSource>,
    children: Vec<JobChild>,
    live: &Live,
) -> v1::Job {
    for source in &mut sources {
        overlay(source, live);
    }
    let JobRecord { result, .. } = record;
    v1::Job {
        id: record.id.to_string(),
        kind: record.parameters.kind().into(),
        state: record.state.wire().into(),
        host: host.to_owned(),
        policy: record.policy.clone(),
        fire_unix_ms: record.fire_ms.unwrap_or_default(),
        created_unix_ms: record.created_ms,
        started_unix_ms: record.started_ms.unwrap_or_default(),
        ended_unix_ms: record.ended_ms.unwrap_or_default(),
        actor: record.actor.clone(),
        attempt: record.attempt,
        sources,
        error_code: record.error_code.clone(),
        error: record.error.clone(),
        step: record.step.clone(),
        restore: result.restore.clone(),
        prune: result.prune.clone(),
        quiesced: result.quiesced.clone(),
        upgrade: result.upgrade.clone(),
        parent_id: record.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        children,
        missing_sources: result.missing_sources.clone(),
    }
}

/// A job as its parent shows it.
pub fn child(record: &JobRecord, host: &str) -> JobChild {
    JobChild {
        id: record.id.to_string(),
        kind: record.parameters.kind().into(),
        state: record.state.wire().into(),
        host: host.to_owned(),
        container: record.parameters.container().to_owned(),
        error: record.error.clone(),
    }
}

fn overlay(source: &mut JobSource, live: &Live) {
    if let Some(finished) = &source.finished {
        source.stats = finished.stats;
        return;
    }
    if let Some(progress) = live.sources.get(&source.source_id) {
        source.phase = progress.phase;
        source.stats = progress.stats;
        source.expected_bytes = progress.expected_bytes;
    }
}

/// A size for people: two or three digits and a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A length of time for people.
pub fn millis(count: u64) -> String {
    match count {
        0..1000 => format!("{count} ms"),
        1000..60_000 => format!("{}.{} s", count / 1000, count % 1000 / 100),
        60_000..3_600_000 => format!("{}m {:02}s", count / 60_000, count % 60_000 / 1000),
        _ => format!("{}h {:02}m", count / 3_600_000, count % 3_600_000 / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(41 << 20), "41 MiB");
        assert_eq!(bytes(8_800_000_000), "8.2 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(millis(38), "38 ms");
        assert_eq!(millis(27_400), "27.4 s");
        assert_eq!(millis(104_000), "1m 44s");
    }
}
