//! Policies that do not find what they name.

use std::collections::BTreeMap;

use crate::model::source::SourceKind;

use super::{Facts, Problem, ProblemKind};
use crate::catalog::hosts::HostRecord;
use crate::catalog::sources::SourceRecord;
use crate::policy::Policy;

fn volumes<'f>(facts: &'f Facts, host: &'f HostRecord) -> impl Iterator<Item = &'f SourceRecord> {
    facts.sources.iter().filter(|source| source.host == host.id && source.kind == SourceKind::Volume)
}

/// Volumes that policies name plainly and that this host never had, or lost
/// before there was a snapshot. A name is a promise; a glob is none.
pub(super) fn missing_volumes(
    facts: &Facts,
    host: &HostRecord,
    vanished: impl Fn(&SourceRecord) -> bool,
) -> Vec<Problem> {
    // Until the host was seen, what it has is not known.
    if host.last_seen_ms.is_none() {
        return Vec::new();
    }
    let mut naming: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in facts.policies.iter().filter(|record| record.policy.enabled) {
        let policy = &record.policy;
        for name in policy.volumes.promised().filter(|_| policy.selects(host)) {
            let known = volumes(facts, host).find(|source| source.name == name);
            let excused = known.is_some_and(|source| {
                source.gone_ms.is_none() || source.retired_ms.is_some() || vanished(source)
            });
            if !excused {
                naming.entry(name).or_default().push(&policy.name);
            }
        }
    }
    naming.into_iter().map(|(name, policies)| missing_volume(host, name, &policies)).collect()
}

fn missing_volume(host: &HostRecord, name: &str, policies: &[&str]) -> Problem {
    let noun = if policies.len() == 1 { "policy" } else { "policies" };
    Problem {
        kind: ProblemKind::MissingVolume,
        host: host.name.clone(),
        source: name.to_owned(),
        message: format!("volume {name} is not there; it is named by {noun} {}", policies.join(", ")),
        hint: format!(
            "holdfast volume ls --host {}; if it belongs to other hosts only: holdfast policy show {}",
            host.name, policies[0]
        ),
    }
}

/// Policies that match nothing on any host, and those that match nothing on a
/// host they name, unless what they miss there is named already.
pub(super) fn matching_nothing(facts: &Facts, named: &[Problem]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for record in facts.policies.iter().filter(|record| record.policy.enabled) {
        let policy = &record.policy;
        let matches = policy.matches(&facts.hosts, &facts.sources);
        if matches.iter().all(|found| found.sources.is_empty()) {
            problems.push(nothing(policy, None));
            continue;
        }
        let by_name = |host: &HostRecord| policy.hosts.names.plain_names().any(|name| name == host.name);
        for found in matches.iter().filter(|found| found.sources.is_empty() && by_name(found.host)) {
            let explained = |problem: &Problem| {
                problem.host == found.host.name && explains(facts, policy, found.host, problem)
            };
            if !named.iter().any(explained) {
                problems.push(nothing(policy, Some(found.host)));
            }
        }
    }
    problems
}

/// Whether a problem about a host says why the policy matches nothing there.
fn explains(facts: &Facts, policy: &Policy, host: &HostRecord, problem: &Problem) -> bool {
    match problem.kind {
        ProblemKind::VanishedSource => {
            volumes(facts, host).any(|source| source.name == problem.source && policy.wants(source))
        }
        ProblemKind::MissingVolume => policy.volumes.promised().any(|name| name == problem.source),
        // Nothing is known of its sources.
        ProblemKind::SilentHost => host.last_seen_ms.is_none(),
        _ => false,
    }
}

fn nothing(policy: &Policy, host: Option<&HostRecord>) -> Problem {
    let name = &policy.name;
    Problem {
        kind: ProblemKind::PolicyMatchesNothing,
        host: host.map(|host| host.name.clone()).unwrap_or_default(),
        source: String::new(),
        message: match host {
            None => format!("policy {name} matches nothing on any host"),
            Some(_) => format!("policy {name} names this host and matches nothing on it"),
        },
        hint: format!("holdfast policy explain {name}"),
    }
}
