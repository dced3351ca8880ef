//! A disk with bad sectors: a file system (FUSE) that passes everything through
//! to a directory, except that reading certain bytes of certain files fails as
//! a disk fails. Needs root and `/dev/fuse`, and nothing installed.
//!
//! Its power can be cut: what is left is what was synced, no more. A name is
//! durable once its directory was synced, and content once its file was; file
//! systems in use often keep more, and promise no more.
//!
//! A test process that is killed leaves the mount point behind, dead.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// Nothing is kept in memory: what is spoiled is spoiled at once.
const TTL: Duration = Duration::ZERO;

/// Why no such disk can be had here, if so.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("a file system of its own needs root".to_owned());
    }
    File::open("/dev/fuse").err().map(|error| format!("/dev/fuse: {error}"))
}

/// Returns from a test, as skipped, where there can be no [`BadDisk`].
#[macro_export]
macro_rules! require_fuse {
    () => {
        if let Some(reason) = $crate::bad_disk::unavailable() {
            $crate::record::skipped(&reason);
            return;
        }
    };
}

/// Unmounted when dropped.
pub struct BadDisk {
    directory: PathBuf,
    backing: PathBuf,
    spoiled: Spoiled,
    unsynced: Arc<Mutex<Unsynced>>,
    session: BackgroundSession,
}

type Spoiled = Arc<Mutex<HashMap<PathBuf, Vec<Range<u64>>>>>;

/// What was done and would not outlive a power cut.
#[derive(Default)]
struct Unsynced {
    /// Changes of names, the first first, each with the directory whose sync
    /// makes it durable.
    names: Vec<(PathBuf, Change)>,
    /// Inodes of files with content that was not synced.
    contents: HashSet<u64>,
    /// What was removed or replaced, under names of its own.
    kept: PathBuf,
    number: u64,
}

/// A change of a name; paths are of the directory below.
enum Change {
    Made(PathBuf),
    Removed { name: PathBuf, kept: PathBuf },
    Renamed { from: PathBuf, to: PathBuf, replaced: Option<PathBuf> },
}

impl Unsynced {
    fn changed(&mut self, directory: &Path, change: Change) {
        self.names.push((directory.to_owned(), change));
    }

    /// Keeps a file that is about to go.
    fn keep(&mut self, name: &Path) -> io::Result<PathBuf> {
        self.number += 1;
        let kept = self.kept.join(self.number.to_string());
        std::fs::hard_link(name, &kept)?;
        Ok(kept)
    }

