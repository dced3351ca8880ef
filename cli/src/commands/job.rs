//! `holdfast job`, and following a job for the commands that start one: they may
//! call [`follow`] and show what this shows of a job.

mod follow;
mod logs;
mod upgrade;

use holdfast_proto::v1::{
    ContainerQuiesced, GetJobRequest, Job, JobKind, JobServiceCancelJobRequest, JobSource, JobState,
    ListJobsRequest, PruneReport, RestoreFinished, SnapshotStats,
};
use serde::Serialize;

use super::{Env, collect, within};
use crate::args::JobCommand;
use crate::error::{Exit, Result};
use crate::output::progress::phase_word;
use crate::output::{self, Bytes, Details, Lines, Millis, Render, Rows, When};

pub(super) use follow::follow;
use upgrade::{ChildView, UpgradeView};
pub(super) use upgrade::{StepView, images, state_word as upgrade_state_word, step_lines};

#[derive(Serialize)]
pub(super) struct JobView {
    id: String,
    kind: &'static str,
    state: &'static str,
    host: String,
    policy: String,
    fired: When,
    created: When,
    started: When,
    ended: When,
    duration_ms: Option<Millis>,
    actor: String,
    attempt: u32,
    step: String,
    sources: Vec<SourceView>,
    quiesced: Vec<QuiescedView>,
    restore: Option<RestoreView>,
    prune: Option<PruneView>,
    upgrade: Option<UpgradeView>,
    /// Job that started this one; empty for one that stands alone.
    parent: String,
    children: Vec<ChildView>,
    error_code: String,
    error: String,
}

#[derive(Serialize)]
struct SourceView {
    source: String,
    phase: &'static str,
    ok: Option<bool>,
    partial: bool,
    snapshot: String,
    stats: StatsView,
    duration_ms: Option<Millis>,
    problems: Vec<String>,
    error_code: String,
    error: String,
}

/// Counts of one snapshot.
#[derive(Serialize, Clone)]
pub(super) struct StatsView {
    entries: u64,
    pub files: u64,
    pub size_bytes: Bytes,
    read_bytes: Bytes,
    new_bytes: Bytes,
    pub stored_bytes: Bytes,
    pub changed_files: u64,
    torn_files: u64,
    vanished_entries: u64,
    unreadable_entries: u64,
}

#[derive(Serialize)]
struct QuiescedView {
    container: String,
    how: String,
    downtime_ms: Millis,
    resumed: bool,
    problem: String,
}

