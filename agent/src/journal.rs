//! What has to be undone on the host: containers to start or unpause, helper
//! containers, half-restored volumes and directories to remove.
//!
//! A cleanup action is on disk *before* the act that it undoes begins, and is
//! removed *after* it was carried out. So after a crash at any point the journal
//! lists at least what has to be undone, and carrying an action out must be
//! idempotent; [`crate::resume`] does that.
//!
//! Each action is one small file, written as [`durable`] writes: it is there whole
//! or not at all, and removing one never rewrites another. Each file carries a checksum
//! all the same. One that does not match was never complete, so its act never
//! began; it is set aside, not obeyed. A whole record of a kind this version
//! does not know is kept for the version that does.
//!
//! One process at a time: the directory is locked while a journal is open.
//! The kernel drops the lock with its holder, so a killed agent leaves none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_proto::ids::JobId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;
use crate::failpoint::failpoint;

const MAGIC: &str = "holdfast-journal 1";

/// A container as it was when it was about to be paused or stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuiescedContainer {
    pub job: JobId,
    pub container: String,
    pub name: String,
    /// The Engine's text: right before the act, or right after it once the
    /// entry is confirmed.
    pub started_at: String,
    /// How long the Engine waits before it kills what it was told to stop.
    pub stop_timeout_seconds: u32,
    /// By this host's clock, right before the act; 0 in entries of agents that
    /// did not write it.
    #[serde(default)]
    pub written_unix_ms: i64,
    /// The Engine answered that it is done, and the container was inspected
    /// after that.
    #[serde(default)]
    pub confirmed: bool,
}

/// One thing that has to be undone on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum CleanupAction {
    Unpause(QuiescedContainer),
    Start(QuiescedContainer),
    /// A container of our own, by the name it was or will be created under.
    RemoveContainer {
        name: String,
    },
    /// A volume that a restore is filling. Removed only if its label names the job.
    RemoveVolume {
        job: JobId,
        name: String,
        /// Of a volume whose content the Engine does not remove with it: the
        /// inode number of its root directory, which was seen to be empty.
        /// Written before the first byte below it, so what is found there
        /// later is the restore's. None: nothing was written yet, or the
        /// Engine removes the content.
        #[serde(default)]
        seen_empty: Option<u64>,
    },
    /// A directory that a restore is filling, beside its target.
    RemoveDirectory {
        job: JobId,
        path: PathBuf,
    },
}

/// Names an action within one journal; later actions have greater ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionId(u64);

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal in {} is in use: an agent runs on this state directory and carries out its cleanup", .dir.display())]
    Busy { dir: PathBuf },
    #[error("the journal cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The open journal of one state directory.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    _lock: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    actions: BTreeMap<ActionId, CleanupAction>,
    set_aside: Vec<PathBuf>,
}

impl Journal {
    /// Opens the journal below `state_dir`, made if it is not there. Waits up
    /// to `timeout` for another process that has it open.
    ///
    /// # Errors
    /// When another process keeps it open, or it cannot be made, read or synced.
    pub fn open(state_dir: &Path, timeout: Duration) -> Result<Self, JournalError> {
        let dir = state_dir.join("journal");
        fs::create_dir_all(&dir).map_err(|source| failed("create", &dir, source))?;
        // Or a crash could take the whole directory with what is recorded in it.
        sync_dir(state_dir)?;
        // Before it is read: another agent may be recording or completing.
        let lock = lock(&dir, timeout)?;
        let state = read(&dir)?;
        for path in &state.set_aside {
            tracing::warn!(path = %path.display(), "journal record was not complete and is set aside");
        }
        Ok(Self { dir, _lock: lock, state: Mutex::new(state) })
    }

    /// Whether an agent has ever kept one below this state directory.
    pub fn is_in(state_dir: &Path) -> bool {
        state_dir.join("journal").is_dir()
    }

    /// Returns once the action is on disk. Blocks on the disk; on an error
    /// nothing was recorded and the act must not be done.
    ///
    /// # Errors
    /// When the record cannot be written or synced.
    pub fn record(&self, action: CleanupAction) -> Result<ActionId, JournalError> {
        // Held over the write: ids are given in the order in which they are on disk.
        let mut state = self.lock_state();
        let id = ActionId(state.next);
        write(&self.dir, id, &action)?;
        state.next += 1;
        state.actions.insert(id, action);
        failpoint("agent.journal.after-write");
        Ok(id)
    }

    /// Replaces what is written of an action; one that was completed meanwhile stays
    /// completed. Blocks on the disk; on an error there is the old or the new
    /// record, whole.
    ///
    /// # Errors
    /// When the record cannot be written or synced.
    pub fn amend(&self, id: ActionId, action: CleanupAction) -> Result<(), JournalError> {
        let mut state = self.lock_state();
        let Some(known) = state.actions.get_mut(&id) else { return Ok(()) };
        put(&self.dir, id, &action)?;
        // Also where the sync fails: this is what the next read of the disk finds,
        // unless the host dies first.
        *known = action;
        sync_dir(&self.dir)
    }

