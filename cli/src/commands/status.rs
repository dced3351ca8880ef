//! `holdfast status`

use holdfast_proto::v1::{
    GetStatusRequest, GetStatusResponse, HostStatus, OwnSource, RepositoryStatus, StatusProblem,
};
use serde::Serialize;

use super::{Env, within};
use crate::args::StatusArgs;
use crate::error::{Exit, Result};
use crate::output::{self, Bytes, Lines, Render, Rows, When};

#[derive(Serialize)]
struct HostView {
    host: String,
    engine_version: String,
    connected: bool,
    last_seen: When,
    sources: u32,
    protected: u32,
    overdue: u32,
    missing: u32,
    last_backup: When,
}

#[derive(Serialize)]
struct ProblemView {
    kind: String,
    host: String,
    source: String,
    message: String,
    hint: String,
}

#[derive(Serialize)]
struct RepositoryView {
    id: String,
    location: String,
    reachable: bool,
    problem: String,
    suspended: String,
    collection_off: String,
    snapshots: u64,
    packs: u64,
    stored_bytes: Bytes,
    commit_number: u64,
}

#[derive(Serialize)]
struct OwnView {
    host: String,
    source: String,
    what: String,
}

#[derive(Serialize)]
struct StatusView {
    hosts: Vec<HostView>,
    problems: Vec<ProblemView>,
    /// Holdfast's own volumes, which are never backed up.
    own: Vec<OwnView>,
    repository: RepositoryView,
    #[serde(skip)]
    list_problems: bool,
}

impl From<HostStatus> for HostView {
    fn from(host: HostStatus) -> Self {
        Self {
            host: host.host,
            engine_version: host.engine_version,
            connected: host.connected,
            last_seen: When(host.last_seen_unix_ms),
            sources: host.sources,
            protected: host.protected_sources,
            overdue: host.overdue_sources,
            missing: host.missing_sources,
            last_backup: When(host.last_backup_unix_ms),
        }
    }
}

impl From<StatusProblem> for ProblemView {
    fn from(problem: StatusProblem) -> Self {
        let StatusProblem { kind, host, source, message, hint, .. } = problem;
        Self { kind, host, source, message, hint }
    }
}

impl From<RepositoryStatus> for RepositoryView {
    fn from(repository: RepositoryStatus) -> Self {
        Self {
            id: repository.id,
            location: repository.location,
            reachable: repository.reachable,
            problem: repository.problem,
            suspended: repository.suspended,
            collection_off: repository.collection_off,
            snapshots: repository.snapshots,
            packs: repository.packs,
            stored_bytes: Bytes(repository.stored_bytes),
            commit_number: repository.commit_number,
        }
    }
}

impl From<OwnSource> for OwnView {
    fn from(own: OwnSource) -> Self {
        Self { host: own.host, source: own.source, what: own.what }
    }
}

impl StatusView {
    fn new(answer: GetStatusResponse, list_problems: bool) -> Self {
        Self {
            hosts: answer.hosts.into_iter().map(HostView::from).collect(),
            problems: answer.problems.into_iter().map(ProblemView::from).collect(),
            own: answer.own.into_iter().map(OwnView::from).collect(),
            repository: answer.repository.unwrap_or_default().into(),
            list_problems,
        }
    }

    fn host_table(&self) -> Lines {
        let headings =
            ["HOST", "ENGINE", "SEEN", "SOURCES", "PROTECTED", "OVERDUE", "MISSING", "LAST BACKUP"];
        let mut rows = Rows::new(&headings, "no hosts").right(&[3, 4, 5, 6]);
        for host in &self.hosts {
            rows.push([
                host.host.clone(),
                host.engine_version.clone(),
                format!("{}{}", host.last_seen, if host.connected { "" } else { " ✗" }),
                host.sources.to_string(),
                host.protected.to_string(),
                host.overdue.to_string(),
                host.missing.to_string(),
                host.last_backup.to_string(),
            ]);
        }
        rows.finish()
    }

    /// The sentence where there is no problem. It says how much is meant:
    /// nothing is no success.
    fn all_is_well(&self) -> String {
        let sources: u32 = self.hosts.iter().map(|host| host.sources).sum();
        let hosts = super::counted(self.hosts.len() as u64, "host");
        match sources {
            0 => format!("nothing to protect: there is no source on {hosts}"),
            sources => {
                format!("everything is protected: {} on {hosts}", super::counted(sources.into(), "source"))
            }
        }
    }
}

impl RepositoryView {
    /// Whether backups can be taken and collected.
    fn is_sound(&self) -> bool {
        self.reachable && self.suspended.is_empty() && self.collection_off.is_empty()
    }

    fn lines(&self) -> Vec<String> {
        let away = if self.reachable { String::new() } else { format!(", OUT OF REACH: {}", self.problem) };
        let mut lines = vec![format!(
            "repository {}: {} snapshots, {} in {} packs{away}",
            self.location, self.snapshots, self.stored_bytes, self.packs
        )];
        if !self.suspended.is_empty() {
            lines.push(format!("the repository is suspended: {}", self.suspended));
        }
        if !self.collection_off.is_empty() {
            lines.push(format!("nothing is deleted from the repository: {}", self.collection_off));
        }
        lines
    }
}

impl ProblemView {
    /// What it is about and, where there is one, what to try.
    fn lines(&self) -> Vec<String> {
        // A problem of a whole host has no source, one of the repository has neither.
        let place = [self.host.as_str(), self.source.as_str()].join("/");
        let colon = if place == "/" { "" } else { ": " };
        let place = place.strip_suffix('/').unwrap_or(&place);
        let mut lines = vec![format!("{:<16} {place}{colon}{}", self.kind, self.message)];
        if !self.hint.is_empty() {
            lines.push(format!("{:<16} try: {}", "", self.hint));
        }
        lines
    }
}

impl Render for StatusView {
    fn lines(&self) -> Lines {
        let mut lines = self.host_table();
        lines.extend(self.repository.lines());
        for own in &self.own {
            lines.push(format!(
                "{}/{} is Holdfast's own ({}), never backed up",
                own.host, own.source, own.what
            ));
        }
        if self.list_problems {
            lines.extend(self.problems.iter().flat_map(ProblemView::lines));
        }
        match (self.problems.len(), self.list_problems) {
            // No problem is known of any source, and yet none can be backed up.
            (0, _) if !self.repository.is_sound() => {
                lines.push("nothing is protected now: see to the repository first");
            }
            (0, _) => lines.push(self.all_is_well()),
            (_, true) => {}
            (1, false) => {
                lines.push("1 problem. `holdfast status --problems` shows it with what to do.");
            }
            (n, false) => {
                lines.push(format!("{n} problems. `holdfast status --problems` lists them with what to do."))
            }
        }
        lines
    }
}

pub(super) async fn run(env: &Env, args: StatusArgs) -> Result<Exit> {
    let answer = env.client().await?.status()?.get_status(within(GetStatusRequest {})).await?.into_inner();
    let view = StatusView::new(answer, args.problems);
    output::emit(env.format, &view);
    // A repository out of reach is a problem even while nothing is overdue yet.
    let sound = view.problems.is_empty() && view.repository.is_sound();
    Ok(if sound { Exit::Done } else { Exit::Attention })
}
