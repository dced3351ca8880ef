//! What is protected, computed from what is absent as well as from what
//! failed. Pure: facts in, problems out.
//!
//! A dead agent, a volume nobody thought of and a policy that matches nothing
//! raise no error anywhere. They are found here, by holding what should be
//! against what is.
//!
//! Called by `operations` for what a backup should have found, and by `api` for
//! `status`. It reads rows it is given, and asks nobody.

pub(crate) mod expected;
pub(crate) mod kept;
pub(crate) mod matching;

mod binds;
mod fleet;
mod jobs;
mod policies;
mod sources;
mod words;

use std::collections::HashMap;

use crate::model::source::SourceKind;
use holdfast_archive::ids::HostId;
use strum::IntoStaticStr;

use crate::catalog::binds::BindRecord;
use crate::catalog::enrolment::AwaitedHost;
use crate::catalog::hosts::HostRecord;
use crate::catalog::jobs::JobRecord;
use crate::catalog::policies::PolicyRecord;
use crate::catalog::snapshots::SnapshotRecord;
use crate::catalog::sources::SourceRecord;
use kept::Kept;
pub(crate) use words::ago;

/// How long an upgrade that failed is told of, if none of the same container
/// came after it.
pub(crate) const UPGRADE_NEWS_MS: i64 = 7 * 24 * 3_600_000;

/// Everything the answer depends on.
#[derive(Debug)]
pub(crate) struct Facts {
    pub now_ms: i64,
    pub hosts: Vec<HostRecord>,
    pub connected: Vec<HostId>,
    /// Names for which there are unused join tokens.
    pub awaited: Vec<AwaitedHost>,
    /// Gone and retired ones included.
    pub sources: Vec<SourceRecord>,
    /// Gone and retired ones included.
    pub binds: Vec<BindRecord>,
    pub policies: Vec<PolicyRecord>,
    /// Committed ones.
    pub snapshots: Vec<SnapshotRecord>,
    /// The newest ended backup of each policy on each host.
    pub latest_backups: Vec<JobRecord>,
    /// Upgrades and rollbacks of the last [`UPGRADE_NEWS_MS`], newest first.
    pub ended_upgrades: Vec<JobRecord>,
    /// How many stored frames of a host were found damaged or missing.
    pub damaged: HashMap<HostId, u64>,
}

/// One line about a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostCoverage {
    pub host: String,
    pub connected: bool,
    /// That are there.
    pub sources: u32,
    pub protected: u32,
    pub overdue: u32,
    /// Gone, with snapshots, and not retired.
    pub missing: u32,
    /// Of any snapshot of the host; 0: there is none.
    pub last_backup_ms: i64,
}

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum ProblemKind {
    /// No host has joined.
    NoHosts,
    /// A host was given a token and has not joined.
    AwaitedHost,
    /// A host is not connected.
    SilentHost,
    RevokedHost,
    /// An agent is connected, and its Engine does not answer it.
    EngineUnreachable,
    /// A source that no policy covers.
    Unprotected,
    /// A directory that a container mounts and no policy covers.
    UnprotectedBind,
    /// A policy names a volume that is not there.
    MissingVolume,
    PolicyMatchesNothing,
    /// A source whose last snapshot is older than its policy promises.
    Overdue,
    FailedJob,
    /// A source with snapshots that is not on its host any more.
    VanishedSource,
    /// A source of which less than a tenth is left.
    ShrunkSource,
    /// Snapshots of which the repository has lost something.
    Damaged,
    /// The repository is out of reach or suspended.
    Repository,
    /// Nothing is deleted until somebody has looked.
    CollectionOff,
    LoopFailing,
    /// A host was refused something, because it has or does too much.
    Quota,
}

impl ProblemKind {
    /// As it travels: in kebab case.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Something to be done by a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub kind: ProblemKind,
    pub host: String,
    pub source: String,
    pub message: String,
    /// The next command to try.
    pub hint: String,
}

