//! What is not there is named, with the next command, until it is given up.

use super::*;

/// Kind, host and source of everything.
fn places(facts: &Facts) -> Vec<(ProblemKind, String, String)> {
    coverage(facts).problems.into_iter().map(|t| (t.kind, t.host, t.source)).collect()
}

fn place(kind: ProblemKind, host: &str, source: &str) -> (ProblemKind, String, String) {
    (kind, host.to_owned(), source.to_owned())
}

fn hint(facts: &Facts, kind: ProblemKind) -> String {
    let found = coverage(facts).problems.into_iter().find(|problem| problem.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind:?}")).hint
}

fn bind(host: &HostRecord, path: &str, read_only: bool) -> BindRecord {
    BindRecord {
        host: host.id,
        path: path.to_owned(),
        read_only,
        containers: vec!["web".to_owned()],
        first_seen_ms: NOW,
        last_seen_ms: NOW,
        gone_ms: None,
        retired_ms: None,
    }
}

/// A host with two volumes that were backed up last night.
fn protected() -> Facts {
    let web = host("web-1");
    let sources = vec![volume(&web, "db_a"), volume(&web, "db_b")];
    let mut facts = facts(vec![web], sources, vec![policy(NIGHTLY)]);
    facts.snapshots = facts.sources.iter().map(|source| snapshot(source, HOUR, false)).collect();
    assert_eq!(places(&facts), []);
    facts
}

#[test]
fn h06_volumes_that_vanished_are_named_until_each_is_retired() {
    let mut facts = protected();
    for source in &mut facts.sources {
        source.gone_ms = Some(NOW - HOUR);
    }
    assert_eq!(
        places(&facts),
        [
            place(ProblemKind::VanishedSource, "web-1", "db_a"),
            place(ProblemKind::VanishedSource, "web-1", "db_b"),
            place(ProblemKind::PolicyMatchesNothing, "", "")
        ]
    );
    assert_eq!(
        hint(&facts, ProblemKind::VanishedSource),
        "holdfast restore volume web-1/db_a@latest --host web-1 --as db_a; \
         if it was removed on purpose: holdfast source retire web-1/db_a"
    );
    let line = &coverage(&facts).hosts[0];
    assert_eq!((line.sources, line.missing, line.last_backup_ms), (0, 2, NOW - HOUR));
    facts.sources[0].retired_ms = Some(NOW);
    assert_eq!(places(&facts)[0], place(ProblemKind::VanishedSource, "web-1", "db_b"));
    facts.sources[1].retired_ms = Some(NOW);
    assert_eq!(places(&facts), [place(ProblemKind::PolicyMatchesNothing, "", "")]);
    facts.policies.clear();
    assert_eq!(places(&facts), []);
}

#[test]
fn a_source_without_a_snapshot_may_go() {
    let mut facts = protected();
    facts.snapshots.truncate(1);
    facts.sources[1].gone_ms = Some(NOW - HOUR);
    assert_eq!(places(&facts), []);
}

#[test]
fn h06_a_named_volume_that_is_missing_is_named_and_a_glob_promises_nothing() {
    let mut facts = protected();
    facts.policies = vec![
        policy(&NIGHTLY.replace("'db_*'", "'db_*', 'logs'")),
        policy(&NIGHTLY.replace("'db_*'", "'db_a'")),
    ];
    facts.policies[1].policy.name = "hourly".to_owned();
    assert_eq!(places(&facts), [place(ProblemKind::MissingVolume, "web-1", "logs")]);
    let message = &coverage(&facts).problems[0].message;
    assert_eq!(message, "volume logs is not there; it is named by policy nightly");
    // Had and backed up, it is vanished; had and not backed up, it is missing;
    // given up, it is neither, whoever names it.
    let web = facts.hosts[0].clone();
    let mut logs = volume(&web, "logs");
    logs.gone_ms = Some(NOW - HOUR);
    facts.sources.push(logs);
    assert_eq!(places(&facts), [place(ProblemKind::MissingVolume, "web-1", "logs")]);
    facts.snapshots.push(snapshot(&facts.sources[2], 2 * HOUR, false));
    assert_eq!(places(&facts), [place(ProblemKind::VanishedSource, "web-1", "logs")]);
    facts.sources[2].retired_ms = Some(NOW);
    assert_eq!(places(&facts), []);
    // Of a host that was never seen nothing is known.
    facts.sources.clear();
    facts.snapshots.clear();
    facts.hosts[0].last_seen_ms = None;
    facts.connected.clear();
    let kinds: Vec<_> = places(&facts).into_iter().map(|(kind, _, _)| kind).collect();
    assert_eq!(
        kinds,
        [ProblemKind::SilentHost, ProblemKind::PolicyMatchesNothing, ProblemKind::PolicyMatchesNothing]
    );
}

