//! The state of the connection to the controller, written down for
//! `holdfast-agent status`, which is another process.
//!
//! It is about the agent that runs: of one that has ended it says nothing. So
//! it is not synced, and a write that fails costs no more than what `status`
//! shows.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::clocks::now_unix_ms;

const FILE: &str = "connection.json";

/// The connection as it is, since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionState {
    pub since_unix_ms: i64,
    /// Why there is none; none while it stands.
    pub problem: Option<String>,
}

impl ConnectionState {
    /// As an agent wrote it last; none where it wrote nothing that can be read.
    pub(crate) fn read(state_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_dir.join(FILE)).ok()?).ok()
    }
}

/// Writes it, whenever it is another one.
#[derive(Debug)]
pub(super) struct ConnectionFile {
    path: PathBuf,
    last: Mutex<Option<ConnectionState>>,
}

impl ConnectionFile {
    /// Nothing is known yet: what an earlier agent wrote goes.
    pub(super) fn new(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let _ = std::fs::remove_file(&path);
        Self { path, last: Mutex::new(None) }
    }

    pub(super) fn connected(&self) {
        self.write(None);
    }

    pub(super) fn away(&self, problem: impl Into<String>) {
        self.write(Some(problem.into()));
    }

    fn write(&self, problem: Option<String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| last.problem == problem) {
            return;
        }
        // Another reason is no other time: it has been away since then.
        let away = last.as_ref().filter(|last| last.problem.is_some() && problem.is_some());
        let since_unix_ms = away.map_or_else(now_unix_ms, |last| last.since_unix_ms);
        let state = ConnectionState { since_unix_ms, problem };
        let temporary = self.path.with_extension("new");
        let text = serde_json::to_string(&state).expect("a number and a text");
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            // `status` says nothing then, rather than what was so before.
            let _ = std::fs::remove_file(&self.path);
            tracing::debug!(%error, path = %self.path.display(), "the state of the connection could not be written down");
        }
        *last = Some(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_so_and_since_when() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "of an earlier agent").unwrap();
        let connection_file = ConnectionFile::new(dir.path());
        assert_eq!(ConnectionState::read(dir.path()), None);
        connection_file.away("refused");
        let first = ConnectionState::read(dir.path()).unwrap();
        connection_file.away("no route");
        let second = ConnectionState::read(dir.path()).unwrap();
        assert_eq!(second, ConnectionState { problem: Some("no route".into()), ..first });
        connection_file.connected();
        assert_eq!(ConnectionState::read(dir.path()).unwrap().problem, None);
    }
}
