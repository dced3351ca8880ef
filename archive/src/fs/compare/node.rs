//! Metadata of one inode against its entry.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::entry::{Entry, EntryKind};
use crate::fs::metadata::{self, Xattrs};
use crate::fs::open;
use crate::fs::restore::{RestoreOptions, mode_mask};
use crate::fs::text::escape_path;

/// Times beyond this many nanoseconds are not held by every filesystem.
const ODD_TIME_NS: i128 = (1 << 31) * 1_000_000_000;
/// Attributes beyond this many bytes neither.
const LARGE_ATTRIBUTES: usize = 2 << 10;

/// Whether there is what the entry says, apart from its details.
pub(super) fn is_kind(entry: &Entry, stat: &Stat) -> bool {
    let kind = metadata::type_of(stat);
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match entry.kind {
        EntryKind::File(_) => kind == FileType::RegularFile,
        EntryKind::Directory => kind == FileType::Directory,
        EntryKind::Symlink { .. } => kind == FileType::Symlink,
        EntryKind::Hardlink { .. } => kind != FileType::Directory,
        EntryKind::Fifo => kind == FileType::Fifo,
        EntryKind::Socket => kind == FileType::Socket,
        EntryKind::CharDevice { major, minor } => {
            kind == FileType::CharacterDevice && device == (major, minor)
        }
        EntryKind::BlockDevice { major, minor } => kind == FileType::BlockDevice && device == (major, minor),
    }
}

/// What differs, in words.
pub(super) fn differences(
    entry: &Entry,
    stat: &Stat,
    xattrs: &Xattrs,
    options: &RestoreOptions,
    unsupported: &dyn Fn(&[u8]) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    let mask = mode_mask(entry, options.setuid);
    let symlink = matches!(entry.kind, EntryKind::Symlink { .. });
    if !symlink && stat.st_mode & 0o7777 != entry.mode & mask {
        found.push(format!("its mode is {:o}, not {:o}", stat.st_mode & 0o7777, entry.mode & mask));
    }
    if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
        let (uid, gid) = (stat.st_uid, stat.st_gid);
        found.push(format!("its owner is {uid}:{gid}, not {}:{}", entry.uid, entry.gid));
    }
    // The restore has listed these as left out, where the filesystem clamped them.
    let odd = !(0..ODD_TIME_NS).contains(&entry.mtime_ns) && !options.strict;
    if metadata::mtime_ns(stat) != entry.mtime_ns && !odd {
        found.push("its modification time differs".to_owned());
    }
    found.extend(attributes(entry, xattrs, options, unsupported));
    found
}

fn attributes(
    entry: &Entry,
    xattrs: &Xattrs,
    options: &RestoreOptions,
    unsupported: &dyn Fn(&[u8]) -> bool,
) -> Vec<String> {
    let wanted = |name: &[u8]| name != metadata::CAPABILITY || options.setuid;
    let large =
        entry.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > LARGE_ATTRIBUTES;
    let mut found = Vec::new();
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| wanted(name)) {
        let text = || escape_path(name);
        match xattrs.iter().find(|(there, _)| there == name) {
            Some((_, there)) if there == value => {}
            Some(_) => found.push(format!("its attribute {} differs", text())),
            // The restore has listed what the filesystem did not take.
            None if !options.strict && (large || unsupported(name)) => {}
            None => found.push(format!("its attribute {} is missing", text())),
        }
    }
    for (name, _) in xattrs {
        // A label that the system itself gives to whatever is created.
        let given = name == b"security.selinux";
        if !given && !entry.xattrs.iter().any(|(wanted, _)| wanted == name) {
            found.push(format!("its attribute {} should not be there", escape_path(name)));
        }
    }
    found
}

/// Whether the filesystem knows no attributes of this name at all.
pub(super) fn is_unsupported(dir: BorrowedFd<'_>, name: &CStr, attribute: &[u8]) -> bool {
    let Ok(attribute) = CString::new(attribute) else { return false };
    let path = open::link_in(dir, name);
    let asked = rustix::fs::lgetxattr(path.as_c_str(), &attribute, &mut [0; 1][..]);
    asked == Err(Errno::OPNOTSUPP)
}