#[test]
fn h06_a_host_that_was_never_seen_is_named_at_once() {
    let mut facts = protected();
    let mut new = host("web-2");
    new.joined_ms = NOW;
    new.last_seen_ms = None;
    facts.hosts.push(new);
    assert_eq!(places(&facts), [place(ProblemKind::SilentHost, "web-2", "")]);
    // Seen, it has five minutes to come back.
    facts.hosts[1].last_seen_ms = Some(NOW - 4 * 60_000);
    assert_eq!(places(&facts), []);
    facts.hosts[1].last_seen_ms = Some(NOW - 5 * 60_000);
    assert_eq!(places(&facts), [place(ProblemKind::SilentHost, "web-2", "")]);
    assert_eq!(
        hint(&facts, ProblemKind::SilentHost),
        "on the host: systemctl status holdfast-agent; if it is given up: holdfast host retire web-2"
    );
}

#[test]
fn h06_a_host_is_awaited_from_its_token_until_it_joins_or_is_retired() {
    let token = |name: &str| AwaitedHost { name: name.to_owned(), created_ms: NOW, expires_ms: NOW + HOUR };
    let mut facts = protected();
    facts.awaited = vec![token("web-1"), token("web-2")];
    // The first is a host, and the token one to join again with.
    assert_eq!(places(&facts), [place(ProblemKind::AwaitedHost, "web-2", "")]);
    assert!(hint(&facts, ProblemKind::AwaitedHost).ends_with("holdfast host retire web-2"));
    facts.hosts[0].revoked_ms = Some(NOW);
    assert_eq!(places(&facts)[1], place(ProblemKind::RevokedHost, "web-1", ""));
    facts.hosts[0].retired_ms = Some(NOW);
    assert_eq!(places(&facts)[0], place(ProblemKind::AwaitedHost, "web-1", ""));
    // By a policy it is awaited, too, unless it was given up.
    facts.awaited.clear();
    facts.policies = vec![policy(&format!("hosts = ['web-1', 'web-3']\n{NIGHTLY}"))];
    assert_eq!(
        places(&facts),
        [place(ProblemKind::AwaitedHost, "web-3", ""), place(ProblemKind::PolicyMatchesNothing, "", "")]
    );
    facts.policies.clear();
    assert_eq!(places(&facts), []);
    facts.hosts.clear();
    assert_eq!(places(&facts), [place(ProblemKind::NoHosts, "", "")]);
}

#[test]
fn h06_a_revoked_host_is_one_trouble_until_it_is_retired() {
    let mut facts = protected();
    let db = host("db-1");
    facts.sources.push(volume(&db, "db_c"));
    facts.snapshots.push(snapshot(&facts.sources[2], HOUR, false));
    facts.hosts.push(db);
    facts.hosts[0].revoked_ms = Some(NOW - HOUR);
    facts.sources[0].gone_ms = Some(NOW);
    facts.snapshots[1].created_ms = NOW - 100 * HOUR;
    facts.connected = vec![facts.hosts[1].id];
    assert_eq!(places(&facts), [place(ProblemKind::RevokedHost, "web-1", "")]);
}

