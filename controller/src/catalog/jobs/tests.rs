use super::super::runs::RunJob;
use super::super::sources::add_host;
use super::*;
use crate::limits::*;
use crate::model::job::parameters::{BackupParameters, UpgradeParameters};
use crate::model::job::source::JobSource;
use crate::policy::Overlap;

async fn catalog() -> (Catalog, HostId) {
    let catalog = Catalog::open("sqlite::memory:").await.expect("opens");
    let host = add_host(&catalog, "web-1").await;
    (catalog, host)
}

fn backup(host: HostId) -> NewJob {
    NewJob {
        id: JobId::generate(),
        policy: "nightly".into(),
        host: Some(host),
        actor: "schedule".into(),
        parameters: Parameters::Backup(BackupParameters::default()),
        not_before_ms: 0,
    }
}

fn ending(state: State) -> Ending {
    Ending { state, error_code: String::new(), error: String::new(), result: JobResult::default() }
}

async fn fire(catalog: &Catalog, host: HostId, fire_ms: i64, overlap: Overlap) -> Option<JobId> {
    let jobs = [RunJob { job: backup(host), overlap: Some(overlap) }];
    let made = catalog.create_run(Some("nightly"), Some(fire_ms), &jobs, fire_ms).await.expect("written");
    made.map(|made| made[0].id)
}

#[tokio::test]
async fn p08_a_fire_time_is_recorded_once() {
    let (catalog, host) = catalog().await;
    assert!(fire(&catalog, host, 1000, Overlap::Skip).await.is_some());
    assert!(fire(&catalog, host, 1000, Overlap::Skip).await.is_none());
    assert_eq!(catalog.jobs(&JobFilter { limit: 10, ..JobFilter::default() }).await.expect("list").len(), 1);
    assert_eq!(catalog.last_fire("nightly", 5000).await.expect("asked"), Some(1000));
    assert_eq!(catalog.last_fire("nightly", 999).await.expect("asked"), None);
    // A missed fire takes its time too, and leaves a run that was made alone.
    catalog.record_missed("nightly", &[500, 1000], "down", 2000).await.expect("recorded");
    let late = [RunJob { job: backup(host), overlap: Some(Overlap::Skip) }];
    assert!(catalog.create_run(Some("nightly"), Some(500), &late, 2001).await.expect("written").is_none());
    assert_eq!(catalog.missed_count("nightly", 0).await.expect("asked"), 1);
    // By hand as often as one likes.
    for _ in 0..2 {
        let jobs = [RunJob { job: backup(host), overlap: None }];
        assert!(catalog.create_run(Some("nightly"), None, &jobs, 1).await.expect("written").is_some());
    }
}

#[tokio::test]
async fn p15_a_fire_that_was_run_is_not_run_again_a_moment_sooner_after_it() {
    let (catalog, host) = catalog().await;
    let jobs = || [RunJob { job: backup(host), overlap: Some(Overlap::Skip) }];
    let create = async |now: i64| {
        catalog.create_run(Some("nightly"), Some(100_000), &jobs(), now).await.expect("written").is_some()
    };
    assert!(create(100_700).await);
    // The clock was set back to before it, and comes to it a second time.
    assert_eq!(catalog.last_fire("nightly", 99_000).await.expect("asked"), None);
    assert_eq!(catalog.last_fire("nightly", 100_200).await.expect("asked"), Some(100_000));
    assert!(!create(100_200).await);
    // Of a clock that was far ahead it is another matter.
    assert_eq!(catalog.last_fire("nightly", 100_000 - 3_600_000).await.expect("asked"), None);
}

