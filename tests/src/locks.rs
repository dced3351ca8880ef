//! Locks between tests of this machine, also of different processes. One is
//! free again when its file is closed, however its holder ended.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// One folder for all tests, wherever their own files are.
const FOLDER: &str = "/tmp/holdfast-test-locks";

/// The lock of that name, unless somebody has it.
pub fn try_lock(name: &str) -> Option<File> {
    let file = open(name);
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// The lock of that name, once nobody else has it.
pub fn lock(name: &str) -> File {
    let file = open(name);
    flock(&file, FlockOperation::LockExclusive).unwrap_or_else(|error| panic!("lock {name}: {error}"));
    file
}

/// Where the file of a lock is.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Names of all locks that begin so, held or not.
pub fn names(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn open(name: &str) -> File {
    if !Path::new(FOLDER).exists() {
        // Another test may be about to make it.
        let _ = DirBuilder::new().mode(0o777).create(FOLDER);
    }
    let path = path(name);
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
