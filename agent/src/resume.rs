//! Pays what the journal says is owed: starts, unpauses, removes.
//!
//! Debts come from an earlier agent that died, or from a job that could not
//! pay at once (the Engine restarts, say). Either way they are paid here, over
//! and over until they are paid or void, so paying must be idempotent.
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
use crate::journal::{ContainerDebt, Debt, DebtId, Journal, JournalError};

pub use self::act::{Act, Outcome};

/// Label of a volume a restore made; its value is the job's id.
pub const RESTORE_LABEL: &str = "holdfast.restore";

/// What the names of directories that a restore fills begin with.
pub const RESTORE_DIRECTORY: &str = ".holdfast-restore-";

/// Why a half-restored volume stays.
const IN_USE: &str =
    "a container uses the half-restored volume, or its directory, by now; it is left to its user";

const POLL: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Pays debts; cheap to clone. One [`Payer::run`] per process.
#[derive(Debug, Clone)]
pub struct Payer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Arc<Journal>,
    engine: Engine,
    /// For volumes that are reached only while they are held.
    holders: Holders,
    due: Mutex<BTreeMap<DebtId, Due>>,
    left: watch::Sender<usize>,
    nudge: Notify,
}

#[derive(Debug, Clone)]
struct Due {
    debt: Debt,
    act: Act,
    failures: u32,
    not_before: Instant,
}

