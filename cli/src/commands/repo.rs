//! `holdfast repo`: a bucket or directory on its own, and the controller's prune.
//! All but that one read the store by themselves and write nothing to it; `check`
//! writes a few small objects and removes them.

mod check;
mod open;
mod restore;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use holdfast_archive::entry::{Entry, EntryKind};
use holdfast_archive::fetch::FrameFetcher;
use holdfast_archive::ids::FrameId;
use holdfast_archive::manifest::ManifestReader;
use holdfast_archive::pack_io::PackSource;
use holdfast_archive::repository::{BrokenSnapshot, Snapshot};
use holdfast_archive::snapshot::Names;
use holdfast_proto::v1::StartPruneRequest;
use serde::Serialize;

use super::job::{PruneView, follow};
use super::snapshot::{EntryList, EntryView};
use super::{Env, within};
use crate::args::{RepoCommand, RepositoryArgs};
use crate::error::{CliError, ErrorCode, Exit, Result, sentence};
use crate::output::{self, Bytes, Escaped, Lines, Render, Rows, When};

use open::{open, resolve};

/// Pages kept in memory while a manifest is read, bytes.
const PAGE_CACHE: usize = 32 << 20;

#[derive(Serialize)]
struct SnapshotView {
    id: String,
    host: String,
    host_id: String,
    source: String,
    kind: String,
    number: u64,
    created: When,
    partial: bool,
    consistency: String,
    entries: u64,
    files: u64,
    size_bytes: Bytes,
    stored_bytes: Bytes,
    volume_driver: String,
    volume_labels: BTreeMap<String, String>,
    problems: Vec<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct SnapshotList(Vec<SnapshotView>);

impl From<&Snapshot> for SnapshotView {
    fn from(snapshot: &Snapshot) -> Self {
        let (header, body) = (&snapshot.header, &snapshot.body);
        let Names { host, kind, source } = snapshot.names();
        Self {
            id: header.id.to_string(),
            host_id: header.id.host.to_string(),
            host,
            source,
            kind,
            number: header.id.number,
            created: When(header.created_unix_ms),
            partial: body.partial,
            consistency: body.consistency.clone(),
            entries: body.stats.entries,
            files: body.stats.files,
            size_bytes: Bytes(body.stats.size_bytes),
            stored_bytes: Bytes(body.stats.stored_bytes),
            volume_driver: body.source.driver.clone(),
            volume_labels: body.source.labels.clone(),
            problems: body.problems.clone(),
        }
    }
}

impl Render for SnapshotList {
    fn lines(&self) -> Lines {
        let headings = ["SNAPSHOT", "HOST", "CREATED", "FILES", "SIZE", "STORED", "CONSISTENCY", "FLAGS"];
        let mut rows = Rows::new(&headings, "no snapshots").right(&[3, 4, 5]);
        let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for snapshot in &self.0 {
            ids.entry(&snapshot.host).or_default().insert(&snapshot.host_id);
        }
        for snapshot in &self.0 {
            // Two hosts of one name are told apart by their ids.
            let one = ids[snapshot.host.as_str()].len() == 1;
            rows.push([
                format!("{}@#{}", snapshot.source, snapshot.number),
                if one { snapshot.host.clone() } else { format!("{} {}", snapshot.host, snapshot.host_id) },
                snapshot.created.local(),
                snapshot.files.to_string(),
                snapshot.size_bytes.to_string(),
                snapshot.stored_bytes.to_string(),
                snapshot.consistency.clone(),
                if snapshot.partial { "partial".to_owned() } else { String::new() },
            ]);
        }
        rows.finish()
    }
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        let (kind, size, target) = match entry.kind {
            EntryKind::File(data) => ("file", data.size, Vec::new()),
            EntryKind::Directory => ("directory", 0, Vec::new()),
            EntryKind::Symlink { target } => ("symlink", 0, target),
            EntryKind::Hardlink { target } => ("hardlink", 0, target),
            EntryKind::Fifo => ("fifo", 0, Vec::new()),
            EntryKind::Socket => ("socket", 0, Vec::new()),
            EntryKind::CharDevice { major, minor } => {
                ("char device", 0, format!("{major}:{minor}").into_bytes())
            }
            EntryKind::BlockDevice { major, minor } => {
                ("block device", 0, format!("{major}:{minor}").into_bytes())
            }
        };
        Self {
            path: Escaped(entry.path),
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size_bytes: Bytes(size),
            mtime: When(i64::try_from(entry.mtime_ns.div_euclid(1_000_000)).unwrap_or_default()),
            target: Escaped(target),
            torn: entry.flags.torn,
            unreadable: entry.flags.unreadable,
        }
    }
}

