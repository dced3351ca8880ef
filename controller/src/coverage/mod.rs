//! What is protected, computed from what is absent as well as from what
//! failed. Pure: facts in, problems out.
//!
//! A dead agent, a volume nobody thought of and a policy that matches nothing
//! raise no error anywhere. They are found here, by holding what should be
//! against what is.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use holdfast_archive::ids::{HostId, SourceId};
use holdfast_proto::v1::{JobKind, SourceKind};

use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::JobRecord;
use crate::catalog::policies::PolicyRecord;
use crate::catalog::snapshots::SnapshotRecord;
use crate::catalog::sources::SourceRecord;
use crate::jobs::state::State;
use crate::policy::Policy;
use crate::schedule::due::latest_fires;

/// A host that has not been connected for this long is silent.
const SILENT_MS: i64 = 5 * 60_000;

/// A source is not called overdue before its last good snapshot is this old:
/// a backup takes a while.
const OVERDUE_LEAST_MS: i64 = 30 * 60_000;

/// How long an upgrade that failed is told of, if none of the same container
/// came after it.
pub const UPGRADE_NEWS_MS: i64 = 7 * 24 * 3_600_000;

/// Everything the answer depends on.
#[derive(Debug)]
pub struct Facts {
    pub now_ms: i64,
    pub hosts: Vec<HostRecord>,
    pub connected: Vec<HostId>,
    pub sources: Vec<SourceRecord>,
    pub policies: Vec<PolicyRecord>,
    /// Committed ones.
    pub snapshots: Vec<SnapshotRecord>,
    /// The newest ended backup of each policy on each host.
    pub latest_backups: Vec<JobRecord>,
    /// Upgrades and rollbacks of the last [`UPGRADE_NEWS_MS`], newest first.
    pub ended_upgrades: Vec<JobRecord>,
}

/// One line about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCoverage {
    pub host: String,
    pub connected: bool,
    pub sources: u32,
    pub protected: u32,
    pub overdue: u32,
    pub last_backup_ms: i64,
}

/// Something to be done by a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Stable word.
    pub kind: &'static str,
    pub host: String,
    pub source: String,
    pub message: String,
    /// The next command to try.
    pub hint: String,
}

/// The whole picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    pub hosts: Vec<HostCoverage>,
    pub troubles: Vec<Trouble>,
}

/// Whether a source is one that somebody could want protected. A volume that
/// only the Engine has a name for and no container refers to is left over.
fn counts(source: &SourceRecord) -> bool {
    source.gone_ms.is_none() && (!source.anonymous || source.used)
}

pub fn coverage(facts: &Facts) -> Coverage {
    let good = newest(&facts.snapshots, |snapshot| !snapshot.partial);
    let any = newest(&facts.snapshots, |_| true);
    let mut coverage = Coverage::default();
    for host in facts.hosts.iter().filter(|host| host.revoked_ms.is_none()) {
        let connected = facts.connected.contains(&host.id);
        if let Some(trouble) = silent(facts, host, connected) {
            coverage.troubles.push(trouble);
        }
        let mut line = HostCoverage {
            host: host.name.clone(),
            connected,
            sources: 0,
            protected: 0,
            overdue: 0,
            last_backup_ms: 0,
        };
        for source in facts.sources.iter().filter(|source| source.host == host.id && counts(source)) {
            line.sources += 1;
            line.last_backup_ms = line.last_backup_ms.max(any.get(&source.id).copied().unwrap_or(0));
            let policies = covering(facts, host, source);
            if policies.is_empty() {
                coverage.troubles.push(unprotected(host, source));
                continue;
            }
            line.protected += 1;
            if let Some(trouble) = overdue(facts, host, source, &policies, good.get(&source.id).copied()) {
                line.overdue += 1;
                coverage.troubles.push(trouble);
            }
        }
        coverage.hosts.push(line);
    }
    coverage.troubles.extend(failed_jobs(facts));
    coverage.troubles.extend(failed_upgrades(facts));
    coverage.troubles.extend(matching_nothing(facts));
    coverage
}

fn newest(snapshots: &[SnapshotRecord], which: impl Fn(&SnapshotRecord) -> bool) -> BTreeMap<SourceId, i64> {
    let mut newest = BTreeMap::new();
    for snapshot in snapshots.iter().filter(|snapshot| which(snapshot)) {
        let at = newest.entry(snapshot.id.source).or_insert(snapshot.created_ms);
        *at = snapshot.created_ms.max(*at);
    }
    newest
}

/// Policies that fire by themselves and have this source in them.
fn covering<'f>(facts: &'f Facts, host: &HostRecord, source: &SourceRecord) -> Vec<&'f PolicyRecord> {
    let covers = |policy: &Policy| {
        policy.enabled && policy.timing.is_some() && policy.selects(host) && policy.covers(source)
    };
    facts.policies.iter().filter(|record| covers(&record.policy)).collect()
}

fn noun(source: &SourceRecord) -> &'static str {
    match source.kind {
        SourceKind::Directory => "directory",
        SourceKind::Volume | SourceKind::Unspecified => "volume",
    }
}

