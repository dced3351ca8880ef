//! What a backup should have found.

use std::collections::BTreeSet;

use super::*;
use crate::coverage::expected::Expectation;
use crate::policy::{Patterns, VolumeSelector};

fn selector(include: &[&str], exclude: &[&str]) -> VolumeSelector {
    VolumeSelector {
        include: Patterns::parse(include).expect("globs"),
        exclude: Patterns::parse(exclude).expect("globs"),
        labels: Vec::new(),
    }
}

/// Names of what is missed, where of each source there are so many snapshots.
fn missed(
    selector: &VolumeSelector,
    sources: &[SourceRecord],
    snapshots: usize,
    last: &[usize],
) -> Vec<String> {
    let snapshots: Vec<SnapshotRecord> =
        sources.iter().flat_map(|source| vec![snapshot(source, HOUR, false); snapshots]).collect();
    let kept = Kept::of(&snapshots);
    let last: BTreeSet<SourceId> = last.iter().map(|&index| sources[index].id).collect();
    let expectation = Expectation { selector, sources, kept: &kept, last: &last };
    expectation.missing().into_iter().map(|missing| missing.name).collect()
}

#[test]
fn h06_a_backup_misses_what_was_backed_up_or_named_and_is_not_there() {
    let web = host("web-1");
    let mut sources = [volume(&web, "db_a"), volume(&web, "db_b"), volume(&web, "cache")];
    let all = selector(&["*"], &["cache"]);
    assert!(missed(&all, &sources, 1, &[0, 1]).is_empty());
    for source in &mut sources {
        source.gone_ms = Some(NOW);
    }
    assert_eq!(missed(&all, &sources, 1, &[]), ["db_a", "db_b"], "the excluded one is not missed");
    assert!(missed(&all, &sources, 0, &[]).is_empty(), "nobody had or named them");
    assert_eq!(missed(&all, &sources, 0, &[1]), ["db_b"], "the last run had it");
    let named = selector(&["db_a", "logs", "cache"], &["cache"]);
    assert_eq!(missed(&named, &sources, 0, &[]), ["db_a", "logs"]);
    sources[0].retired_ms = Some(NOW);
    assert_eq!(missed(&named, &sources, 1, &[0]), ["logs"]);
    assert_eq!(missed(&all, &sources, 1, &[0, 1]), ["db_b"]);
}

#[test]
fn h06_a_backup_misses_what_its_selection_has_silently_lost() {
    let web = host("web-1");
    let mut sources = [volume(&web, "0a1b"), volume(&web, "db_b")];
    let all = selector(&["*"], &[]);
    // Its container is gone: the volume is there, a leftover now.
    sources[0].anonymous = true;
    sources[0].used = false;
    assert_eq!(missed(&all, &sources, 1, &[0, 1]), ["0a1b"]);
    assert!(missed(&all, &sources, 1, &[1]).is_empty());
    // What is gone is judged by what it was.
    sources[0].used = true;
    sources[0].gone_ms = Some(NOW);
    assert_eq!(missed(&all, &sources, 1, &[]), ["0a1b"]);
}

#[test]
fn v21_holdfasts_own_is_missed_only_where_it_is_named() {
    let web = host("web-1");
    let mut sources = [volume(&web, "db_a"), volume(&web, "state")];
    sources[1].own = "the repository".to_owned();
    let all = selector(&["*"], &[]);
    assert!(missed(&all, &sources, 1, &[0, 1]).is_empty(), "the last run of an older version had it");
    sources[1].gone_ms = Some(NOW);
    assert!(missed(&all, &sources, 1, &[0, 1]).is_empty());
    assert_eq!(missed(&selector(&["state"], &[]), &sources, 0, &[]), ["state"]);
}
