mod absence;
mod expected;
mod properties;

use std::collections::{BTreeMap, HashMap};

use crate::model::job::JobResult;
use holdfast_archive::ids::{FrameId, SnapshotId, SourceId};
use holdfast_archive::snapshot::Extent;
use holdfast_proto::ids::JobId;

use super::*;
use crate::model::job::parameters::{Parameters, RollbackParameters, UpgradeParameters};
use crate::model::job::state::State;
use crate::model::protocol::SnapshotState;

/// 2026-11-24 12:00:00 UTC, a Tuesday.
const NOW: i64 = 1_795_521_600_000;
const HOUR: i64 = 3_600_000;

fn host(name: &str) -> HostRecord {
    HostRecord {
        id: HostId::generate(),
        name: name.to_owned(),
        labels: BTreeMap::new(),
        joined_ms: NOW - 1000 * HOUR,
        revoked_ms: None,
        retired_ms: None,
        last_seen_ms: Some(NOW - 1000),
        certificate_not_after_ms: None,
        instance_id: None,
        agent: None,
        clock_skew_ms: 0,
        volumes: 0,
    }
}

fn volume(host: &HostRecord, name: &str) -> SourceRecord {
    SourceRecord {
        id: SourceId::generate(),
        host: host.id,
        kind: SourceKind::Volume,
        name: name.to_owned(),
        driver: "local".to_owned(),
        labels: BTreeMap::new(),
        anonymous: false,
        used: true,
        first_seen_ms: NOW - 1000 * HOUR,
        last_seen_ms: NOW,
        gone_ms: None,
        retired_ms: None,
        own: String::new(),
    }
}

fn snapshot(source: &SourceRecord, age_ms: i64, partial: bool) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId { host: source.host, source: source.id, number: 1 },
        commit_number: 1,
        state: SnapshotState::Committed,
        job: String::new(),
        policy: String::new(),
        created_ms: NOW - age_ms,
        root: FrameId([0; 32]),
        host_name: String::new(),
        source_kind: "volume".to_owned(),
        source_name: source.name.clone(),
        partial,
        held: false,
        purge_after_ms: None,
        extent: None,
        shrink_accepted: false,
    }
}

fn policy(toml: &str) -> PolicyRecord {
    let policy = crate::policy::parse(toml).expect("right");
    PolicyRecord { policy, applied_ms: 0, since_ms: NOW - 500 * HOUR }
}

fn facts(hosts: Vec<HostRecord>, sources: Vec<SourceRecord>, policies: Vec<PolicyRecord>) -> Facts {
    Facts {
        now_ms: NOW,
        awaited: Vec::new(),
        binds: Vec::new(),
        connected: hosts.iter().map(|host| host.id).collect(),
        hosts,
        sources,
        policies,
        snapshots: Vec::new(),
        latest_backups: Vec::new(),
        ended_upgrades: Vec::new(),
        damaged: HashMap::new(),
    }
}

/// An upgrade of `db`, or with `undo` its rollback.
fn upgrade(host: &HostRecord, undo: bool, state: State, error: &str) -> JobRecord {
    let container = "db".to_owned();
    let parameters = if undo {
        Parameters::Rollback(RollbackParameters { container, ..RollbackParameters::default() })
    } else {
        Parameters::Upgrade(UpgradeParameters { container, ..UpgradeParameters::default() })
    };
    JobRecord {
        id: JobId::generate(),
        run: None,
        parent: None,
        role: String::new(),
        policy: String::new(),
        fire_ms: None,
        host: Some(host.id),
        state,
        generation: 1,
        owner: None,
        attempt: 1,
        not_before_ms: 0,
        actor: "op".to_owned(),
        parameters,
        result: JobResult::default(),
        step: String::new(),
        error_code: String::new(),
        error: error.to_owned(),
        cancel_requested: false,
        created_ms: NOW - HOUR,
        started_ms: Some(NOW - HOUR),
        ended_ms: Some(NOW - HOUR),
    }
}

fn kinds(facts: &Facts) -> Vec<(ProblemKind, String)> {
    coverage(facts).problems.into_iter().map(|problem| (problem.kind, problem.source)).collect()
}

const NIGHTLY: &str = "name = 'nightly'\nvolumes = ['db_*']\n[schedule]\ncron = '0 2 * * *'\n";

