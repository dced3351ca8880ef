//! The recovery worker: carries out the cleanup actions of the journal.
//!
//! CleanupActions come from an earlier agent that died, or from a job that could not
//! carry them out at once (the Engine restarts, say). Either way they are tried here
//! until they are done or have nothing to do, so each must be idempotent.
//!
//! A container is touched only while what it does is the agent's doing; how that
//! is told is in [`judge`]. One that was removed, or ended while paused, is not
//! brought back, and that is said: it is not called resumed. A container that
//! still runs may be about to stop, because the Engine carries on with a stop
//! whose caller died; so for as long as that stop may take, "it runs" is no
//! answer.

mod act;
mod empty;
mod judge;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_archive::backoff::Backoff;
use holdfast_archive::fs::parts::{Mounts, directory};
use holdfast_proto::ids::{InstanceId, JobId};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::clone::remove_contents;
use crate::engine::{Container, Engine, EngineError, VolumeName};
use crate::failpoint::failpoint;
use crate::holder::Holders;
use crate::journal::{ActionId, CleanupAction, Journal, JournalError, QuiescedContainer};

pub(crate) use self::act::{Act, Outcome};

/// Label of a volume a restore made; its value is the job's id.
pub(crate) const RESTORE_LABEL: &str = "holdfast.restore";

/// What the names of directories that a restore fills begin with.
pub(crate) const RESTORE_DIRECTORY: &str = ".holdfast-restore-";

/// Why a half-restored volume stays.
const IN_USE: &str =
    "a container uses the half-restored volume, or its directory, by now; it is left to its user";

const POLL: Duration = Duration::from_millis(250);
const PAUSES: Backoff = Backoff::new(POLL, Duration::from_secs(60));

/// Carries out cleanup actions; cheap to clone. One [`RecoveryWorker::run`] per process.
#[derive(Debug, Clone)]
pub struct RecoveryWorker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Arc<Journal>,
    engine: Engine,
    /// For volumes that are reached only while they are held.
    holders: Holders,
    due: Mutex<BTreeMap<ActionId, Due>>,
    left: watch::Sender<usize>,
    nudge: Notify,
}

#[derive(Debug, Clone)]
struct Due {
    action: CleanupAction,
    act: Act,
    failures: u32,
    not_before: Instant,
}

/// What became of one attempt to carry out an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    Done,
    /// Nothing is to be done, and why. A container of which this is said runs.
    Void(&'static str),
    /// A container that does not run and is not for us to start or unpause, and why.
    Left(&'static str),
    /// The act may still be under way; ask again.
    NotYet,
}

/// Why an action could not be carried out so far.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("{what} cannot be removed: {source}")]
    Remove {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("what a restore wrote into volume `{volume}` cannot be removed: {source}")]
    Empty {
        volume: VolumeName,
        #[source]
        source: empty::EmptyError,
    },
}

impl RecoveryWorker {
    /// Takes on everything the journal lists, for this agent.
    pub fn new(journal: Arc<Journal>, engine: Engine, instance: InstanceId) -> Self {
        let now = Instant::now();
        let due: BTreeMap<_, _> = journal
            .actions()
            .into_iter()
            .map(|(id, action)| (id, Due::new(action, now, Act::begin())))
            .collect();
        let (left, _) = watch::channel(count_containers(&due));
        let holders = Holders::new(engine.clone(), journal.clone(), instance);
        let due = Mutex::new(due);
        Self { inner: Arc::new(Inner { journal, engine, holders, due, left, nudge: Notify::new() }) }
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.inner.journal
    }

    /// Takes over actions that nobody else will carry out. Does not block, so that it can be called
    /// while a panic unwinds.
    pub fn hand_over(&self, actions: impl IntoIterator<Item = (ActionId, CleanupAction, Act)>) {
        let now = Instant::now();
        let mut due = self.due();
        // Under the lock, and before the nudge: whoever counts what is left must not
        // see the list without these.
        due.extend(actions.into_iter().map(|(id, action, act)| (id, Due::new(action, now, act))));
        self.inner.left.send_replace(count_containers(&due));
        drop(due);
        self.inner.nudge.notify_one();
    }

