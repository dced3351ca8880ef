//! Short calls to an agent: one question, one answer, within a time.

use std::time::Duration;

use holdfast_proto::MAX_MESSAGE_BYTES;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1::container_service_client::ContainerServiceClient;
use holdfast_proto::v1::snapshot_service_client::SnapshotServiceClient;
use holdfast_proto::v1::volume_service_client::VolumeServiceClient;
use holdfast_proto::v1::{
    CancelJobRequest, InspectVolumeRequest, ListContainersRequest, ListRunningRequest, ListUpgradesRequest,
    PlanUpgradeRequest, ProceedUpgradeRequest,
};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::answer::unanswered;
use super::listing;
use crate::limits::{EVENT_MESSAGE, LIST_MESSAGE};
use crate::model::container::Container;
use crate::model::upgrade::{Upgrade, UpgradePlan, UpgradeRequest};

/// Asks a host to cancel a job, at work there or still to come.
///
/// # Errors
/// The host refuses, cannot be reached, or does not answer within `most`.
pub async fn cancel_job(channel: Channel, job: JobId, most: Duration) -> Result<(), Status> {
    let request = CancelJobRequest { job_id: job.to_string() };
    timeout(most, snapshots(channel).cancel_job(request))
        .await
        .map_err(|_| unanswered("to cancel the job", most))??;
    Ok(())
}

/// The generation under which a host has a job at work; also one that has ended
/// meanwhile, whose end it repeats. `None`: it knows nothing of the job.
///
/// # Errors
/// The host refuses, cannot be reached, or does not answer within `most`.
pub async fn generation(channel: Channel, job: JobId, most: Duration) -> Result<Option<u64>, Status> {
    let running = timeout(most, snapshots(channel).list_running(ListRunningRequest {}))
        .await
        .map_err(|_| unanswered("for its running jobs", most))??;
    let job = job.to_string();
    let mine = running.into_inner().jobs.into_iter().find(|running| running.job_id == job);
    Ok(mine.map(|running| running.generation))
}

/// An upgrade as its host remembers it; `None`: it does not.
///
/// # Errors
/// The host refuses, cannot be reached, or does not answer within `most`.
pub async fn upgrade(channel: Channel, job: &str, most: Duration) -> Result<Option<Upgrade>, Status> {
    let request = ListUpgradesRequest { job_id: job.to_owned(), ..ListUpgradesRequest::default() };
    Ok(list_upgrades(channel, request, most).await?.into_iter().find(|upgrade| upgrade.job_id == job))
}

/// Upgrades that a host remembers, newest first.
///
/// # Errors
/// The host refuses, cannot be reached, does not answer within `most`, or lists
/// more than is taken.
pub async fn upgrades(channel: Channel, most: Duration) -> Result<Vec<Upgrade>, Status> {
    list_upgrades(channel, ListUpgradesRequest::default(), most).await
}

async fn list_upgrades(
    channel: Channel,
    request: ListUpgradesRequest,
    most: Duration,
) -> Result<Vec<Upgrade>, Status> {
    let listing = async {
        let mut containers = containers(channel).max_decoding_message_size(LIST_MESSAGE);
        listing::whole(containers.list_upgrades(request).await?.get_mut()).await
    };
    let listed = timeout(most, listing).await.map_err(|_| unanswered("for its upgrades", most))??;
    Ok(listed.into_iter().map(Upgrade::from).collect())
}

/// Containers of a host, by labels; all of them without any.
///
/// # Errors
/// The host refuses, cannot be reached, does not answer within `most`, or lists
/// more than is taken.
pub async fn list_containers(
    channel: Channel,
    labels: &[String],
    most: Duration,
) -> Result<Vec<Container>, Status> {
    let request = ListContainersRequest { labels: labels.to_vec(), ..ListContainersRequest::default() };
    let listing = async {
        let mut containers = containers(channel).max_decoding_message_size(LIST_MESSAGE);
        listing::whole(containers.list_containers(request).await?.get_mut()).await
    };
    let listed = timeout(most, listing).await.map_err(|_| unanswered("for its containers", most))??;
    Ok(listed.into_iter().map(Container::from).collect())
}

/// Asks a host what an upgrade would do.
///
/// # Errors
/// The container or image is not there, the host refuses, cannot be reached, or
/// does not answer within `most`.
pub async fn plan_upgrade(
    channel: Channel,
    request: UpgradeRequest,
    most: Duration,
) -> Result<UpgradePlan, Status> {
    let request = PlanUpgradeRequest::from(request);
    let answer = timeout(most, containers(channel).plan_upgrade(request)).await;
    let answer = answer.map_err(|_| unanswered("for the plan of the upgrade", most))??;
    Ok(answer.into_inner().into())
}

/// Lets an upgrade or a rollback go on that waits stopped. `until_unix_ms`: of
/// the stop that is meant, 0 for an upgrade's only one.
///
/// # Errors
/// The host refuses, a lower generation among the reasons, cannot be reached, or
/// does not answer within `most`.
pub async fn proceed_upgrade(
    channel: Channel,
    (job, generation): (JobId, u64),
    until_unix_ms: i64,
    most: Duration,
) -> Result<(), Status> {
    let request = ProceedUpgradeRequest { job_id: job.to_string(), generation, until_unix_ms };
    let answer = timeout(most, containers(channel).proceed_upgrade(request)).await;
    answer.map_err(|_| unanswered("to go on with the upgrade", most))??;
    Ok(())
}

/// A volume of a host, as far as a restore has to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeThere {
    /// What of Holdfast itself it is; empty for everybody else's.
    pub own: String,
}

/// Looks at a volume by name; `None`: there is none. Waits as long as the caller
/// does.
///
/// # Errors
/// The host refuses or cannot be reached.
pub async fn volume(channel: Channel, name: &str) -> Result<Option<VolumeThere>, Status> {
    let request = InspectVolumeRequest { name: name.to_owned(), with_usage: false };
    match VolumeServiceClient::new(channel).inspect_volume(request).await {
        Ok(found) => Ok(Some(VolumeThere { own: found.into_inner().own })),
        // Only this code says that there is none. Any other failure leaves the question open.
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

pub(super) fn containers(channel: Channel) -> ContainerServiceClient<Channel> {
    ContainerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

pub(super) fn snapshots(channel: Channel) -> SnapshotServiceClient<Channel> {
    SnapshotServiceClient::new(channel).max_decoding_message_size(EVENT_MESSAGE)
}
