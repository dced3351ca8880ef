//! A backup on one host.
//!
//! 1. Look at the host: its volumes now, not as of the last inventory.
//! 2. Choose the sources and write them down, those that are missed first: a
//!    job that finds its list does not look for them again. From here on it
//!    may write snapshots of exactly these; a later attempt keeps the list.
//! 3. Have the agent take them, and follow it to the end.
//! 4. Ask the catalogue about each source that did not end well: its snapshot
//!    may be committed, and only the answer lost.
//! 5. Sum up. Each source ends by itself: one that fails does not take the
//!    others' snapshots away, but the job is not green; nor is one that took
//!    all there was where there should have been more.

use std::collections::BTreeMap;

use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;

use super::agent::AgentJob;
use super::host::connected;
use super::{Failure, JobRun, committed, missing};
use crate::catalog::jobs::Ending;
use crate::catalog::sources::SourceRecord;
use crate::clock::now_ms;
use crate::coverage::matching::facts;
use crate::failpoint::failpoint;
use crate::fleet::answer::plain;
use crate::fleet::inventory;
use crate::limits::{QUIESCED, RECORDED_EVENTS};
use crate::model::event::{AgentEvent, SnapshotEvent};
use crate::model::job::parameters::BackupParameters;
use crate::model::job::quiesced::ContainerQuiesced;
use crate::model::job::result::JobResult;
use crate::model::job::source::{JobEnded, JobSource, SourceFinished, SourcePhase};
use crate::model::job::state::State;
use crate::model::source::SourceKind;
use crate::model::work::Work;
use crate::quota::day_of;
use holdfast_archive::text::{bytes, millis};

/// Times the host's volumes are asked for before that is the job's failure.
const LIST_ATTEMPTS: u32 = 3;

/// Takes the snapshots of a job, from where a former driver was.
///
/// # Errors
/// The host does not come or its agent gives up, the job is cancelled or
/// another's by now, or the catalogue fails.
pub(crate) async fn run(run: &mut JobRun, backup: &BackupParameters) -> Result<Ending, Failure> {
    let host =
        run.job.host.ok_or_else(|| Failure::failed(ErrorCode::Internal, "a backup job without a host"))?;
    let sources = sources(run, host, backup).await?;
    if sources.is_empty() {
        let by_hand = run.job.policy.is_empty() && run.job.parent.is_none();
        let wanted = by_hand.then(|| backup.volumes.join("`, `"));
        run.log_event("nothing on this host matches: nothing to back up").await?;
        return Ok(nothing_taken(run.job.result.clone(), wanted.as_deref()));
    }
    run.step(&format!("backing up {}", counted(sources.len(), "source"))).await?;
    let work = Work::Backup { sources: sources.clone(), backup: backup.clone() };
    let mut tally = Tally::new(sources, run.job.result.clone());
    // An upgrade judges by its own rules how much of a source there has to be.
    tally.may_shrink = run.job.parent.is_some();
    let mut agent = AgentJob::new(run, host, work);
    let end = match hear(&mut agent, &mut tally).await {
        // The host went away, and what it has sent is here.
        Err(Failure::Failed { code, message }) => {
            JobEnded { error_code: code, error: message, ..JobEnded::default() }
        }
        end => end?,
    };
    // After the agent's end: until then a commit may be under way.
    tally.by_catalogue(run).await?;
    Ok(tally.ending(&end))
}

/// Follows the agent to the end of the job.
async fn hear(agent: &mut AgentJob<'_>, tally: &mut Tally) -> Result<JobEnded, Failure> {
    loop {
        let AgentEvent::Snapshot(event) = agent.next().await? else { continue };
        match event {
            // Of other sources there is no progress to keep.
            SnapshotEvent::Progress(progress) if !tally.sources.contains_key(&progress.source_id) => {}
            SnapshotEvent::Progress(progress) => {
                agent.run().jobs.progress().source_progress(agent.run().job.id, progress);
            }
            SnapshotEvent::Source(finished) => tally.source(agent.run(), finished).await?,
            SnapshotEvent::Quiesced(quiesced) => tally.quiesced(agent.run(), quiesced).await?,
            SnapshotEvent::Ended(end) if ErrorCode::Shutdown.is(&end.error_code) => {
                agent.again_after_shutdown().await?
            }
            SnapshotEvent::Ended(end) => return Ok(end),
            SnapshotEvent::Unknown => {}
        }
    }
}