    /// Carries out actions as they come in, for ever.
    pub async fn run(self) {
        loop {
            match self.round().await {
                // An action handed over while the round ran is not missed: the nudge
                // keeps one permit until somebody waits.
                Some(next) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(next) => {}
                        () = self.inner.nudge.notified() => {}
                    }
                }
                None => self.inner.nudge.notified().await,
            }
        }
    }

    /// Everything that is still to be done.
    pub fn listed(&self) -> Vec<CleanupAction> {
        self.due().values().map(|due| due.action.clone()).collect()
    }

    /// Carries out everything due, trying for at most `within`; returns what is left.
    pub async fn carry_out_all(&self, within: Duration) -> Vec<CleanupAction> {
        let deadline = Instant::now() + within;
        while let Some(next) = self.round().await {
            if next > deadline {
                break;
            }
            tokio::time::sleep_until(next).await;
        }
        self.listed()
    }

    /// Waits until no container is left quiesced that nobody holds there any
    /// more. False if that takes longer than `within`, after every pause and
    /// stop of a job that died can have taken effect.
    pub async fn resumed(&self, within: Duration) -> bool {
        let within = within + self.open_for();
        let mut left = self.inner.left.subscribe();
        tokio::time::timeout(within, left.wait_for(|left| *left == 0)).await.is_ok()
    }

    /// Waits until nothing half made by an earlier attempt of this job is left
    /// to remove. What such an attempt made, or meant to make, has the name and
    /// the label of what the next one makes: made before, that would be removed
    /// in its place. False if it takes longer than `within`.
    pub async fn removed(&self, job: JobId, within: Duration) -> bool {
        let mut left = self.inner.left.subscribe();
        let wait = async {
            // Every change of the list is told, after it was made.
            while self.removes_for(job) && left.changed().await.is_ok() {}
        };
        tokio::time::timeout(within, wait).await.is_ok()
    }

    fn removes_for(&self, wanted: JobId) -> bool {
        self.due().values().any(|due| match &due.action {
            CleanupAction::RemoveVolume { job, .. } | CleanupAction::RemoveDirectory { job, .. } => {
                *job == wanted
            }
            CleanupAction::RemoveContainer { .. } | CleanupAction::Start(_) | CleanupAction::Unpause(_) => {
                false
            }
        })
    }

    fn open_for(&self) -> Duration {
        let due = self.due();
        let containers = due.values().filter(|due| is_of_container(&due.action));
        containers.map(|due| due.act.open_for(&due.action)).max().unwrap_or_default()
    }

    /// Whether a container that this job or an earlier one quiesced is
    /// still to be resumed.
    pub fn is_to_resume(&self, container: &str) -> bool {
        self.due().values().any(|due| match &due.action {
            CleanupAction::Start(quiesced) | CleanupAction::Unpause(quiesced) => {
                quiesced.container == container
            }
            _ => false,
        })
    }

    /// Replaces what is known of an entry, in the journal and here; nothing
    /// where it was completed meanwhile.
    ///
    /// # Errors
    /// The disk keeps what it had.
    pub async fn amend(&self, id: ActionId, action: CleanupAction) -> Result<(), JournalError> {
        // Here first: a round that begins now must not act on what is known to be old.
        if let Some(due) = self.due().get_mut(&id) {
            due.action = action.clone();
        }
        let journal = self.inner.journal.clone();
        blocking(move || journal.amend(id, action)).await
    }

    /// Tries every action whose time has come: quiesced containers before what is
    /// to be removed, which may take long; and latest first, because what was
    /// stopped last is started first. Returns when to come back; none if
    /// nothing is left.
    async fn round(&self) -> Option<Instant> {
        let mut pending: Vec<(ActionId, Due)> =
            self.due().iter().rev().map(|(id, due)| (*id, due.clone())).collect();
        // The lock is not held over what follows: jobs hand over and amend meanwhile.
        pending.sort_by_key(|(_, due)| !is_of_container(&due.action));
        for (id, due) in pending {
            if due.not_before > Instant::now() {
                continue;
            }
            match self.carry_out(id, &due.action, due.act.outcome(&due.action)).await {
                Ok(Attempt::NotYet) => self.postpone(id, POLL, 0),
                Ok(attempt) => {
                    report(&due.action, &attempt);
                    // The journal has forgotten it by now. The other way round, an agent
                    // that dies in between would never come back to it.
                    let mut map = self.due();
                    map.remove(&id);
                    self.inner.left.send_replace(count_containers(&map));
                }
                Err(error) => {
                    // It never gives up: a container that stays paused is an outage, and the
                    // Engine may be down for hours.
                    let pause = PAUSES.pause(due.failures + 1);
                    tracing::error!(action = %describe(&due.action), %error, retry_in = ?pause, "cleanup failed and will be tried again");
                    self.postpone(id, pause, 1);
                }
            }
        }
        self.due().values().map(|due| due.not_before).min()
    }

    fn postpone(&self, id: ActionId, pause: Duration, failures: u32) {
        if let Some(due) = self.due().get_mut(&id) {
            due.not_before = Instant::now() + pause;
            due.failures += failures;
        }
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<ActionId, Due>> {
        self.inner.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt to carry out one action, and its removal from the journal.
    ///
    /// # Errors
    /// The action stays on disk.
    pub async fn carry_out(
        &self,
        id: ActionId,
        action: &CleanupAction,
        outcome: Outcome,
    ) -> Result<Attempt, CleanupError> {
        // First the act, then the entry: cut off in between, it is carried out once
        // more, and each of them may be.
        let attempt = self.perform(action, outcome).await?;
        if attempt != Attempt::NotYet {
            let journal = self.inner.journal.clone();
            blocking(move || journal.complete(id)).await?;
        }
        Ok(attempt)
    }

    async fn perform(&self, action: &CleanupAction, outcome: Outcome) -> Result<Attempt, CleanupError> {
        match action {
            CleanupAction::Start(container) => self.restart(container, outcome).await,
            CleanupAction::Unpause(container) => self.unpause(container, outcome).await,
            CleanupAction::RemoveContainer { name } => {
                self.inner.engine.remove_container(name).await?;
                Ok(Attempt::Done)
            }
            CleanupAction::RemoveVolume { job, name, seen_empty } => {
                self.remove_volume(&job.to_string(), name, *seen_empty).await
            }
            CleanupAction::RemoveDirectory { job: _, path } => {
                let path = path.clone();
                blocking(move || remove_directory(&path)).await
            }
        }
    }

    async fn restart(&self, quiesced: &QuiescedContainer, outcome: Outcome) -> Result<Attempt, CleanupError> {
        let seen = self.look(quiesced).await?;
        let attempt = judge::stopped(quiesced, seen.as_ref(), outcome);
        if attempt == Attempt::Done {
            failpoint("agent.resume.before");
            self.inner.engine.start_container(&quiesced.container).await?;
            failpoint("agent.resume.after");
        }
        Ok(attempt)
    }

    async fn unpause(&self, quiesced: &QuiescedContainer, outcome: Outcome) -> Result<Attempt, CleanupError> {
        let seen = self.look(quiesced).await?;
        let attempt = judge::paused(quiesced, seen.as_ref(), outcome);
        if attempt == Attempt::Done {
            failpoint("agent.resume.before");
            self.inner.engine.unpause_container(&quiesced.container).await?;
            failpoint("agent.resume.after");
        }
        Ok(attempt)
    }

    async fn look(&self, quiesced: &QuiescedContainer) -> Result<Option<Container>, EngineError> {
        match self.inner.engine.inspect_container(&quiesced.container).await {
            Ok(container) => Ok(Some(container)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Only a volume whose label names the job is one the job made. What the
    /// Engine would leave of its content goes first: once the volume is gone,
    /// nobody knows any more that it is half a restore.
    async fn remove_volume(
        &self,
        job: &str,
        name: &str,
        seen_empty: Option<u64>,
    ) -> Result<Attempt, CleanupError> {
        let Ok(name) = name.parse::<VolumeName>() else {
            return Ok(Attempt::Void("no volume can have that name"));
        };
        let engine = &self.inner.engine;
        let volume = match engine.inspect_volume(&name).await {
            Ok(volume) => volume,
            Err(error) if error.is_not_found() => return Ok(Attempt::Void("it is not there")),
            Err(error) => return Err(error.into()),
        };
        if volume.labels.get(RESTORE_LABEL).map(String::as_str) != Some(job) {
            return Ok(Attempt::Void("it is not the volume the restore made"));
        }
        // Somebody may have taken the half-restored volume for a whole one. The Engine
        // refuses to remove it then, but would not refuse to have it emptied.
        if !engine.volume_users(&name).await?.is_empty() {
            return Ok(Attempt::Void(IN_USE));
        }
        if let Some(inode) = seen_empty {
            let emptied = empty::empty(engine, &self.inner.holders, &name, inode).await;
            match emptied.map_err(|source| CleanupError::Empty { volume: name.clone(), source })? {
                empty::Emptied::Done => failpoint("agent.restore.emptied"),
                empty::Emptied::InUse => return Ok(Attempt::Void(IN_USE)),
                empty::Emptied::AnotherRoot => tracing::warn!(
                    volume.name = %name,
                    "the half-restored volume leads to another directory by now, which is left as it is"
                ),
            }
        }
        match engine.remove_volume(&name).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Attempt::Done),
        }
    }
}

impl Due {
    fn new(action: CleanupAction, now: Instant, act: Act) -> Self {
        Self { action, act, failures: 0, not_before: now }
    }
}

fn count_containers(due: &BTreeMap<ActionId, Due>) -> usize {
    due.values().filter(|due| is_of_container(&due.action)).count()
}

fn is_of_container(action: &CleanupAction) -> bool {
    matches!(action, CleanupAction::Start(_) | CleanupAction::Unpause(_))
}

/// What lies above it was no link when it was written down, and is none to be
/// followed now: somebody else may have put one there.
fn remove_directory(path: &Path) -> Result<Attempt, CleanupError> {
    let name = path.file_name().filter(|name| name.as_bytes().starts_with(RESTORE_DIRECTORY.as_bytes()));
    let (Some(parent), Some(Ok(name))) = (path.parent(), name.map(|name| CString::new(name.as_bytes())))
    else {
        return Ok(Attempt::Void("it is not a directory a restore makes"));
    };
    // Opened once, and all else done by its handle: the path may lead elsewhere a
    // moment later, and this runs as root.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let removed = rustix::fs::openat2(rustix::fs::CWD, parent, flags, Mode::empty(), no_links)
        .and_then(|parent| {
            let root = directory(parent.as_fd(), &name, Mounts::Stay)?;
            Ok((parent, root))
        })
        .map_err(std::io::Error::from);
    let (parent, root) = match removed {
        Ok(opened) => opened,
        Err(error) => {
            return match error.kind() {
                std::io::ErrorKind::NotFound => Ok(Attempt::Void("it is not there")),
                _ if is_replaced(&error) => Ok(Attempt::Void("something else is in its place by now")),
                _ => Err(CleanupError::Remove { what: path.display().to_string(), source: error }),
            };
        }
    };
    let failed = |source| CleanupError::Remove { what: path.display().to_string(), source };
    remove_contents(root.as_fd(), path).map_err(|error| failed(std::io::Error::other(error)))?;
    rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(|error| failed(error.into()))?;
    Ok(Attempt::Done)
}

/// Whether a link, or what is no directory, was met on the way.
fn is_replaced(error: &std::io::Error) -> bool {
    let met = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(met, Some(Errno::LOOP | Errno::NOTDIR))
}

/// Runs disk work where it may block.
pub(crate) async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime goes away, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

fn report(action: &CleanupAction, attempt: &Attempt) {
    match attempt {
        Attempt::Done => tracing::info!(action = %describe(action), "cleanup is done"),
        Attempt::Void(reason) => {
            tracing::info!(action = %describe(action), reason, "cleanup has nothing to do")
        }
        Attempt::Left(reason) => {
            tracing::warn!(action = %describe(action), reason, "a container that a job quiesced does not run");
        }
        Attempt::NotYet => {}
    }
}

/// The action in words, for logs and for `resume`.
pub(crate) fn describe(action: &CleanupAction) -> String {
    match action {
        CleanupAction::Start(container) => format!("start container `{}`", container.name),
        CleanupAction::Unpause(container) => format!("unpause container `{}`", container.name),
        CleanupAction::RemoveContainer { name } => format!("remove container `{name}`"),
        CleanupAction::RemoveVolume { name, .. } => format!("remove the half-restored volume `{name}`"),
        CleanupAction::RemoveDirectory { path, .. } => {
            format!("remove the half-restored directory {}", path.display())
        }
    }
}
