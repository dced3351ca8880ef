//! Metadata of one inode: read from the source, laid on the target.
//!
//! Extended attributes of anything but an open file are read and written
//! through `/proc/self/fd`, which leads to the inode or the directory at hand
//! and not along a path somebody may change meanwhile.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::open;
use crate::entry::{Entry, EntryFlags, EntryKind};

const NANOS: i128 = 1_000_000_000;

/// Sorted names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attribute that grants capabilities to whoever runs the file.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// What a directory hands on to what is created in it.
pub(crate) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

pub fn mtime_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * NANOS + i128::from(stat.st_mtime_nsec)
}

pub fn ctime_ns(stat: &Stat) -> i128 {
    i128::from(stat.st_ctime) * NANOS + i128::from(stat.st_ctime_nsec)
}

pub fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

pub fn type_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// An entry of this kind with everything `stat` tells.
pub fn entry(path: &[u8], kind: EntryKind, stat: &Stat, xattrs: Xattrs) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_ns: mtime_ns(stat),
        ctime_ns: ctime_ns(stat),
        inode: stat.st_ino,
        xattrs,
        flags: EntryFlags::default(),
    }
}

/// Whether an inode that looked like `before` may have been written to since.
pub fn changed(before: &Stat, after: &Stat) -> bool {
    (before.st_size, mtime_ns(before), ctime_ns(before)) != (after.st_size, mtime_ns(after), ctime_ns(after))
}

/// What tells the inode behind several names from another with its number.
pub fn mark(stat: &Stat) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stat.st_mode.to_le_bytes());
    hasher.update(&size_of(stat).to_le_bytes());
    hasher.update(&mtime_ns(stat).to_le_bytes());
    let mut mark = [0; 4];
    hasher.finalize_xof().fill(&mut mark);
    u32::from_le_bytes(mark)
}

/// The attributes of an open file.
///
/// # Errors
/// What listing them or reading one fails with. On a filesystem without attributes
/// there are none.
pub fn xattrs_of_file(file: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    read_xattrs(&|list| rustix::fs::flistxattr(file, list), &|name, value| {
        rustix::fs::fgetxattr(file, name, value)
    })
}

/// The attributes of a name in an open directory; a link there is not followed.
///
/// # Errors
/// As [`xattrs_of_file`], and when the name is gone.
pub fn xattrs_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Xattrs, Errno> {
    let path = open::link_in(dir, name);
    let path = path.as_c_str();
    read_xattrs(&|list| rustix::fs::llistxattr(path, list), &|name, value| {
        rustix::fs::lgetxattr(path, name, value)
    })
}

/// Fills a buffer and says how far.
type Fill<'a> = &'a dyn Fn(&mut [u8]) -> Result<usize, Errno>;
/// Fills a buffer with the value of an attribute.
type Get<'a> = &'a dyn Fn(&CStr, &mut [u8]) -> Result<usize, Errno>;
/// Sets an attribute.
type Set<'a> = &'a dyn Fn(&CStr, &[u8]) -> Result<(), Errno>;

fn read_xattrs(list: Fill<'_>, get: Get<'_>) -> Result<Xattrs, Errno> {
    // Most inodes have no attributes: one call and no allocation for them.
    let mut small = [0; 256];
    let names = match list(&mut small) {
        // A filesystem without attributes has none, which is no failure to read them.
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => small[..len].to_vec(),
        Err(Errno::RANGE) => grow(list)?,
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match grow(&|value| get(name, value)) {
            Ok(value) => xattrs.push((name.to_bytes().to_vec(), value)),
            // Removed since, or one that the kernel lists and does not give (some of NFS).
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Calls with ever larger buffers: the kernel's limit is 64 KiB for either call.
fn grow(call: Fill<'_>) -> Result<Vec<u8>, Errno> {
    for size in [512, 8 << 10, 64 << 10, 1 << 20] {
        let mut buffer = vec![0; size];
        match call(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                buffer.shrink_to_fit();
                return Ok(buffer);
            }
            // Somebody may make it longer between two calls.
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}

/// What could not be laid on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    Owner(Errno),
    Mode(Errno),
    Xattr(Vec<u8>, Errno),
    Times(Errno),
    /// The filesystem took another time than the one asked for.
    TimesClamped,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Owner(error) => write!(f, "its owner ({error})"),
            Self::Mode(error) => write!(f, "its mode ({error})"),
            Self::Xattr(name, error) => write!(f, "attribute {} ({error})", super::escape_path(name)),
            Self::Times(error) => write!(f, "its times ({error})"),
            Self::TimesClamped => f.write_str("its exact time, which this filesystem cannot hold"),
        }
    }
}

/// What of an entry is to be laid on an inode.
pub struct Wanted<'a> {
    pub entry: &'a Entry,
    /// Bits of the mode that may be set.
    pub mode_mask: u32,
    pub capability: bool,
}

/// Lays an entry's metadata on an open file or directory: owner, then mode
/// (a change of owner clears setuid bits), then attributes (it clears
/// capabilities too), then times.
pub fn apply(file: BorrowedFd<'_>, wanted: &Wanted<'_>, missing: &mut Vec<Missing>) {
    let entry = wanted.entry;
    // What fails is noted and the rest still laid on: a file with another owner is better than one
    // with nothing.
    let owner = rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    note(owner, Missing::Owner, missing);
    let mode = Mode::from_raw_mode(entry.mode & wanted.mode_mask);
    note(rustix::fs::fchmod(file, mode), Missing::Mode, missing);
    set_xattrs(wanted, missing, &|name, value| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()));
    note(rustix::fs::futimens(file, &times(entry)), Missing::Times, missing);
    check_times(file, entry, missing);
}

