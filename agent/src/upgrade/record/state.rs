//! How far an upgrade is. `docs/ARCHITECTURE.md` says who goes on from which
//! state after a crash.

use holdfast_proto::v1;
use serde::{Deserialize, Serialize};

/// Each is on disk before the first act that belongs to it. The text is kept
/// in records: names stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// The grace period is over.
    Finished,
    RollingBack,
    RolledBack,
    /// Committed and to be rolled back: everything is quiesced, nothing went
    /// back yet; waits for a snapshot.
    AwaitingRollbackSnapshot,
}

impl From<State> for v1::UpgradeState {
    fn from(state: State) -> Self {
        match state {
            State::Preparing => Self::Preparing,
            State::Stopping => Self::Stopping,
            State::Stopped => Self::Stopped,
            State::Switching => Self::Switching,
            State::Gating => Self::Gating,
            State::Committing => Self::Committing,
            State::Committed => Self::Committed,
            State::Finished => Self::Finished,
            State::RollingBack => Self::RollingBack,
            State::RolledBack => Self::RolledBack,
            State::AwaitingRollbackSnapshot => Self::AwaitingRollbackSnapshot,
        }
    }
}

/// What kind of data is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    Volume,
    Directory,
}

impl From<SourceKind> for v1::SourceKind {
    fn from(kind: SourceKind) -> Self {
        match kind {
            SourceKind::Volume => Self::Volume,
            SourceKind::Directory => Self::Directory,
        }
    }
}