/// What became of one attempt to pay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payment {
    Paid,
    /// Nothing is to be done, and why. A container of which this is said runs.
    Void(&'static str),
    /// A container that does not run and is not for us to start or unpause, and why.
    Left(&'static str),
    /// The act may still be under way; ask again.
    NotYet,
}

/// A debt that could not be paid so far.
#[derive(Debug, thiserror::Error)]
pub enum PayError {
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

impl Payer {
    /// Takes on everything the journal lists, for this agent.
    pub fn new(journal: Arc<Journal>, engine: Engine, instance: InstanceId) -> Self {
        let now = Instant::now();
        let due: BTreeMap<_, _> =
            journal.debts().into_iter().map(|(id, debt)| (id, Due::new(debt, now, Act::begin()))).collect();
        let (left, _) = watch::channel(at_rest(&due));
        let holders = Holders::new(engine.clone(), journal.clone(), instance);
        let due = Mutex::new(due);
        Self { inner: Arc::new(Inner { journal, engine, holders, due, left, nudge: Notify::new() }) }
    }

    pub fn journal(&self) -> &Arc<Journal> {
        &self.inner.journal
    }

    /// Debts nobody else will pay. Does not block, so that it can be called
    /// while a panic unwinds.
    pub fn hand_over(&self, debts: impl IntoIterator<Item = (DebtId, Debt, Act)>) {
        let now = Instant::now();
        let mut due = self.due();
        due.extend(debts.into_iter().map(|(id, debt, act)| (id, Due::new(debt, now, act))));
        self.inner.left.send_replace(at_rest(&due));
        drop(due);
        self.inner.nudge.notify_one();
    }

    /// Pays as debts come in, for ever.
    pub async fn run(self) {
        loop {
            match self.round().await {
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

    /// Pays everything due, trying for at most `within`; says what is left.
    pub async fn pay_all(&self, within: Duration) -> Vec<Debt> {
        let deadline = Instant::now() + within;
        while let Some(next) = self.round().await {
            if next > deadline {
                break;
            }
            tokio::time::sleep_until(next).await;
        }
        self.due().values().map(|due| due.debt.clone()).collect()
    }

    /// Waits until no container is left at rest that nobody holds there any
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
        self.due().values().any(|due| match &due.debt {
            Debt::RemoveVolume { job, .. } | Debt::RemoveDirectory { job, .. } => *job == wanted,
            Debt::RemoveContainer { .. } | Debt::Start(_) | Debt::Unpause(_) => false,
        })
    }

    fn open_for(&self) -> Duration {
        let due = self.due();
        let at_rest = due.values().filter(|due| is_at_rest(&due.debt));
        at_rest.map(|due| due.act.open_for(&due.debt)).max().unwrap_or_default()
    }

    /// Whether a container that this job or an earlier one brought to rest is
    /// still to be resumed.
    pub fn is_to_resume(&self, container: &str) -> bool {
        self.due().values().any(|due| match &due.debt {
            Debt::Start(debt) | Debt::Unpause(debt) => debt.container == container,
            _ => false,
        })
    }

    /// Replaces what is known of an entry, in the journal and here; nothing
    /// where it was settled meanwhile.
    ///
    /// # Errors
    /// The disk keeps what it had.
    pub async fn amend(&self, id: DebtId, debt: Debt) -> Result<(), JournalError> {
        if let Some(due) = self.due().get_mut(&id) {
            due.debt = debt.clone();
        }
        let journal = self.inner.journal.clone();
        blocking(move || journal.amend(id, debt)).await
    }

    /// Tries every debt whose time has come: containers at rest before what is
    /// to be removed, which may take long; and latest first, because what was
    /// stopped last is started first. Returns when to come back; none if
    /// nothing is left.
    async fn round(&self) -> Option<Instant> {
        let mut pending: Vec<(DebtId, Due)> =
            self.due().iter().rev().map(|(id, due)| (*id, due.clone())).collect();
        pending.sort_by_key(|(_, due)| !is_at_rest(&due.debt));
        for (id, due) in pending {
            if due.not_before > Instant::now() {
                continue;
            }
            match self.pay(id, &due.debt, due.act.outcome(&due.debt)).await {
                Ok(Payment::NotYet) => self.postpone(id, POLL, 0),
                Ok(payment) => {
                    report(&due.debt, &payment);
                    let mut map = self.due();
                    map.remove(&id);
                    self.inner.left.send_replace(at_rest(&map));
                }
                Err(error) => {
                    let pause = POLL.saturating_mul(1 << due.failures.min(9)).min(LONGEST_PAUSE);
                    tracing::error!(debt = %describe(&due.debt), %error, retry_in = ?pause, "debt could not be paid");
                    self.postpone(id, pause, 1);
                }
            }
        }
        self.due().values().map(|due| due.not_before).min()
    }

    fn postpone(&self, id: DebtId, pause: Duration, failures: u32) {
        if let Some(due) = self.due().get_mut(&id) {
            due.not_before = Instant::now() + pause;
            due.failures += failures;
        }
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<DebtId, Due>> {
        self.inner.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt to pay one debt, and its removal from the journal.
    ///
    /// # Errors
    /// The debt stays on disk.
    pub async fn pay(&self, id: DebtId, debt: &Debt, outcome: Outcome) -> Result<Payment, PayError> {
        let payment = self.perform(debt, outcome).await?;
        if payment != Payment::NotYet {
            let journal = self.inner.journal.clone();
            blocking(move || journal.settle(id)).await?;
        }
        Ok(payment)
    }

    async fn perform(&self, debt: &Debt, outcome: Outcome) -> Result<Payment, PayError> {
        match debt {
            Debt::Start(container) => self.restart(container, outcome).await,
            Debt::Unpause(container) => self.unpause(container, outcome).await,
            Debt::RemoveContainer { name } => {
                self.inner.engine.remove_container(name).await?;
                Ok(Payment::Paid)
            }
            Debt::RemoveVolume { job, name, seen_empty } => {
                self.remove_volume(&job.to_string(), name, *seen_empty).await
            }
            Debt::RemoveDirectory { job: _, path } => {
                let path = path.clone();
                blocking(move || remove_directory(&path)).await
            }
        }
    }

    async fn restart(&self, debt: &ContainerDebt, outcome: Outcome) -> Result<Payment, PayError> {
        let seen = self.look(debt).await?;
        let payment = judge::stopped(debt, seen.as_ref(), outcome);
        if payment == Payment::Paid {
            failpoint("agent.resume.before");
            self.inner.engine.start_container(&debt.container).await?;
            failpoint("agent.resume.after");
        }
        Ok(payment)
    }

    async fn unpause(&self, debt: &ContainerDebt, outcome: Outcome) -> Result<Payment, PayError> {
        let seen = self.look(debt).await?;
        let payment = judge::paused(debt, seen.as_ref(), outcome);
        if payment == Payment::Paid {
            failpoint("agent.resume.before");
            self.inner.engine.unpause_container(&debt.container).await?;
            failpoint("agent.resume.after");
        }
        Ok(payment)
    }

    async fn look(&self, debt: &ContainerDebt) -> Result<Option<Container>, EngineError> {
        match self.inner.engine.inspect_container(&debt.container).await {
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
    ) -> Result<Payment, PayError> {
        let Ok(name) = name.parse::<VolumeName>() else {
            return Ok(Payment::Void("no volume can have that name"));
        };
        let engine = &self.inner.engine;
        let volume = match engine.inspect_volume(&name).await {
            Ok(volume) => volume,
            Err(error) if error.is_not_found() => return Ok(Payment::Void("it is not there")),
            Err(error) => return Err(error.into()),
        };
        if volume.labels.get(RESTORE_LABEL).map(String::as_str) != Some(job) {
            return Ok(Payment::Void("it is not the volume the restore made"));
        }
        if !engine.volume_users(&name).await?.is_empty() {
            return Ok(Payment::Void(IN_USE));
        }
        if let Some(inode) = seen_empty {
            let emptied = empty::empty(engine, &self.inner.holders, &name, inode).await;
            match emptied.map_err(|source| PayError::Empty { volume: name.clone(), source })? {
                empty::Emptied::Done => failpoint("agent.restore.emptied"),
                empty::Emptied::InUse => return Ok(Payment::Void(IN_USE)),
                empty::Emptied::AnotherRoot => tracing::warn!(
                    volume.name = %name,
                    "the half-restored volume leads to another directory by now, which is left as it is"
                ),
            }
        }
        match engine.remove_volume(&name).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Payment::Paid),
        }
    }
}

impl Due {
    fn new(debt: Debt, now: Instant, act: Act) -> Self {
        Self { debt, act, failures: 0, not_before: now }
    }
}

fn at_rest(due: &BTreeMap<DebtId, Due>) -> usize {
    due.values().filter(|due| is_at_rest(&due.debt)).count()
}

fn is_at_rest(debt: &Debt) -> bool {
    matches!(debt, Debt::Start(_) | Debt::Unpause(_))
}

/// What lies above it was no link when it was written down, and is none to be
/// followed now: somebody else may have put one there.
fn remove_directory(path: &Path) -> Result<Payment, PayError> {
    let name = path.file_name().filter(|name| name.as_bytes().starts_with(RESTORE_DIRECTORY.as_bytes()));
    let (Some(parent), Some(Ok(name))) = (path.parent(), name.map(|name| CString::new(name.as_bytes())))
    else {
        return Ok(Payment::Void("it is not a directory a restore makes"));
    };
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
                std::io::ErrorKind::NotFound => Ok(Payment::Void("it is not there")),
                _ if is_replaced(&error) => Ok(Payment::Void("something else is in its place by now")),
                _ => Err(PayError::Remove { what: path.display().to_string(), source: error }),
            };
        }
    };
    let failed = |source| PayError::Remove { what: path.display().to_string(), source };
    remove_contents(root.as_fd(), path).map_err(|error| failed(std::io::Error::other(error)))?;
    rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(|error| failed(error.into()))?;
    Ok(Payment::Paid)
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

fn report(debt: &Debt, payment: &Payment) {
    match payment {
        Payment::Paid => tracing::info!(debt = %describe(debt), "debt is paid"),
        Payment::Void(reason) => tracing::info!(debt = %describe(debt), reason, "debt is void"),
        Payment::Left(reason) => {
            tracing::warn!(debt = %describe(debt), reason, "a container that a job brought to rest does not run");
        }
        Payment::NotYet => {}
    }
}

/// The debt in words, for logs and for `resume`.
pub fn describe(debt: &Debt) -> String {
    match debt {
        Debt::Start(container) => format!("start container `{}`", container.name),
        Debt::Unpause(container) => format!("unpause container `{}`", container.name),
        Debt::RemoveContainer { name } => format!("remove container `{name}`"),
        Debt::RemoveVolume { name, .. } => format!("remove the half-restored volume `{name}`"),
        Debt::RemoveDirectory { path, .. } => {
            format!("remove the half-restored directory {}", path.display())
        }
    }
}
