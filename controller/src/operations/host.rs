//! A job's short calls to its host: what they need around them, and what their
//! errors say.

use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::v1::container_service_client::ContainerServiceClient;
use holdfast_proto::v1::snapshot_service_client::SnapshotServiceClient;
use holdfast_proto::v1::{CancelJobRequest, Container, ListContainersRequest, ListUpgradesRequest, Upgrade};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tonic::transport::Channel;

use super::{Failure, JobRun};
use crate::fleet::answer::unanswered;
use crate::fleet::listing;
use crate::limits::{EVENT_MESSAGE, LIST_MESSAGE};
use holdfast_proto::ErrorCode;

/// Waits until the host is connected.
pub(super) async fn connected(run: &JobRun, host: HostId, most: Duration) -> Result<Channel, Failure> {
    awaited(run, host, most, true).await
}

/// The same; `cancellable`: a request to cancel ends the wait.
pub(super) async fn awaited(
    run: &JobRun,
    host: HostId,
    most: Duration,
    cancellable: bool,
) -> Result<Channel, Failure> {
    let fleet = run.jobs.fleet();
    let mut changes = fleet.changes();
    let deadline = Instant::now() + most;
    let mut told = false;
    loop {
        if let Some(channel) = fleet.channel(host) {
            return Ok(channel);
        }
        if !told {
            run.step("waiting for the host to connect").await?;
            told = true;
        }
        tokio::select! {
            () = run.cancel.cancelled(), if cancellable => return Err(Failure::Cancelled),
            changed = timeout_at(deadline, changes.changed()) => if !matches!(changed, Ok(Ok(()))) {
                let name = run.jobs.host_name(host).await?;
                return Err(Failure::failed(
                    ErrorCode::HostUnreachable,
                    format!("host `{name}` was not connected for {} minutes", most.as_secs() / 60),
                ));
            },
        }
    }
}

/// Asks a host to cancel a job, at work there or still to come.
pub(super) async fn cancel_on_agent(channel: Channel, job: &str, most: Duration) -> Result<(), Status> {
    let request = CancelJobRequest { job_id: job.to_owned() };
    timeout(most, client(channel).cancel_job(request))
        .await
        .map_err(|_| unanswered("to cancel the job", most))??;
    Ok(())
}

/// An upgrade as its host remembers it.
pub(super) async fn upgrade_on_agent(
    channel: Channel,
    job: &str,
    most: Duration,
) -> Result<Option<Upgrade>, Status> {
    let request = ListUpgradesRequest { job_id: job.to_owned(), ..ListUpgradesRequest::default() };
    Ok(upgrades_on_agent(channel, request, most).await?.into_iter().find(|upgrade| upgrade.job_id == job))
}

/// Upgrades that a host remembers, newest first.
pub(super) async fn upgrades_on_agent(
    channel: Channel,
    request: ListUpgradesRequest,
    most: Duration,
) -> Result<Vec<Upgrade>, Status> {
    let listing = async {
        let mut containers = containers(channel).max_decoding_message_size(LIST_MESSAGE);
        listing::whole(containers.list_upgrades(request).await?.get_mut()).await
    };
    timeout(most, listing).await.map_err(|_| unanswered("for its upgrades", most))?
}

/// Containers of a host, by labels; all of them without any.
pub(super) async fn containers_on_agent(
    channel: Channel,
    labels: &[String],
    most: Duration,
) -> Result<Vec<Container>, Status> {
    let request = ListContainersRequest { labels: labels.to_vec(), ..ListContainersRequest::default() };
    let listing = async {
        let mut containers = containers(channel).max_decoding_message_size(LIST_MESSAGE);
        listing::whole(containers.list_containers(request).await?.get_mut()).await
    };
    timeout(most, listing).await.map_err(|_| unanswered("for its containers", most))?
}

pub(super) fn containers(channel: Channel) -> ContainerServiceClient<Channel> {
    ContainerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

pub(super) fn client(channel: Channel) -> SnapshotServiceClient<Channel> {
    SnapshotServiceClient::new(channel).max_decoding_message_size(EVENT_MESSAGE)
}