#[derive(Serialize)]
struct RestoreView {
    entries: u64,
    files: u64,
    bytes: Bytes,
    differences: u64,
    difference_list: Vec<String>,
    left_out: u64,
    left_out_list: Vec<String>,
    /// What the repository has lost, and the target therefore has not.
    lost: u64,
    lost_list: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct PruneView {
    packs_deleted: u64,
    bytes_deleted: Bytes,
    packs_kept: u64,
    bytes_kept: Bytes,
    snapshots_purged: u64,
    packs_condemned: u64,
    packs_revived: u64,
    notes: Vec<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct JobList(pub Vec<JobView>);

// === conversions ===

impl From<SnapshotStats> for StatsView {
    fn from(stats: SnapshotStats) -> Self {
        Self {
            entries: stats.entries,
            files: stats.files,
            size_bytes: Bytes(stats.size_bytes),
            read_bytes: Bytes(stats.read_bytes),
            new_bytes: Bytes(stats.new_bytes),
            stored_bytes: Bytes(stats.stored_bytes),
            changed_files: stats.changed_files,
            torn_files: stats.torn_files,
            vanished_entries: stats.vanished_entries,
            unreadable_entries: stats.unreadable_entries,
        }
    }
}

impl From<JobSource> for SourceView {
    fn from(source: JobSource) -> Self {
        let phase = phase_word(source.phase());
        let finished = source.finished;
        let stats =
            finished.as_ref().and_then(|finished| finished.stats).or(source.stats).unwrap_or_default();
        let ended = finished.is_some();
        let finished = finished.unwrap_or_default();
        Self {
            source: source.name,
            phase: if ended { "done" } else { phase },
            ok: ended.then_some(finished.ok),
            partial: finished.partial,
            snapshot: finished.snapshot_id,
            stats: stats.into(),
            duration_ms: ended.then_some(Millis(finished.duration_ms)),
            problems: finished.problems,
            error_code: finished.error_code,
            error: finished.error,
        }
    }
}

impl From<ContainerQuiesced> for QuiescedView {
    fn from(quiesced: ContainerQuiesced) -> Self {
        Self {
            container: quiesced.container_name,
            how: quiesced.how,
            downtime_ms: Millis(quiesced.downtime_ms),
            resumed: quiesced.resumed,
            problem: quiesced.problem,
        }
    }
}

impl From<RestoreFinished> for RestoreView {
    fn from(restore: RestoreFinished) -> Self {
        Self {
            entries: restore.entries,
            files: restore.files,
            bytes: Bytes(restore.bytes),
            differences: restore.differences,
            difference_list: restore.difference_list,
            left_out: restore.left_out,
            left_out_list: restore.left_out_list,
            lost: restore.lost,
            lost_list: restore.lost_list,
        }
    }
}

impl From<PruneReport> for PruneView {
    fn from(report: PruneReport) -> Self {
        Self {
            packs_deleted: report.packs_deleted,
            bytes_deleted: Bytes(report.bytes_deleted),
            packs_kept: report.packs_kept,
            bytes_kept: Bytes(report.bytes_kept),
            snapshots_purged: report.snapshots_purged,
            packs_condemned: report.packs_condemned,
            packs_revived: report.packs_revived,
            notes: report.notes,
        }
    }
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let span = |from: i64, to: i64| (from > 0 && to >= from).then(|| Millis(to.abs_diff(from)));
        Self {
            kind: kind_word(job.kind()),
            state: state_word(job.state()),
            duration_ms: span(job.started_unix_ms, job.ended_unix_ms),
            id: job.id,
            host: job.host,
            policy: job.policy,
            fired: When(job.fire_unix_ms),
            created: When(job.created_unix_ms),
            started: When(job.started_unix_ms),
            ended: When(job.ended_unix_ms),
            actor: job.actor,
            attempt: job.attempt,
            step: job.step,
            sources: job.sources.into_iter().map(SourceView::from).collect(),
            quiesced: job.quiesced.into_iter().map(QuiescedView::from).collect(),
            restore: job.restore.map(RestoreView::from),
            prune: job.prune.map(PruneView::from),
            upgrade: job.upgrade.map(UpgradeView::from),
            parent: job.parent_id,
            children: job.children.into_iter().map(ChildView::from).collect(),
            error_code: job.error_code,
            error: job.error,
        }
    }
}

fn kind_word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Backup => "backup",
        JobKind::Restore => "restore",
        JobKind::Prune => "prune",
        JobKind::Upgrade => "upgrade",
        JobKind::Rollback => "rollback",
        JobKind::Rollout => "rollout",
        JobKind::Unspecified => "unknown",
    }
}

fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Unspecified => "unknown",
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Partial => "partial",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

pub(super) fn has_ended(state: JobState) -> bool {
    matches!(state, JobState::Succeeded | JobState::Partial | JobState::Failed | JobState::Cancelled)
}

// === for people ===

impl Render for JobList {
    fn lines(&self) -> Lines {
        let headings = ["JOB", "KIND", "HOST", "POLICY", "STATE", "CREATED", "TOOK", "WHAT"];
        let mut rows = Rows::new(&headings, "no jobs");
        for job in &self.0 {
            rows.push([
                job.id.clone(),
                job.kind.to_owned(),
                job.host.clone(),
                job.policy.clone(),
                job.state.to_owned(),
                job.created.to_string(),
                job.duration_ms.map_or(String::new(), |took| took.to_string()),
                job.what(),
            ]);
        }
        rows.finish()
    }
}

