//! Jobs at work on an agent, as streams of events.
//!
//! Opening one is idempotent by job id: it starts the job, attaches to it, or
//! repeats how it ended. How long an agent may take to answer is the caller's to
//! bound: one that begins an upgrade looks at everything again first.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use holdfast_proto::ids::JobId;
use tonic::Status;
use tonic::transport::Channel;

use super::calls::{containers, snapshots};
use super::texts;
use crate::limits::EVENT_MESSAGE;
use crate::model::event::AgentEvent;
use crate::model::work::Work;
use crate::wire;

/// What is reported, from the beginning. Texts in it are cut to what may be
/// kept.
pub type Events = Pin<Box<dyn Stream<Item = Result<AgentEvent, Status>> + Send>>;

/// Opens the stream of a job.
///
/// # Errors
/// The agent refuses the work, does not take this generation, or cannot be
/// reached.
pub async fn open(channel: Channel, work: Work, job: JobId, generation: u64) -> Result<Events, Status> {
    let mut containers = containers(channel.clone()).max_decoding_message_size(EVENT_MESSAGE);
    let mut snapshots = snapshots(channel);
    Ok(match work {
        Work::Backup { sources, backup } => {
            let request = wire::snapshot::create_request(job, generation, &sources, &backup);
            let stream = snapshots.create_snapshots(request).await?.into_inner();
            let event = |event| AgentEvent::Snapshot(texts::cut_snapshot(event).into());
            Box::pin(stream.map(move |item| item.map(event)))
        }
        Work::Restore(restore) => {
            let request = wire::restore::request(job, generation, restore);
            let stream = snapshots.restore_snapshot(request).await?.into_inner();
            let event = |event| AgentEvent::Restore(texts::cut_restore(event).into());
            Box::pin(stream.map(move |item| item.map(event)))
        }
        Work::Upgrade(upgrade) => {
            let request = wire::upgrade::run_request(job, generation, upgrade);
            let stream = containers.run_upgrade(request).await?.into_inner();
            let event = |event| AgentEvent::Upgrade(texts::cut_upgrade(event).into());
            Box::pin(stream.map(move |item| item.map(event)))
        }
        // A rollback is the agent's own and has no generation.
        Work::RollBack(rollback) => {
            let request = wire::upgrade::roll_back_request(job, rollback);
            let stream = containers.roll_back_upgrade(request).await?.into_inner();
            let event = |event| AgentEvent::Upgrade(texts::cut_upgrade(event).into());
            Box::pin(stream.map(move |item| item.map(event)))
        }
    })
}
