//! `holdfast job logs`: what a job has said, with the times.

use holdfast_proto::v1::{JobEvent, WatchJobRequest};
use serde::Serialize;

use crate::client::Client;
use crate::commands::Env;
use crate::error::{Exit, Result};
use crate::output::{self, Lines, Render, When};

#[derive(Serialize)]
struct EventView {
    at: When,
    message: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct EventList(Vec<EventView>);

impl Render for EventList {
    fn lines(&self) -> Lines {
        if self.0.is_empty() {
            return "it has said nothing yet".to_owned().into();
        }
        self.0.iter().map(|event| format!("{}  {}", event.at.local(), event.message)).collect()
    }
}

/// A watch begins with all that was said; what comes without words after it
/// tells of the job as it is.
pub(super) async fn run(env: &Env, client: &Client, id: String) -> Result<Exit> {
    let mut events = client.jobs()?.watch_job(WatchJobRequest { id, after: 0 }).await?.into_inner();
    let mut said = Vec::new();
    while let Some(JobEvent { unix_ms, message, .. }) = events.message().await? {
        if message.is_empty() {
            break;
        }
        said.push(EventView { at: When(unix_ms), message });
    }
    output::emit(env.format, &EventList(said));
    Ok(Exit::Done)
}