#[test]
fn what_no_policy_covers_is_found_and_leftovers_are_not_counted() {
    let web = host("web-1");
    let mut sources = vec![volume(&web, "db_data"), volume(&web, "uploads"), volume(&web, "0a1b")];
    sources[2].anonymous = true;
    let mut facts = facts(vec![web], sources, vec![policy(NIGHTLY)]);
    facts.snapshots = vec![snapshot(&facts.sources[0], HOUR, false)];
    assert_eq!(
        kinds(&facts),
        [(ProblemKind::Unprotected, "uploads".to_owned()), (ProblemKind::Unprotected, "0a1b".to_owned())]
    );
    facts.sources[2].used = false;
    assert_eq!(kinds(&facts), [(ProblemKind::Unprotected, "uploads".to_owned())]);
    let line = &coverage(&facts).hosts[0];
    assert_eq!((line.sources, line.protected, line.overdue), (2, 1, 0));
    assert_eq!(line.last_backup_ms, NOW - HOUR);
}

#[test]
fn overdue_goes_by_fire_times_and_complete_snapshots() {
    let web = host("web-1");
    let source = volume(&web, "db_data");
    let mut facts = facts(vec![web], vec![source.clone()], vec![policy(NIGHTLY)]);
    let mut judged = |age_hours: i64, partial: bool| {
        facts.snapshots = vec![snapshot(&source, age_hours * HOUR, partial)];
        !kinds(&facts).is_empty()
    };
    // It is noon; the fires were 10 and 34 hours ago.
    assert!(!judged(9, false));
    assert!(!judged(33, false));
    assert!(judged(35, false));
    assert!(judged(9, true));
    // Taken under a clock that was 30 days ahead.
    assert!(judged(-30 * 24, false));
    // A volume that is there since yesterday evening has seen one fire.
    facts.snapshots.clear();
    facts.sources[0].first_seen_ms = NOW - 15 * HOUR;
    assert!(kinds(&facts).is_empty());
}

#[test]
fn silence_failure_and_a_policy_without_matches_are_problems() {
    let (mut web, mut db) = (host("web-1"), host("db-1"));
    web.last_seen_ms = Some(NOW - 48 * HOUR);
    db.last_seen_ms = None;
    let mut facts = facts(vec![web, db], Vec::new(), vec![policy(NIGHTLY)]);
    facts.connected.clear();
    assert_eq!(
        kinds(&facts),
        [
            (ProblemKind::SilentHost, String::new()),
            (ProblemKind::SilentHost, String::new()),
            (ProblemKind::PolicyMatchesNothing, String::new())
        ]
    );
    facts.hosts[0].revoked_ms = Some(1);
    assert_eq!(kinds(&facts)[0].0, ProblemKind::RevokedHost);
    facts.hosts[0].retired_ms = Some(1);
    assert_eq!(coverage(&facts).hosts.len(), 1);
    assert_eq!(kinds(&facts).len(), 2);
}

#[test]
fn a_failed_upgrade_is_told_of_until_one_goes_well() {
    let web = host("web-1");
    let mut facts = facts(vec![web.clone()], Vec::new(), Vec::new());
    let failed = upgrade(&web, false, State::Failed, "rolled back: it is unhealthy");
    facts.ended_upgrades = vec![failed.clone(), upgrade(&web, false, State::Succeeded, "")];
    let problems = coverage(&facts).problems;
    assert_eq!(problems.len(), 1);
    assert_eq!((problems[0].kind, problems[0].host.as_str()), (ProblemKind::FailedJob, "web-1"));
    assert_eq!(
        problems[0].message,
        "the last upgrade of container `db` failed: rolled back: it is unhealthy"
    );
    assert_eq!(problems[0].hint, format!("holdfast job show {}", failed.id));
    facts.ended_upgrades.insert(0, upgrade(&web, true, State::Failed, "the port is taken"));
    assert_eq!(
        coverage(&facts).problems[0].message,
        "the last rollback of container `db` failed: the port is taken"
    );
    facts.ended_upgrades.insert(0, upgrade(&web, false, State::Succeeded, ""));
    assert_eq!(coverage(&facts).problems, []);
    facts.ended_upgrades = vec![failed];
    facts.hosts[0].revoked_ms = Some(1);
    assert_eq!(kinds(&facts), [(ProblemKind::RevokedHost, String::new())]);
}
