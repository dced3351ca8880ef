//! The names in one directory, sorted bytewise, in two allocations: a
//! directory of a million names is a list of names, not a million strings.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// Bytes of entries read by one system call.
const READ: usize = 64 << 10;

#[derive(Debug, Default)]
pub struct Names {
    /// Names, each with its NUL.
    blob: Vec<u8>,
    index: Vec<Name>,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    start: u32,
    len: u16,
    kind: FileType,
}

impl Names {
    /// Reads the directory from its start; `.` and `..` are left out.
    ///
    /// # Errors
    /// The kernel does not give the names, or they take more than 4 GiB.
    pub fn read(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut names = Self::default();
        let mut buffer = Vec::with_capacity(READ);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes_with_nul();
            if name != b".\0" && name != b"..\0" {
                names.push(name, entry.file_type())?;
            }
        }
        names.sort();
        Ok(names)
    }

    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// The name at `at` and its kind, `Unknown` where the filesystem does not say.
    pub fn get(&self, at: usize) -> Option<(&CStr, FileType)> {
        let name = self.index.get(at)?;
        Some((self.c_str(name), name.kind))
    }

    fn push(&mut self, with_nul: &[u8], kind: FileType) -> Result<(), Errno> {
        // Four bytes a name instead of eight; 4 GiB of names in one directory are refused, not cut.
        let start = u32::try_from(self.blob.len()).map_err(|_| Errno::OVERFLOW)?;
        let len = u16::try_from(with_nul.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.blob.extend_from_slice(with_nul);
        self.index.push(Name { start, len, kind });
        Ok(())
    }

    fn sort(&mut self) {
        let Self { blob, index } = self;
        // The NUL at the end sorts a name before its extensions, as its bytes alone would.
        index.sort_unstable_by(|a, b| bytes(blob, a).cmp(bytes(blob, b)));
        blob.shrink_to_fit();
        index.shrink_to_fit();
    }

    fn c_str(&self, name: &Name) -> &CStr {
        CStr::from_bytes_with_nul(bytes(&self.blob, name)).expect("pushed with its one NUL")
    }
}

fn bytes<'a>(blob: &'a [u8], name: &Name) -> &'a [u8] {
    let start = name.start as usize;
    &blob[start..start + usize::from(name.len)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_come_sorted_bytewise() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a.b", "a", "a-b", "B", "\u{fc}"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let fd = std::fs::File::open(dir.path()).unwrap();
        let names = Names::read(fd.as_fd()).unwrap();
        let all: Vec<_> =
            (0..names.len()).map(|at| names.get(at).unwrap().0.to_str().unwrap().to_owned()).collect();
        assert_eq!(all, ["B", "a", "a-b", "a.b", "b", "\u{fc}"]);
        assert!(names.get(6).is_none());
    }
}