#[test]
fn an_engine_that_does_not_answer_is_named() {
    let mut facts = protected();
    let agent =
        crate::model::agent::Agent { engine_problem: "no such file".to_owned(), ..Default::default() };
    facts.hosts[0].agent = Some(agent);
    assert_eq!(places(&facts), [place(ProblemKind::EngineUnreachable, "web-1", "")]);
}

#[test]
fn h06_a_policy_that_matches_nothing_on_a_host_it_names_is_named() {
    let mut facts = protected();
    facts.hosts.push(host("db-1"));
    let both = format!("hosts = ['web-1', 'db-1']\n{NIGHTLY}");
    facts.connected = facts.hosts.iter().map(|host| host.id).collect();
    assert_eq!(places(&facts), [], "a host that no policy names may have nothing");
    facts.policies = vec![policy(&both)];
    assert_eq!(places(&facts), [place(ProblemKind::PolicyMatchesNothing, "db-1", "")]);
    // Where what it misses is named, that is enough.
    let mut lost = volume(&facts.hosts[1], "db_c");
    lost.gone_ms = Some(NOW);
    facts.snapshots.push(snapshot(&lost, HOUR, false));
    facts.sources.push(lost);
    assert_eq!(places(&facts), [place(ProblemKind::VanishedSource, "db-1", "db_c")]);
}

#[test]
fn h06_a_source_that_shrank_is_named_while_the_rest_is_kept_or_until_it_is_accepted() {
    let mut facts = protected();
    let source = facts.sources[0].clone();
    let sized = |number: u64, entries: u64, size_bytes: u64| {
        let mut record = snapshot(&source, HOUR, false);
        record.id.number = number;
        record.extent = Some(Extent { entries, size_bytes });
        record
    };
    let other = facts.snapshots.remove(1);
    let mut judged = |snapshots: Vec<SnapshotRecord>| {
        facts.snapshots = snapshots;
        facts.snapshots.push(other.clone());
        coverage(&facts).problems.pop().map(|problem| (problem.kind, problem.message))
    };
    assert_eq!(judged(vec![sized(1, 100, 1000), sized(2, 10, 100)]), None, "a tenth is left");
    let (kind, message) = judged(vec![sized(1, 100, 1000), sized(2, 9, 1000)]).expect("named");
    assert_eq!(kind, ProblemKind::ShrunkSource);
    assert!(message.ends_with("in the last snapshot, 100 entries and 1000 B in snapshot 1"), "{message}");
    assert!(judged(vec![sized(1, 100, 1000), sized(2, 100, 99)]).is_some());
    // Further snapshots of what is left do not end it, a large one does.
    let mut row = vec![sized(1, 100, 1000), sized(2, 9, 9), sized(3, 9, 9), sized(4, 9, 9)];
    assert!(judged(row.clone()).is_some());
    row.push(sized(5, 90, 900));
    assert_eq!(judged(row.clone()), None);
    row.pop();
    row[2].shrink_accepted = true;
    assert_eq!(judged(row.clone()), None, "it was accepted before the last");
    row.push(sized(5, 0, 0));
    assert!(judged(row).is_some(), "it shrank again");
    assert_eq!(judged(vec![sized(3, 9, 9), sized(4, 9, 9)]), None, "what was larger is not kept any more");
    // Of an unknown size nothing is said.
    let unknown = SnapshotRecord { extent: None, ..sized(2, 0, 0) };
    assert_eq!(judged(vec![sized(1, 100, 1000), unknown]), None);
}