/// The sources of the job: as written down, or chosen now.
async fn sources(
    run: &mut JobRun,
    host: HostId,
    backup: &BackupParameters,
) -> Result<Vec<JobSource>, Failure> {
    let catalog = run.jobs.catalog();
    let known = catalog.job_sources(run.job.id).await?;
    if !known.is_empty() {
        return Ok(known);
    }
    // Chosen once: a job that is taken over goes on with the same list, although the
    // host may have other volumes by now.
    run.step("looking for sources on the host").await?;
    refresh(run, host).await?;
    let chosen = choose(run, host, backup).await?;
    let sources: Vec<JobSource> = chosen
        .into_iter()
        .map(|source| JobSource {
            source_id: source.id.to_string(),
            name: source.name,
            kind: source.kind,
            phase: Some(SourcePhase::Queued),
            ..JobSource::default()
        })
        .collect();
    run.jobs.catalog().put_job_sources(run.job.id, &sources).await?;
    Ok(sources)
}

/// Of what the host has now: the volumes that match, and the directories.
async fn choose(
    run: &mut JobRun,
    host: HostId,
    backup: &BackupParameters,
) -> Result<Vec<SourceRecord>, Failure> {
    let selector = backup.selector();
    let all = run.jobs.catalog().sources(Some(host)).await?;
    // Before they are narrowed: what is promised by name and is gone is among these alone.
    missing::note(run, host, backup, &all).await?;
    let mut chosen: Vec<SourceRecord> = all
        .into_iter()
        .filter(|source| source.kind == SourceKind::Volume && source.gone_ms.is_none())
        .filter(|source| selector.matches(facts(source)))
        .collect();
    for path in &backup.directories {
        chosen.push(run.jobs.catalog().directory_source(host, path, now_ms()).await?);
    }
    Ok(chosen)
}

async fn refresh(run: &JobRun, host: HostId) -> Result<(), Failure> {
    let settings = run.jobs.settings();
    let mut failed_attempts = 0;
    loop {
        let channel = connected(run, host, settings.host_gone).await?;
        let error = match inventory::refresh(run.jobs.catalog(), host, channel, settings.call, now_ms()).await
        {
            Ok(_) => return Ok(()),
            Err(inventory::InventoryError::Catalog(error)) => return Err(error.into()),
            Err(inventory::InventoryError::Agent(status)) => status,
        };
        failed_attempts += 1;
        if failed_attempts >= LIST_ATTEMPTS {
            let message = format!("the host's volumes could not be listed: {}", plain(&error));
            return Err(Failure::answered(&error, ErrorCode::AgentUnreachable, message));
        }
        tokio::select! {
            () = run.cancel.cancelled() => return Err(Failure::Cancelled),
            () = tokio::time::sleep(settings.retry_pause(failed_attempts)) => {}
        }
    }
}

/// What is known of the sources so far. Everything an agent reports may be reported
/// again after a break, so each fact is taken in once.
struct Tally {
    sources: BTreeMap<String, JobSource>,
    result: JobResult,
    /// Events that changed the job's row.
    recorded: usize,
    /// A source with less than a tenth left is nothing to be told of.
    may_shrink: bool,
    /// Error codes of sources that the catalogue knows better; empty for one
    /// of which the agent said nothing.
    settled: Vec<String>,
}

impl Tally {
    fn new(sources: Vec<JobSource>, result: JobResult) -> Self {
        let sources = sources.into_iter().map(|source| (source.source_id.clone(), source)).collect();
        Self { sources, result, recorded: 0, may_shrink: false, settled: Vec::new() }
    }

