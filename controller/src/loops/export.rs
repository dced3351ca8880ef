//! Writes to the bucket what a controller that lost its disk needs besides the
//! snapshots: policies and hosts when they have changed, and the tables of new
//! packs once more.

use sha2::{Digest as _, Sha256};

use super::driver::{LoopError, Pass};
use crate::clock::now_ms;
use crate::jobs::Jobs;
use crate::succession::exchange::{HostFacts, hosts_json, policies_json};

/// Under this name the catalogue keeps what was written last.
const WRITTEN: &str = "exported_state";

/// One pass: what has changed since the last one is written.
///
/// # Errors
/// The repository is suspended, or store or catalogue fail.
pub(crate) async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    jobs.repository().first_reached().await?;
    let state = export_state(&jobs).await;
    // Neither has to wait for the other.
    let hints = jobs.repository().write_hints().await?;
    Ok(Pass::done(format!("{}, tables of {hints} packs", state?)))
}

async fn export_state(jobs: &Jobs) -> Result<&'static str, LoopError> {
    let catalog = jobs.catalog();
    let policies = policies_json(&catalog.policies().await?);
    let hosts = hosts_json(&HostFacts::of(catalog, now_ms()).await?);
    let mut hash = Sha256::new();
    hash.update((policies.len() as u64).to_be_bytes());
    hash.update(&policies);
    hash.update(&hosts);
    let hash = hex::encode(hash.finalize());
    if catalog.setting(WRITTEN).await?.as_deref() == Some(&hash) {
        return Ok("nothing changed");
    }
    jobs.repository().export_state(&hosts, &policies).await?;
    // After the write: a crash in between writes the same once more.
    catalog.set_setting(WRITTEN, &hash).await?;
    Ok("policies and hosts written to the bucket")
}