    /// Takes back what was not synced, the last first.
    fn undo(&mut self) -> io::Result<()> {
        for (_, change) in self.names.drain(..).rev() {
            match change {
                // A directory that was removed again.
                Change::Made(name) if !name.exists() => {}
                Change::Made(name) if name.is_dir() => std::fs::remove_dir_all(name)?,
                Change::Made(name) => std::fs::remove_file(name)?,
                Change::Removed { name, kept } => std::fs::rename(kept, name)?,
                Change::Renamed { from, to, replaced } => {
                    std::fs::rename(&to, from)?;
                    if let Some(replaced) = replaced {
                        std::fs::rename(replaced, to)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Empties every file below whose content was not synced.
    fn empty(&self, directory: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.empty(&entry.path())?;
            } else if metadata.is_file() && self.contents.contains(&metadata.ino()) {
                File::options().write(true).open(entry.path())?.set_len(0)?;
            }
        }
        Ok(())
    }
}

impl BadDisk {
    /// Moves the directory away and mounts itself in its place.
    pub fn below(directory: &Path) -> Self {
        let backing = directory.with_extension("disk");
        std::fs::rename(directory, &backing).expect("moved away");
        std::fs::create_dir(directory).expect("mount point");
        let kept = directory.with_extension("kept");
        std::fs::create_dir_all(&kept).expect("a place for what goes");
        let spoiled = Spoiled::default();
        let unsynced = Arc::new(Mutex::new(Unsynced { kept, ..Unsynced::default() }));
        let passing = Passing {
            root: backing.clone(),
            spoiled: spoiled.clone(),
            unsynced: unsynced.clone(),
            paths: Mutex::new(HashMap::from([(INodeNo::ROOT.0, PathBuf::new())])),
            files: Mutex::default(),
            next: AtomicU64::new(1),
        };
        let session = fuser::spawn_mount(passing, directory, &Config::default()).expect("mounted");
        Self { directory: directory.to_owned(), backing, spoiled, unsynced, session }
    }

    /// Cuts the power: unmounts it, and leaves in its place what was synced.
    /// Nobody may have it in use.
    pub fn cut(self) {
        let Self { directory, backing, unsynced, session, .. } = self;
        session.umount_and_join().expect("nobody has it in use");
        let mut unsynced = locked(&unsynced);
        unsynced.undo().expect("names are taken back");
        unsynced.empty(&backing).expect("content is taken back");
        std::fs::remove_dir(&directory).expect("it was unmounted");
        std::fs::rename(&backing, &directory).expect("moved back");
    }

    /// From now on reading any of these bytes fails with EIO.
    pub fn spoil(&self, name: impl AsRef<Path>, bytes: Range<u64>) {
        locked(&self.spoiled).entry(name.as_ref().to_owned()).or_default().push(bytes);
    }
}

struct Passing {
    root: PathBuf,
    spoiled: Spoiled,
    unsynced: Arc<Mutex<Unsynced>>,
    /// Of each inode that was looked up: its path from the root.
    paths: Mutex<HashMap<u64, PathBuf>>,
    files: Mutex<HashMap<u64, Arc<File>>>,
    next: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Passing {
    fn path(&self, ino: INodeNo) -> io::Result<PathBuf> {
        let known = locked(&self.paths).get(&ino.0).cloned();
        known.ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::STALE.raw_os_error()))
    }

    fn real(&self, ino: INodeNo) -> io::Result<PathBuf> {
        Ok(self.root.join(self.path(ino)?))
    }

    /// What lies under that path now.
    fn entry(&self, path: PathBuf) -> io::Result<FileAttr> {
        let attr = attr(&self.root.join(&path).symlink_metadata()?);
        locked(&self.paths).insert(attr.ino.0, path);
        Ok(attr)
    }

    fn attr(&self, ino: INodeNo) -> io::Result<FileAttr> {
        let found = attr(&self.real(ino)?.symlink_metadata()?);
        Ok(FileAttr { ino, ..found })
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let known = locked(&self.files).get(&handle.0).cloned();
        known.ok_or_else(|| io::Error::from_raw_os_error(rustix::io::Errno::BADF.raw_os_error()))
    }

    fn keep(&self, file: File) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.files).insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn read_some(&self, ino: INodeNo, handle: FileHandle, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let path = self.path(ino)?;
        let wanted = offset..offset + u64::from(size);
        let spoiled = locked(&self.spoiled).get(&path).is_some_and(|ranges| {
            ranges.iter().any(|range| range.start < wanted.end && wanted.start < range.end)
        });
        if spoiled {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        let (file, mut bytes) = (self.file(handle)?, vec![0; size as usize]);
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], offset + read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        bytes.truncate(read);
        Ok(bytes)
    }

    fn names(&self, ino: INodeNo) -> io::Result<Vec<(u64, FileType, std::ffi::OsString)>> {
        let mut names = vec![
            (ino.0, FileType::Directory, ".".into()),
            (INodeNo::ROOT.0, FileType::Directory, "..".into()),
        ];
        for entry in std::fs::read_dir(self.real(ino)?)? {
            let entry = entry?;
            // One that was renamed meanwhile is not there any more.
            let Ok(metadata) = entry.metadata() else { continue };
            names.push((metadata.ino(), attr(&metadata).kind, entry.file_name()));
        }
        Ok(names)
    }
}

fn attr(metadata: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanos: i64| {
        UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
    };
    FileAttr {
        ino: INodeNo(metadata.ino()),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: metadata.rdev() as u32,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Passing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.path(parent).and_then(|parent| self.entry(parent.join(name))) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            if let Some(size) = size {
                File::options().write(true).open(self.real(ino)?)?.set_len(size)?;
                locked(&self.unsynced).contents.insert(ino.0);
            }
            self.attr(ino)
        };
        match set() {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let make = || {
            let path = self.path(parent)?.join(name);
            let mut unsynced = locked(&self.unsynced);
            std::fs::DirBuilder::new().mode(mode & !umask).create(self.root.join(&path))?;
            unsynced.changed(&self.real(parent)?, Change::Made(self.root.join(&path)));
            self.entry(path)
        };
        match make() {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            let parent = self.real(parent)?;
            let name = parent.join(name);
            let mut unsynced = locked(&self.unsynced);
            let kept = unsynced.keep(&name)?;
            std::fs::remove_file(&name)?;
            unsynced.changed(&parent, Change::Removed { name, kept });
            Ok(())
        };
        done(remove(), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.real(parent).and_then(|parent| std::fs::remove_dir(parent.join(name))), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let (from, into) = (self.real(parent)?.join(name), self.path(to)?.join(to_name));
            let to = self.root.join(&into);
            let mut unsynced = locked(&self.unsynced);
            let replaced = to.exists().then(|| unsynced.keep(&to)).transpose()?;
            std::fs::rename(&from, &to)?;
            let directory = to.parent().unwrap_or(&self.root).to_owned();
            unsynced.changed(&directory, Change::Renamed { from, to, replaced });
            self.entry(into).map(|_| ())
        };
        done(rename(), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut options = File::options();
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => options.read(true),
            OpenAccMode::O_WRONLY => options.write(true),
            OpenAccMode::O_RDWR => options.read(true).write(true),
        };
        // Past the page cache: every read is one here, at the place that was asked for.
        match self.real(ino).and_then(|path| options.open(path)) {
            Ok(file) => reply.opened(self.keep(file), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let exclusive = flags & rustix::fs::OFlags::EXCL.bits() as i32 != 0;
        let create = || {
            let path = self.path(parent)?.join(name);
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .create_new(exclusive)
                .mode(mode & !umask);
            let (real, mut unsynced) = (self.root.join(&path), locked(&self.unsynced));
            let new = !real.exists();
            let file = options.open(&real)?;
            if new {
                unsynced.changed(&self.real(parent)?, Change::Made(real));
            }
            Ok::<_, io::Error>((self.entry(path)?, self.keep(file)))
        };
        match create() {
            Ok((attr, handle)) => {
                reply.created(&TTL, &attr, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_some(ino, handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        locked(&self.unsynced).contents.insert(ino.0);
        match self.file(handle).and_then(|file| file.write_all_at(data, offset)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.files).remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        locked(&self.unsynced).contents.remove(&ino.0);
        done(self.file(handle).and_then(|file| file.sync_all()), reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = || {
            let path = self.real(ino)?;
            locked(&self.unsynced).names.retain(|(directory, _)| *directory != path);
            File::open(path)?.sync_all()
        };
        done(sync(), reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = match self.names(ino) {
            Ok(names) => names,
            Err(error) => return reply.error(error.into()),
        };
        for (at, (ino, kind, name)) in (1..).zip(names).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(INodeNo(ino), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn done(outcome: io::Result<()>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(Errno::from(error)),
    }
}
