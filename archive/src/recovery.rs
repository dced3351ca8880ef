//! What lies under `RECOVERY/`: how to read a repository without this program.
//!
//! Somebody runs `recover.py` one day, as root and with nothing else left. So
//! whether it is ours is told by hashes that are built into the program: those
//! in `repo.json` lie in the same bucket, and whoever can change the one can
//! change the other.

use sha2::{Digest, Sha256};

use crate::keys::RecoveryFile;

/// The files, in the order they are written.
pub const RECOVERY_FILES: [RecoveryFile; 3] =
    [RecoveryFile::Readme, RecoveryFile::Format, RecoveryFile::Script];

/// What this program writes.
pub fn text(file: RecoveryFile) -> &'static str {
    match file {
        RecoveryFile::Readme => include_str!("../recovery/README"),
        RecoveryFile::Format => include_str!("../recovery/format.proto"),
        RecoveryFile::Script => include_str!("../recovery/recover.py"),
    }
}

/// Whether some release of this program wrote these bytes there. A repository
/// keeps the files of the release that made it.
pub fn is_released(file: RecoveryFile, bytes: &[u8]) -> bool {
    released(file).contains(&hash(bytes).as_str())
}

/// SHA-256 of all that releases have written, the newest last. To be added to,
/// never taken from.
fn released(file: RecoveryFile) -> &'static [&'static str] {
    match file {
        RecoveryFile::Readme => &["175e5916585cec33017f74bba6e97172b187cd7cdf61db8369671ac9278858c3"],
        RecoveryFile::Format => &[
            "51c7bd27fc955761c875a9f222a8aabbf9f02a5553a46aa04545ff0c8a99cfde",
            "c7e6702754101c7f4392b6c10064a44801ee226da384ca7d8445e6a940e7eb7d",
            "329b135d4d0e95d49df8cb4e24b24f43c9387d5f4a221d2ffe969fc50213ffe4",
            "0c4bb31dc9f97a2f0dfc26b4349d6c175e30801a3535fdf5cc64640b56aa360f",
        ],
        RecoveryFile::Script => &[
            "ccdef855d61105b4806b7fc477dabfa546262695395ecbf8ae2235e602888cea",
            "a53bb645b19c976f0d67c50d6b2dce030741a6bb4d02bef694cf106933480c83",
        ],
    }
}

/// SHA-256 of a text in hexadecimal digits.
pub fn hash(text: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v15_what_is_written_is_the_newest_of_the_released_files() {
        for file in RECOVERY_FILES {
            let now = hash(text(file));
            assert_eq!(released(file).last(), Some(&now.as_str()), "add the hash of the new {file:?}");
            assert!(is_released(file, text(file).as_bytes()));
            assert!(!is_released(file, b"import os"));
        }
    }
}
