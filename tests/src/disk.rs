//! A disk of its own for a directory, that can be unmounted and mounted again.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// An ext4 image below a directory. Unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

/// Why there can be none here, if so.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    std::fs::File::open("/dev/loop-control").err().map(|error| format!("/dev/loop-control: {error}"))
}

/// Returns from a test, as skipped, where there can be no [`Disk`].
#[macro_export]
macro_rules! require_disk {
    () => {
        if let Some(reason) = $crate::disk::unavailable() {
            $crate::record::skipped(&reason);
            return;
        }
    };
}

impl Disk {
    /// Makes one, copies what the directory holds to it, and mounts it there;
    /// the directory below is empty then.
    pub fn below(at: &Path) -> Self {
        let disk = Self { image: at.with_extension("ext4"), at: at.to_owned() };
        run(Command::new("truncate").args(["-s", "300M"]).arg(&disk.image));
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(at).arg(&disk.image));
        std::fs::remove_dir_all(at).expect("emptied");
        std::fs::create_dir(at).expect("mount point");
        disk.mount();
        disk
    }

    pub fn mount(&self) {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(&self.image).arg(&self.at));
    }

    /// Lazily, as it goes with a disk that is in use.
    pub fn unmount(&self) {
        run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also where it is not mounted.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
