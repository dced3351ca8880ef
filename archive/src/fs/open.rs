//! The few ways anything under a root is opened.
//!
//! A name is opened relative to the handle of its directory, by `openat2`
//! that neither leaves the directory nor follows any link, so a container that
//! swaps a directory for a link while it is walked makes the open fail. A
//! file is first opened as a mere handle (`O_PATH`: no device driver is
//! called, no FIFO waits), its type is looked at, and only that very inode is
//! then opened for reading through its handle.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Longer paths are resolved piece by piece: the kernel takes 4095 bytes.
const PIECE: usize = 4000;

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// Whether an open may end on another mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    Stay,
    Cross,
}

impl Mounts {
    fn flags(self) -> ResolveFlags {
        match self {
            Self::Stay => ResolveFlags::NO_XDEV,
            Self::Cross => ResolveFlags::empty(),
        }
    }
}

/// Opens a directory for reading its names.
///
/// # Errors
/// `LOOP` or `NOTDIR` for a link or something else than a directory, `XDEV` where it
/// would leave the directory or a mount it has to stay on.
pub fn directory(dir: BorrowedFd<'_>, name: &CStr, mounts: Mounts) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| again(|| openat2(dir, name, flags, Mode::empty(), beneath() | mounts.flags()));
    // A backup should not change what it reads. Only the owner of a file and root may ask for that.
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

/// The directory itself, opened anew for reading: what was given may be a bare handle.
///
/// # Errors
/// As [`directory`]: it may not be read, or is no directory.
pub fn reopen_directory(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    directory(dir, c".", Mounts::Stay)
}

/// The parent of a directory. The caller checks that it is the one it means.
///
/// # Errors
/// It may not be searched or read.
pub fn parent(dir: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    again(|| openat(dir, c"..", flags, Mode::empty()))
}

/// A handle of whatever bears the name; opens nothing.
///
/// # Errors
/// Nothing bears the name, or it lies on a mount that is not to be entered.
pub fn handle(dir: BorrowedFd<'_>, name: &CStr, mounts: Mounts) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    again(|| openat2(dir, name, flags, Mode::empty(), beneath() | mounts.flags()))
}

/// Opens the regular file a handle stands for.
///
/// # Errors
/// It may not be read, or `/proc` is not mounted.
pub fn reopen_file(handle: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // Its type was looked at through the handle, and the link in `/proc` leads to that very inode.
    // Were it a FIFO all the same, this would not wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags| again(|| openat(CWD, link_of(handle).as_c_str(), flags, Mode::empty()));
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

/// Creates a file that is not there, for writing.
///
/// # Errors
/// Something bears the name already, a dangling link included, or nothing may be
/// created there.
pub fn create_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    // For its owner alone until it has its own mode.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    again(|| openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, beneath()))
}

/// A handle of the directory at `path` below `root`, links refused.
///
/// # Errors
/// A component is missing, is a link or no directory, or leads out of `root`.
pub fn descend(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = again(|| openat2(root, c".", flags, Mode::empty(), beneath()))?;
    let mut rest = path;
    // Each piece from the handle of the one before: together they lead no further than one call
    // would.
    while !rest.is_empty() {
        let (piece, after) = split_piece(rest);
        at = again(|| openat2(at.as_fd(), piece, flags, Mode::empty(), beneath()))?;
        rest = after;
    }
    Ok(at)
}

/// The path that leads the kernel to the inode behind a handle.
pub(crate) fn link_of(handle: BorrowedFd<'_>) -> ProcPath {
    ProcPath::new(handle, b"")
}

/// The path that leads the kernel to a name in an open directory, whatever
/// links may lie on the way to that directory. For calls that neither follow
/// a link at the end nor take a directory handle.
pub(crate) fn link_in(dir: BorrowedFd<'_>, name: &CStr) -> ProcPath {
    ProcPath::new(dir, name.to_bytes())
}

/// `/proc/self/fd/N` or `/proc/self/fd/N/name` without an allocation.
pub(crate) struct ProcPath {
    bytes: [u8; 288],
    len: usize,
}

impl ProcPath {
    fn new(fd: BorrowedFd<'_>, name: &[u8]) -> Self {
        let mut path = Self { bytes: [0; 288], len: 0 };
        path.push(b"/proc/self/fd/");
        let mut digits = [0; 10];
        let mut number = fd.as_raw_fd().unsigned_abs();
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        path.push(&digits[first..]);
        if !name.is_empty() {
            path.push(b"/");
            path.push(name);
        }
        path
    }

    fn push(&mut self, bytes: &[u8]) {
        // A name has at most 255 bytes; a longer one (no filesystem has any) is cut and not found.
        let len = bytes.len().min(self.bytes.len() - 1 - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&bytes[..len]);
        self.len += len;
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).expect("the last byte is never written")
    }
}

/// Repeats a call that a signal or a concurrent rename elsewhere cut off.
///
/// # Errors
/// What the call failed with, were it that 64 of them were cut off.
pub(crate) fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    // Few are needed; the bound is for a filesystem that answers so for ever.
    for _ in 0..64 {
        match call() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            result => return result,
        }
    }
    call()
}

/// The parent's path and the last component.
pub fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A leading piece of whole components the kernel takes, and the rest.
fn split_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE {
        return (path, b"");
    }
    match path[..PIECE].iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a05_no_link_is_followed_anywhere_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("/", dir.path().join("slash")).unwrap();
        let root: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        assert!(descend(root.as_fd(), b"real/sub").is_ok());
        assert_eq!(descend(root.as_fd(), b"link/sub").unwrap_err(), Errno::LOOP);
        assert!(descend(root.as_fd(), b"slash").is_err());
        assert_eq!(descend(root.as_fd(), b"real/../..").unwrap_err(), Errno::XDEV);
        assert!(directory(root.as_fd(), c"link", Mounts::Stay).is_err());
        assert_eq!(descend(root.as_fd(), b"/etc").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn a15_paths_longer_than_the_kernel_takes_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let root: OwnedFd = fs::File::open(dir.path()).unwrap().into();
        let name = "n".repeat(255);
        let mut at = root.try_clone().unwrap();
        let mut path = Vec::new();
        for _ in 0..20 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = descend(at.as_fd(), name.as_bytes()).unwrap();
            path.extend_from_slice(if path.is_empty() { b"" } else { b"/" });
            path.extend_from_slice(name.as_bytes());
        }
        let there = descend(root.as_fd(), &path).unwrap();
        assert_eq!(rustix::fs::fstat(&there).unwrap().st_ino, rustix::fs::fstat(&at).unwrap().st_ino);
    }

    #[test]
    fn proc_paths_name_the_handle() {
        let file = tempfile::tempfile().unwrap();
        let path = link_in(file.as_fd(), c"name");
        let expected = format!("/proc/self/fd/{}/name", file.as_raw_fd());
        assert_eq!(path.as_c_str().to_str().unwrap(), expected);
    }
}
