//! Files that hold a key, a token or a passphrase.
//!
//! Such a file is only used while nobody but its owner can read or change it.
//! What is asked is the file that was opened, not the path: nothing can be put
//! in its place in between.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Permissions of the group and of others.
const OTHERS: u32 = 0o077;

/// Why a file with a secret was not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("{} could not be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} holds a secret, and others than its owner may read or change it (mode {mode:04o}): chmod 600 {}",
        path.display(),
        path.display()
    )]
    Open { path: PathBuf, mode: u32 },
}

impl SecretFileError {
    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a file that holds a secret, as text.
///
/// # Errors
/// When it cannot be read, is no text, or its mode gives the group or others
/// any right. Of pipes and terminals the mode says nothing, and is not asked.
pub fn read(path: &Path) -> Result<String, SecretFileError> {
    let failed = |source| SecretFileError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o7777;
    // Of the open file. A check of the path would hold for whatever lay there a moment ago.
    if metadata.is_file() && mode & OTHERS != 0 {
        return Err(SecretFileError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a secret and a line break into a file that only its owner can read,
/// instead of what was there.
///
/// # Errors
/// When it cannot be made or written.
pub fn write(path: &Path, secret: &str) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let is_file = file.metadata()?.is_file();
    if is_file {
        // One that was there has its own mode: closed before the secret is in it.
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    writeln!(file, "{secret}")?;
    if is_file { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn v15_a_file_that_others_may_read_or_change_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        fs::write(&path, "hush").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o777] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, SecretFileError::Open { mode: found, .. } if found == mode), "{text}");
            assert!(text.contains(&format!("chmod 600 {}", path.display())), "{text}");
            assert!(!text.contains("hush"), "{text}");
        }
        for mode in [0o600, 0o400] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).unwrap(), "hush");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write(&path, "new").unwrap();
        assert_eq!(read(&path).unwrap(), "new\n");
        assert!(read(&directory.path().join("none")).unwrap_err().is_not_found());
        // Neither a file nor a secret: what a shell gives for `<(...)` is like it.
        assert_eq!(read(Path::new("/dev/null")).unwrap(), "");
    }
}
