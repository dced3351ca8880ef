//! What is known of one upgrade, on disk before it is acted on.
//!
//! A record says all that has to be undone on the host while a container is
//! replaced: which containers are quiesced and which restart policy they had,
//! under which names old and new are found, where the clone of the data lies
//! and which of the two trees is the original. Each state is written and synced
//! before the first act that belongs to it, so whoever reads the record after a
//! crash may find less done than it says, never more.
//!
//! One file an upgrade, replaced by a rename; it holds the container's
//! environment and is readable by root alone.

mod state;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_proto::ErrorCode;
use holdfast_proto::ids::JobId;
use holdfast_proto::v1;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clocks::{Moment, now_unix_ms};
use crate::clone::Identity;
use crate::spec::Spec;

pub use self::state::{SourceKind, State};

/// Upgrades that are over and are still listed.
const KEPT: usize = 100;

/// One upgrade.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
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
    /// When the first container was told to stop; 0: none was.
    pub stopped_unix_ms: i64,
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
    /// The data goes back whether the agent started the new container or not.
    #[serde(default)]
    pub put_back: bool,
    /// It has gone back: nothing of it is touched any more.
    #[serde(default)]
    pub data_is_back: bool,
    /// What a rollback needs is being removed: there is no way back from here.
    #[serde(default)]
    pub is_finishing: bool,
    /// Of an upgrade of the agent's own container.
    #[serde(default)]
    pub helper: Option<Helper>,
    /// What is stopped for a rollback that has not begun to put anything back.
    #[serde(default)]
    pub quiesced: Option<QuiescedForRollback>,
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

/// Quiesced containers for a rollback, in the order they stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QuiescedForRollback {
    /// The job that asked for it.
    pub rollback: JobId,
    /// When it goes back by itself, which tells one stop from the next; 0: not
    /// everything is quiesced yet.
    #[serde(default)]
    pub until_unix_ms: i64,
    pub containers: Vec<QuiescedMember>,
}

/// As a container was before it was quiesced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QuiescedMember {
    pub id: String,
    pub name: String,
    pub was_running: bool,
    pub restart_policy: Value,
}

/// The container that goes on where the agent cannot, being stopped itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Helper {
    pub name: String,
    /// That of the agent which makes it, whose program it runs.
    pub image_id: String,
    pub command: Vec<String>,
    /// From then on it alone goes on; 0: it is not there yet.
    pub handed_over_unix_ms: i64,
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
pub const NEW_INFIX: &str = ".holdfast-new-";

/// The same for the old container once it has given up the name.
pub const OLD_INFIX: &str = ".holdfast-old-";

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
    /// "reflink" or "copy".
    pub means: String,
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    pub health_timeout_seconds: u32,
    pub steady_seconds: u32,
    pub grace_seconds: u32,
    pub stopped_seconds: u32,
    pub probe: Option<Probe>,
    pub allow_loss: Vec<String>,
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
    pub state: State,
    pub text: String,
    pub unix_ms: i64,
}

#[derive(Debug, thiserror::Error)]
#[error("the record of an upgrade cannot be {action} at {}", .path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The records of one state directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
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
            stopped_unix_ms: 0,
            ended_unix_ms: 0,
            ended_uptime_ms: 0,
            grace_until_unix_ms: 0,
            downtime_ms: 0,
            error_code: String::new(),
            error: String::new(),
            steps: Vec::new(),
            put_back: false,
            data_is_back: false,
            is_finishing: false,
            helper: None,
            quiesced: None,
            stand_ins: StandIns::None,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn set_state(&mut self, state: State) {
        self.state = state;
    }

    /// Nothing is to be done for it any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state(), State::Finished | State::RolledBack)
    }

    /// Somebody has to go on with it, or back.
    pub fn is_under_way(&self) -> bool {
        !self.is_over() && self.state() != State::Committed
    }

    /// Writes down that it comes to its end now.
    pub fn set_ended(&mut self, now: Moment) {
        self.ended_unix_ms = now.unix_ms;
        self.ended_uptime_ms = now.uptime_ms;
    }

    /// How long it has been at its end, by both clocks.
    pub fn since_end(&self, now: Moment) -> Duration {
        let ended = Moment { unix_ms: self.ended_unix_ms, uptime_ms: self.ended_uptime_ms };
        ended.elapsed(now)
    }

    /// Whether what a rollback needs has been kept for as long as was asked.
    pub fn is_grace_over(&self, now: Moment) -> bool {
        self.grace_until_unix_ms <= now.unix_ms
            && self.since_end(now) >= Duration::from_secs(self.options.grace_seconds.into())
    }

    /// It went back with a new container asked for and never heard of: the
    /// Engine may make it yet.
    pub fn has_unanswered_creations(&self) -> bool {
        self.state() == State::RolledBack && self.members.iter().any(Member::is_creation_unanswered)
    }

    /// Whether it waits, everything quiesced, for a job to have its snapshots:
    /// its own, or a rollback that means this very stop.
    pub fn waits_for(&self, job: JobId, until_unix_ms: i64) -> bool {
        match self.state() {
            State::Stopped => self.job == job,
            State::AwaitingRollbackSnapshot => self.quiesced.as_ref().is_some_and(|quiesced| {
                quiesced.rollback == job && until_unix_ms != 0 && quiesced.until_unix_ms == until_unix_ms
            }),
            _ => false,
        }
    }

    /// A helper has it, or had it until it was over.
    pub fn is_handed_over(&self) -> bool {
        self.helper.as_ref().is_some_and(|helper| helper.handed_over_unix_ms > 0)
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
        let step = Step { state: self.state, text: text.into(), unix_ms: now_unix_ms() };
        self.steps.push(step.clone());
        step
    }

    pub fn wire(&self) -> v1::Upgrade {
        let target = self.target();
        let recreation = target.recreation.as_ref();
        let kept =
            matches!(self.state(), State::Committed | State::Committing | State::AwaitingRollbackSnapshot);
        v1::Upgrade {
            job_id: self.job.to_string(),
            state: v1::UpgradeState::from(self.state).into(),
            container_name: target.name.clone(),
            from_image: self.from_image.clone(),
            from_image_id: self.from_image_id.clone(),
            to_image: self.to_image.clone(),
            to_image_id: self.to_image_id.clone(),
            old_container_id: target.id.clone(),
            old_container_name: match recreation {
                Some(recreation) if kept => self.kept_name(recreation).to_owned(),
                _ => String::new(),
            },
            new_container_id: recreation.map(|recreation| recreation.new_id.clone()).unwrap_or_default(),
            started_unix_ms: self.started_unix_ms,
            ended_unix_ms: self.ended_unix_ms,
            grace_until_unix_ms: self.grace_until_unix_ms,
            downtime_ms: self.downtime_ms,
            sources: self.sources.iter().map(Source::wire).collect(),
            error_code: self.error_code.clone(),
            error: self.error.clone(),
            steps: self.steps.iter().map(Step::wire).collect(),
        }
    }
}