#[tokio::test]
async fn p10_an_overlapping_fire_is_skipped_or_waits_and_is_recorded() {
    let (catalog, host) = catalog().await;
    let first = fire(&catalog, host, 1, Overlap::Skip).await.expect("new");
    let generation = catalog.claim_job(first, "me", 2).await.expect("asked").expect("claimed").generation;
    let skipped = fire(&catalog, host, 2, Overlap::Skip).await.expect("new");
    let skipped = catalog.job(skipped).await.expect("asked").expect("there");
    assert_eq!((skipped.state, skipped.error_code.as_str()), (State::Cancelled, "overlap"));
    assert!(skipped.error.contains(&first.to_string()));
    let queued = fire(&catalog, host, 3, Overlap::Queue).await.expect("new");
    assert_eq!(catalog.job(queued).await.expect("asked").expect("there").state, State::Queued);
    let surplus = fire(&catalog, host, 4, Overlap::Queue).await.expect("new");
    assert_eq!(catalog.job(surplus).await.expect("asked").expect("there").state, State::Cancelled);
    // The waiting one is not claimed before the first has ended.
    assert_eq!(catalog.claim_job(queued, "me", 5).await.expect("asked"), None);
    assert!(catalog.finish_job(first, generation, &ending(State::Succeeded), "end", 6).await.expect("ends"));
    assert!(catalog.claim_job(queued, "me", 7).await.expect("asked").is_some());
}

#[tokio::test]
async fn p07_one_of_two_claims_and_a_superseded_driver_writes_nothing() {
    let (catalog, host) = catalog().await;
    let job = fire(&catalog, host, 1, Overlap::Skip).await.expect("new");
    let (a, b) = tokio::join!(catalog.claim_job(job, "a", 2), catalog.claim_job(job, "b", 2));
    let generation = |claimed: Option<JobRecord>| claimed.map(|job| job.generation);
    let (a, b) = (generation(a.expect("asked")), generation(b.expect("asked")));
    assert!(a.is_some() != b.is_some(), "{a:?} {b:?}");
    let held = a.or(b).expect("one of them");
    let owner = if a.is_some() { "a" } else { "b" };
    assert_eq!(catalog.running_jobs().await.expect("asked"), [(job, Some(owner.to_owned()))]);
    let take_over =
        async |by: &str| catalog.take_over_job(job, Some(owner), by, "taken over", 3).await.expect("asked");
    assert_eq!(take_over("c").await.and_then(|job| job.owner).as_deref(), Some("c"));
    assert_eq!(take_over("d").await, None);
    assert!(catalog.raise_generation(job, held, held + 1, true).await.expect("asked"));
    assert!(!catalog.raise_generation(job, held, held + 1, true).await.expect("asked"));
    assert!(!catalog.set_job_step(job, held, "late").await.expect("asked"));
    assert!(!catalog.finish_job(job, held, &ending(State::Failed), "end", 9).await.expect("asked"));
    assert!(catalog.finish_job(job, held + 1, &ending(State::Succeeded), "end", 9).await.expect("asked"));
    let record = catalog.job(job).await.expect("asked").expect("there");
    assert_eq!((record.state, record.attempt, record.ended_ms), (State::Succeeded, 2, Some(9)));
    assert!(!catalog.request_cancel(job, "op asked to cancel", 9).await.expect("asked"));
}

#[tokio::test]
async fn a_claim_that_cannot_be_written_down_whole_leaves_the_job_queued() {
    let (catalog, host) = catalog().await;
    let job = fire(&catalog, host, 1, Overlap::Skip).await.expect("new");
    let full = "create trigger full before insert on job_events begin select raise(abort, 'disk full'); end";
    sqlx::query(full).execute(catalog.pool()).await.expect("a trigger");
    assert!(catalog.claim_job(job, "me", 2).await.is_err());
    let record = catalog.job(job).await.expect("asked").expect("there");
    assert_eq!((record.state, record.generation, record.attempt), (State::Queued, 0, 0));
    sqlx::query("drop trigger full").execute(catalog.pool()).await.expect("gone");
    let claimed = catalog.claim_job(job, "me", 3).await.expect("asked").expect("claimed");
    assert_eq!((claimed.state, claimed.generation, claimed.attempt), (State::Running, 1, 1));
    let lines = catalog.job_events(job, 0).await.expect("read");
    assert_eq!(lines, [EventRecord { sequence: 1, at_ms: 3, message: "started".into() }]);
}