    /// Counts an event that is about to change the job's row.
    async fn record(&mut self, run: &JobRun) -> Result<(), Failure> {
        self.recorded += 1;
        if self.recorded <= RECORDED_EVENTS + 4 * self.sources.len() {
            return Ok(());
        }
        let text = "its agent reports ever new events of one backup; look at what runs on that host";
        if let Some(host) = run.job.host {
            let reason = format!("job {} was ended: {text}", run.job.id);
            run.jobs.catalog().alarm(host, day_of(now_ms()), &reason).await?;
        }
        Err(Failure::failed(ErrorCode::AgentMisbehaves, text))
    }

    async fn source(&mut self, run: &JobRun, mut finished: SourceFinished) -> Result<(), Failure> {
        let Some(source) = self.sources.get_mut(&finished.source_id) else {
            tracing::warn!(
                source.id = finished.source_id,
                "the agent speaks of a source it was not asked for"
            );
            return Ok(());
        };
        finished.partial |= is_partial(run, &finished).await?;
        // After a break the agent reports again: the same report is no new event.
        if source.finished.as_ref() == Some(&finished) {
            return Ok(());
        }
        let line = finished_line(&source.name, &finished);
        let id = finished.source_id.clone();
        self.record(run).await?;
        let Some(source) = self.sources.get_mut(&id) else { return Ok(()) };
        source.stats = finished.stats;
        source.phase = None;
        source.finished = Some(finished);
        // The row before the line: who reads the line finds what it says.
        run.jobs.catalog().put_job_sources(run.job.id, std::slice::from_ref(source)).await?;
        failpoint("controller.job.after-source");
        run.log_event(&line).await
    }

    async fn quiesced(&mut self, run: &JobRun, quiesced: ContainerQuiesced) -> Result<(), Failure> {
        if self.result.quiesced.contains(&quiesced) {
            return Ok(());
        }
        self.record(run).await?;
        let line = quiesced_line(&quiesced);
        // A container that could not be resumed and then was is one event.
        self.result.quiesced.retain(|q| q.resumed || q.container_id != quiesced.container_id);
        // The row is bounded; the event log has a line of those beyond.
        if self.result.quiesced.len() < QUIESCED {
            self.result.quiesced.push(quiesced);
        }
        run.record(&self.result).await?;
        run.log_event(&line).await
    }

    /// Takes in what the catalogue knows of sources that did not end well.
    async fn by_catalogue(&mut self, run: &JobRun) -> Result<(), Failure> {
        for source in self.sources.values_mut() {
            if source.finished.as_ref().is_some_and(|finished| finished.ok) {
                continue;
            }
            let Some(finished) = committed::by_catalogue(run, source).await? else { continue };
            let line = format!(
                "{}: its snapshot was committed, and the host did not hear so: {}",
                source.name, finished.snapshot_id
            );
            let before = source.finished.replace(finished.clone());
            // The error it had is kept: an end of the job for the same reason is no failure then.
            self.settled.push(before.map(|before| before.error_code).unwrap_or_default());
            source.stats = finished.stats;
            source.phase = None;
            run.jobs.catalog().put_job_sources(run.job.id, std::slice::from_ref(source)).await?;
            run.log_event(&line).await?;
        }
        Ok(())
    }

    /// Whether what the agent's end of the job says is only of sources that the
    /// catalogue knows better.
    fn is_settled(&self, end: &JobEnded) -> bool {
        !ErrorCode::NotResumed.is(&end.error_code)
            && self.settled.iter().any(|code| code.is_empty() || *code == end.error_code)
    }

