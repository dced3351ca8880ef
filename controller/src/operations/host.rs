//! Waiting for the host of a job.

use std::time::Duration;

use holdfast_archive::ids::HostId;
use holdfast_proto::ErrorCode;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use super::{Failure, JobRun};

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
