//! `holdfast status`

use holdfast_proto::v1::{GetStatusRequest, GetStatusResponse};
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

impl StatusView {
    fn new(answer: GetStatusResponse, list_problems: bool) -> Self {
        let repository = answer.repository.unwrap_or_default();
        Self {
            hosts: answer
                .hosts
                .into_iter()
                .map(|host| HostView {
                    host: host.host,
                    engine_version: host.engine_version,
                    connected: host.connected,
                    last_seen: When(host.last_seen_unix_ms),
                    sources: host.sources,
                    protected: host.protected_sources,
                    overdue: host.overdue_sources,
                    missing: host.missing_sources,
                    last_backup: When(host.last_backup_unix_ms),
                })
                .collect(),
            problems: answer
                .problems
                .into_iter()
                .map(|problem| ProblemView {
                    kind: problem.kind,
                    host: problem.host,
                    source: problem.source,
                    message: problem.message,
                    hint: problem.hint,
                })
                .collect(),
            own: answer
                .own
                .into_iter()
                .map(|own| OwnView { host: own.host, source: own.source, what: own.what })
                .collect(),
            repository: RepositoryView {
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
            },
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
}

impl Render for StatusView {
    fn lines(&self) -> Lines {
        let repository = &self.repository;
        let mut lines = self.host_table();
        lines.push(format!(
            "repository {}: {} snapshots, {} in {} packs{}",
            repository.location,
            repository.snapshots,
            repository.stored_bytes,
            repository.packs,
            if repository.reachable {
                String::new()
            } else {
                format!(", OUT OF REACH: {}", repository.problem)
            },
        ));
        if !repository.suspended.is_empty() {
            lines.push(format!("the repository is suspended: {}", repository.suspended));
        }
        if !repository.collection_off.is_empty() {
            lines.push(format!("nothing is deleted from the repository: {}", repository.collection_off));
        }
        for own in &self.own {
            lines.push(format!(
                "{}/{} is Holdfast's own ({}), never backed up",
                own.host, own.source, own.what
            ));
        }
        if self.list_problems {
            for problem in &self.problems {
                let place = [problem.host.as_str(), problem.source.as_str()].join("/");
                let colon = if place == "/" { "" } else { ": " };
                let place = place.strip_suffix('/').unwrap_or(&place);
                lines.push(format!("{:<16} {place}{colon}{}", problem.kind, problem.message));
                if !problem.hint.is_empty() {
                    lines.push(format!("{:<16} try: {}", "", problem.hint));
                }
            }
        }
        match (self.problems.len(), self.list_problems) {
            (0, _) if !repository.is_sound() => {
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
    let sound = view.problems.is_empty() && view.repository.is_sound();
    Ok(if sound { Exit::Done } else { Exit::Attention })
}
