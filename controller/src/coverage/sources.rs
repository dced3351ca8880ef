//! Sources that are not protected, not backed up in time, not there, or not
//! what they were.

use std::collections::BTreeSet;

use crate::model::source::SourceKind;

use super::kept::Kept;
use super::words::{ago, counted, instant, noun, since};
use super::{Facts, Problem, ProblemKind};
use crate::catalog::hosts::HostRecord;
use crate::catalog::policies::PolicyRecord;
use crate::catalog::snapshots::SnapshotRecord;
use crate::catalog::sources::SourceRecord;
use crate::policy::Policy;
use crate::schedule::due::latest_fires;
use holdfast_archive::text::bytes;

/// A source is not called overdue before its last good snapshot is this old:
/// a backup takes a while.
const MIN_OVERDUE_MS: i64 = 30 * 60_000;

/// Whether a source that is there is one that somebody could want protected. A
/// volume that only the Engine has a name for and no container refers to is
/// left over.
pub(super) fn counts(source: &SourceRecord) -> bool {
    !source.anonymous || source.used
}

/// Policies that fire by themselves on this host.
pub(super) fn firing<'f>(facts: &'f Facts, host: &'f HostRecord) -> impl Iterator<Item = &'f PolicyRecord> {
    let fires = |policy: &Policy| policy.enabled && policy.timing.is_some() && policy.selects(host);
    facts.policies.iter().filter(move |record| fires(&record.policy))
}

/// Those of them that have this source in them.
pub(super) fn covering<'f>(
    facts: &'f Facts,
    host: &'f HostRecord,
    source: &SourceRecord,
) -> Vec<&'f PolicyRecord> {
    firing(facts, host).filter(|record| record.policy.covers(source)).collect()
}

/// Directories that policies name on this host and that no job has asked for
/// yet.
pub(super) fn planned<'f>(facts: &'f Facts, host: &'f HostRecord) -> BTreeSet<&'f str> {
    let known = |path: &str| {
        let same = |source: &SourceRecord| {
            source.host == host.id && source.kind == SourceKind::Directory && source.name == path
        };
        facts.sources.iter().any(same)
    };
    let named = firing(facts, host).flat_map(|record| &record.policy.directories);
    named.map(String::as_str).filter(|path| !known(path)).collect()
}

/// Policies that name a directory on this host.
pub(super) fn naming<'f>(facts: &'f Facts, host: &'f HostRecord, path: &str) -> Vec<&'f PolicyRecord> {
    let names = |record: &&PolicyRecord| record.policy.directories.iter().any(|named| named == path);
    firing(facts, host).filter(names).collect()
}

pub(super) fn unprotected(host: &HostRecord, source: &SourceRecord) -> Problem {
    let flag = noun(source);
    Problem {
        kind: ProblemKind::Unprotected,
        host: host.name.clone(),
        source: source.name.clone(),
        message: format!("no policy covers {flag} {}", source.name),
        hint: format!("holdfast backup run --host {} --{flag} {}", host.name, source.name),
    }
}

/// Overdue: two fires of a policy have passed since the source was there, and
/// no good snapshot is as new as the first of them.
pub(super) fn overdue(
    facts: &Facts,
    host: &HostRecord,
    (name, there_since_ms): (&str, i64),
    policies: &[&PolicyRecord],
    good_ms: Option<i64>,
) -> Option<Problem> {
    let now = instant(facts.now_ms);
    // What was noted under a clock that was ahead excuses no night until then.
    let there_since_ms = since(there_since_ms, facts.now_ms);
    let late = policies.iter().any(|record| {
        let Some(timing) = &record.policy.timing else { return false };
        let since = instant(since(record.since_ms, facts.now_ms).max(there_since_ms));
        let fires = latest_fires(now, since, &timing.schedule, 2);
        // One fire is not enough: its backup may be under way.
        let [before_last, _] = fires.as_slice() else { return false };
        good_ms.is_none_or(|good| good < before_last.timestamp_millis())
    });
    let age = facts.now_ms - good_ms.unwrap_or(there_since_ms);
    if !late || age < MIN_OVERDUE_MS {
        return None;
    }
    Some(Problem {
        kind: ProblemKind::Overdue,
        host: host.name.clone(),
        source: name.to_owned(),
        message: match good_ms {
            Some(_) => format!("the last complete snapshot is {} old", ago(age)),
            None => "there is no complete snapshot, and two fire times have passed".to_owned(),
        },
        hint: format!("holdfast job ls --host {}", host.name),
    })
}

/// It was backed up and is gone: more likely a disk that is not mounted, or an
/// Engine with another data root, than the truth.
pub(super) fn vanished(facts: &Facts, kept: &Kept<'_>, host: &HostRecord, source: &SourceRecord) -> Problem {
    let what = noun(source);
    let gone = ago(facts.now_ms - source.gone_ms.unwrap_or(facts.now_ms));
    let newest = ago(facts.now_ms - kept.newest_ms(source.id).unwrap_or(0));
    let snapshots = counted(kept.count(source.id), "snapshot");
    Problem {
        kind: ProblemKind::VanishedSource,
        host: host.name.clone(),
        source: source.name.clone(),
        message: format!(
            "{what} {} is gone since {gone}; {snapshots} of it, the newest {newest} old",
            source.name
        ),
        hint: format!(
            "holdfast restore volume {0}/{1}@latest --host {0} --as {1}; \
             if it was removed on purpose: holdfast source retire {0}/{1}",
            host.name, source.name
        ),
    }
}

/// Whether less than a tenth is left of what an older snapshot holds, and
/// nobody has accepted that. The largest of them is named: while it is kept,
/// the content can be brought back.
pub(super) fn shrunk(kept: &Kept<'_>, host: &HostRecord, source: &SourceRecord) -> Option<Problem> {
    let (newest, older) = kept.snapshots(source.id).split_first()?;
    let now = newest.extent.filter(|_| !newest.shrink_accepted)?;
    let accepted = older.iter().position(|snapshot| snapshot.shrink_accepted);
    // What is older than an accepted one is no measure; the accepted one itself is.
    let measure = &older[..accepted.map_or(older.len(), |at| at + 1)];
    let larger = |snapshot: &&&SnapshotRecord| snapshot.extent.is_some_and(|then| now.shrank_from(then));
    let largest =
        measure.iter().filter(larger).max_by_key(|snapshot| snapshot.extent.map(|e| e.size_bytes))?;
    let then = largest.extent?;
    let flag = noun(source);
    Some(Problem {
        kind: ProblemKind::ShrunkSource,
        host: host.name.clone(),
        source: source.name.clone(),
        message: format!(
            "less than a tenth is left: {} and {} in the last snapshot, {} and {} in snapshot {}",
            entries(now.entries),
            bytes(now.size_bytes),
            entries(then.entries),
            bytes(then.size_bytes),
            largest.id.number
        ),
        hint: format!(
            "holdfast snapshot ls {1} --host {0}; if that is meant: \
             holdfast backup run --host {0} --{flag} {1} --allow-empty",
            host.name, source.name
        ),
    })
}

fn entries(count: u64) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}
