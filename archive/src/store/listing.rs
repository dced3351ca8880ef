//! Walks a directory repository in the order of whole names, bytewise, as S3
//! lists.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat, unlinkat};
use rustix::io::Errno;

use super::directory::TEMPORARY;
use super::root::{Root, is_medium, open_directory};
use super::{RawListed, RawPage};

pub(super) const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Deeper than any name of ours; ends a loop of symbolic links.
const MAX_DEPTH: usize = 8;

/// At most `limit` names that begin with the directory `prefix`, from after
/// the name given.
pub(super) fn list(root: &Root, prefix: &str, after: &str, limit: usize) -> std::io::Result<RawPage> {
    let mut walk = Listing { after, limit, items: Vec::new(), truncated: false };
    match root.directory(prefix) {
        Ok(start) => walk.directory(start.as_fd(), prefix, 0)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(RawPage { items: walk.items, truncated: walk.truncated })
}

struct Listing<'a> {
    after: &'a str,
    limit: usize,
    items: Vec<RawListed>,
    truncated: bool,
}

impl Listing<'_> {
    fn directory(&mut self, at: BorrowedFd<'_>, prefix: &str, depth: usize) -> std::io::Result<()> {
        for (name, len) in entries(at, prefix)? {
            match len {
                Some(_) if name.as_str() <= self.after => {}
                Some(_) if self.items.len() == self.limit => self.truncated = true,
                Some(len) => self.items.push(RawListed { name, len }),
                None if depth == MAX_DEPTH => {}
                None if name.as_str() <= self.after && !self.after.starts_with(&name) => {}
                None => match open_directory(at, last(&name)) {
                    Ok(below) => self.directory(below.as_fd(), &name, depth + 1)?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                },
            }
            if self.truncated {
                break;
            }
        }
        Ok(())
    }
}

/// Whole names in order; files with their length in bytes.
fn entries(at: BorrowedFd<'_>, prefix: &str) -> std::io::Result<Vec<(String, Option<u64>)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(at)? {
        let entry = entry?;
        // Names of ours are ASCII; another is no object.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if matches!(name, "." | "..") {
            continue;
        }
        let stat = match statat(at, name, AtFlags::empty()) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::LOOP) => continue,
            // It is there, and nothing more can be said of it. Left out, it would count as deleted.
            Err(error) if is_medium(&error.into()) && entry.file_type() != FileType::Directory => {
                names.push((format!("{prefix}{name}"), Some(0)));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            _ if name.starts_with(TEMPORARY) => remove_if_stale(at, name, &stat),
            FileType::Directory => names.push((format!("{prefix}{name}/"), None)),
            FileType::RegularFile => {
                names.push((format!("{prefix}{name}"), Some(u64::try_from(stat.st_size).unwrap_or(0))));
            }
            _ => {}
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn last(name: &str) -> &str {
    name.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn remove_if_stale(at: BorrowedFd<'_>, name: &str, stat: &Stat) {
    let modified = u64::try_from(stat.st_mtime).unwrap_or(0);
    let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(modified));
    if age.is_ok_and(|age| age > STALE) && unlinkat(at, name, AtFlags::empty()).is_ok() {
        tracing::info!(file = name, "removed what an interrupted write left behind");
    }
}
