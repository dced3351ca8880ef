//! A policy from TOML.
//!
//! All that is wrong is listed at once with line and column, because a
//! reader who mends one mistake to be shown the next gives up. Unknown
//! keys are errors: a misspelt `consistency` that is ignored gives backups
//! nobody wanted. `deploy/examples/policy.toml` shows every key.

use std::time::Duration;

use toml::de::DeTable;

use super::capture::{Consistency, NestedMounts, TornPolicy};
use super::definition::{HostSelector, LabelMatch, Overlap, Patterns, Policy, Timing, VolumeSelector};
use super::toml_reader::{Reader, Value};
use crate::schedule::{CronExpression, DstRule, Schedule, zone};

/// One thing that is wrong with a file. Line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub line: u32,
    pub column: u32,
    pub message: String,
}

const KEYS: [&str; 12] = [
    "name",
    "enabled",
    "hosts",
    "volumes",
    "directories",
    "consistency",
    "torn",
    "nested_mounts",
    "max_downtime",
    "overlap",
    "schedule",
    "retention",
];
const HOST_KEYS: [&str; 2] = ["names", "labels"];
const VOLUME_KEYS: [&str; 3] = ["include", "exclude", "labels"];
const SCHEDULE_KEYS: [&str; 5] = ["cron", "zone", "dst", "jitter", "catch_up"];
const RETENTION_KEYS: [&str; 1] = ["keep_last"];

/// Reads one policy; the error lists everything that is wrong with it, in
/// the order of the file.
///
/// # Errors
/// It is no TOML, a key is unknown or missing, or a value cannot be.
pub fn parse(text: &str) -> Result<Policy, Vec<Problem>> {
    let mut reader = Reader::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.problem(error.span().map_or(0, |span| span.start), error.message().to_owned());
    }
    // What a syntax error left behind would only give consequential problems.
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    let policy = read_policy(&mut reader, root.get_ref(), text);
    match policy {
        Some(policy) if reader.problems.is_empty() => Ok(policy),
        _ => {
            reader.problems.sort_by_key(|problem| (problem.line, problem.column));
            Err(reader.problems)
        }
    }
}

fn read_policy(reader: &mut Reader<'_>, root: &DeTable<'_>, text: &str) -> Option<Policy> {
    // Read to the end in spite of problems: one answer shows them all.
    reader.known_keys(root, &KEYS);
    let name = read_name(reader, root);
    let enabled = reader.boolean(root, "enabled").unwrap_or(true);
    let hosts = read_hosts(reader, root);
    let volumes = read_volumes(reader, root);
    let directories = read_directories(reader, root);
    // Only where all else is right: a list that could not be read is empty as well.
    if volumes.is_empty() && directories.is_empty() && reader.problems.is_empty() {
        reader.problem(
            0,
            "nothing to back up: give `volumes` (`volumes = [\"*\"]` means all) or `directories`",
        );
    }
    let consistency = match reader.word(root, "consistency", &["none", "pause", "stop"]) {
        Some("pause") => Consistency::Pause,
        Some("stop") => Consistency::Stop,
        _ => Consistency::None,
    };
    let torn = match reader.word(root, "torn", &["accept", "fail"]) {
        Some("fail") => TornPolicy::Fail,
        _ => TornPolicy::Accept,
    };
    let nested_mounts = match reader.word(root, "nested_mounts", &["partial", "leave-out"]) {
        Some("leave-out") => NestedMounts::LeaveOut,
        _ => NestedMounts::Partial,
    };
    let overlap = match reader.word(root, "overlap", &["skip", "queue"]) {
        Some("queue") => Overlap::Queue,
        _ => Overlap::Skip,
    };
    let max_downtime = reader.duration(root, "max_downtime").unwrap_or(Duration::ZERO);
    let timing = read_timing(reader, root);
    let keep_last = read_retention(reader, root);
    Some(Policy {
        name: name?,
        enabled,
        timing,
        hosts,
        volumes,
        directories,
        consistency,
        torn,
        nested_mounts,
        max_downtime,
        overlap,
        keep_last,
        toml: text.to_owned(),
    })
}