pub(super) async fn run(env: &Env, command: RepoCommand) -> Result<Exit> {
    match command {
        RepoCommand::Check { repository } => check::run(env, &repository).await,
        RepoCommand::Ls { repository } => list(env, &repository).await,
        RepoCommand::Browse { repository, snapshot, path, recursive } => {
            browse(env, &repository, &snapshot, path.as_deref().unwrap_or(""), recursive).await
        }
        RepoCommand::Verify { repository, quick } => verify::run(env, &repository, quick).await,
        RepoCommand::Restore(args) => restore::run(env, args).await,
        RepoCommand::Prune { plan, no_wait } => prune(env, plan, no_wait).await,
    }
}

async fn list(env: &Env, place: &RepositoryArgs) -> Result<Exit> {
    let repository = open(place).await?;
    let mut snapshots = repository.snapshots().await?;
    snapshots.good.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.header.created_unix_ms));
    output::emit(env.format, &SnapshotList(snapshots.good.iter().map(SnapshotView::from).collect()));
    // After the list, on standard error: one damaged object hides none that can be restored.
    note_broken(&snapshots.broken);
    Ok(if snapshots.broken.is_empty() { Exit::Done } else { Exit::Damage })
}

fn note_broken(broken: &[BrokenSnapshot]) {
    for snapshot in broken {
        output::note(format!("{} cannot be used: {}", snapshot.name, sentence(&snapshot.error)));
    }
}

async fn browse(
    env: &Env,
    place: &RepositoryArgs,
    reference: &str,
    path: &str,
    recursive: bool,
) -> Result<Exit> {
    let repository = open(place).await?;
    let snapshot = resolve(&repository, reference).await?;
    let source = repository.source().await?;
    let path = path.trim_matches('/').as_bytes().to_vec();
    let root = snapshot.body.root;
    // A reader blocks, and reads by way of this runtime: it may not stand on one of its threads.
    let entries = tokio::task::spawn_blocking(move || entries(source, root, path, recursive))
        .await
        .map_err(|error| CliError::failed(error.to_string()))??;
    output::emit(env.format, &EntryList(entries));
    Ok(Exit::Done)
}

fn entries(
    source: Arc<dyn PackSource>,
    root: FrameId,
    path: Vec<u8>,
    recursive: bool,
) -> Result<Vec<EntryView>> {
    let fetcher = FrameFetcher::new(source, PAGE_CACHE);
    let reader = ManifestReader::open(&fetcher, root);
    // A subtree of nothing would be an empty list, which reads as an empty directory.
    if !path.is_empty() && reader.lookup(&path).map_err(|error| damaged(&error))?.is_none() {
        let message = format!("the snapshot has nothing at {}", Escaped(path));
        return Err(CliError::new(ErrorCode::NotFound, message));
    }
    let found = if recursive { reader.subtree(&path) } else { reader.children(&path) };
    found.map(|entry| entry.map(EntryView::from).map_err(|error| damaged(&error))).collect()
}

fn damaged(error: &dyn std::error::Error) -> CliError {
    CliError::new(ErrorCode::Damaged, sentence(error)).hint("holdfast repo verify")
}

async fn prune(env: &Env, plan: bool, no_wait: bool) -> Result<Exit> {
    let client = env.client().await?;
    let answer =
        client.jobs()?.start_prune(within(StartPruneRequest { plan_only: plan })).await?.into_inner();
    if plan {
        output::emit(env.format, &PruneView::from(answer.plan.unwrap_or_default()));
        output::note("nothing was deleted: this was only the plan");
        return Ok(Exit::Done);
    }
    let job =
        answer.job.ok_or_else(|| CliError::failed("the controller started no job and gave no reason"))?;
    if no_wait {
        output::note(format!("started; follow it with: holdfast job watch {}", job.id));
        return Ok(Exit::Done);
    }
    follow(env, &client, vec![job.id]).await
}
