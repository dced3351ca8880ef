//! What is known of one upgrade, on disk before it is acted on.
//!
//! A record says all that has to be undone on the host while a container is
//! replaced: which containers are quiesced and which restart policy they had,
//! under which names old and new are found, where the clone of the data lies
//! and which of the two trees is the original. Each state is written and synced
//! before the first act that belongs to it, so whoever reads the record after a
//! crash may find less done than it says, never more.

mod failure;
mod state;
mod store;

use std::path::PathBuf;
use std::time::Duration;

use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clocks::{Moment, now_unix_ms};
use crate::clone::{Identity, Means};
use crate::spec::Spec;

pub(crate) use self::failure::RecordedFailure;
pub(crate) use self::state::{Phase, QuiescedForRollback, QuiescedMember, Rollback, SourceKind, State};
pub(crate) use self::store::{Store, StoreError};

/// Of records as this agent writes them. A field that may be missing does not
/// change it; one whose meaning changes does.
const VERSION: u32 = 1;

/// One upgrade.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Of what the file looks like: [`VERSION`].
    version: u32,
    pub job: JobId,
    state: State,
    pub from_image: String,
    pub from_image_id: String,
    pub to_image: String,
    pub to_image_id: String,
    /// In the order they stop; the one that is upgraded is last.
    pub members: Vec<Member>,
    pub sources: Vec<Source>,
    pub options: Options,
    pub started_unix_ms: i64,
    /// When the first container was told to stop.
    pub stopped_unix_ms: Option<i64>,
    pub ended_unix_ms: i64,
    /// The same by the count of [`crate::clocks`]; 0 in records of agents that
    /// had none.
    #[serde(default)]
    pub ended_uptime_ms: u64,
    /// By the wall clock, for people: see [`Record::is_grace_over`].
    pub grace_until_unix_ms: i64,
    pub downtime_ms: u64,
    /// An [`ErrorCode`] as text; empty while nothing has failed.
    pub error_code: String,
    pub error: String,
    pub steps: Vec<Step>,
    /// Of an upgrade of the agent's own container.
    #[serde(default)]
    pub helper: Option<Helper>,
    /// How far the stand-ins of the old containers are.
    #[serde(default)]
    pub stand_ins: StandIns,
}

/// What is done about stand-ins for the old containers: see
/// [`super::stand_in`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandIns {
    /// None is there, nor about to be.
    #[default]
    None,
    /// They may be there, also half made. The old containers are.
    Making,
    /// They are there and were compared with the old containers, which may be
    /// gone.
    Compared,
    /// They are being removed. The old containers are there.
    GivenUp,
}

/// A container in the place of a kept old one, made like it and never started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StandIn {
    pub name: String,
    /// Empty until it is made.
    pub id: String,
    /// The image with what the old one wrote outside its mounts; none where
    /// that was nothing.
    #[serde(default)]
    pub layer: Option<KeptLayer>,
}

/// A writable layer as an image of this host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptLayer {
    /// Repository and tag, which only this upgrade uses.
    pub reference: String,
    /// Empty until it is made.
    pub image_id: String,
}

/// The container that goes on where the agent cannot, being stopped itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Helper {
    pub name: String,
    /// That of the agent which makes it, whose program it runs.
    pub image_id: String,
    pub command: Vec<String>,
    /// From then on it alone goes on.
    pub handed_over_unix_ms: Option<i64>,
}

/// A container that takes part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub name: String,
    pub was_running: bool,
    /// As the Engine reports it: put back at the end.
    pub restart_policy: Value,
    /// Its restart policy or its state is changed, or is about to be.
    pub touched: bool,
    /// It is recreated; otherwise it is only stopped meanwhile.
    pub recreation: Option<Recreation>,
    /// What its id was before a rollback had to make it again.
    #[serde(default)]
    pub former_ids: Vec<String>,
}

/// Between the name of a container and the end of its upgrade's job id: the new
/// container until it takes the name.
pub(crate) const NEW_INFIX: &str = ".holdfast-new-";

/// The same for the old container once it has given up the name.
pub(crate) const OLD_INFIX: &str = ".holdfast-old-";

impl Member {
    /// Its new container was asked for, or was about to be, and none is known.
    pub fn is_creation_unanswered(&self) -> bool {
        self.recreation.as_ref().is_some_and(|recreation| recreation.new_id.is_empty())
    }
}

/// A container made in the place of another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recreation {
    pub spec: Spec,
    pub image: String,
    pub image_id: String,
    /// What the new one is called until it takes the name.
    pub temporary_name: String,
    /// What the old one is called once it has given up the name.
    pub aside_name: String,
    /// Empty until it is made.
    pub new_id: String,
    /// Volumes the Engine made for the new one alone.
    #[serde(default)]
    pub own_volumes: Vec<String>,
    /// The new one was started, or is about to be: it may have written.
    pub started: bool,
    /// What is kept instead of the old one, where compose would take that.
    #[serde(default)]
    pub stand_in: Option<StandIn>,
}

/// Data that is cloned while it is quiesced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    pub kind: SourceKind,
    pub name: String,
    pub target: String,
    pub path: PathBuf,
    pub clone: PathBuf,
    pub size_bytes: u64,
    pub means: Means,
    /// Known once the clone is whole.
    pub identities: Option<Identities>,
}

/// Which tree is which, however often they were exchanged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identities {
    pub original: Identity,
    pub clone: Identity,
}

/// What the caller asked for, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub health_timeout_seconds: u32,
    pub steady_seconds: u32,
    pub grace_seconds: u32,
    pub stopped_seconds: u32,
    pub probe: Option<Probe>,
    pub allow_loss: Vec<String>,
}

