//! Which agent this is: one random id per state directory and Engine.
//!
//! A machine cloned with its state directory gets another Engine only if the
//! Engine's own id was recreated; then this id changes with it. Where both were
//! cloned the controller sees two connections with one id and raises an alarm.

use std::fs;
use std::io;
use std::path::Path;

use holdfast_proto::ids::InstanceId;
use serde::{Deserialize, Serialize};

use crate::durable;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    instance: InstanceId,
    /// Empty: the Engine has not answered yet.
    engine: String,
}

/// Reads the id of `state_dir`, or makes one. `engine` is the Engine's id, if
/// it answers: a record of another Engine is replaced.
///
/// # Errors
/// When the state directory cannot be read or written, or holds nonsense.
pub(crate) fn open(state_dir: &Path, engine: Option<&str>) -> io::Result<InstanceId> {
    let path = state_dir.join("instance.json");
    let known: Option<Record> = match fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // An Engine that does not answer is not another Engine: a record stays then.
    let engine = engine.unwrap_or_default();
    let (instance, recorded) = match known {
        None => (InstanceId::generate(), None),
        Some(record) if engine.is_empty() || record.engine == engine => return Ok(record.instance),
        Some(record) if record.engine.is_empty() => (record.instance, Some(record.engine)),
        Some(record) => (InstanceId::generate(), Some(record.engine)),
    };
    if let Some(recorded) = recorded.filter(|recorded| !recorded.is_empty()) {
        tracing::warn!(
            engine.was = recorded,
            engine.id = engine,
            "this state directory was used with another Engine"
        );
    }
    let record = Record { instance, engine: engine.to_owned() };
    durable::replace(&path, durable::READABLE, &serde_json::to_vec(&record)?)?;
    Ok(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_with_its_state_directory_and_engine() {
        let directory = tempfile::tempdir().unwrap();
        let early = open(directory.path(), None).unwrap();
        let first = open(directory.path(), Some("ENGINE-1")).unwrap();
        assert_eq!(early, first, "an Engine that answers late is the same one");
        assert_eq!(open(directory.path(), Some("ENGINE-1")).unwrap(), first);
        assert_eq!(open(directory.path(), None).unwrap(), first);
        assert_ne!(open(directory.path(), Some("ENGINE-2")).unwrap(), first);
    }
}