fn read_name(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Option<String> {
    if !root.contains_key("name") {
        reader.problem(0, "`name` is missing: give the policy a name");
        return None;
    }
    let (name, value) = reader.string(root, "name")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(allowed)
        || !name.starts_with(char::is_alphanumeric)
    {
        reader.problem(
            value.span().start,
            format!("`{name}` is no name for a policy: up to 63 letters, digits, `.`, `_` and `-` are, a letter or digit first"),
        );
        return None;
    }
    Some(name)
}

fn read_patterns(reader: &mut Reader<'_>, key: &str, value: Value<'_, '_>) -> Patterns {
    let mut good = Vec::new();
    for (text, item) in reader.strings(key, value) {
        match super::definition::pattern(&text) {
            Ok(_) => good.push(text),
            Err(error) => {
                reader.problem(item.span().start, format!("`{text}` is no glob: {}", error.kind()));
            }
        }
    }
    Patterns::parse(&good).unwrap_or_default()
}

fn read_labels(reader: &mut Reader<'_>, key: &str, value: Value<'_, '_>) -> Vec<LabelMatch> {
    let mut labels = Vec::new();
    for (text, item) in reader.strings(key, value) {
        match LabelMatch::parse(&text) {
            Some(label) => labels.push(label),
            None => {
                reader.problem(item.span().start, format!("`{text}` is no label: `key` or `key=value` is"))
            }
        }
    }
    labels
}

fn read_hosts(reader: &mut Reader<'_>, root: &DeTable<'_>) -> HostSelector {
    let Some(value) = root.get("hosts") else { return HostSelector::default() };
    let mut hosts = HostSelector::default();
    let Some(table) = value.get_ref().as_table() else {
        hosts.names = read_patterns(reader, "hosts", value);
        if hosts.names.is_empty() && reader.problems.is_empty() {
            reader.problem(value.span().start, "`hosts` is empty; leave it out to mean every host");
        }
        return hosts;
    };
    reader.known_keys(table, &HOST_KEYS);
    if let Some(value) = table.get("names") {
        hosts.names = read_patterns(reader, "names", value);
    }
    if let Some(value) = table.get("labels") {
        hosts.labels = read_labels(reader, "labels", value);
    }
    hosts
}

fn read_volumes(reader: &mut Reader<'_>, root: &DeTable<'_>) -> VolumeSelector {
    let Some(value) = root.get("volumes") else { return VolumeSelector::default() };
    let mut volumes = VolumeSelector::default();
    let Some(table) = value.get_ref().as_table() else {
        volumes.include = read_patterns(reader, "volumes", value);
        return volumes;
    };
    reader.known_keys(table, &VOLUME_KEYS);
    if let Some(value) = table.get("include") {
        volumes.include = read_patterns(reader, "include", value);
    }
    if let Some(value) = table.get("exclude") {
        volumes.exclude = read_patterns(reader, "exclude", value);
    }
    if let Some(value) = table.get("labels") {
        volumes.labels = read_labels(reader, "labels", value);
    }
    if volumes.is_empty() && reader.problems.is_empty() {
        reader.problem(value.span().start, "`volumes` selects nothing; `include = [\"*\"]` means all");
    }
    volumes
}

fn read_directories(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Vec<String> {
    let Some(value) = root.get("directories") else { return Vec::new() };
    let mut directories = Vec::new();
    for (text, item) in reader.strings("directories", value) {
        let clean = text.len() == 1 || !text.ends_with('/');
        if text.starts_with('/') && clean && !text.split('/').skip(1).any(|part| matches!(part, "." | "..")) {
            directories.push(text);
        } else {
            reader.problem(
                item.span().start,
                format!("`{text}` is no absolute path without `.`, `..` or a slash at its end"),
            );
        }
    }
    directories
}

fn read_timing(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Option<Timing> {
    let table = reader.table(root, "schedule")?;
    reader.known_keys(table, &SCHEDULE_KEYS);
    if !table.contains_key("cron") {
        let at = root.get("schedule").map_or(0, |value| value.span().start);
        reader.problem(at, "`cron` is missing in `schedule`; without a schedule leave out the whole table");
    }
    let cron = read_cron(reader, table);
    let zone = read_zone(reader, table);
    let dst = reader.word(table, "dst", &DstRule::NAMES).and_then(DstRule::from_name).unwrap_or_default();
    let jitter = reader.duration(table, "jitter").unwrap_or(Duration::ZERO);
    let catch_up = reader.boolean(table, "catch_up").unwrap_or(true);
    Some(Timing { schedule: Schedule { cron: cron?, zone: zone?, dst }, jitter, catch_up })
}

fn read_cron(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<CronExpression> {
    let value = table.get("cron")?;
    let (text, _) = reader.string(table, "cron")?;
    match CronExpression::parse(&text) {
        Ok(cron) => Some(cron),
        Err(error) => {
            let at = reader.inside(value, error.column);
            reader.problem(at, format!("`{text}` is no cron expression: {}", error.message));
            None
        }
    }
}

fn read_zone(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Option<chrono_tz::Tz> {
    let Some(value) = table.get("zone") else { return Some(chrono_tz::Tz::UTC) };
    let (text, _) = reader.string(table, "zone")?;
    match zone::parse_zone(&text) {
        Ok(zone) => Some(zone),
        Err(near) => {
            let advice = if near.is_empty() {
                "an IANA name such as `Europe/Berlin` or `UTC` is expected".to_owned()
            } else {
                let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
                format!("did you mean {}?", near.join(", "))
            };
            reader.problem(reader.inside(value, 1), format!("unknown time zone `{text}`; {advice}"));
            None
        }
    }
}

fn read_retention(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Option<u32> {
    let table = reader.table(root, "retention")?;
    reader.known_keys(table, &RETENTION_KEYS);
    reader.number(table, "keep_last", 1, "the last good snapshot of a source is never forgotten")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::documented;

    #[test]
    fn every_key_is_documented_and_its_default_changes_nothing() {
        let documented = documented::keys("Policy");
        let below = |table: &str, keys: &[&str]| -> Vec<String> {
            keys.iter().map(|key| format!("{table}.{key}")).collect()
        };
        let mut known: BTreeSet<String> = KEYS.iter().map(|&key| key.to_owned()).collect();
        known.extend(below("hosts", &HOST_KEYS));
        known.extend(below("volumes", &VOLUME_KEYS));
        known.extend(below("schedule", &SCHEDULE_KEYS));
        known.extend(below("retention", &RETENTION_KEYS));
        assert_eq!(documented.keys().cloned().collect::<BTreeSet<_>>(), known);

        let file = "name = 'a'\nvolumes = { include = ['*'] }\n[schedule]\ncron = '0 2 * * *'\n";
        let shown = |text: &str| {
            let policy = Policy { toml: String::new(), ..parse(text).expect(text) };
            format!("{policy:?}")
        };
        let defaults = documented.iter().filter_map(|(key, default)| Some((key, default.as_ref()?)));
        let mut count = 0;
        for (key, default) in defaults {
            let text = documented::with_key(file, key, default);
            assert_eq!(shown(&text), shown(file), "`{default}` is not the default of `{key}`");
            count += 1;
        }
        assert!(count >= 9, "only {count} defaults are given as such");
        for key in &known {
            let name = key.rsplit('.').next().expect("a name");
            let example = include_str!("../../../deploy/examples/policy.toml");
            assert!(example.contains(name), "the example does not show `{key}`");
        }
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text)
            .expect_err("refused")
            .into_iter()
            .map(|problem| format!("{}:{}: {}", problem.line, problem.column, problem.message))
            .collect()
    }

    #[test]
    fn the_example_shows_every_key_and_reads_as_it_says() {
        let text = include_str!("../../../deploy/examples/policy.toml");
        let policy = parse(text).expect("the example is right");
        for key in KEYS.iter().chain(&["cron", "zone", "dst", "jitter", "catch_up", "keep_last"]) {
            assert!(text.contains(key), "{key} is not in the example");
        }
        assert_eq!(policy.name, "nightly");
        assert_eq!(policy.hosts.names.texts(), ["db-1", "web-*"]);
        assert_eq!((policy.consistency, policy.torn), (Consistency::Pause, TornPolicy::Accept));
        assert_eq!(policy.nested_mounts, NestedMounts::Partial);
        let told = text.replace("nested_mounts = \"partial\"", "nested_mounts = \"leave-out\"");
        assert_eq!(parse(&told).expect("known").nested_mounts, NestedMounts::LeaveOut);
        assert_eq!(policy.max_downtime, Duration::from_secs(300));
        assert_eq!(policy.keep_last, Some(7));
        let timing = policy.timing.expect("a schedule");
        assert_eq!(timing.schedule.zone, chrono_tz::Tz::Europe__Berlin);
        assert_eq!((timing.jitter, timing.catch_up), (Duration::from_secs(600), true));
    }

    #[test]
    fn little_is_needed() {
        let policy = parse("name = \"x\"\nvolumes = [\"*\"]\n").expect("enough");
        assert!(policy.enabled && policy.timing.is_none() && policy.keep_last.is_none());
        assert_eq!(policy.overlap, Overlap::Skip);
        let by_table =
            parse("name='x'\nhosts={labels=['role=db']}\nvolumes={labels=['backup']}\n").expect("tables");
        assert_eq!(by_table.hosts.labels[0].to_string(), "role=db");
        assert!(!by_table.volumes.is_empty());
    }

    #[test]
    fn o01_a_misspelt_key_gets_position_and_neighbour() {
        let text = "name = \"nightly\"\nvolumes = [\"*\"]\n\n\n\n\nretention = { keep_lst = 7 }\n  consistancy = \"pause\"\n";
        assert_eq!(
            problems(text),
            [
                "7:15: unknown key `keep_lst`; did you mean `keep_last`?",
                "8:3: unknown key `consistancy`; did you mean `consistency`?",
            ]
        );
    }

    #[test]
    fn o01_everything_wrong_is_listed_at_once() {
        let text = r#"name = "a b"
hosts = ["web-[1"]
volumes = 7
directories = ["srv"]
consistency = "paus"
max_downtime = 300

[schedule]
cron = "0 25 * * *"
zone = "Europe/Berln"
dst = "never"

[retention]
keep_last = 0
"#;
        let found = problems(text);
        let positions: Vec<&str> = found.iter().map(|line| line.split(": ").next().unwrap_or("")).collect();
        assert_eq!(
            positions,
            ["1:8", "2:10", "3:11", "4:16", "5:15", "6:16", "9:11", "10:9", "11:7", "14:13"],
            "{found:#?}"
        );
        assert!(found[4].contains("did you mean `pause`?"), "{}", found[4]);
        assert!(found[6].contains("`25` is not an hour: 0 to 23 is expected"), "{}", found[6]);
        assert!(found[7].contains("`Europe/Berlin`"), "{}", found[7]);
    }

    #[test]
    fn syntax_errors_have_a_position_and_hide_consequences() {
        let found = problems("name = \"x\"\nvolumes = [\"*\"\nconsistancy = 1\n");
        assert!(!found.is_empty());
        assert!(!found.iter().any(|line| line.contains("unknown key")), "{found:?}");
        assert!(problems("name = \"x\"\nname = \"y\"\nvolumes=['*']")[0].starts_with("2:1: "));
        assert!(problems("")[0].starts_with("1:1: "));
    }
}
