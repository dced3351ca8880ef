//! The repository's upkeep in the background: its clock, commits that were
//! cut off, and the collection of what nothing needs.

use super::driver::{LoopError, Pass};
use crate::jobs::Jobs;
use crate::operations::prune::line;
use crate::repository::gc;

/// Counts a tick and finishes commits that a crash cut off. Runs once a
/// [`crate::repository::TICK`]: the age of leases is counted in these.
///
/// # Errors
/// The catalogue fails, or a commit cannot be finished because the store is out
/// of reach.
pub(crate) async fn tick(jobs: Jobs) -> Result<Pass, LoopError> {
    jobs.repository().first_reached().await?;
    // The tick before the store is needed: leases age also while it is away.
    jobs.repository().tick().await?;
    let finished = jobs.repository().finish_committing().await?;
    Ok(Pass::done(format!("{finished} commits finished")))
}

/// One round of collection.
///
/// # Errors
/// The repository is suspended, or store or catalogue fail.
pub(crate) async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    let report = gc::round(jobs.repository()).await?;
    let undone = gc::undeleted(&report).unwrap_or_default().to_owned();
    Ok(Pass { undone, ..Pass::done(line(&report)) })
}
