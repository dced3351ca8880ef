//! Looks at what volumes the connected hosts have.
//!
//! Only so can a volume be named that no policy covers: it is in no
//! configuration anywhere.

use std::time::Duration;

use futures_util::StreamExt as _;
use holdfast_archive::ids::HostId;
use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::v1::{ListVolumesRequest, Volume};
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::driver::{LoopError, Pass};
use crate::catalog::sources::SeenVolume;
use crate::catalog::{Catalog, CatalogError};
use crate::clock::now_ms;
use crate::jobs::Jobs;

/// Hosts asked at the same time.
const CONCURRENT: usize = 8;

/// Why a host's volumes are not known.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    #[error("the agent did not list its volumes: {0}")]
    Agent(Status),
    #[error("the catalogue failed")]
    Catalog(#[from] CatalogError),
}

/// Takes in the volumes of one host; gives their number.
pub async fn refresh(
    catalog: &Catalog,
    host: HostId,
    channel: Channel,
    most: Duration,
    now_ms: i64,
) -> Result<usize, InventoryError> {
    let volumes = timeout(most, list(channel))
        .await
        .map_err(|_| InventoryError::Agent(Status::deadline_exceeded("the agent did not answer in time")))?
        .map_err(InventoryError::Agent)?;
    let seen: Vec<SeenVolume> = volumes.into_iter().map(seen).collect();
    catalog.record_volumes(host, &seen, now_ms).await?;
    Ok(seen.len())
}

async fn list(channel: Channel) -> Result<Vec<Volume>, Status> {
    let mut client = VolumeServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut stream = client.list_volumes(ListVolumesRequest::default()).await?.into_inner();
    let mut volumes = Vec::new();
    while let Some(volume) = stream.message().await? {
        volumes.push(volume);
    }
    Ok(volumes)
}

fn seen(volume: Volume) -> SeenVolume {
    SeenVolume {
        used: !volume.users.is_empty(),
        name: volume.name,
        driver: volume.driver,
        labels: volume.labels.into_iter().collect(),
        anonymous: volume.anonymous,
    }
}

/// One pass over all connected hosts.
pub async fn pass(jobs: Jobs) -> Result<Pass, LoopError> {
    let jobs = &jobs;
    let hosts = jobs.fleet().connected();
    let count = hosts.len();
    let mut failed = Vec::new();
    let mut volumes = 0;
    let mut answers = futures_util::stream::iter(hosts)
        .map(|host| async move {
            let channel = jobs.fleet().channel(host)?;
            Some((host, refresh(jobs.catalog(), host, channel, jobs.settings().call, now_ms()).await))
        })
        .buffer_unordered(CONCURRENT);
    while let Some(answer) = answers.next().await {
        match answer {
            Some((_, Ok(count))) => volumes += count,
            Some((host, Err(InventoryError::Agent(status)))) => {
                tracing::warn!(host.id = %host, %status, "the host's volumes could not be listed");
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
