//! Trees looked into without being led out of them: the filesystem of a
//! running container as its own processes see it, and directories that
//! containers write. A link that a container put there is not followed to the
//! host.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use serde_json::Value;

use crate::engine::Container;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Directories deeper than this are not entered.
const DEEPEST: usize = 64;

/// The root of a running container's filesystem, mounts and all.
pub(super) struct ContainerRoot(OwnedFd);

impl ContainerRoot {
    /// None where it does not run or its processes cannot be seen from here: an
    /// agent in a container of its own sees other processes under their numbers.
    pub(super) fn open(container: &Container, inspected: &Value) -> Option<Self> {
        if container.pid <= 0 {
            return None;
        }
        let process = PathBuf::from(format!("/proc/{}", container.pid));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(process.join("root"), flags, Mode::empty()).ok()?;
        // After the root is held: what was opened is judged, not its successor.
        let mounts = fs::read_to_string(process.join("mountinfo")).ok()?;
        is_of(&mounts, inspected).then_some(Self(root))
    }

    /// Opens a directory by its path inside the container.
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags, Mode::empty(), inside)
    }
}

/// Whether a process with these mounts is one of the container's: the Engine
/// mounts files of its own into each, whose paths hold the id.
fn is_of(mountinfo: &str, inspected: &Value) -> bool {
    let own = ["HostnamePath", "HostsPath", "ResolvConfPath"]
        .into_iter()
        .filter_map(|key| inspected.get(key)?.as_str())
        .filter_map(|path| path.rfind("/containers/").map(|start| &path[start..]));
    let roots: Vec<&str> = mountinfo.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    own.into_iter().any(|own| roots.iter().any(|root| root.ends_with(own)))
}

/// What to do after an entry was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Goes on; into it, where it is a directory.
    Into,
    /// Goes on beside it.
    Beside,
    /// Ends the walk.
    End,
}

/// One entry of a tree.
pub(super) struct Seen<'a> {
    pub(super) directory: &'a OwnedFd,
    pub(super) name: &'a CStr,
    /// From the root of the walk.
    pub(super) path: PathBuf,
    pub(super) depth: usize,
    pub(super) kind: FileType,
    pub(super) stat: Stat,
}

/// Opens a directory of the host, the last part of its path being no link.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, DIRECTORY, Mode::empty())
}

/// Shows a tree's entries to `see`, those of one directory by name. No link is
/// followed and no other filesystem entered; what vanishes meanwhile is passed
/// over.
pub(super) fn walk(root: &OwnedFd, see: &mut dyn FnMut(&Seen<'_>) -> Next) -> Result<(), Errno> {
    let device = rustix::fs::fstat(root)?.st_dev;
    enter(root, Path::new(""), device, 1, see).map(drop)
}

fn enter(
    directory: &OwnedFd,
    at: &Path,
    device: u64,
    depth: usize,
    see: &mut dyn FnMut(&Seen<'_>) -> Next,
) -> Result<Next, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if name.as_c_str() != c"." && name.as_c_str() != c".." {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        let stat = match rustix::fs::statat(directory, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        // The path may lose bytes that are no text: what is opened goes by `name`.
        let path = at.join(std::ffi::OsStr::new(&*name.to_string_lossy()));
        let seen = Seen { directory, name: &name, path, depth, kind, stat };
        match see(&seen) {
            Next::Into => {}
            Next::Beside => continue,
            Next::End => return Ok(Next::End),
        }
        // The directories above stay open meanwhile, so the depth needs a bound.
        if kind != FileType::Directory || depth >= DEEPEST || stat.st_dev != device {
            continue;
        }
        match rustix::fs::openat(directory, name.as_c_str(), DIRECTORY, Mode::empty()) {
            Ok(below) => {
                if enter(&below, &seen.path, device, depth + 1, see)? == Next::End {
                    return Ok(Next::End);
                }
            }
            // It was replaced after the look at it, so what was seen has vanished.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Next::Into)
}

/// The first bytes of a regular file; none where it is none or cannot be read.
pub(super) fn head(directory: impl AsFd, name: &CStr, most: usize) -> Option<Vec<u8>> {
    use std::io::Read;

    // Not blocking: it may have become a FIFO meanwhile.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let found = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    fs::File::from(file).take(most as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_process_is_the_containers_only_with_its_files_mounted() {
        let id = "3f".repeat(32);
        let inspected = json!({ "HostnamePath": format!("/data/docker/containers/{id}/hostname") });
        let line = format!("1 2 8:1 /docker/containers/{id}/hostname /etc/hostname rw - ext4 /dev/sda1 rw");
        assert!(is_of(&line, &inspected));
        assert!(!is_of(&line.replace("3f3f", "4f4f"), &inspected));
        assert!(!is_of(&line, &json!({})));
        assert!(!is_of(&line, &json!({ "HostnamePath": "" })));
    }

    #[test]
    fn a_tree_is_walked_by_name_and_no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("b/c")).unwrap();
        fs::write(path.join("b/c/file"), "x").unwrap();
        fs::write(path.join("a"), "yz").unwrap();
        symlink("/", path.join("d")).unwrap();
        let root = open_directory(path).unwrap();
        let mut seen = Vec::new();
        walk(&root, &mut |entry| {
            seen.push((entry.path.display().to_string(), entry.depth));
            Next::Into
        })
        .unwrap();
        let expected = [("a", 1), ("b", 1), ("b/c", 2), ("b/c/file", 3), ("d", 1)];
        assert_eq!(seen, expected.map(|(path, depth)| (path.to_owned(), depth)));

        let mut seen = 0;
        walk(&root, &mut |entry| {
            seen += 1;
            if entry.path == Path::new("b/c/file") { Next::End } else { Next::Into }
        })
        .unwrap();
        assert_eq!(seen, 4);
        assert_eq!(head(&root, c"a", 1).unwrap(), b"y");
        assert!(head(&root, c"d", 1).is_none() && head(&root, c"b", 1).is_none());
        symlink(path, path.join("e")).unwrap();
        assert!(open_directory(&path.join("e")).is_err());
    }
}
