//! `holdfast source`

use holdfast_proto::v1::{ListSourcesRequest, RetireSourceRequest, Source, SourceKind};
use serde::Serialize;

use super::{Env, collect, counted, within};
use crate::args::SourceCommand;
use crate::error::{Exit, Result};
use crate::output::{self, Lines, Render, Rows, When};

#[derive(Serialize)]
struct SourceView {
    host: String,
    source: String,
    kind: &'static str,
    first_seen: When,
    last_seen: When,
    gone: When,
    retired: When,
    snapshots: u64,
    last_backup: When,
    bound_by: Vec<String>,
    /// Holdfast's own and never backed up: what of it; else empty.
    own: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct SourceList(Vec<SourceView>);

/// What it means that sources were retired, or count again.
#[derive(Serialize)]
#[serde(transparent)]
struct Retired(Vec<SourceView>);

impl From<Source> for SourceView {
    fn from(source: Source) -> Self {
        Self {
            kind: kind_word(source.kind()),
            host: source.host,
            source: source.name,
            first_seen: When(source.first_seen_unix_ms),
            last_seen: When(source.last_seen_unix_ms),
            gone: When(source.gone_unix_ms),
            retired: When(source.retired_unix_ms),
            snapshots: source.snapshots,
            last_backup: When(source.last_backup_unix_ms),
            bound_by: source.bound_by,
            own: source.own,
        }
    }
}

/// The kind of a source, as tables and JSON have it.
pub(super) fn kind_word(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Volume => "volume",
        SourceKind::Directory => "directory",
        // Of a controller or an agent that knows more kinds than this.
        SourceKind::Unspecified => "unknown",
    }
}

impl SourceView {
    fn state(&self) -> &'static str {
        if !self.own.is_empty() && self.gone == When(0) {
            return "Holdfast's own";
        }
        match (self.retired != When(0), self.gone != When(0)) {
            (true, _) => "retired",
            (false, true) => "gone",
            (false, false) => "there",
        }
    }
}

impl Render for SourceList {
    fn lines(&self) -> Lines {
        let headings = ["HOST", "SOURCE", "KIND", "STATE", "SNAPSHOTS", "LAST BACKUP", "BOUND BY"];
        let mut rows = Rows::new(&headings, "no sources").right(&[4]);
        for source in &self.0 {
            rows.push([
                source.host.clone(),
                source.source.clone(),
                source.kind.to_owned(),
                source.state().to_owned(),
                source.snapshots.to_string(),
                source.last_backup.to_string(),
                source.bound_by.join(", "),
            ]);
        }
        rows.finish()
    }
}

impl Render for Retired {
    fn lines(&self) -> Lines {
        let line = |source: &SourceView| {
            let place = format!("{}/{}", source.host, source.source);
            if source.state() != "retired" {
                return format!("{place} counts again");
            }
            let snapshots = counted(source.snapshots, "snapshot");
            format!(
                "{place} is retired: it is not missed any more; {snapshots} of it, kept as long as retention says"
            )
        };
        self.0.iter().map(line).collect()
    }
}

pub(super) async fn run(env: &Env, command: SourceCommand) -> Result<Exit> {
    let mut client = env.client().await?.sources()?;
    match command {
        SourceCommand::Ls { host } => {
            let request = ListSourcesRequest { host: host.unwrap_or_default() };
            let list = collect(client.list_sources(within(request))).await?;
            output::emit(env.format, &SourceList(list.into_iter().map(SourceView::from).collect()));
        }
        SourceCommand::Retire { sources, undo } => {
            let (mut retired, mut failure) = (Vec::new(), None);
            // Each is a call of its own: those before one that fails are retired, and stay so.
            for (host, source) in sources {
                let request = RetireSourceRequest { host, source, undo };
                match client.retire_source(within(request)).await {
                    Ok(source) => retired.push(source.into_inner().into()),
                    Err(status) => {
                        failure = Some(status);
                        break;
                    }
                }
            }
            if failure.is_none() || !retired.is_empty() {
                output::emit(env.format, &Retired(retired));
            }
            if let Some(status) = failure {
                return Err(status.into());
            }
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_not_known_is_not_called_a_volume() {
        let listed = |kind| SourceView::from(Source { kind, ..Source::default() }).kind;
        assert_eq!([listed(1), listed(2), listed(77)], ["volume", "directory", "unknown"]);
    }
}
