//! Applies each policy's `keep_last` to what it made.

use std::collections::BTreeMap;

use super::driver::{LoopError, Pass};
use crate::catalog::snapshots::{SnapshotFilter, SnapshotRecord};
use crate::catalog::{Catalog, CatalogError};
use crate::jobs::Jobs;
use crate::retention::{Candidate, Decision, plan};
use holdfast_archive::text::causes;

/// Snapshots forgotten in one pass.
const PAGE: usize = 500;

/// What a policy would do with the snapshots of one source.
#[derive(Debug, Clone)]
pub(crate) struct SourcePlan {
    pub host_name: String,
    pub source_name: String,
    pub decisions: Vec<Decision>,
}

impl SourcePlan {
    pub(crate) fn forgotten(&self) -> usize {
        self.decisions.iter().filter(|decision| decision.verdict.forgets()).count()
    }
}

/// The plans of a policy for every source it has made snapshots of, given all
/// committed snapshots.
pub(crate) fn plan_sources(policy: &str, keep_last: u32, snapshots: &[SnapshotRecord]) -> Vec<SourcePlan> {
    let mut sources: BTreeMap<_, Vec<&SnapshotRecord>> = BTreeMap::new();
    for snapshot in snapshots {
        sources.entry((snapshot.id.host, snapshot.id.source)).or_default().push(snapshot);
    }
    sources
        .into_values()
        // A source keeps the snapshots of other makers here: the newest complete one may be theirs.
        .filter(|snapshots| snapshots.iter().any(|snapshot| snapshot.policy == policy))
        .map(|snapshots| {
            let candidates: Vec<Candidate> = snapshots.iter().copied().map(candidate).collect();
            SourcePlan {
                host_name: snapshots[0].host_name.clone(),
                source_name: snapshots[0].source_name.clone(),
                decisions: plan(policy, keep_last, &candidates),
            }
        })
        .collect()
}

fn candidate(record: &SnapshotRecord) -> Candidate {
    Candidate {
        id: record.id,
        partial: record.partial,
        held: record.held,
        policy: record.policy.clone(),
        extent: record.extent,
        shrink_accepted: record.shrink_accepted,
    }
}

/// All committed snapshots.
///
/// # Errors
/// The catalogue fails.
pub(crate) async fn committed(catalog: &Catalog) -> Result<Vec<SnapshotRecord>, CatalogError> {
    catalog.snapshots(&SnapshotFilter::default()).await
}

/// One pass: what no policy keeps is forgotten.
///
/// # Errors
/// The catalogue fails.
pub(crate) async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    let policies = jobs.catalog().policies().await?;
    if policies.iter().all(|record| record.policy.keep_last.is_none()) {
        return Ok(Pass::done("no policy forgets anything"));
    }
    // One list for all policies: each forgets what it made, no two decide over the same one.
    let snapshots = committed(jobs.catalog()).await?;
    let mut forgotten = 0;
    for record in policies {
        let Some(keep_last) = record.policy.keep_last else { continue };
        for source in plan_sources(&record.policy.name, keep_last, &snapshots) {
            for decision in source.decisions.iter().filter(|decision| decision.verdict.forgets()) {
                if forgotten == PAGE {
                    return Ok(Pass { more: true, ..Pass::done(format!("{forgotten} snapshots forgotten")) });
                }
                forgotten += usize::from(forget(&jobs, &record.policy.name, &source, decision).await);
            }
        }
    }
    // With a grace period of 0, what was forgotten can be purged at once.
    if forgotten > 0 {
        jobs.nudges().gc.notify_one();
    }
    Ok(Pass::done(format!("{forgotten} snapshots forgotten")))
}

async fn forget(jobs: &Jobs, policy: &str, source: &SourcePlan, decision: &Decision) -> bool {
    match jobs.repository().forget(&decision.id).await {
        Ok(_) => {
            tracing::info!(
                policy.name = policy,
                snapshot.id = %decision.id,
                host = source.host_name,
                source = source.source_name,
                reason = decision.verdict.reason(),
                "forgotten by retention"
            );
            true
        }
        // Held or gone since it was looked at: the next pass sees that.
        Err(error) => {
            tracing::warn!(snapshot.id = %decision.id, error = %causes(&error), "not forgotten");
            false
        }
    }
}