    /// Removes an action that was carried out or has nothing to do any more. Blocks on the disk.
    ///
    /// # Errors
    /// When the record cannot be removed, or its removal cannot be synced.
    pub fn complete(&self, id: ActionId) -> Result<(), JournalError> {
        let mut state = self.lock_state();
        let path = self.dir.join(file_name(id));
        durable::remove_if_there(&path).map_err(|source| failed("remove", &path, source))?;
        // Known until that is on disk: an action that comes back after a crash is
        // carried out once more, which does no harm.
        sync_dir(&self.dir)?;
        state.actions.remove(&id);
        failpoint("agent.journal.after-remove");
        Ok(())
    }

    /// All actions, oldest first.
    pub fn actions(&self) -> Vec<(ActionId, CleanupAction)> {
        self.lock_state().actions.iter().map(|(id, action)| (*id, action.clone())).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.lock_state().actions.is_empty()
    }

    /// Files that held no complete record when the journal was opened.
    pub fn set_aside(&self) -> Vec<PathBuf> {
        self.lock_state().set_aside.clone()
    }

    fn lock_state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while it was held left the map at worst behind the disk.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether a process has the journal below `state_dir` open. Whoever opens one
/// meanwhile waits a moment longer.
///
/// # Errors
/// When the lock cannot be looked at.
pub(crate) fn is_held(state_dir: &Path) -> io::Result<bool> {
    durable::is_locked(&state_dir.join("journal").join("lock"))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { action, path: path.to_owned(), source }
}

fn lock(dir: &Path, timeout: Duration) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = durable::lock_file(&path).map_err(|source| failed("open", &path, source))?;
    let deadline = Instant::now() + timeout;
    while !durable::try_lock(&file).map_err(|source| failed("lock", &path, source))? {
        if Instant::now() >= deadline {
            return Err(JournalError::Busy { dir: dir.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(file)
}

fn file_name(id: ActionId) -> String {
    format!("{:016}.action", id.0)
}

fn id_of(name: &str) -> Option<ActionId> {
    name.strip_suffix(".action")?.parse().ok().map(ActionId).filter(|id| file_name(*id) == name)
}

fn encode(action: &CleanupAction) -> Vec<u8> {
    let body = serde_json::to_string(action).expect("an action has only strings and numbers");
    format!("{MAGIC} {}\n{body}\n", checksum(body.as_bytes())).into_bytes()
}

fn checksum(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

enum Record {
    Whole(CleanupAction),
    /// Whole, but of a kind this version does not know.
    Foreign,
    Incomplete,
}

fn decode(bytes: &[u8]) -> Record {
    let parse = || {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once('\n')?;
        let body = body.strip_suffix('\n')?;
        (head == format!("{MAGIC} {}", checksum(body.as_bytes()))).then_some(body)
    };
    match parse() {
        None => Record::Incomplete,
        Some(body) => serde_json::from_str(body).map_or(Record::Foreign, Record::Whole),
    }
}

/// A record that was not there before.
fn write(dir: &Path, id: ActionId, action: &CleanupAction) -> Result<(), JournalError> {
    put(dir, id, action)?;
    sync_dir(dir).inspect_err(|_| {
        // Not known to be on disk, so the act will not be done: take it back.
        let _ = fs::remove_file(dir.join(file_name(id)));
    })
}

/// Puts a whole record in place of what is there, if anything.
fn put(dir: &Path, id: ActionId, action: &CleanupAction) -> Result<(), JournalError> {
    let path = dir.join(file_name(id));
    durable::put(&path, durable::READABLE, &encode(action)).map_err(|source| failed("write", &path, source))
}

fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    durable::sync_directory(dir).map_err(|source| failed("sync", dir, source))
}

fn read(dir: &Path) -> Result<State, JournalError> {
    let mut state = State::default();
    let entries = fs::read_dir(dir).map_err(|source| failed("list", dir, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| failed("list", dir, source))?;
        let path = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // Its rename never happened, so its act never began.
        if durable::is_temporary(name) {
            fs::remove_file(&path).map_err(|source| failed("remove", &path, source))?;
            continue;
        }
        let Some(id) = id_of(name) else { continue };
        // Of records that are not obeyed too: their names are not taken again.
        state.next = state.next.max(id.0 + 1);
        let bytes = fs::read(&path).map_err(|source| failed("read", &path, source))?;
        match decode(&bytes) {
            Record::Whole(action) => {
                state.actions.insert(id, action);
            }
            Record::Foreign => {
                tracing::warn!(path = %path.display(), "journal record is of a newer agent and is kept for it");
            }
            Record::Incomplete => {
                let aside = path.with_extension("incomplete");
                fs::rename(&path, &aside).map_err(|source| failed("set aside", &path, source))?;
                state.set_aside.push(aside);
            }
        }
    }
    // What was found may have been renamed by an agent that died before its sync.
    sync_dir(dir)?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Journal {
        Journal::open(dir, Duration::ZERO).unwrap()
    }

    fn start(name: &str) -> CleanupAction {
        CleanupAction::Start(QuiescedContainer {
            job: JobId::generate(),
            container: "3f".repeat(32),
            name: name.to_owned(),
            started_at: "2026-11-23T09:00:00.123456789Z".to_owned(),
            stop_timeout_seconds: 10,
            written_unix_ms: 1,
            confirmed: false,
        })
    }

    fn all_kinds() -> Vec<CleanupAction> {
        let job = JobId::generate();
        let CleanupAction::Start(container) = start("db") else { unreachable!() };
        vec![
            CleanupAction::Start(container.clone()),
            CleanupAction::Unpause(container),
            CleanupAction::RemoveContainer { name: "holdfast-holder-1".into() },
            CleanupAction::RemoveVolume { job, name: "db_data".into(), seen_empty: Some(77) },
            CleanupAction::RemoveDirectory { job, path: "/srv/.holdfast-restore-1".into() },
        ]
    }

    #[test]
    fn whether_a_journal_is_open_is_seen_from_outside() {
        let state = tempfile::tempdir().unwrap();
        assert!(is_held(state.path()).is_err(), "there is none yet");
        let journal = Journal::open(state.path(), Duration::ZERO).unwrap();
        assert!(is_held(state.path()).unwrap());
        drop(journal);
        assert!(!is_held(state.path()).unwrap());
        Journal::open(state.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn what_is_recorded_survives_reopening_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let actions = all_kinds();
        let journal = open(dir.path());
        for action in &actions {
            journal.record(action.clone()).unwrap();
        }
        drop(journal);
        let journal = open(dir.path());
        let read: Vec<_> = journal.actions().into_iter().map(|(_, action)| action).collect();
        assert_eq!(read, actions);
        for (id, _) in journal.actions() {
            journal.complete(id).unwrap();
            journal.complete(id).unwrap();
        }
        drop(journal);
        assert!(open(dir.path()).is_empty());
    }

    #[test]
    fn a_completed_action_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        let first = journal.record(start("a")).unwrap();
        let second = journal.record(start("b")).unwrap();
        journal.complete(first).unwrap();
        drop(journal);
        let journal = open(dir.path());
        assert_eq!(journal.actions().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [second]);
        assert!(journal.record(start("c")).unwrap() > second);
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        assert!(matches!(Journal::open(dir.path(), Duration::ZERO), Err(JournalError::Busy { .. })));
        drop(journal);
        open(dir.path());
    }

    #[test]
    fn a_record_cut_at_any_byte_is_whole_or_void() {
        for action in all_kinds() {
            let bytes = encode(&action);
            for cut in 0..bytes.len() {
                assert!(matches!(decode(&bytes[..cut]), Record::Incomplete), "cut at {cut}");
            }
            assert!(matches!(decode(&bytes), Record::Whole(read) if read == action));
        }
    }

    // What a crash inside a write can leave, under either name, beside a whole action.
    #[test]
    fn a_write_cut_short_harms_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        journal.record(start("whole")).unwrap();
        let bytes = encode(&start("cut"));
        for name in ["0000000000000001.action", "0000000000000001.new"] {
            for cut in (0..bytes.len()).step_by(7) {
                fs::write(journal.dir.join(name), &bytes[..cut]).unwrap();
                let state = read(&journal.dir).unwrap();
                assert_eq!(state.actions.len(), 1, "{name} cut at {cut}");
                assert!(!journal.dir.join(name).exists());
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_never_obeyed() {
        let bytes = encode(&start("db"));
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[position] ^= 1 << bit;
                assert!(matches!(decode(&damaged), Record::Incomplete), "byte {position} bit {bit}");
            }
        }
    }

    #[test]
    fn an_older_agents_record_of_a_volume_names_no_root() {
        let job = JobId::generate();
        let body = format!(r#"{{"action":"remove-volume","job":"{job}","name":"data"}}"#);
        let record = format!("{MAGIC} {}\n{body}\n", checksum(body.as_bytes()));
        let Record::Whole(read) = decode(record.as_bytes()) else { panic!("{record}") };
        assert_eq!(read, CleanupAction::RemoveVolume { job, name: "data".into(), seen_empty: None });
    }

    #[test]
    fn a_record_of_a_newer_version_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let body = r#"{"action":"thaw","path":"/srv"}"#;
        let path = dir.path().join("journal/0000000000000007.action");
        fs::write(&path, format!("{MAGIC} {}\n{body}\n", checksum(body.as_bytes()))).unwrap();
        let journal = open(dir.path());
        assert!(journal.is_empty());
        assert!(path.exists());
        assert_eq!(journal.record(start("db")).unwrap(), ActionId(8));
    }
}