    fn ending(self, end: &JobEnded) -> Ending {
        let mut failed = Vec::new();
        for source in self.sources.values() {
            match &source.finished {
                Some(finished) if finished.ok => {}
                Some(finished) => {
                    failed.push((source.name.clone(), finished.error_code.clone(), finished.error.clone()))
                }
                None => failed.push((source.name.clone(), String::new(), "it was not begun".to_owned())),
            }
        }
        // Before what failed: sources that were cut off for it are no failures.
        if end.cancelled {
            return Ending {
                error_code: ErrorCode::Cancelled.as_str().to_owned(),
                error: "cancelled on request".to_owned(),
                ..ended(State::Cancelled, self.result)
            };
        }
        let (flaw_code, flaws) = self.flaws();
        if (end.ok || self.is_settled(end)) && failed.is_empty() {
            let state = if flaws.is_empty() { State::Succeeded } else { State::Partial };
            let (error_code, error) = (flaw_code.map_or("", ErrorCode::as_str).to_owned(), flaws.join("; "));
            return Ending { error_code, error, ..ended(state, self.result) };
        }
        let (error_code, error) = describe(end, &failed, self.sources.len());
        let error = std::iter::once(error).chain(flaws).collect::<Vec<_>>().join("; ");
        Ending { error_code, error, ..ended(State::Failed, self.result) }
    }

    /// Why a job is not green although each of its sources ended well, a
    /// sentence each, and a code. That of missing sources stands for nothing
    /// else: giving those up makes up for the whole job.
    fn flaws(&self) -> (Option<ErrorCode>, Vec<String>) {
        let taken = || self.sources.values().filter_map(|s| Some((&s.name, s.finished.as_ref()?)));
        let partial = taken().filter(|(_, finished)| finished.ok && finished.partial).count();
        let shrunk: Vec<&str> = taken()
            .filter(|(_, finished)| finished.ok && finished.shrunk && !self.may_shrink)
            .map(|(name, _)| name.as_str())
            .collect();
        let missing = &self.result.missing_sources;
        let mut flaws = Vec::new();
        if partial > 0 {
            flaws.push(format!(
                "{} partial: some files could not be read as they were",
                counted(partial, "snapshot")
            ));
        }
        if !shrunk.is_empty() {
            flaws.push(format!(
                "less than a tenth of what it was is left of {}; `holdfast status --problems` says what to do",
                shrunk.join(", ")
            ));
        }
        if !missing.is_empty() {
            flaws.push(missing::sentence(missing));
        }
        let code = match (partial, shrunk.as_slice()) {
            (0, []) if !missing.is_empty() => Some(ErrorCode::SourceMissing),
            (0, [_, ..]) => Some(ErrorCode::SourceShrunk),
            _ => None,
        };
        (code, flaws)
    }
}

/// Whether the snapshot is partial by the catalogue: an attempt may report what
/// it has read itself of one that an earlier attempt committed.
async fn is_partial(run: &JobRun, finished: &SourceFinished) -> Result<bool, Failure> {
    let Ok(id) = finished.snapshot_id.parse() else { return Ok(false) };
    Ok(run.jobs.catalog().snapshot(&id).await?.is_some_and(|record| record.partial))
}

/// The end of a job that found nothing to take. `wanted`: what somebody asked
/// for by hand; a policy's glob promises nothing.
fn nothing_taken(result: JobResult, wanted: Option<&str>) -> Ending {
    if result.missing_sources.is_empty() {
        let Some(wanted) = wanted else { return ended(State::Succeeded, result) };
        return Ending {
            error_code: ErrorCode::NothingMatches.as_str().to_owned(),
            error: format!(
                "nothing was backed up: no volume of this host matches `{wanted}`; holdfast volume ls shows them"
            ),
            ..ended(State::Failed, result)
        };
    }
    Ending {
        error_code: ErrorCode::SourceMissing.as_str().to_owned(),
        error: format!("nothing was backed up: {}", missing::sentence(&result.missing_sources)),
        ..ended(State::Failed, result)
    }
}

