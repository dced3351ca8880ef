//! Which paths are mount points in this process's view.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Whether something is mounted exactly at `path`.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    std::fs::read("/proc/self/mountinfo").is_ok_and(|table| names(&table, path))
}

/// Something mounted below `path`, which must have no links in it.
pub(crate) fn mount_point_below(path: &Path) -> Option<PathBuf> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    mount_points(&table).find(|found| found != path && found.starts_with(path))
}

fn names(table: &[u8], path: &Path) -> bool {
    mount_points(table).any(|found| found.as_os_str() == path.as_os_str())
}

fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let fields =
        table.split(|&byte| byte == b'\n').filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    fields.map(|field| unescape(field).into())
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0u8, |value, &digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
                _ => None,
            })
        };
        match (first, after.get(..3).and_then(octal)) {
            (b'\\', Some(byte)) => {
                plain.push(byte);
                rest = &after[3..];
            }
            _ => {
                plain.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_compared_whole_and_unescaped() {
        let table = b"36 35 98:0 / /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n37 35 0:4 /x /proc rw - proc proc rw\n";
        assert!(names(table, Path::new("/mnt/a b")));
        assert!(names(table, Path::new("/proc")));
        assert!(!names(table, Path::new("/mnt/a")));
        assert!(!names(table, Path::new("/x")));
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
        assert!(mount_point_below(Path::new("/")).is_some());
        assert_eq!(mount_point_below(Path::new("/proc/self")), None);
    }
}