fn unprotected(host: &HostRecord, source: &SourceRecord) -> Trouble {
    let flag = noun(source);
    Trouble {
        kind: "unprotected",
        host: host.name.clone(),
        source: source.name.clone(),
        message: format!("no policy covers {flag} {}", source.name),
        hint: format!("holdfast backup run --host {} --{flag} {}", host.name, source.name),
    }
}

fn silent(facts: &Facts, host: &HostRecord, connected: bool) -> Option<Trouble> {
    let seen = host.last_seen_ms.unwrap_or(host.joined_ms);
    if connected || facts.now_ms - seen < SILENT_MS {
        return None;
    }
    Some(Trouble {
        kind: "silent-host",
        host: host.name.clone(),
        source: String::new(),
        message: match host.last_seen_ms {
            Some(seen) => format!("not connected, last seen {} ago", ago(facts.now_ms - seen)),
            None => "joined, but has never connected".to_owned(),
        },
        hint: "on the host: systemctl status holdfast-agent".to_owned(),
    })
}

/// Overdue: two fires of a policy have passed, and no good snapshot is as new
/// as the first of them.
fn overdue(
    facts: &Facts,
    host: &HostRecord,
    source: &SourceRecord,
    policies: &[&PolicyRecord],
    good_ms: Option<i64>,
) -> Option<Trouble> {
    let now = instant(facts.now_ms);
    let late = policies.iter().any(|record| {
        let Some(timing) = &record.policy.timing else { return false };
        let since = instant(record.since_ms.max(source.first_seen_ms));
        let fires = latest_fires(now, since, &timing.schedule, 2);
        let [before_last, _] = fires.as_slice() else { return false };
        good_ms.is_none_or(|good| good < before_last.timestamp_millis())
    });
    let age = facts.now_ms - good_ms.unwrap_or(source.first_seen_ms);
    if !late || age < OVERDUE_LEAST_MS {
        return None;
    }
    Some(Trouble {
        kind: "overdue",
        host: host.name.clone(),
        source: source.name.clone(),
        message: match good_ms {
            Some(_) => format!("the last complete snapshot is {} old", ago(age)),
            None => "there is no complete snapshot, and two fire times have passed".to_owned(),
        },
        hint: format!("holdfast job ls --host {}", host.name),
    })
}

/// Name of a job's host, unless that was revoked.
fn host_name(facts: &Facts, job: &JobRecord) -> Option<String> {
    let host = facts.hosts.iter().find(|host| Some(host.id) == job.host && host.revoked_ms.is_none());
    host.map(|host| host.name.clone())
}

fn failed_jobs(facts: &Facts) -> Vec<Trouble> {
    let bad = |job: &&JobRecord| matches!(job.state, State::Failed | State::Partial);
    facts
        .latest_backups
        .iter()
        .filter(bad)
        .filter_map(|job| {
            let host = host_name(facts, job)?;
            // A policy that is gone will not run better next time.
            let known = facts.policies.iter().any(|record| record.policy.name == job.policy);
            (known || job.policy.is_empty()).then(|| failed_job(job, host))
        })
        .collect()
}

fn failed_job(job: &JobRecord, host: String) -> Trouble {
    let what = if job.policy.is_empty() {
        "the last backup by hand".to_owned()
    } else {
        format!("the last backup of policy {}", job.policy)
    };
    let how = if job.state == State::Partial { "was partial" } else { "failed" };
    Trouble {
        kind: "failed-job",
        host,
        source: String::new(),
        message: format!("{what} {how}: {}", job.error),
        hint: format!("holdfast job show {}", job.id),
    }
}

/// The last upgrade or rollback of a container, where it failed: what went
/// back, and above all what could not be brought to its end.
fn failed_upgrades(facts: &Facts) -> Vec<Trouble> {
    let mut told = BTreeSet::new();
    facts
        .ended_upgrades
        .iter()
        .filter(|job| told.insert((job.host, job.parameters.container())))
        .filter(|job| job.state == State::Failed)
        .filter_map(|job| {
            let what = if job.parameters.kind() == JobKind::Rollback { "rollback" } else { "upgrade" };
            Some(Trouble {
                kind: "failed-job",
                host: host_name(facts, job)?,
                source: String::new(),
                message: format!(
                    "the last {what} of container `{}` failed: {}",
                    job.parameters.container(),
                    job.error
                ),
                hint: format!("holdfast job show {}", job.id),
            })
        })
        .collect()
}

fn matching_nothing(facts: &Facts) -> Vec<Trouble> {
    facts
        .policies
        .iter()
        .filter(|record| record.policy.enabled)
        .filter(|record| {
            let matches = record.policy.matches(&facts.hosts, &facts.sources);
            matches.iter().all(|found| found.sources.is_empty())
        })
        .map(|record| Trouble {
            kind: "policy-matches-nothing",
            host: String::new(),
            source: String::new(),
            message: format!("policy {} matches nothing on any host", record.policy.name),
            hint: format!("holdfast policy explain {}", record.policy.name),
        })
        .collect()
}

fn instant(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// A length of time, roughly.
fn ago(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests;