#[tokio::test]
async fn a_request_to_cancel_is_written_down_with_its_line_or_not_at_all() {
    let (catalog, host) = catalog().await;
    let job = fire(&catalog, host, 1, Overlap::Skip).await.expect("new");
    catalog.claim_job(job, "me", 2).await.expect("asked").expect("claimed");
    let full = "create trigger full before insert on job_events begin select raise(abort, 'disk full'); end";
    sqlx::query(full).execute(catalog.pool()).await.expect("a trigger");
    assert!(catalog.request_cancel(job, "op asked to cancel", 3).await.is_err());
    assert!(!catalog.job(job).await.expect("asked").expect("there").cancel_requested);
    sqlx::query("drop trigger full").execute(catalog.pool()).await.expect("gone");
    assert!(catalog.request_cancel(job, "op asked to cancel", 4).await.expect("asked"));
    assert!(catalog.job(job).await.expect("asked").expect("there").cancel_requested);
    let lines = catalog.job_events(job, 1).await.expect("read");
    assert_eq!(lines, [EventRecord { sequence: 2, at_ms: 4, message: "op asked to cancel".into() }]);
}

#[tokio::test]
async fn a_grant_lasts_while_the_job_runs_and_names_its_sources() {
    let (catalog, host) = catalog().await;
    let job = fire(&catalog, host, 1, Overlap::Skip).await.expect("new");
    assert_eq!(catalog.job_grant(job).await.expect("asked"), None);
    let generation = catalog.claim_job(job, "me", 2).await.expect("asked").expect("claimed").generation;
    let source = catalog.directory_source(host, "/srv", 1).await.expect("made").id;
    let state = JobSource { source_id: source.to_string(), name: "/srv".into(), ..JobSource::default() };
    catalog.put_job_sources(job, std::slice::from_ref(&state)).await.expect("written");
    catalog.put_job_sources(job, std::slice::from_ref(&state)).await.expect("written again");
    let grant = catalog.job_grant(job).await.expect("asked").expect("granted");
    assert_eq!((grant.host, grant.generation), (host, generation));
    assert_eq!(grant.kind, GrantKind::Upload { sources: vec![source] });
    catalog.finish_job(job, generation, &ending(State::Failed), "end", 3).await.expect("ended");
    assert_eq!(catalog.job_grant(job).await.expect("asked"), None);
    assert_eq!(catalog.job_grant(JobId::generate()).await.expect("asked"), None);
}

#[tokio::test]
async fn events_are_numbered_within_their_job() {
    let (catalog, host) = catalog().await;
    let (a, b) = (backup(host), backup(host));
    catalog.create_job(&a, 1).await.expect("made");
    catalog.create_job(&b, 1).await.expect("made");
    assert_eq!(catalog.add_job_event(a.id, 5, "one").await.expect("added"), 1);
    assert_eq!(catalog.add_job_event(a.id, 6, "two").await.expect("added"), 2);
    assert_eq!(catalog.add_job_event(b.id, 7, "other").await.expect("added"), 1);
    let events = catalog.job_events(a.id, 1).await.expect("listed");
    assert_eq!(events, [EventRecord { sequence: 2, at_ms: 6, message: "two".into() }]);
}

fn upgrade(host: HostId) -> NewJob {
    let parameters = Parameters::Upgrade(UpgradeParameters::default());
    NewJob { id: JobId::generate(), policy: String::new(), parameters, ..backup(host) }
}

#[tokio::test]
async fn a_child_is_made_once_and_only_by_who_drives_its_parent() {
    let (catalog, host) = catalog().await;
    let parent = upgrade(host);
    catalog.create_job(&parent, 1).await.expect("made");
    let child = async |generation, role: &str| {
        let job = backup(host);
        (job.id, catalog.create_child(parent.id, generation, role, &job, 2).await.expect("asked"))
    };
    assert_eq!(child(0, "before").await.1, None, "it does not run");
    let held = catalog.claim_job(parent.id, "me", 2).await.expect("asked").expect("claimed").generation;
    let (id, made) = child(held, "before").await;
    assert_eq!(made, Some(id));
    assert_eq!(child(held, "before").await.1, Some(id));
    assert_ne!(child(held, "at-stop").await.1, Some(id));
    assert_eq!(child(held + 1, "other").await.1, None, "it is driven under another generation");
    let children = catalog.child_jobs(parent.id).await.expect("listed");
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|child| child.parent == Some(parent.id)));
    let found = catalog.child_job(parent.id, "before").await.expect("asked").expect("there");
    assert_eq!((found.id, found.role.as_str()), (id, "before"));
    // Children are first in line, and take no place of their own.
    let queued = catalog.claimable_jobs(99, 10, 0).await.expect("listed");
    assert_eq!(queued.iter().filter(|job| job.parent.is_some()).count(), 2);
    assert_eq!(queued.first().map(|job| job.id), Some(id));
    catalog.claim_job(id, "me", 3).await.expect("asked").expect("claimed");
    assert_eq!(catalog.running_count().await.expect("counted"), 1);
    assert_eq!(catalog.job_grant(parent.id).await.expect("asked"), None);
}

