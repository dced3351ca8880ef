//! `holdfast repo check`: whether a store can hold a repository.

use std::time::{Duration, Instant};

use holdfast_archive::store::{Probe, RetryPolicy};
use serde::Serialize;

use super::open::open_store;
use crate::args::RepositoryArgs;
use crate::commands::Env;
use crate::error::{Exit, Result};
use crate::output::{self, Details, Lines, Millis, Render};

#[derive(Serialize)]
struct CheckView {
    location: String,
    /// Whether backups and collection can rely on it.
    usable: bool,
    took_ms: Millis,
    reads_ranges: bool,
    lists_at_once: bool,
    removes_at_once: bool,
    checks_sha256: bool,
    tells_sha256: bool,
    direct_uploads: bool,
}

impl CheckView {
    fn new(location: String, probe: Probe, took: Duration) -> Self {
        Self {
            location,
            // The others decide how packs are sent, not whether a store can be relied on.
            usable: probe.reads_ranges && probe.lists_at_once && probe.removes_at_once,
            took_ms: Millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            reads_ranges: probe.reads_ranges,
            lists_at_once: probe.lists_at_once,
            removes_at_once: probe.removes_at_once,
            checks_sha256: probe.checks_sha256,
            tells_sha256: probe.tells_sha256,
            direct_uploads: probe.allows_direct_uploads(),
        }
    }
}

impl Render for CheckView {
    fn lines(&self) -> Lines {
        let yes = |is: bool, no: &str| if is { "yes".to_owned() } else { format!("NO: {no}") };
        let mut lines = Details::new()
            .add("store", &self.location)
            .add("wrote, read, listed and removed", format!("in {}", self.took_ms))
            .add("reads parts of objects", yes(self.reads_ranges, "a restore would fetch whole packs"))
            .add(
                "lists what was just written",
                yes(self.lists_at_once, "a backup may seem to be missing for a while"),
            )
            .add("removes at once", yes(self.removes_at_once, "what a prune removed may still be listed"))
            .finish();
        lines.push(match self.usable {
            true => "it can hold a repository",
            false => "it cannot be relied on for a repository; look for a setting of the store that makes it consistent",
        });
        lines
    }
}

pub(super) async fn run(env: &Env, place: &RepositoryArgs) -> Result<Exit> {
    // Somebody waits at a terminal: a store that does not answer is to be named in seconds.
    let store = open_store(place)?.with_retry(RetryPolicy::interactive());
    let begun = Instant::now();
    let probe = store.probe().await?;
    let view = CheckView::new(store.location(), probe, begun.elapsed());
    output::emit(env.format, &view);
    Ok(if view.usable { Exit::Done } else { Exit::Attention })
}