/// The whole picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub hosts: Vec<HostCoverage>,
    pub problems: Vec<Problem>,
}

/// Computes the picture. Retired hosts and sources are not in it: giving them
/// up is what ends an alarm, and nothing else that makes data go away does.
pub(crate) fn coverage(facts: &Facts) -> Coverage {
    let kept = Kept::of(&facts.snapshots);
    let mut coverage = Coverage::default();
    coverage.problems.extend(fleet::without_hosts(facts));
    coverage.problems.extend(fleet::awaited(facts));
    for host in facts.hosts.iter().filter(|host| host.retired_ms.is_none()) {
        let line = one_host(facts, &kept, host, &mut coverage.problems);
        coverage.hosts.push(line);
    }
    coverage.problems.extend(jobs::failed_jobs(facts));
    coverage.problems.extend(jobs::failed_upgrades(facts));
    let nothing = policies::matching_nothing(facts, &coverage.problems);
    coverage.problems.extend(nothing);
    coverage
}

fn one_host(facts: &Facts, kept: &Kept<'_>, host: &HostRecord, problems: &mut Vec<Problem>) -> HostCoverage {
    let connected = facts.connected.contains(&host.id);
    let mut line = HostCoverage {
        host: host.name.clone(),
        connected,
        sources: 0,
        protected: 0,
        overdue: 0,
        missing: 0,
        last_backup_ms: kept.newest_of_host(host.id).unwrap_or(0),
    };
    problems.extend(fleet::problem(facts, host, connected));
    problems.extend(fleet::damage(facts, host));
    let mut found = Vec::new();
    for source in facts.sources.iter().filter(|source| source.host == host.id) {
        found.extend(one_source(facts, kept, host, source, &mut line));
    }
    for path in sources::planned(facts, host) {
        let policies = sources::naming(facts, host, path);
        let overdue = sources::overdue(facts, host, (path, host.joined_ms), &policies, None);
        line.sources += 1;
        line.protected += 1;
        line.overdue += u32::from(overdue.is_some());
        found.extend(overdue);
    }
    let vanished = |source: &SourceRecord| kept.count(source.id) > 0;
    found.extend(policies::missing_volumes(facts, host, vanished));
    found.extend(binds::unprotected(facts, host));
    // A host that is refused can mend none of its sources: one problem says so.
    if host.revoked_ms.is_none() {
        problems.extend(found);
    }
    line
}

fn one_source(
    facts: &Facts,
    kept: &Kept<'_>,
    host: &HostRecord,
    source: &SourceRecord,
    line: &mut HostCoverage,
) -> Vec<Problem> {
    // Nobody could want it protected, whatever it was before.
    if !source.own.is_empty() {
        return Vec::new();
    }
    let policies = sources::covering(facts, host, source);
    // A retired directory counts again as soon as a policy names it.
    let asked_for = source.kind == SourceKind::Directory && !policies.is_empty();
    if source.retired_ms.is_some() && !asked_for {
        return Vec::new();
    }
    if source.gone_ms.is_some() {
        if kept.count(source.id) == 0 {
            return Vec::new();
        }
        line.missing += 1;
        return vec![sources::vanished(facts, kept, host, source)];
    }
    if !sources::counts(source) {
        return Vec::new();
    }
    // Somebody named it once, perhaps wrongly, and it was never taken: nobody says that it is there.
    if source.kind == SourceKind::Directory && policies.is_empty() && kept.count(source.id) == 0 {
        return Vec::new();
    }
    line.sources += 1;
    let mut problems = Vec::new();
    if policies.is_empty() {
        problems.push(sources::unprotected(host, source));
    } else {
        line.protected += 1;
        let there = (source.name.as_str(), source.first_seen_ms);
        let overdue = sources::overdue(facts, host, there, &policies, kept.good_ms(source.id, facts.now_ms));
        line.overdue += u32::from(overdue.is_some());
        problems.extend(overdue);
    }
    problems.extend(sources::shrunk(kept, host, source));
    problems
}

#[cfg(test)]
mod tests;
