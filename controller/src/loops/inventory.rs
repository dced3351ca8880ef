//! Looks at what the connected hosts have, again and again.

use futures_util::StreamExt as _;

use super::driver::{LoopError, Pass};
use crate::clock::now_ms;
use crate::fleet::inventory::{self, InventoryError};
use crate::jobs::Jobs;

/// Hosts asked at the same time.
const CONCURRENT: usize = 8;

/// One pass over all connected hosts.
///
/// # Errors
/// The catalogue fails; a host that does not answer is only named.
pub(crate) async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    let jobs = &jobs;
    let hosts = jobs.fleet().connected();
    let count = hosts.len();
    let mut failed = Vec::new();
    let mut volumes = 0;
    let mut answers = futures_util::stream::iter(hosts)
        .map(|host| async move {
            let channel = jobs.fleet().channel(host)?;
            let (catalog, most) = (jobs.catalog(), jobs.settings().call);
            Some((host, inventory::look_at(catalog, host, channel, most, now_ms()).await))
        })
        .buffer_unordered(CONCURRENT);
    while let Some(answer) = answers.next().await {
        match answer {
            Some((_, Ok(count))) => volumes += count,
            Some((host, Err(InventoryError::Agent(status)))) => {
                tracing::warn!(host.id = %host, %status, "the host's volumes and mounts could not be listed");
                failed.push(jobs.host_name(host).await?);
            }
            Some((_, Err(InventoryError::Catalog(error)))) => return Err(error.into()),
            None => {}
        }
    }
    let mut summary = format!("{volumes} volumes on {count} hosts");
    if !failed.is_empty() {
        summary.push_str(&format!("; no answer from {}", failed.join(", ")));
    }
    Ok(Pass::done(summary))
}
