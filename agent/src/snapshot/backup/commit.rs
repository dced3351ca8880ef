//! What was read, offered to the repository as a snapshot.

use holdfast_archive::fs::Captured;
use holdfast_archive::ids::FrameId;
use holdfast_archive::snapshot::{Extent, SHRUNK_WORDS, SnapshotBody, Stats, encode_body};

use crate::quiesce::QuiesceMode;
use crate::session::{Commit, Committed, Stored};

use super::super::event::{SourcePhase, Taken};
use super::super::stopped::Stopped;
use super::super::users;
use super::reading::Target;
use super::{Backup, BackupError};

/// What goes into a snapshot besides its content.
#[derive(Debug, Clone, Default)]
pub(super) struct Circumstances {
    pub(super) downtime_ms: u64,
    pub(super) disturbances: Vec<String>,
}

/// What became of what was read.
#[derive(Debug)]
pub(super) enum Offer {
    Taken(Done),
    /// The repository lacks these frames: what uses them is to be read again.
    Missing(Vec<FrameId>),
}

/// A committed snapshot.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) stats: Stats,
    pub(super) taken: Taken,
}

impl Done {
    /// As the repository has it. Where an earlier attempt of this job committed
    /// and died, that attempt's snapshot is the answer, and this one's reading
    /// is nowhere.
    fn corrected_by(self, stored: Option<Stored>) -> Self {
        let Some(Stored { stats, partial, problems }) = stored else { return self };
        let shrunk = self.taken.shrunk || problems.iter().any(|problem| problem.starts_with(SHRUNK_WORDS));
        Self { stats, taken: Taken { partial, shrunk, problems, ..self.taken } }
    }
}

impl Backup<'_> {
    /// Says so where less than a tenth is left of the last snapshot: a volume
    /// with two files left of a million is more likely a loss than a change.
    /// It is taken all the same; older snapshots hold the rest.
    fn shrinkage(&self, target: &Target, now: Extent) -> Option<String> {
        let base = target.base.as_ref().filter(|_| !self.request.allow_empty)?;
        let then = base.extent;
        now.shrank_from(then).then(|| {
            format!(
                "{SHRUNK_WORDS} {}: {} entries and {} bytes then, {} entries and {} bytes now; \
                 if that is meant: holdfast backup run --allow-empty",
                base.id, then.entries, then.size_bytes, now.entries, now.size_bytes
            )
        })
    }

    /// Offers what was read to the repository.
    pub(super) async fn commit(
        &self,
        target: &Target,
        captured: Captured,
        circumstances: &Circumstances,
    ) -> Result<Offer, BackupError> {
        target.row.set_phase(SourcePhase::Committing);
        Stopped::check(&target.cancel)?;
        // As late as can be: from here to the commit nothing is read any more.
        self.refuse_another(target).await?;
        let stats = target.row.total(&captured.stats);
        // Whoever wrote while it was read may have torn what no time stamp shows.
        let partial = captured.partial || !circumstances.disturbances.is_empty();
        let shrinkage = self.shrinkage(target, captured.stats.extent());
        let shrunk = shrinkage.is_some();
        let mut problems = circumstances.disturbances.clone();
        problems.extend(shrinkage);
        problems.extend(captured.problems);
        problems.extend(captured.warnings);
        let body = SnapshotBody {
            root: captured.root,
            started_unix_ns: captured.started_unix_ns,
            stats,
            source: target.source.facts(),
            consistency: consistency(self.request.mode).to_owned(),
            host_name: self.context.host_name(),
            partial,
            problems: problems.clone(),
            downtime_ms: circumstances.downtime_ms,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            containers: users::describe(&self.context.engine, &self.context.specs, &target.source.place())
                .await,
        };
        match target.session.commit(encode_body(&body).into()).await {
            Ok(Commit::Committed(Committed { snapshot, stored })) => {
                let taken = Taken { snapshot, partial, shrunk, problems };
                Ok(Offer::Taken(Done { stats, taken }.corrected_by(stored)))
            }
            Ok(Commit::Missing(frames)) => {
                tracing::warn!(job.id = %self.job.id, source.id = %target.id, frames = frames.len(),
                    "frames the snapshot uses are not in the repository; their files are read again");
                Ok(Offer::Missing(frames))
            }
            Err(error) => Err(BackupError::from(error).unless_stopped(&target.cancel)),
        }
    }
}

fn consistency(mode: Option<QuiesceMode>) -> &'static str {
    match mode {
        None => "none",
        Some(QuiesceMode::Pause) => "pause",
        Some(QuiesceMode::Stop) => "stop",
    }
}
