//! `holdfast repo verify`

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_archive::ids::SnapshotId;
use holdfast_archive::repository::{Repository, Snapshot};
use holdfast_archive::verify::{Level, Problem, Report, Share, VerifyProgress, verify};
use serde::Serialize;

use super::open::open;
use crate::args::RepositoryArgs;
use crate::commands::Env;
use crate::error::{Exit, Result, sentence};
use crate::output::progress::Counter;
use crate::output::{self, Bytes, Escaped, Lines, Render};

#[derive(Serialize)]
struct ReportView {
    clean: bool,
    objects: u64,
    packs: u64,
    packs_read: u64,
    bytes_read: Bytes,
    frames: u64,
    snapshots: u64,
    damaged_snapshots: Vec<String>,
    problems: Vec<ProblemView>,
}

#[derive(Serialize)]
struct ProblemView {
    kind: &'static str,
    object: String,
    detail: String,
    lost_frames: u64,
    snapshots: Vec<String>,
    files: Vec<FileView>,
    more_files: u64,
}

#[derive(Serialize)]
struct FileView {
    snapshot: String,
    path: Escaped,
}

/// Snapshots by the name people know them by: host, source and number.
type Names = HashMap<SnapshotId, String>;

impl ProblemView {
    fn new(problem: &Problem, names: &Names) -> Self {
        let name = |id| names.get(id).cloned().unwrap_or_else(|| id.to_string());
        Self {
            kind: problem.kind.name(),
            object: problem.object.clone(),
            detail: problem.detail.clone(),
            lost_frames: problem.lost_frames,
            snapshots: problem.snapshots.iter().map(name).collect(),
            files: problem
                .files
                .iter()
                .map(|file| FileView { snapshot: name(&file.snapshot), path: Escaped(file.path.clone()) })
                .collect(),
            more_files: problem.more_files,
        }
    }
}

impl ReportView {
    fn new(report: &Report, names: &Names) -> Self {
        let name = |id| names.get(id).cloned().unwrap_or_else(|| id.to_string());
        Self {
            clean: report.is_clean(),
            objects: report.objects,
            packs: report.packs,
            packs_read: report.packs_read,
            bytes_read: Bytes(report.bytes_read),
            frames: report.frames,
            snapshots: report.snapshots,
            damaged_snapshots: report.damaged_snapshots().iter().map(name).collect(),
            problems: report.problems.iter().map(|problem| ProblemView::new(problem, names)).collect(),
        }
    }
}

impl Render for ReportView {
    fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        for problem in &self.problems {
            lines.push(format!("{} {}: {}", problem.kind, problem.object, problem.detail));
            for snapshot in &problem.snapshots {
                lines.push(format!("  touches {snapshot}"));
            }
            for file in &problem.files {
                lines.push(format!("  loses {} of {}", file.path, file.snapshot));
            }
            if problem.more_files > 0 {
                lines.push(format!("  and {} more files", problem.more_files));
            }
        }
        lines.push(format!(
            "{} snapshots, {} frames in {} packs, {} read: {}",
            self.snapshots,
            self.frames,
            self.packs,
            self.bytes_read,
            match self.problems.len() {
                0 => "all there and intact".to_owned(),
                1 => "1 problem".to_owned(),
                n => format!("{n} problems"),
            }
        ));
        lines
    }
}

pub(super) async fn run(env: &Env, place: &RepositoryArgs, quick: bool) -> Result<Exit> {
    let repository = open(place).await?;
    let level = if quick { Level::Metadata } else { Level::Packs(Share::ALL) };
    let progress = Arc::new(VerifyProgress::default());
    let shown = Arc::clone(&progress);
    let counter = Counter::start(move || {
        let (done, total) =
            (shown.packs_done.load(Ordering::Relaxed), shown.packs_total.load(Ordering::Relaxed));
        format!("{done} of {total} packs, {}", Bytes(shown.bytes_done.load(Ordering::Relaxed)))
    });
    let report = verify(&repository, level, progress).await;
    // Before an error is said: the line would stand in its way.
    counter.finish();
    let report = report?;
    let names = names(&repository).await;
    output::emit(env.format, &ReportView::new(&report, &names));
    Ok(if report.is_clean() { Exit::Done } else { Exit::Damage })
}

/// Without them a report has ids. It may have taken hours, so a store that fails
/// only now does not take it along.
async fn names(repository: &Repository) -> Names {
    let snapshots = match repository.snapshots().await {
        Ok(snapshots) => snapshots.good,
        Err(error) => {
            output::note(format!("snapshots are shown by their ids: {}", sentence(&error)));
            return Names::default();
        }
    };
    let name = |snapshot: &Snapshot| {
        let (id, names) = (snapshot.header.id, snapshot.names());
        (id, format!("{}/{}@#{}", names.host, names.source, id.number))
    };
    snapshots.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use holdfast_archive::repository::{CryptoMode, InitOptions};
    use holdfast_archive::store::Store;

    use super::*;

    #[tokio::test]
    async fn a_report_that_is_finished_is_shown_when_the_store_is_gone_by_then() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let root = dir.path().join("repository");
        std::fs::create_dir(&root).expect("made");
        let store = Store::directory(&root).expect("a directory");
        let options = InitOptions { owner: "test".to_owned(), created_unix_ms: 0, crypto: CryptoMode::None };
        let repository = Repository::init(store, options).await.expect("a new one");
        let report = verify(&repository, Level::Metadata, Arc::new(VerifyProgress::default()))
            .await
            .expect("verified");
        std::fs::remove_dir_all(&root).expect("removed");
        assert!(repository.snapshots().await.is_err());
        let view = ReportView::new(&report, &names(&repository).await);
        assert!(view.lines().to_string().contains("all there and intact"));
    }
}
