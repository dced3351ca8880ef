//! Hosts that are not there.

use super::words::{ago, is_of_the_future};
use super::{Facts, Problem, ProblemKind};
use crate::catalog::enrolment::AwaitedHost;
use crate::catalog::hosts::HostRecord;

/// A host that has not been connected for this long is silent. One that has
/// never been connected is named at once.
const SILENT_MS: i64 = 5 * 60_000;

/// A fleet in which there was never a host protects nothing.
pub(super) fn without_hosts(facts: &Facts) -> Option<Problem> {
    (facts.hosts.is_empty() && facts.awaited.is_empty()).then(|| Problem {
        kind: ProblemKind::NoHosts,
        host: String::new(),
        source: String::new(),
        message: "no host has joined: nothing is protected".to_owned(),
        hint: "holdfast host token NAME, then on the host: holdfast-agent join TOKEN-FILE".to_owned(),
    })
}

/// Hosts that somebody meant to have: a join token was made for the name, or
/// a policy names it, and no host has joined under it.
pub(super) fn awaited(facts: &Facts) -> Vec<Problem> {
    let by_token = |awaited: &&AwaitedHost| {
        !facts.hosts.iter().any(|host| host.name == awaited.name && host.retired_ms.is_none())
    };
    // Tokens first: of a host that a policy names as well one problem is enough, and the
    // token's says more.
    let mut problems: Vec<Problem> =
        facts.awaited.iter().filter(by_token).map(|awaited| by_its_token(facts, awaited)).collect();
    for record in facts.policies.iter().filter(|record| record.policy.enabled) {
        for name in record.policy.hosts.names.plain_names() {
            let known = facts.hosts.iter().any(|host| host.name == name)
                || problems.iter().any(|problem| problem.host == name);
            if !known {
                problems.push(by_a_policy(name, &record.policy.name));
            }
        }
    }
    problems
}

fn by_its_token(facts: &Facts, awaited: &AwaitedHost) -> Problem {
    let AwaitedHost { name, created_ms, expires_ms } = awaited;
    let next = if *expires_ms > facts.now_ms {
        "on the host: holdfast-agent join TOKEN-FILE".to_owned()
    } else {
        format!("holdfast host token {name}, then on the host: holdfast-agent join TOKEN-FILE")
    };
    Problem {
        kind: ProblemKind::AwaitedHost,
        host: name.clone(),
        source: String::new(),
        message: format!(
            "a join token was made {} ago, and no host has joined with it",
            ago(facts.now_ms - created_ms)
        ),
        hint: format!("{next}; if it is not to join: holdfast host retire {name}"),
    }
}

fn by_a_policy(name: &str, policy: &str) -> Problem {
    Problem {
        kind: ProblemKind::AwaitedHost,
        host: name.to_owned(),
        source: String::new(),
        message: format!("policy {policy} names this host, and none has joined under that name"),
        hint: format!(
            "holdfast host token {name}, then on the host: holdfast-agent join TOKEN-FILE; \
             if it is not to join, take it out of the policy: holdfast policy show {policy}"
        ),
    }
}

/// What is wrong with a host as a whole.
pub(super) fn problem(facts: &Facts, host: &HostRecord, connected: bool) -> Option<Problem> {
    // One problem for a host, the one that explains the others: a revoked host cannot connect,
    // and what is not connected says nothing of its Engine.
    let (kind, message, hint) = if let Some(revoked_ms) = host.revoked_ms {
        let message =
            format!("revoked {} ago: nothing on it is backed up any more", ago(facts.now_ms - revoked_ms));
        let hint = format!(
            "holdfast host token {0}, then on the host: holdfast-agent join TOKEN-FILE; \
             if it is given up: holdfast host retire {0}",
            host.name
        );
        (ProblemKind::RevokedHost, message, hint)
    } else if !connected {
        (ProblemKind::SilentHost, absence(facts, host)?, on_the_host("holdfast-agent", host))
    } else {
        let problem = &host.agent.as_ref()?.engine_problem;
        if problem.is_empty() {
            return None;
        }
        let message = format!("its Docker Engine does not answer: {problem}");
        (ProblemKind::EngineUnreachable, message, "on the host: systemctl status docker".to_owned())
    };
    Some(Problem { kind, host: host.name.clone(), source: String::new(), message, hint })
}

/// What the repository has lost of what a host sent. It stays until that is
/// sent again, or no snapshot needs it any more.
pub(super) fn damage(facts: &Facts, host: &HostRecord) -> Option<Problem> {
    let pieces = facts.damaged.get(&host.id).copied().filter(|pieces| *pieces > 0)?;
    let (are, they, them) = match pieces {
        1 => ("1 stored piece of its data is".to_owned(), "it is", "it"),
        _ => (format!("{pieces} stored pieces of its data are"), "they are", "them"),
    };
    Some(Problem {
        kind: ProblemKind::Damaged,
        host: host.name.clone(),
        source: String::new(),
        message: format!(
            "{are} damaged or missing in the repository: snapshots that need {them} are not whole; where \
             {they} still on the host, the next backup sends {them} again"
        ),
        hint: format!(
            "holdfast backup run --host {} --volume '*'; holdfast-controller verify names the snapshots; what is whole of one: \
             holdfast restore with --salvage",
            host.name
        ),
    })
}

/// Why a host that is not connected should be.
fn absence(facts: &Facts, host: &HostRecord) -> Option<String> {
    let Some(seen) = host.last_seen_ms else {
        return Some("joined, but has never connected".to_owned());
    };
    if is_of_the_future(seen, facts.now_ms) {
        return Some(
            "not connected; when it was seen last is not known, the clock was wrong then".to_owned(),
        );
    }
    // A restart or a network that is away for a moment is no news.
    let silent = facts.now_ms - seen;
    (silent >= SILENT_MS).then(|| format!("not connected, last seen {} ago", ago(silent)))
}

fn on_the_host(unit: &str, host: &HostRecord) -> String {
    format!("on the host: systemctl status {unit}; if it is given up: holdfast host retire {}", host.name)
}