/// The same for what cannot be opened: links, FIFOs, sockets, devices.
/// `handle` is a bare handle (`O_PATH`) of it.
pub fn apply_to_handle(handle: BorrowedFd<'_>, wanted: &Wanted<'_>, missing: &mut Vec<Missing>) {
    let entry = wanted.entry;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let owner = rustix::fs::chownat(handle, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH);
    note(owner, Missing::Owner, missing);
    let path = open::link_of(handle);
    let path = path.as_c_str();
    // A link has no mode of its own, and the call would change that of what it leads to.
    if !matches!(entry.kind, EntryKind::Symlink { .. }) {
        let mode = Mode::from_raw_mode(entry.mode & wanted.mode_mask);
        note(rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()), Missing::Mode, missing);
    }
    set_xattrs(wanted, missing, &|name, value| rustix::fs::setxattr(path, name, value, XattrFlags::empty()));
    let set = rustix::fs::utimensat(CWD, path, &times(entry), AtFlags::empty());
    note(set, Missing::Times, missing);
    check_times(handle, entry, missing);
}

fn set_xattrs(wanted: &Wanted<'_>, missing: &mut Vec<Missing>, set: Set<'_>) {
    for (name, value) in &wanted.entry.xattrs {
        if name == CAPABILITY && !wanted.capability {
            continue;
        }
        let result = CString::new(name.as_slice()).map_err(|_| Errno::INVAL);
        let result = result.and_then(|c_name| set(&c_name, value));
        note(result, |error| Missing::Xattr(name.clone(), error), missing);
    }
}

fn note(result: Result<(), Errno>, what: impl FnOnce(Errno) -> Missing, missing: &mut Vec<Missing>) {
    if let Err(error) = result {
        missing.push(what(error));
    }
}

fn times(entry: &Entry) -> Timestamps {
    let seconds = entry.mtime_ns.div_euclid(NANOS);
    // The nearest the kernel's type can say; it clamps further to what the filesystem holds.
    let clamped = seconds.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    let mtime = Timespec { tv_sec: clamped, tv_nsec: entry.mtime_ns.rem_euclid(NANOS) as _ };
    let omitted = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    Timestamps { last_access: omitted, last_modification: mtime }
}

/// Ordinary times are taken by every filesystem; only odd ones are read back.
fn check_times(file: BorrowedFd<'_>, entry: &Entry, missing: &mut Vec<Missing>) {
    let ordinary = 0..(1i128 << 31) * NANOS;
    if !ordinary.contains(&entry.mtime_ns)
        && rustix::fs::fstat(file).is_ok_and(|stat| mtime_ns(&stat) != entry.mtime_ns)
    {
        missing.push(Missing::TimesClamped);
    }
}

/// Makes the directory hand nothing on to what is created in it, as long as it
/// is being filled. Gives back what it handed on.
pub(crate) fn take_default_acl(dir: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let name = CString::new(DEFAULT_ACL).ok()?;
    let value = grow(&|value| rustix::fs::fgetxattr(dir, &name, value)).ok()?;
    rustix::fs::fremovexattr(dir, &name).ok()?;
    Some(value)
}

/// Has the directory hand this on again.
///
/// # Errors
/// The filesystem does not take it.
pub(crate) fn put_default_acl(dir: BorrowedFd<'_>, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(dir, c"system.posix_acl_default", value, XattrFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn attributes_are_read_alike_by_handle_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let long = vec![b'x'; 3000];
        for (name, value) in [(c"user.b", long.as_slice()), (c"user.a", b"".as_slice())] {
            rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()).unwrap();
        }
        let by_file = xattrs_of_file(file.as_fd()).unwrap();
        let at = File::open(dir.path()).unwrap();
        assert_eq!(xattrs_at(at.as_fd(), c"f").unwrap(), by_file);
        assert_eq!(by_file, [(b"user.a".to_vec(), vec![]), (b"user.b".to_vec(), long)]);
        assert_eq!(xattrs_at(at.as_fd(), c"g"), Err(Errno::NOENT));
    }

    #[test]
    fn a27_times_before_1970_are_exact() {
        let stamps = |mtime_ns| {
            let file = tempfile::tempfile().unwrap();
            let mut stat = rustix::fs::fstat(&file).unwrap();
            stat.st_mode = 0o100_644;
            let mut entry = entry(b"f", EntryKind::Fifo, &stat, Vec::new());
            entry.mtime_ns = mtime_ns;
            let mut missing = Vec::new();
            let wanted = Wanted { entry: &entry, mode_mask: 0o7777, capability: false };
            apply(file.as_fd(), &wanted, &mut missing);
            (super::mtime_ns(&rustix::fs::fstat(&file).unwrap()), missing)
        };
        for exact in [-1_000_000_000, -1, -2_145_916_800 * NANOS + 7, 1_700_000_000_123_456_789] {
            assert_eq!(stamps(exact), (exact, vec![]));
        }
        let (_, missing) = stamps(99_999_999_999_999 * NANOS);
        assert_eq!(missing, [Missing::TimesClamped]);
    }
}