impl StatsView {
    /// What was not as it had been when it was looked at, or could not be
    /// read; empty where all was well.
    pub(super) fn meanwhile(&self) -> String {
        let counts = [
            (self.vanished_entries, "vanished"),
            (self.torn_files, "torn"),
            (self.unreadable_entries, "unreadable"),
        ];
        let told = counts.iter().filter(|(count, _)| *count > 0);
        told.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }
}

impl SourceView {
    fn line(&self, quiesced: &[QuiescedView]) -> String {
        if self.ok == Some(false) {
            return format!("  {:<16} FAILED: {}", self.source, self.error);
        }
        let took = self.duration_ms.map_or(String::new(), |took| format!("  {took}"));
        let down: Vec<String> = quiesced
            .iter()
            .map(|down| format!("{} {} {}", down.container, down.how, down.downtime_ms))
            .collect();
        let partial = if self.partial { "  PARTIAL" } else { "" };
        let meanwhile = self.stats.meanwhile();
        let meanwhile = if meanwhile.is_empty() { meanwhile } else { format!("  {meanwhile}") };
        format!(
            "  {:<16} {} files, {:>9}  read {:>9}  new {:>9}  stored {:>9}  {}{took}{}{partial}{meanwhile}",
            self.source,
            self.stats.files,
            self.stats.size_bytes,
            self.stats.read_bytes,
            self.stats.new_bytes,
            self.stats.stored_bytes,
            if self.ok.is_some() { "done" } else { self.phase },
            if down.is_empty() { String::new() } else { format!("  {}", down.join(", ")) },
        )
    }
}

impl JobView {
    /// One line of what it is about, or what went wrong.
    fn what(&self) -> String {
        if !self.error.is_empty() {
            return self.error.clone();
        }
        match (&self.upgrade, self.kind) {
            (Some(upgrade), _) => upgrade.summary(self.kind),
            (None, "rollout") => format!("{} containers", self.children.len()),
            (None, _) => {
                let sources: Vec<&str> = self.sources.iter().map(|source| source.source.as_str()).collect();
                sources.join(", ")
            }
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.state, "succeeded" | "partial" | "failed" | "cancelled")
    }
}

impl Render for JobView {
    fn lines(&self) -> Lines {
        // A rollout is on no one host.
        let host = if self.host.is_empty() { String::new() } else { format!(" · {}", self.host) };
        let mut lines = Lines::from(format!("job {} {}{host} · {}", self.id, self.kind, self.state));
        for source in &self.sources {
            lines.push(source.line(&self.quiesced));
            lines.extend(source.problems.iter().map(|problem| format!("    {problem}")));
        }
        lines.extend(self.quiesced.iter().filter_map(QuiescedView::line));
        if let Some(restore) = &self.restore {
            lines.extend(restore.lines(self.state, self.duration_ms));
        }
        if let Some(prune) = &self.prune {
            lines.extend(prune.lines());
        }
        if let Some(upgrade) = &self.upgrade {
            lines.extend(upgrade.lines(self));
        } else if !self.error.is_empty() {
            lines.push(format!("  {}", self.error));
        }
        lines.extend(self.children.iter().map(ChildView::line));
        if !self.parent.is_empty() {
            lines.push(format!("  part of job {}", self.parent));
        }
        if !self.has_ended() && !self.step.is_empty() {
            lines.push(format!("  now: {}", self.step));
        }
        lines
    }
}

/// What a restore found lost, a line each, and how many more there are.
pub(super) fn lost_lines(lost: u64, list: &[String], indent: &str) -> Vec<String> {
    let mut lines: Vec<String> = list.iter().map(|what| format!("{indent}lost: {what}")).collect();
    if lost > list.len() as u64 {
        lines.push(format!("{indent}lost: {} more", lost - list.len() as u64));
    }
    lines
}

impl QuiescedView {
    /// Nothing of a container that runs again as it did.
    fn line(&self) -> Option<String> {
        match (self.resumed, self.problem.as_str()) {
            (true, "") => None,
            (true, problem) => Some(format!("  {}: {problem}", self.container)),
            (false, problem) => Some(format!("  {} does NOT run again: {problem}", self.container)),
        }
    }
}