fn describe(end: &JobEnded, failed: &[(String, String, String)], of: usize) -> (String, String) {
    let causes: Vec<String> = failed
        .iter()
        .filter(|(_, code, _)| !code.is_empty())
        .map(|(name, _, error)| format!("{name}: {error}"))
        .collect();
    let own_code = failed.iter().map(|(_, code, _)| code).find(|code| !code.is_empty());
    let code = if end.error_code.is_empty() {
        own_code.cloned().unwrap_or_default()
    } else {
        end.error_code.clone()
    };
    let code = if code.is_empty() { ErrorCode::BackupFailed.as_str().to_owned() } else { code };
    let count = format!("{} of {} failed", failed.len(), counted(of, "source"));
    let error = match (causes.is_empty(), end.error.is_empty()) {
        (false, _) => format!("{count}: {}", causes.join("; ")),
        (true, false) => end.error.clone(),
        (true, true) => count,
    };
    (code, error)
}

/// A problem is said whether or not the container runs again.
fn quiesced_line(quiesced: &ContainerQuiesced) -> String {
    let (name, how, problem) = (&quiesced.container_name, &quiesced.how, &quiesced.problem);
    let mut line = if quiesced.resumed {
        format!("container {name} {how} for {}", millis(quiesced.downtime_ms))
    } else {
        format!("container {name} was {how} and does NOT run again")
    };
    if !problem.is_empty() {
        line.push_str(&format!(": {problem}"));
    }
    line
}

fn finished_line(name: &str, finished: &SourceFinished) -> String {
    if !finished.ok {
        return format!("{name}: failed: {}", finished.error);
    }
    let stats = finished.stats.unwrap_or_default();
    let mut line = format!(
        "{name}: {} in {}, {} read, {} new, {} stored, {}",
        counted(usize::try_from(stats.files).unwrap_or(usize::MAX), "file"),
        bytes(stats.size_bytes),
        bytes(stats.read_bytes),
        bytes(stats.new_bytes),
        bytes(stats.stored_bytes),
        millis(finished.duration_ms)
    );
    if finished.partial {
        line.push_str(&format!(
            ", PARTIAL: {} torn, {} unreadable",
            stats.torn_files, stats.unreadable_entries
        ));
    }
    if finished.shrunk {
        line.push_str(", SHRUNK: less than a tenth of the last snapshot");
    }
    line
}

pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn ended(state: State, result: JobResult) -> Ending {
    Ending { state, error_code: String::new(), error: String::new(), result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(id: &str, finished: Option<SourceFinished>) -> JobSource {
        JobSource { source_id: id.into(), name: id.into(), finished, ..JobSource::default() }
    }

    fn good(partial: bool) -> Option<SourceFinished> {
        Some(SourceFinished { ok: true, partial, ..SourceFinished::default() })
    }

    fn ending(sources: Vec<JobSource>, end: JobEnded) -> Ending {
        Tally::new(sources, JobResult::default()).ending(&end)
    }

    #[test]
    fn h02_a_problem_is_said_whether_or_not_the_container_runs_again() {
        let quiesced = |resumed, problem: &str| ContainerQuiesced {
            container_name: "db".into(),
            how: "stopped".into(),
            downtime_ms: 41_000,
            resumed,
            problem: problem.into(),
            ..Default::default()
        };
        let started = quiesced_line(&quiesced(true, "someone else started it meanwhile"));
        assert!(started.starts_with("container db stopped for 41"), "{started}");
        assert!(started.ends_with(": someone else started it meanwhile"), "{started}");
        assert!(!quiesced_line(&quiesced(true, "")).contains(':'));
        assert_eq!(
            quiesced_line(&quiesced(false, "it was removed meanwhile")),
            "container db was stopped and does NOT run again: it was removed meanwhile"
        );
    }

    #[test]
    fn a_job_is_as_good_as_its_worst_source() {
        let ok = JobEnded { ok: true, ..JobEnded::default() };
        assert_eq!(ending(vec![source("a", good(false))], ok.clone()).state, State::Succeeded);
        let partial = ending(vec![source("a", good(false)), source("b", good(true))], ok.clone());
        assert_eq!(partial.state, State::Partial);
        assert!(partial.error.starts_with("1 snapshot partial"), "{}", partial.error);
        let bad = SourceFinished {
            error_code: "empty".into(),
            error: "it is empty now".into(),
            ..Default::default()
        };
        let failed = ending(vec![source("a", good(false)), source("b", Some(bad))], ok.clone());
        assert_eq!((failed.state, failed.error_code.as_str()), (State::Failed, "empty"));
        assert_eq!(failed.error, "1 of 2 sources failed: b: it is empty now");
        // Silence about a source is no success, whatever the agent says.
        assert_eq!(ending(vec![source("a", None)], ok).state, State::Failed);
        let cancelled = JobEnded { cancelled: true, ..JobEnded::default() };
        assert_eq!(ending(vec![source("a", None)], cancelled).state, State::Cancelled);
    }

    #[test]
    fn what_the_catalogue_knows_better_is_no_failure_and_what_is_not_of_sources_stays_one() {
        let end = |code: &str| JobEnded { error_code: code.into(), ..JobEnded::default() };
        let tally = |settled: &[&str]| {
            let mut tally = Tally::new(vec![source("a", good(false))], JobResult::default());
            tally.settled = settled.iter().map(|&code| code.to_owned()).collect();
            tally
        };
        assert_eq!(tally(&["unreachable"]).ending(&end("unreachable")).state, State::Succeeded);
        // Nothing was heard of the source: the host went away.
        assert_eq!(tally(&[""]).ending(&end("host-unreachable")).state, State::Succeeded);
        // A container that was left stopped.
        assert_eq!(tally(&["unreachable"]).ending(&end("not-resumed")).state, State::Failed);
        assert_eq!(tally(&[]).ending(&end("unreachable")).state, State::Failed);
    }

    #[test]
    fn h06_a_job_that_misses_a_source_or_most_of_one_is_not_green() {
        let ok = JobEnded { ok: true, ..JobEnded::default() };
        let result = JobResult { missing_sources: vec!["db".into(), "logs".into()], ..JobResult::default() };
        let missed = Tally::new(vec![source("a", good(false))], result.clone()).ending(&ok);
        assert_eq!((missed.state, missed.error_code.as_str()), (State::Partial, "source-missing"));
        assert!(missed.error.starts_with("2 sources missing: db, logs; "), "{}", missed.error);
        assert_eq!(missed.result, result, "what was missed is not in the result");
        let nothing = nothing_taken(result.clone(), None);
        assert_eq!((nothing.state, nothing.error_code.as_str()), (State::Failed, "source-missing"));
        assert_eq!(nothing_taken(JobResult::default(), None).state, State::Succeeded);
        let asked = nothing_taken(JobResult::default(), Some("db_*"));
        assert_eq!((asked.state, asked.error_code.as_str()), (State::Failed, "nothing-matches"));
        assert!(asked.error.contains("`db_*`"), "{}", asked.error);
        let bad = SourceFinished { error_code: "x".into(), error: "y".into(), ..Default::default() };
        let both = Tally::new(vec![source("a", Some(bad))], result).ending(&ok);
        assert_eq!((both.state, both.error_code.as_str()), (State::Failed, "x"));
        assert!(both.error.contains("2 sources missing: db, logs"), "{}", both.error);

        let shrunk = Some(SourceFinished { ok: true, shrunk: true, ..SourceFinished::default() });
        let mut tally = Tally::new(vec![source("a", shrunk)], JobResult::default());
        tally.may_shrink = true;
        let upgrade = Tally::new(tally.sources.values().cloned().collect(), JobResult::default());
        assert_eq!(tally.ending(&ok).state, State::Succeeded);
        let ended = upgrade.ending(&ok);
        assert_eq!((ended.state, ended.error_code.as_str()), (State::Partial, "source-shrunk"));
    }
}