impl Source {
    pub fn wire(&self) -> v1::UpgradeSource {
        v1::UpgradeSource {
            kind: v1::SourceKind::from(self.kind).into(),
            name: self.name.clone(),
            target: self.target.clone(),
            size_bytes: self.size_bytes,
            clone: self.means.clone(),
            free_bytes: 0,
        }
    }
}

impl Step {
    pub fn wire(&self) -> v1::UpgradeStep {
        v1::UpgradeStep {
            state: v1::UpgradeState::from(self.state).into(),
            text: self.text.clone(),
            unix_ms: self.unix_ms,
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens the records below `state_dir`, made if there are none.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let dir = state_dir.join("upgrades");
        let made = fs::create_dir_all(&dir).and_then(|()| File::open(state_dir)?.sync_all());
        made.map_err(|source| StoreError { action: "made", path: dir.clone(), source })?;
        Ok(Self { dir })
    }

    /// Returns once the record is on disk. Blocks on the disk; on an error
    /// what it announces must not be done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.path(record.job);
        let temporary = path.with_extension("new");
        let bytes = serde_json::to_vec(record).expect("a record has only strings, numbers and maps of them");
        let put = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        put().map_err(|source| StoreError { action: "written", path: path.clone(), source })
    }

    /// One record as it is on disk now. Blocks on the disk.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn read(&self, job: JobId) -> Result<Record, StoreError> {
        let path = self.path(job);
        let read = || Ok(serde_json::from_slice(&fs::read(&path)?)?);
        read().map_err(|source| StoreError { action: "read", path: path.clone(), source })
    }

    /// Takes the one lock under which a helper works; none while another
    /// process has it. The kernel drops it with its holder.
    ///
    /// # Errors
    /// When there can be no lock.
    pub fn lock(&self, job: JobId) -> Result<Option<File>, StoreError> {
        let path = self.lock_path(job);
        let take = || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(file)),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        take().map_err(|source| StoreError { action: "locked", path: path.clone(), source })
    }

    /// Removes the lock of an upgrade that has no helper any more.
    pub fn forget_lock(&self, job: JobId) {
        // An empty file that stays does no harm.
        drop(fs::remove_file(self.lock_path(job)));
    }

    /// Every record that can be read, oldest first. One that cannot be is of a
    /// newer agent or damaged: it is left where it is, and said.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn load(&self) -> Result<BTreeMap<JobId, Record>, StoreError> {
        let failed = |source| StoreError { action: "listed", path: self.dir.clone(), source };
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = fs::read(&path).map_err(|source| StoreError {
                action: "read",
                path: path.clone(),
                source,
            })?;
            match serde_json::from_slice::<Record>(&read) {
                Ok(record) if !record.members.is_empty() => {
                    records.insert(record.job, record);
                }
                Ok(_) => {
                    tracing::error!(path = %path.display(), "the record of an upgrade names no container")
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of an upgrade cannot be read");
                }
            }
        }
        Ok(records)
    }

    /// Removes the oldest records of upgrades that are over, but for the last
    /// hundred; gives the ids of those that went.
    pub fn forget_old(&self, records: &BTreeMap<JobId, Record>) -> Vec<JobId> {
        let over: Vec<JobId> =
            records.values().filter(|record| record.is_over()).map(|record| record.job).collect();
        let gone: Vec<JobId> = over[..over.len().saturating_sub(KEPT)].to_vec();
        for job in &gone {
            // One that stays is tried again the next time.
            drop(fs::remove_file(self.path(*job)));
        }
        gone
    }

    fn lock_path(&self, job: JobId) -> PathBuf {
        self.path(job).with_extension("lock")
    }

    fn path(&self, job: JobId) -> PathBuf {
        self.dir.join(format!("{job}.json"))
    }
}