impl RestoreView {
    /// A restore that did not succeed may have written nothing at all, or
    /// something that was removed again: it says no more than how far it came.
    fn line(&self, state: &str, took: Option<Millis>) -> String {
        let took = took.map_or(String::new(), |took| format!(" in {took}"));
        let left_out =
            if self.left_out == 0 { String::new() } else { format!(", {} left out", self.left_out) };
        let (files, bytes, differences) = (self.files, self.bytes, self.differences);
        let counts = format!("{took}: {files} files, {bytes}, {differences} differences{left_out}");
        match state {
            "succeeded" => format!("  restored and verified{counts}"),
            "partial" => {
                format!("  NOT WHOLE; the rest is restored and verified{counts}, {} LOST", self.lost)
            }
            _ if differences > 0 => {
                format!("  not restored{took}: it came to {files} files, {bytes}, {differences} differences")
            }
            _ => format!("  not restored{took}: it came to {files} files, {bytes}"),
        }
    }

    fn lines(&self, state: &str, took: Option<Millis>) -> Vec<String> {
        let mut lines = vec![self.line(state, took)];
        lines.extend(self.lost_lines("    "));
        lines.extend(self.difference_list.iter().map(|line| format!("    differs: {line}")));
        lines.extend(self.left_out_list.iter().map(|line| format!("    left out: {line}")));
        lines
    }

    fn lost_lines(&self, indent: &str) -> Vec<String> {
        lost_lines(self.lost, &self.lost_list, indent)
    }
}

impl Render for PruneView {
    fn lines(&self) -> Lines {
        let mut details = Details::new()
            .add("deleted", format!("{} packs, {}", self.packs_deleted, self.bytes_deleted))
            .add("kept", format!("{} packs, {}", self.packs_kept, self.bytes_kept))
            .add("purged", format!("{} snapshots", self.snapshots_purged));
        if self.packs_condemned + self.packs_revived > 0 {
            details = details.add(
                "waiting",
                format!("{} packs, {} found used again", self.packs_condemned, self.packs_revived),
            );
        }
        details.list("notes", &self.notes).finish()
    }
}

// === the commands ===

pub(super) async fn run(env: &Env, command: JobCommand) -> Result<Exit> {
    let client = env.client().await?;
    let mut jobs = client.jobs()?;
    match command {
        JobCommand::Ls { host, policy, active, limit } => {
            let states =
                if active { vec![JobState::Queued as i32, JobState::Running as i32] } else { Vec::new() };
            let request = ListJobsRequest {
                host: host.unwrap_or_default(),
                policy: policy.unwrap_or_default(),
                states,
                limit,
            };
            let list = collect(jobs.list_jobs(within(request))).await?;
            output::emit(env.format, &JobList(list.into_iter().map(JobView::from).collect()));
            Ok(Exit::Done)
        }
        JobCommand::Show { id } => {
            let job = jobs.get_job(within(GetJobRequest { id })).await?.into_inner();
            output::emit(env.format, &JobView::from(job));
            Ok(Exit::Done)
        }
        JobCommand::Watch { id } => follow(env, &client, vec![id]).await,
        JobCommand::Logs { id } => logs::run(env, &client, id).await,
        JobCommand::Cancel { id } => {
            let answer = jobs.cancel_job(within(JobServiceCancelJobRequest { id })).await?.into_inner();
            output::emit(env.format, &JobView::from(answer.job.unwrap_or_default()));
            Ok(Exit::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_restore_that_succeeded_is_called_restored_and_verified() {
        let shown = |state: JobState, files: u64| {
            let restore = RestoreFinished { files, ..RestoreFinished::default() };
            let job = Job {
                kind: JobKind::Restore as i32,
                state: state as i32,
                restore: Some(restore),
                ..Job::default()
            };
            JobView::from(job).lines().to_string()
        };
        assert!(shown(JobState::Succeeded, 3).contains("restored and verified: 3 files"));
        for state in [JobState::Failed, JobState::Cancelled] {
            let text = shown(state, 0);
            assert!(text.contains("not restored") && !text.contains("verified"), "{text}");
        }
    }
}
