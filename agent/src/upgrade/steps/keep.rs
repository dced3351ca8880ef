//! The upgrade is over, and what a rollback needs is kept for the grace period.

use crate::upgrade::UpgradeError;
use crate::upgrade::record::State;
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let grace = i64::from(run.record.options.grace_seconds) * 1000;
    run.record.set_ended(run.context.clocks.now());
    run.record.grace_until_unix_ms = run.record.ended_unix_ms.saturating_add(grace);
    let kept = if run.record.sources.is_empty() { "" } else { " and the clone of its data" };
    let is = if kept.is_empty() { "is" } else { "are" };
    run.enter(State::Committed, format!("upgraded; the old container{kept} {is} kept for a while")).await
}
