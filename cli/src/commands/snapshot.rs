//! `holdfast snapshot`

use std::collections::BTreeMap;

use holdfast_archive::snapshot::SHRUNK_WORDS;
use holdfast_proto::v1::catalog_service_client::CatalogServiceClient;
use holdfast_proto::v1::{
    BrowseSnapshotRequest, Consistency, Entry, EntryKind, ForgetSnapshotRequest, GetSnapshotRequest,
    HoldSnapshotRequest, ListSnapshotsRequest, ReadFileRequest, Snapshot, SnapshotState,
    UndeleteSnapshotRequest,
};
use serde::Serialize;

use super::job::StatsView;
use super::source::kind_word;
use super::{Env, collect, labels, within};
use crate::args::SnapshotCommand;
use crate::client::Service;
use crate::error::{CliError, Exit, Result};
use crate::output::{self, Bytes, Details, Escaped, Lines, Millis, Render, Rows, When};

type Catalog = CatalogServiceClient<Service>;

#[derive(Serialize)]
struct SnapshotView {
    id: String,
    host: String,
    source: String,
    kind: &'static str,
    number: u64,
    created: When,
    state: &'static str,
    purge_after: When,
    partial: bool,
    held: bool,
    consistency: &'static str,
    stats: StatsView,
    policy: String,
    job: String,
    downtime_ms: Millis,
    problems: Vec<String>,
    volume_driver: String,
    volume_labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct SnapshotList(Vec<SnapshotView>);

/// One entry of a listing, from a controller or straight from a repository.
#[derive(Serialize)]
pub(super) struct EntryView {
    pub path: Escaped,
    pub kind: &'static str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size_bytes: Bytes,
    pub mtime: When,
    pub target: Escaped,
    pub torn: bool,
    pub unreadable: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct EntryList(pub Vec<EntryView>);

impl From<Snapshot> for SnapshotView {
    fn from(snapshot: Snapshot) -> Self {
        let state = match snapshot.state() {
            SnapshotState::Committed => "committed",
            SnapshotState::Forgotten => "forgotten",
            SnapshotState::Unspecified => "unknown",
        };
        let kind = kind_word(snapshot.source_kind());
        let consistency = match snapshot.consistency() {
            Consistency::None | Consistency::Unspecified => "crash-consistent",
            Consistency::Pause => "paused",
            Consistency::Stop => "stopped",
        };
        Self {
            state,
            kind,
            consistency,
            id: snapshot.id,
            host: snapshot.host,
            source: snapshot.source,
            number: snapshot.number,
            created: When(snapshot.created_unix_ms),
            purge_after: When(snapshot.purge_after_unix_ms),
            partial: snapshot.partial,
            held: snapshot.held,
            stats: snapshot.stats.unwrap_or_default().into(),
            policy: snapshot.policy,
            job: snapshot.job_id,
            downtime_ms: Millis(snapshot.downtime_ms),
            problems: snapshot.problems,
            volume_driver: snapshot.volume_driver,
            volume_labels: snapshot.volume_labels.into_iter().collect(),
        }
    }
}

impl From<Entry> for EntryView {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind() {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Hardlink => "hardlink",
            EntryKind::Fifo => "fifo",
            EntryKind::Socket => "socket",
            EntryKind::CharDevice => "char device",
            EntryKind::BlockDevice => "block device",
            EntryKind::Unspecified => "unknown",
        };
        Self {
            kind,
            path: Escaped(entry.path),
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size_bytes: Bytes(entry.size_bytes),
            mtime: When(entry.mtime_unix_ns.div_euclid(1_000_000)),
            target: Escaped(entry.target),
            torn: entry.torn,
            unreadable: entry.unreadable,
        }
    }
}

impl SnapshotView {
    fn flags(&self) -> String {
        let shrunk = self.problems.iter().any(|problem| problem.starts_with(SHRUNK_WORDS));
        let flags = [
            (self.partial, "partial"),
            (shrunk, "SHRUNK"),
            (self.held, "held"),
            (self.state == "forgotten", "forgotten"),
        ];
        flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(", ")
    }
}

impl Render for SnapshotList {
    fn lines(&self) -> Lines {
        let headings = ["SNAPSHOT", "HOST", "CREATED", "FILES", "SIZE", "STORED", "CONSISTENCY", "FLAGS"];
        let mut rows = Rows::new(&headings, "no snapshots").right(&[3, 4, 5]);
        for snapshot in &self.0 {
            rows.push([
                format!("{}@#{}", snapshot.source, snapshot.number),
                snapshot.host.clone(),
                snapshot.created.to_string(),
                snapshot.stats.files.to_string(),
                snapshot.stats.size_bytes.to_string(),
                snapshot.stats.stored_bytes.to_string(),
                snapshot.consistency.to_owned(),
                snapshot.flags(),
            ]);
        }
        rows.finish()
    }
}

impl Render for SnapshotView {
    fn lines(&self) -> Lines {
        Details::new()
            .add("snapshot", format!("{}@#{} of {}", self.source, self.number, self.host))
            .add("id", &self.id)
            .add("created", self.created.local())
            .add("flags", self.flags())
            .add("until", if self.purge_after == When(0) { String::new() } else { self.purge_after.local() })
            .add("consistency", self.consistency)
            .add(
                "downtime",
                if self.downtime_ms.0 == 0 { String::new() } else { self.downtime_ms.to_string() },
            )
            .add("content", format!("{} files, {}", self.stats.files, self.stats.size_bytes))
            .add(
                "stored",
                format!("{} new, {} files changed", self.stats.stored_bytes, self.stats.changed_files),
            )
            .add("meanwhile", self.stats.meanwhile())
            .add("policy", &self.policy)
            .add("job", &self.job)
            .add("volume", format!("driver {} {}", self.volume_driver, labels(&self.volume_labels)))
            .list("problems", &self.problems)
            .finish()
    }
}

impl Render for EntryList {
    fn lines(&self) -> Lines {
        let mut rows = Rows::new(&["MODE", "OWNER", "SIZE", "MODIFIED", "PATH"], "nothing there").right(&[2]);
        for entry in &self.0 {
            let arrow =
                if entry.target.0.is_empty() { String::new() } else { format!(" -> {}", entry.target) };
            let mark = match (entry.torn, entry.unreadable) {
                (_, true) => " [unreadable]",
                (true, _) => " [torn]",
                _ => "",
            };
            rows.push([
                format!("{}{:04o}", letter(entry.kind), entry.mode),
                format!("{}:{}", entry.uid, entry.gid),
                entry.size_bytes.to_string(),
                entry.mtime.local(),
                format!("{}{arrow}{mark}", entry.path),
            ]);
        }
        rows.finish()
    }
}

fn letter(kind: &str) -> char {
    match kind {
        "directory" => 'd',
        "symlink" => 'l',
        "hardlink" => 'h',
        "fifo" => 'p',
        "socket" => 's',
        "char device" => 'c',
        "block device" => 'b',
        _ => '-',
    }
}

pub(super) async fn run(env: &Env, command: SnapshotCommand) -> Result<Exit> {
    let mut catalog = env.client().await?.catalog()?;
    let one = |snapshot: Snapshot| output::emit(env.format, &SnapshotView::from(snapshot));
    match command {
        SnapshotCommand::Ls { source, host, job, forgotten, limit } => {
            let request = ListSnapshotsRequest {
                host: host.unwrap_or_default(),
                source: source.unwrap_or_default(),
                job_id: job.unwrap_or_default(),
                with_forgotten: forgotten,
                limit,
            };
            let list = collect(catalog.list_snapshots(within(request))).await?;
            output::emit(env.format, &SnapshotList(list.into_iter().map(SnapshotView::from).collect()));
        }
        SnapshotCommand::Show { snapshot } => {
            one(catalog.get_snapshot(within(GetSnapshotRequest { snapshot })).await?.into_inner());
        }
        SnapshotCommand::Browse { snapshot, path, recursive } => {
            let request =
                BrowseSnapshotRequest { snapshot, path: path.unwrap_or_default().into_bytes(), recursive };
            // Without a deadline: a large tree takes as long as it takes.
            let entries = collect(catalog.browse_snapshot(request)).await?;
            output::emit(env.format, &EntryList(entries.into_iter().map(EntryView::from).collect()));
        }
        SnapshotCommand::Cat { snapshot, path } => cat(&mut catalog, snapshot, path).await?,
        SnapshotCommand::Forget { snapshots } => forget(env, &mut catalog, snapshots).await?,
        SnapshotCommand::Undelete { snapshot } => {
            one(catalog.undelete_snapshot(within(UndeleteSnapshotRequest { snapshot })).await?.into_inner());
        }
        SnapshotCommand::Hold { snapshot } => one(hold(&mut catalog, snapshot, true).await?),
        SnapshotCommand::Release { snapshot } => one(hold(&mut catalog, snapshot, false).await?),
    }
    Ok(Exit::Done)
}

/// Writes a file's content to standard output as it comes.
async fn cat(catalog: &mut Catalog, snapshot: String, path: String) -> Result<()> {
    let request = ReadFileRequest { snapshot, path: path.into_bytes() };
    let mut stream = catalog.read_file(request).await?.into_inner();
    let mut content = output::Content::new();
    // Written as it comes: a file may be larger than memory. A failure in the middle is an error,
    // and what was written is the beginning of the file.
    while let Some(part) = stream.message().await? {
        content.write(&part.data).map_err(|error| CliError::io("standard output", &error))?;
    }
    Ok(())
}

async fn forget(env: &Env, catalog: &mut Catalog, snapshots: Vec<String>) -> Result<()> {
    // Looked up first, all of them: `@latest` must not move while they go.
    let mut ids = Vec::new();
    for snapshot in snapshots {
        let found = catalog.get_snapshot(within(GetSnapshotRequest { snapshot })).await?.into_inner();
        // Two references may mean one snapshot: the second call would find it forgotten.
        if !ids.contains(&found.id) {
            ids.push(found.id);
        }
    }
    let mut forgotten = Vec::new();
    for snapshot in ids {
        let gone = catalog.forget_snapshot(within(ForgetSnapshotRequest { snapshot })).await?.into_inner();
        // Said of each as it goes: a later one that fails leaves these forgotten.
        note_forgotten(&gone);
        forgotten.push(SnapshotView::from(gone));
    }
    match <[SnapshotView; 1]>::try_from(forgotten) {
        Ok([single]) => output::emit(env.format, &single),
        Err(several) => output::emit(env.format, &SnapshotList(several)),
    }
    Ok(())
}

fn note_forgotten(gone: &Snapshot) {
    let name = format!("{}@#{} of {}", gone.source, gone.number, gone.host);
    let until = When(gone.purge_after_unix_ms).local();
    output::note(format!(
        "{name} is forgotten; until {until} this brings it back: holdfast snapshot undelete {}",
        gone.id
    ));
}

async fn hold(catalog: &mut Catalog, snapshot: String, hold: bool) -> Result<Snapshot> {
    Ok(catalog.hold_snapshot(within(HoldSnapshotRequest { snapshot, hold })).await?.into_inner())
}
