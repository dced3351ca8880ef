//! Files with a key or a token, as programs take them: for their owner alone.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Writes `text` into a file that only its owner can read, also if it was
/// there with another mode.
pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).expect("made");
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).expect("mode set");
    file.write_all(text.as_ref()).expect("written");
}
