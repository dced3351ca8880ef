//! What a pass saw, entry by entry, in a file without a name.
//!
//! Memory does not grow with the tree, and nothing is left when the process
//! ends. Entries come back in the order they were noted, which is that of a
//! walk; paths are stored as what differs from the one before.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use holdfast_archive::entry::path_order;
use holdfast_archive::fs::parts::{ctime_ns, mtime_ns, size_of, type_of};
use rustix::fs::{IFlags, Stat};

/// An entry as it was when it was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) path: Vec<u8>,
    mode: u32,
    inode: u64,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
    /// Of the copy.
    clone_inode: u64,
    /// Flags the copy is to be given in the end.
    pub(super) freezing: IFlags,
}

impl Note {
    pub(super) fn new(path: &[u8], source: &Stat, clone_inode: u64, freezing: IFlags) -> Self {
        Self {
            path: path.to_vec(),
            mode: source.st_mode,
            inode: source.st_ino,
            size: size_of(source),
            mtime_ns: mtime_ns(source),
            ctime_ns: ctime_ns(source),
            clone_inode,
            freezing,
        }
    }

    /// Whether the source is still what was copied, and the copy still that copy.
    pub(super) fn holds(&self, source: &Stat, clone: &Stat) -> bool {
        (self.mode, self.inode, self.size) == (source.st_mode, source.st_ino, size_of(source))
            && (self.mtime_ns, self.ctime_ns) == (mtime_ns(source), ctime_ns(source))
            && (self.clone_inode, type_of(source)) == (clone.st_ino, type_of(clone))
            && (self.size, self.mtime_ns) == (size_of(clone), mtime_ns(clone))
    }
}

/// Notes being taken.
#[derive(Debug)]
pub(super) struct Notes {
    file: BufWriter<File>,
    last: Vec<u8>,
}

impl Notes {
    /// Begins notes on the filesystem of `dir`.
    pub(super) fn begin(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(64 << 10, tempfile::tempfile_in(dir)?), last: Vec::new() })
    }

    pub(super) fn take(&mut self, note: &Note) -> io::Result<()> {
        // Neighbours share most of their path: a note then takes some 80 bytes, whatever
        // the depth.
        let shared = self.last.iter().zip(&note.path).take_while(|(a, b)| a == b).count();
        let rest = &note.path[shared..];
        for len in [shared, rest.len()] {
            let len = u32::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
            self.file.write_all(&len.to_le_bytes())?;
        }
        self.file.write_all(rest)?;
        for number in [note.inode, note.size, note.clone_inode] {
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.file.write_all(&note.mtime_ns.to_le_bytes())?;
        self.file.write_all(&note.ctime_ns.to_le_bytes())?;
        self.file.write_all(&note.mode.to_le_bytes())?;
        self.file.write_all(&note.freezing.bits().to_le_bytes())?;
        self.last.truncate(shared);
        self.last.extend_from_slice(rest);
        Ok(())
    }

    /// Turns to reading them from the first.
    pub(super) fn finish(self) -> io::Result<Noted> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        let mut noted =
            Noted { file: BufReader::with_capacity(64 << 10, file), path: Vec::new(), current: None };
        noted.current = noted.read()?;
        Ok(noted)
    }
}

/// Notes being read.
#[derive(Debug)]
pub(super) struct Noted {
    file: BufReader<File>,
    path: Vec<u8>,
    current: Option<Note>,
}

impl Noted {
    /// The note on this path. Paths must be asked for in the order of a walk.
    pub(super) fn on(&mut self, path: &[u8]) -> io::Result<Option<Note>> {
        while let Some(current) = &self.current {
            match path_order(&current.path, path) {
                // Of a file that is gone since the first pass.
                Ordering::Less => self.current = self.read()?,
                Ordering::Equal => return self.next(),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// The next note, whatever it is on.
    pub(super) fn next(&mut self) -> io::Result<Option<Note>> {
        let next = self.current.take();
        self.current = self.read()?;
        Ok(next)
    }

    fn read(&mut self) -> io::Result<Option<Note>> {
        // One byte by itself tells the end of the file from a note cut short, which is
        // an error below.
        let mut first = [0; 1];
        if self.file.read(&mut first)? == 0 {
            return Ok(None);
        }
        let [b, c, d] = self.bytes()?;
        let shared = u32::from_le_bytes([first[0], b, c, d]) as usize;
        let len = u32::from_le_bytes(self.bytes()?);
        self.path.truncate(shared);
        self.file.by_ref().take(len.into()).read_to_end(&mut self.path)?;
        let [inode, size, clone_inode] =
            [self.bytes()?, self.bytes()?, self.bytes()?].map(u64::from_le_bytes);
        let [mtime_ns, ctime_ns] = [self.bytes()?, self.bytes()?].map(i128::from_le_bytes);
        let [mode, freezing] = [self.bytes()?, self.bytes()?].map(u32::from_le_bytes);
        let freezing = IFlags::from_bits_retain(freezing);
        let path = self.path.clone();
        Ok(Some(Note { path, mode, inode, size, mtime_ns, ctime_ns, clone_inode, freezing }))
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_by_path_in_the_order_of_a_walk() {
        let dir = tempfile::tempdir().unwrap();
        let stat = rustix::fs::stat(dir.path()).unwrap();
        let long = format!("b/{}", "n/".repeat(40_000)).into_bytes();
        let paths: [&[u8]; 5] = [b"a/b", b"a/c\xff", b"a-b", b"b", &long];
        let mut notes = Notes::begin(dir.path()).unwrap();
        for (n, path) in paths.iter().enumerate() {
            notes.take(&Note::new(path, &stat, n as u64, IFlags::IMMUTABLE)).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let mut noted = notes.finish().unwrap();
        for (path, n) in [(paths[1], Some(1)), (b"a/d", None), (paths[2], Some(2)), (paths[4], Some(4))] {
            let found = noted.on(path).unwrap();
            assert_eq!(found, n.map(|n| Note::new(path, &stat, n, IFlags::IMMUTABLE)));
        }
        assert_eq!(noted.on(b"c").unwrap(), None);
    }

    #[test]
    fn a_note_holds_only_for_what_was_copied_and_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let stat = rustix::fs::stat(dir.path()).unwrap();
        let mut clone = stat;
        (clone.st_ino, clone.st_ctime) = (7, 0);
        let note = Note::new(b"x", &stat, 7, IFlags::empty());
        assert!(note.holds(&stat, &clone));
        let changes: [fn(&mut Stat); 5] = [
            |stat| stat.st_size += 1,
            |stat| stat.st_mtime_nsec ^= 1,
            |stat| stat.st_ctime_nsec ^= 1,
            |stat| stat.st_ino += 1,
            |stat| stat.st_mode ^= 1,
        ];
        for change in changes {
            let mut changed = stat;
            change(&mut changed);
            assert!(!note.holds(&changed, &clone));
        }
        let changes: [fn(&mut Stat); 3] =
            [|stat| stat.st_ino = 8, |stat| stat.st_mtime = 0, |stat| stat.st_mode = 0o100_644];
        for change in changes {
            let mut changed = clone;
            change(&mut changed);
            assert!(!note.holds(&stat, &changed));
        }
    }
}
