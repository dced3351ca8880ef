//! How far an upgrade is, with what is known there alone. `upgrade/executor.rs`
//! has what is done from each of them after a crash.

use holdfast_proto::ids::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::EnumDiscriminants;

/// Each is on disk before the first act that belongs to it. The text is kept
/// in records: names stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, EnumDiscriminants)]
#[serde(rename_all = "kebab-case")]
#[strum_discriminants(
    name(Phase),
    doc = "The name of a [`State`], which lines of the event log and the wire have.",
    derive(Hash, Serialize, Deserialize),
    serde(rename_all = "kebab-case")
)]
pub enum State {
    /// The new container is made beside the old one, which runs.
    Preparing,
    Stopping,
    /// The old one is quiesced and its data cloned; waits for a snapshot.
    Stopped,
    /// The new one takes the name and starts.
    Switching,
    /// It runs and has to show that it is well.
    Gating,
    /// From here on it only goes forward.
    Committing,
    /// Done; the old one and the clone are kept for the grace period.
    Committed,
    /// What a rollback needs is being removed: there is no way back from here.
    Finishing,
    /// The grace period is over.
    Finished,
    RollingBack(Rollback),
    RolledBack,
    /// Committed and to be rolled back: everything is quiesced, nothing went
    /// back yet; waits for a snapshot.
    AwaitingRollbackSnapshot(QuiescedForRollback),
}

/// What decides how far a rollback has to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// Of a committed upgrade, on request: the data goes back whether the agent
    /// started the new container or not, and what only the new one used stays.
    pub requested: bool,
    /// It has gone back: nothing of it is touched any more.
    pub data_is_back: bool,
}

/// Quiesced containers for a rollback, in the order they stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuiescedForRollback {
    /// The job that asked for it.
    pub rollback: JobId,
    /// When everything resumes by itself, which tells one stop from the next;
    /// known once everything is quiesced.
    pub until_unix_ms: Option<i64>,
    pub containers: Vec<QuiescedMember>,
}

/// As a container was before it was quiesced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuiescedMember {
    pub id: String,
    pub name: String,
    pub was_running: bool,
    pub restart_policy: Value,
}

/// What kind of data is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    Volume,
    Directory,
}