/// What applies where the caller says nothing.
impl Default for Options {
    fn default() -> Self {
        Self {
            health_timeout_seconds: 120,
            steady_seconds: 10,
            grace_seconds: 24 * 60 * 60,
            stopped_seconds: 10 * 60,
            probe: None,
            allow_loss: Vec::new(),
        }
    }
}

/// How a new container is asked whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    Command(Vec<String>),
    Tcp(u16),
    Http { port: u16, path: String },
}

/// A line of the upgrade's event log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    pub phase: Phase,
    pub text: String,
    pub unix_ms: i64,
}

/// Milliseconds since a time by the wall clock; 0 where that is set back.
pub(crate) fn since(unix_ms: i64) -> u64 {
    u64::try_from(now_unix_ms().saturating_sub(unix_ms)).unwrap_or(0)
}

// === impl Record ===

impl Record {
    /// What the upgrade failed with; none while nothing has failed, and for a
    /// code of another version.
    pub fn error_code(&self) -> Option<ErrorCode> {
        ErrorCode::parse(&self.error_code)
    }

    pub fn new(job: JobId, members: Vec<Member>, options: Options) -> Self {
        Self {
            version: VERSION,
            job,
            state: State::Preparing,
            from_image: String::new(),
            from_image_id: String::new(),
            to_image: String::new(),
            to_image_id: String::new(),
            members,
            sources: Vec::new(),
            options,
            started_unix_ms: now_unix_ms(),
            stopped_unix_ms: None,
            ended_unix_ms: 0,
            ended_uptime_ms: 0,
            grace_until_unix_ms: 0,
            downtime_ms: 0,
            error_code: String::new(),
            error: String::new(),
            steps: Vec::new(),
            helper: None,
            stand_ins: StandIns::None,
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The name of its state, as it is told.
    pub fn phase(&self) -> Phase {
        Phase::from(&self.state)
    }

    /// What is known of a rollback that has begun.
    pub fn rollback(&self) -> Option<Rollback> {
        match self.state {
            State::RollingBack(rollback) => Some(rollback),
            _ => None,
        }
    }

    /// What is quiesced for a rollback that has not begun.
    pub fn quiesced(&self) -> Option<&QuiescedForRollback> {
        match &self.state {
            State::AwaitingRollbackSnapshot(quiesced) => Some(quiesced),
            _ => None,
        }
    }

    pub fn set_state(&mut self, state: State) {
        self.state = state;
    }

    /// Nothing is to be done for it any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finished | State::RolledBack)
    }

    /// Somebody has to go on with it, or back.
    pub fn is_under_way(&self) -> bool {
        !self.is_over() && !matches!(self.state, State::Committed | State::Finishing)
    }

    /// Writes down that it comes to its end now.
    pub fn set_ended(&mut self, now: Moment) {
        self.ended_unix_ms = now.unix_ms;
        self.ended_uptime_ms = now.uptime_ms;
    }

    /// How long ago the first container was told to stop, by the wall clock.
    pub fn since_stop_ms(&self) -> u64 {
        self.stopped_unix_ms.map(since).unwrap_or_default()
    }

    /// How long it has been at its end, by both clocks.
    pub fn since_end(&self, now: Moment) -> Duration {
        let ended = Moment { unix_ms: self.ended_unix_ms, uptime_ms: self.ended_uptime_ms };
        ended.elapsed(now)
    }

    /// Whether what a rollback needs has been kept for as long as was asked.
    pub fn is_grace_over(&self, now: Moment) -> bool {
        // By both clocks: a wall clock that is set forward must not end the grace period.
        self.grace_until_unix_ms <= now.unix_ms
            && self.since_end(now) >= Duration::from_secs(self.options.grace_seconds.into())
    }

    /// It went back with a new container asked for and never heard of: the
    /// Engine may make it yet.
    pub fn has_unanswered_creations(&self) -> bool {
        self.state == State::RolledBack && self.members.iter().any(Member::is_creation_unanswered)
    }

    /// Whether it waits, everything quiesced, for a job to have its snapshots:
    /// its own, or a rollback that means this very stop.
    pub fn waits_for(&self, job: JobId, until_unix_ms: i64) -> bool {
        match &self.state {
            State::Stopped => self.job == job,
            State::AwaitingRollbackSnapshot(quiesced) => {
                quiesced.rollback == job && quiesced.until_unix_ms == Some(until_unix_ms)
            }
            _ => false,
        }
    }

    /// A helper has it, or had it until it was over.
    pub fn is_handed_over(&self) -> bool {
        self.helper.as_ref().is_some_and(|helper| helper.handed_over_unix_ms.is_some())
    }

    /// The container that is upgraded.
    pub fn target(&self) -> &Member {
        self.members.last().expect("an upgrade has its container among its members")
    }

    /// What the container is called that is kept of an old one.
    pub fn kept_name<'a>(&self, recreation: &'a Recreation) -> &'a str {
        match &recreation.stand_in {
            Some(stand_in) if self.stand_ins == StandIns::Compared => &stand_in.name,
            _ => &recreation.aside_name,
        }
    }

    /// Whether the new container may have written to the data.
    pub fn was_started(&self) -> bool {
        self.members
            .iter()
            .filter_map(|member| member.recreation.as_ref())
            .any(|recreation| recreation.started)
    }

    pub fn add_step(&mut self, text: impl Into<String>) -> Step {
        let step = Step { phase: self.phase(), text: text.into(), unix_ms: now_unix_ms() };
        self.steps.push(step.clone());
        step
    }
}

#[cfg(test)]
mod tests;
