//! Jobs as operators see them: the row, its sources, and what is in memory.

use holdfast_archive::snapshot::Stats;
use holdfast_proto::v1::probe::Kind;
use holdfast_proto::v1::{self, JobChild, JobSource, SnapshotStats};

use super::progress::Live;
use crate::catalog::jobs::JobRecord;
use crate::model::job::parameters::{Probe, UpgradeOptions, UpgradeParameters};
use crate::policy::{Consistency, NestedMounts, TornPolicy};

impl From<Consistency> for v1::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::None => Self::None,
            Consistency::Pause => Self::Pause,
            Consistency::Stop => Self::Stop,
        }
    }
}

/// `None`: left to whoever reads it.
pub fn consistency(wire: v1::Consistency) -> Option<Consistency> {
    match wire {
        v1::Consistency::Unspecified => None,
        v1::Consistency::None => Some(Consistency::None),
        v1::Consistency::Pause => Some(Consistency::Pause),
        v1::Consistency::Stop => Some(Consistency::Stop),
    }
}

impl From<TornPolicy> for v1::TornPolicy {
    fn from(torn: TornPolicy) -> Self {
        match torn {
            TornPolicy::Accept => Self::Accept,
            TornPolicy::Fail => Self::Fail,
        }
    }
}

impl From<NestedMounts> for v1::NestedMounts {
    fn from(nested: NestedMounts) -> Self {
        match nested {
            NestedMounts::Partial => Self::Partial,
            NestedMounts::LeaveOut => Self::LeaveOut,
        }
    }
}

/// `None`: left to whoever reads it.
pub fn nested_mounts(wire: v1::NestedMounts) -> Option<NestedMounts> {
    match wire {
        v1::NestedMounts::Unspecified => None,
        v1::NestedMounts::Partial => Some(NestedMounts::Partial),
        v1::NestedMounts::LeaveOut => Some(NestedMounts::LeaveOut),
    }
}

/// What a request for an upgrade makes of a job. Quiesced by pausing unless
/// something else is asked for.
pub fn upgrade_parameters(
    request: &v1::PlanUpgradeRequest,
    plan_id: &str,
    consistency: Option<Consistency>,
) -> UpgradeParameters {
    let v1::PlanUpgradeRequest { container, image, pull, options } = request;
    UpgradeParameters {
        container: container.clone(),
        image: image.clone(),
        pull: *pull,
        options: upgrade_options(options.clone().unwrap_or_default()),
        plan_id: plan_id.to_owned(),
        consistency: consistency.unwrap_or(Consistency::Pause),
    }
}

fn upgrade_options(options: v1::UpgradeOptions) -> UpgradeOptions {
    let v1::UpgradeOptions {
        health_timeout_seconds,
        steady_seconds,
        probe,
        grace_seconds,
        stopped_seconds,
        allow_loss,
    } = options;
    let probe = probe.and_then(|probe| probe.kind).map(|kind| match kind {
        Kind::Command(command) => Probe::Command(command.argv),
        Kind::TcpPort(port) => Probe::Tcp(port),
        Kind::Http(v1::ProbeHttp { port, path }) => Probe::Http { port, path },
    });
    UpgradeOptions {
        health_timeout_seconds,
        steady_seconds,
        probe,
        grace_seconds,
        stopped_seconds,
        allow_loss,
    }
}

impl From<UpgradeOptions> for v1::UpgradeOptions {
    fn from(options: UpgradeOptions) -> Self {
        let UpgradeOptions {
            health_timeout_seconds,
            steady_seconds,
            probe,
            grace_seconds,
            stopped_seconds,
            allow_loss,
        } = options;
        let kind = |probe| match probe {
            Probe::Command(argv) => Kind::Command(v1::ProbeCommand { argv }),
            Probe::Tcp(port) => Kind::TcpPort(port),
            Probe::Http { port, path } => Kind::Http(v1::ProbeHttp { port, path }),
        };
        Self {
            health_timeout_seconds,
            steady_seconds,
            probe: probe.map(|probe| v1::Probe { kind: Some(kind(probe)) }),
            grace_seconds,
            stopped_seconds,
            allow_loss,
        }
    }
}

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
    fn options_come_back_as_they_were_given() {
        let kinds = [
            None,
            Some(Kind::Command(v1::ProbeCommand { argv: vec!["true".into()] })),
            Some(Kind::TcpPort(5432)),
            Some(Kind::Http(v1::ProbeHttp { port: 80, path: "/".into() })),
        ];
        for kind in kinds {
            let options = v1::UpgradeOptions {
                health_timeout_seconds: 1,
                steady_seconds: 2,
                probe: kind.map(|kind| v1::Probe { kind: Some(kind) }),
                grace_seconds: 3,
                stopped_seconds: 4,
                allow_loss: vec!["tmpfs:/run".into()],
            };
            let request = v1::PlanUpgradeRequest { options: Some(options.clone()), ..Default::default() };
            let parameters = upgrade_parameters(&request, "", None);
            assert_eq!(v1::UpgradeOptions::from(parameters.options), options);
            assert_eq!(parameters.consistency, Consistency::Pause);
        }
    }

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