#[tokio::test]
async fn while_an_upgrade_runs_its_host_takes_no_other_and_no_backups_but_its_own() {
    let (catalog, host) = catalog().await;
    let elsewhere = add_host(&catalog, "web-2").await;
    let (first, second, plain) = (upgrade(host), upgrade(host), backup(host));
    let (other_upgrade, other_backup) = (upgrade(elsewhere), backup(elsewhere));
    for job in [&first, &second, &plain, &other_upgrade, &other_backup] {
        catalog.create_job(job, 1).await.expect("made");
    }
    let claim = async |id| {
        let claimed = catalog.claim_job(id, "me", 2).await.expect("asked");
        claimed.map(|job| job.generation)
    };
    // What runs already does not hold an upgrade back: its snapshot waits.
    let other = claim(other_backup.id).await.expect("claimed");
    let held = claim(other_upgrade.id).await.expect("claimed");
    let own = backup(elsewhere);
    catalog.create_child(other_upgrade.id, held, "before", &own, 3).await.expect("made");
    assert_eq!(claim(own.id).await, None);
    assert!(
        catalog.finish_job(other_backup.id, other, &ending(State::Succeeded), "", 4).await.expect("ends")
    );
    assert!(claim(own.id).await.is_some());
    let held = claim(first.id).await.expect("claimed");
    assert_eq!((claim(second.id).await, claim(plain.id).await), (None, None));
    assert!(catalog.finish_job(first.id, held, &ending(State::Failed), "", 5).await.expect("ends"));
    assert!(claim(second.id).await.is_some());
}

#[tokio::test]
async fn ended_upgrades_are_listed_newest_first_and_backups_are_not() {
    let (catalog, host) = catalog().await;
    let (first, second, plain, queued) = (upgrade(host), upgrade(host), backup(host), upgrade(host));
    for (job, ended_ms) in [(&first, 10), (&second, 20), (&plain, 30)] {
        catalog.create_job(job, 1).await.expect("made");
        let held = catalog.claim_job(job.id, "me", 2).await.expect("asked").expect("claimed").generation;
        assert!(catalog.finish_job(job.id, held, &ending(State::Failed), "", ended_ms).await.expect("ends"));
    }
    catalog.create_job(&queued, 40).await.expect("made");
    let ended = async |since_ms| {
        let listed = catalog.ended_upgrades(since_ms).await.expect("listed");
        listed.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    assert_eq!(ended(0).await, [second.id, first.id]);
    assert_eq!(ended(11).await, [second.id]);
}

#[tokio::test]
async fn v04_an_event_log_is_bounded_in_lines_and_their_length_and_still_has_its_end() {
    let (catalog, host) = catalog().await;
    let job = backup(host);
    catalog.create_job(&job, 1).await.expect("made");
    let generation = catalog.claim_job(job.id, "me", 2).await.expect("asked").expect("claimed").generation;
    sqlx::query(
        "insert into job_events (job_id, sequence, at_ms, message) values ($1, $2, 1, 'the last but one')",
    )
    .bind(job.id.to_string())
    .bind(signed(JOB_LINES - 1))
    .execute(catalog.pool())
    .await
    .expect("a row");
    for _ in 0..3 {
        assert_eq!(catalog.add_job_event(job.id, 2, &"x".repeat(1 << 20)).await.expect("told"), JOB_LINES);
    }
    let end = Ending { error: "e".repeat(1 << 20), ..ending(State::Failed) };
    assert!(catalog.finish_job(job.id, generation, &end, "it failed", 3).await.expect("ended"));
    let log = catalog.job_events(job.id, 0).await.expect("read");
    let lengths: Vec<usize> = log.iter().map(|line| line.message.len()).collect();
    let (first, before) = ("started".len(), "the last but one".len());
    assert_eq!(lengths, [first, before, crate::limits::TEXT, "it failed".len()]);
    let job = catalog.job(job.id).await.expect("read").expect("there");
    assert_eq!(job.error.len(), crate::limits::TEXT);
}