#[test]
fn h06_a_bind_that_no_policy_covers_is_named_unless_it_holds_no_data() {
    let mut facts = protected();
    let web = facts.hosts[0].clone();
    for (path, read_only) in [
        ("/proc", false),
        ("/run/holdfast", false),
        ("/var/run/docker.sock", false),
        ("/opt/engine/docker.sock", false),
        ("/var/lib/docker/containers", false),
        ("/", true),
        ("/etc/localtime", true),
    ] {
        facts.binds.push(bind(&web, path, read_only));
    }
    assert_eq!(places(&facts), []);
    facts.binds.extend([bind(&web, "/srv/site", true), bind(&web, "/etc/app", false)]);
    assert_eq!(
        places(&facts),
        [
            place(ProblemKind::UnprotectedBind, "web-1", "/srv/site"),
            place(ProblemKind::UnprotectedBind, "web-1", "/etc/app")
        ]
    );
    assert!(hint(&facts, ProblemKind::UnprotectedBind).ends_with("holdfast source retire web-1//srv/site"));
    // A policy may cover it from above, but not by the beginning of its name.
    let with = |directory: &str| policy(&format!("directories = ['{directory}']\n{NIGHTLY}"));
    facts.snapshots.push(snapshot(&facts.sources[0], HOUR, false));
    facts.policies = vec![with("/srv/si")];
    facts.policies[0].since_ms = NOW;
    assert_eq!(places(&facts).len(), 2);
    facts.policies = vec![with("/srv")];
    facts.policies[0].since_ms = NOW;
    assert_eq!(places(&facts), [place(ProblemKind::UnprotectedBind, "web-1", "/etc/app")]);
    facts.binds.last_mut().expect("one").retired_ms = Some(NOW);
    assert_eq!(places(&facts), []);
}

#[test]
fn h06_a_directory_that_no_job_ever_asked_for_becomes_overdue() {
    let mut facts = protected();
    facts.policies.push(policy("name = 'files'\ndirectories = ['/srv']\n[schedule]\ncron = '0 2 * * *'\n"));
    assert_eq!(places(&facts), [place(ProblemKind::Overdue, "web-1", "/srv")]);
    assert_eq!(coverage(&facts).hosts[0].sources, 3);
    facts.hosts[0].joined_ms = NOW - HOUR;
    assert_eq!(places(&facts), [], "the host is there for an hour");
}

#[test]
fn h06_a_job_that_missed_what_was_given_up_since_is_told_of_no_more() {
    let mut facts = protected();
    let mut job = upgrade(&facts.hosts[0], false, State::Partial, "1 source missing: db_a");
    job.parameters = Parameters::Backup(Default::default());
    job.policy = "nightly".to_owned();
    job.error_code = holdfast_proto::ErrorCode::SourceMissing.as_str().to_owned();
    job.result.missing_sources = vec!["db_a".to_owned()];
    facts.latest_backups = vec![job];
    facts.sources[0].gone_ms = Some(NOW);
    assert_eq!(
        places(&facts),
        [place(ProblemKind::VanishedSource, "web-1", "db_a"), place(ProblemKind::FailedJob, "web-1", "")]
    );
    facts.sources[0].retired_ms = Some(NOW);
    assert_eq!(places(&facts), []);
    // There again, it was missed that night all the same.
    facts.sources[0].gone_ms = None;
    facts.sources[0].retired_ms = None;
    assert_eq!(places(&facts), [place(ProblemKind::FailedJob, "web-1", "")]);
}

