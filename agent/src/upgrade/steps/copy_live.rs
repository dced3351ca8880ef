//! Most of the clone, made while the data is in use: what is stopped later waits
//! only for what has changed since.

use crate::clone;
use crate::resume::blocking;
use crate::upgrade::UpgradeError;
use crate::upgrade::error::DataError;
use crate::upgrade::run::UpgradeRun;

pub(super) async fn run(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    let cancel = run.cancel();
    for source in run.record.sources.clone() {
        run.note(format!("cloning {} while it is in use", source.name)).await?;
        let flag = cancel.flag();
        let (path, to) = (source.path.clone(), source.clone.clone());
        let pass = blocking(move || clone::first_pass(&path, &to, &flag)).await;
        let pass = pass.map_err(DataError::NotCloned)?;
        tracing::info!(
            source.name = source.name,
            entries = pass.stats.entries,
            copied_bytes = pass.stats.copied_bytes,
            missed = pass.stats.missed,
            "cloned while in use"
        );
        run.first_passes.push(pass);
    }
    if cancel.is_cancelled() { Err(UpgradeError::Cancelled) } else { Ok(()) }
}

/// What is left of the clones, which by now may be the discarded data. One
/// that cannot be removed takes space and nothing else: it is said.
pub(super) async fn undo(run: &mut UpgradeRun<'_>) -> Result<(), UpgradeError> {
    for source in run.record.sources.clone() {
        let clone = source.clone.clone();
        if let Err(error) = blocking(move || clone::remove(&clone)).await {
            tracing::error!(path = %source.clone.display(), %error, "a clone could not be removed");
            run.record.error.push_str(&format!("; {} is left over: {error}", source.clone.display()));
        }
    }
    Ok(())
}
