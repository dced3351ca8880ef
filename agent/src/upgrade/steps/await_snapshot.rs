//! Everything is quiesced and cloned; the caller takes its snapshots.

use std::time::Duration;

use crate::clocks::now_unix_ms;
use crate::upgrade::UpgradeError;
use crate::upgrade::event::{Stopped, UpgradeEvent};
use crate::upgrade::record::State;
use crate::upgrade::run::UpgradeRun;

/// Goes back by itself when nobody says that the snapshots are taken: a caller
/// that died must not keep containers stopped.
pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let most = Duration::from_secs(run.record.options.stopped_seconds.into());
    let until = now_unix_ms().saturating_add(i64::try_from(most.as_millis()).unwrap_or(i64::MAX));
    run.enter(State::Stopped, "everything is quiesced and cloned; waiting for the snapshot").await?;
    let sources = run.record.sources.clone();
    run.push(UpgradeEvent::Stopped(Stopped { sources, until_unix_ms: until }));
    let cancel = run.cancel();
    tokio::select! {
        () = run.told_to_proceed() => {}
        () = cancel.cancelled() => return Err(UpgradeError::Cancelled),
        () = tokio::time::sleep(most) => return Err(UpgradeError::Abandoned { seconds: most.as_secs() }),
    }
    run.refuse_disturbed().await
}
