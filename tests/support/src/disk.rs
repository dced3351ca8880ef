//! Filesystems of their own, in images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{run, try_run};
use crate::record;

/// Why there can be none here, if so.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    fs::File::open("/dev/loop-control").err().map(|error| format!("/dev/loop-control: {error}"))
}

/// Returns from a test, as skipped, where no image can be mounted.
#[macro_export]
macro_rules! require_disk {
    () => {
        if let Some(reason) = $crate::disk::unavailable() {
            $crate::record::skipped(&reason);
            return;
        }
    };
}

/// Whether this test runs as root, which can make owners, devices, mounts and
/// trusted attributes. Says that it is skipped where it does not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        record::skipped("needs root: it makes owners, devices, mounts and trusted attributes");
    }
    root
}

/// A filesystem in an image, mounted until it is dropped.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    /// Of both, where nobody else has named a place.
    _dir: Option<tempfile::TempDir>,
}

impl Mounted {
    /// One of 512 MiB in a place of its own, made by `mkfs.KIND OPTIONS`. None,
    /// and said so, where it cannot be made: a kernel may lack one.
    pub fn new(kind: &str, options: &str) -> Option<Self> {
        if !is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (image, path) = (dir.path().join("image"), dir.path().join("mount"));
        match Self::at(kind, options, &image, &path) {
            Ok(mut mounted) => {
                mounted._dir = Some(dir);
                Some(mounted)
            }
            Err(failure) => {
                record::skipped(&format!("on {kind}: {}", failure.trim()));
                None
            }
        }
    }

    /// One of 512 MiB in `image`, mounted at `path`.
    ///
    /// # Errors
    /// What `mkfs` or `mount` said.
    pub fn at(kind: &str, options: &str, image: &Path, path: &Path) -> Result<Self, String> {
        fs::create_dir_all(path).unwrap();
        fs::File::create(image).unwrap().set_len(512 << 20).unwrap();
        try_run(Command::new(format!("mkfs.{kind}")).args(options.split_whitespace()).arg("-q").arg(image))?;
        mount(kind, "loop", image, path)?;
        Ok(Self { path: path.to_owned(), _dir: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

/// With the option `loop` the device goes away with the mount.
fn mount(kind: &str, options: &str, image: &Path, path: &Path) -> Result<(), String> {
    try_run(Command::new("mount").args(["-t", kind, "-o", options]).args([image, path])).map(drop)
}

/// At once where nobody uses it, else as soon as that ends. Also where it is not
/// mounted any more.
fn unmount(path: &Path) {
    let unmounted = Command::new("umount").arg(path).output();
    if !unmounted.is_ok_and(|output| output.status.success()) {
        let _ = Command::new("umount").arg("-l").arg(path).output();
    }
}

/// A disk of its own for a directory, that can be unmounted and mounted again.
/// Unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes an ext4 image, copies what the directory holds to it, and mounts it
    /// there; the directory below is empty then.
    pub fn below(at: &Path) -> Self {
        let disk = Self { image: at.with_extension("ext4"), at: at.to_owned() };
        run(Command::new("truncate").args(["-s", "300M"]).arg(&disk.image));
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(at).arg(&disk.image));
        fs::remove_dir_all(at).expect("emptied");
        fs::create_dir(at).expect("mount point");
        disk.mount();
        disk
    }

    /// The kernel writes to it what it is told to, and the rest not for minutes. That
    /// is an option of the mount, not of a later one: `mount -o remount` looks the
    /// place up in a table that others change meanwhile, and may not find it.
    pub fn mount(&self) {
        mount("ext4", "loop,commit=300", &self.image, &self.at).unwrap();
    }

    /// Lazily, as it goes with a disk that is in use.
    pub fn unmount(&self) {
        run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}