#[test]
fn h07_what_was_noted_under_a_clock_that_was_ahead_excuses_nothing() {
    let year = 365 * 24 * HOUR;
    let kinds = |facts: &Facts| -> Vec<ProblemKind> {
        coverage(facts).problems.into_iter().map(|problem| problem.kind).collect()
    };
    let nightly = "name = 'nightly'\nvolumes = ['*']\n[schedule]\ncron = '0 3 * * *'\nzone = 'UTC'";
    let web = host("web-1");
    let mut data = volume(&web, "data");
    data.first_seen_ms = NOW + year;
    let mut seen = facts(vec![web.clone()], vec![data.clone()], vec![policy(nightly)]);
    assert_eq!(kinds(&seen), [ProblemKind::Overdue], "the source was first seen then");
    seen.sources[0].first_seen_ms = NOW - 500 * HOUR;
    seen.policies[0].since_ms = NOW + year;
    assert_eq!(kinds(&seen), [ProblemKind::Overdue], "the policy was applied then");
    // A clock that was set back by a second is no clock that was wrong.
    seen.policies[0].since_ms = NOW + 1000;
    assert!(kinds(&seen).is_empty());

    let mut away = facts(vec![web], Vec::new(), Vec::new());
    away.connected.clear();
    away.hosts[0].last_seen_ms = Some(NOW + 1000);
    assert!(kinds(&away).is_empty());
    away.hosts[0].last_seen_ms = Some(NOW + year);
    assert_eq!(kinds(&away), [ProblemKind::SilentHost], "it was seen then for the last time");
}

#[test]
fn h07_a_snapshot_of_the_future_does_not_stand_for_the_nights_since() {
    let nightly = "name = 'nightly'\nvolumes = ['*']\n[schedule]\ncron = '0 3 * * *'\nzone = 'UTC'";
    let web = host("web-1");
    let mut data = volume(&web, "data");
    data.first_seen_ms = NOW - 500 * HOUR;
    let mut seen = facts(vec![web], vec![data.clone()], vec![policy(nightly)]);
    seen.snapshots = vec![snapshot(&data, -365 * 24 * HOUR, false)];
    let kinds = |facts: &Facts| -> Vec<ProblemKind> {
        coverage(facts).problems.into_iter().map(|problem| problem.kind).collect()
    };
    assert_eq!(kinds(&seen), [ProblemKind::Overdue]);
    seen.snapshots.push(snapshot(&data, HOUR, false));
    assert!(kinds(&seen).is_empty(), "one of last night does");
}

#[test]
fn v21_holdfasts_own_volumes_are_neither_counted_nor_missed_nor_matched() {
    let web = host("web-1");
    let mut state = volume(&web, "db_state");
    state.own = "the state of the controller in container `c`".to_owned();
    let mut sources = vec![volume(&web, "db_a"), state];
    let mut facts_of = |gone_ms| {
        sources[1].gone_ms = gone_ms;
        let mut facts = facts(vec![web.clone()], sources.clone(), vec![policy(NIGHTLY)]);
        // It was backed up by an older version.
        facts.snapshots = sources.iter().map(|source| snapshot(source, HOUR, false)).collect();
        facts
    };
    for gone_ms in [None, Some(NOW - HOUR)] {
        let facts = facts_of(gone_ms);
        assert_eq!(places(&facts), [], "gone: {gone_ms:?}");
        let line = &coverage(&facts).hosts[0];
        assert_eq!((line.sources, line.protected, line.missing), (1, 1, 0), "gone: {gone_ms:?}");
    }
    let facts = facts_of(None);
    let nightly = &facts.policies[0].policy;
    let matches = nightly.matches(&facts.hosts, &facts.sources);
    assert_eq!(matches[0].sources, ["db_a"]);
    assert_eq!(matches[0].own.iter().map(|own| own.name.as_str()).collect::<Vec<_>>(), ["db_state"]);
    assert!(nightly.match_warnings(&matches, &facts.hosts).is_empty(), "a glob promises nothing");

    // Nobody's policy covers it either, and that is no alarm.
    let uncovered = Facts { policies: vec![policy(&NIGHTLY.replace("db_*", "db_a"))], ..facts_of(None) };
    assert_eq!(places(&uncovered), []);
    let named = policy(&NIGHTLY.replace("db_*", "db_state")).policy;
    let matches = named.matches(&facts.hosts, &facts.sources);
    let warnings = named.match_warnings(&matches, &facts.hosts);
    assert!(warnings[0].contains("Holdfast's own") && warnings[0].contains("container `c`"), "{warnings:?}");
}
