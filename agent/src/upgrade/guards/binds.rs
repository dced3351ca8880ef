//! Writable directories of the host, mounted into the container. Such a place
//! is no loss by itself: the new container has it too. But only what the host's
//! own file admits is snapshotted and cloned; what the new version does to the
//! others could not be undone.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::allow::Allow;

/// Filesystems of the kernel that hold no data: proc, sysfs, both cgroups,
/// devpts, debugfs, tracefs, bpf.
const NO_DATA: [u64; 8] =
    [0x9fa0, 0x6265_6572, 0x0027_e0eb, 0x6367_7270, 0x1cd1, 0x6462_6720, 0x7472_6163, 0xcafe_4a11];

/// What a writable bind is to an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bind {
    /// A directory that can be snapshotted; where it really is.
    Source(PathBuf),
    /// A socket, a device or a window into the kernel.
    NoData,
    /// It stays, but a rollback could not undo what was written to it.
    Unprotected(String),
}

/// Judges the source of a writable bind. `data_root` is the Engine's.
pub(crate) fn judge(source: &Path, allow: &Allow, data_root: &Path) -> Bind {
    let named = source.display().to_string();
    let named = named.escape_debug();
    let unprotected = |why: String| {
        Bind::Unprotected(format!(
            "`{named}` is mounted writable and {why}: it is neither snapshotted nor cloned, and a rollback leaves what the new version wrote there"
        ))
    };
    // By path alone: to open a FIFO would block, and to open a device could act on it.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let handle = match rustix::fs::open(source, flags, Mode::empty()) {
        Ok(handle) => handle,
        Err(Errno::NOENT) => return unprotected("cannot be seen from where the agent runs".to_owned()),
        Err(error) => return unprotected(format!("cannot be opened ({error})")),
    };
    let kind = match rustix::fs::fstat(&handle) {
        Ok(found) => FileType::from_raw_mode(found.st_mode),
        Err(error) => return unprotected(format!("cannot be looked at ({error})")),
    };
    match kind {
        FileType::Directory => {}
        FileType::RegularFile => return unprotected("is a single file".to_owned()),
        // A socket, a FIFO or a device leads to something else and holds nothing.
        _ => return Bind::NoData,
    }
    let filesystem = rustix::fs::fstatfs(&handle).map(|found| u64::try_from(found.f_type).unwrap_or(0));
    if filesystem.is_ok_and(|kind| NO_DATA.contains(&kind)) {
        return Bind::NoData;
    }
    // Where the handle is, not where a link led a moment ago.
    let real = match std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())) {
        Ok(real) => real,
        Err(error) => return unprotected(format!("cannot be located ({error})")),
    };
    if allow.check_path(&real).is_err() {
        return unprotected(
            "this host does not allow that path (`allow` in the agent's config.toml)".to_owned(),
        );
    }
    if data_root.starts_with(&real) {
        return unprotected("the Engine's own data is inside".to_owned());
    }
    Bind::Source(real)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_directories_the_host_admits_are_sources() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let at = |name: &str| base.join(name);
        fs::create_dir_all(at("data/engine")).unwrap();
        fs::write(at("file"), "x").unwrap();
        symlink(at("data"), at("link")).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        let data = at("data").display().to_string();
        let allow = Allow::parse([data.as_str()]).unwrap();
        let judge = |name: &str| judge(&at(name), &allow, Path::new("/var/lib/docker"));
        let why = |bind: Bind| match bind {
            Bind::Unprotected(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(judge("data"), Bind::Source(at("data")));
        assert_eq!(judge("data/engine"), Bind::Source(at("data/engine")));
        assert_eq!(judge("link"), Bind::Source(at("data")), "it is allowed by where it is");
        assert_eq!(judge("socket"), Bind::NoData);
        assert!(why(judge("file")).contains("single file"));
        assert!(why(judge("gone")).contains("cannot be seen"));
        assert!(why(judge("")).contains("does not allow"));
        let above = super::judge(&at("data"), &allow, &at("data/engine"));
        assert!(why(above).contains("Engine's own data"));
        for kernel in ["/proc", "/sys", "/dev/null"] {
            assert_eq!(super::judge(Path::new(kernel), &allow, Path::new("/x")), Bind::NoData, "{kernel}");
        }
    }
}
