//! Whatever is done to a tree between the passes, the clone equals it.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use support::tree::assert_equal;

use super::{GO_ON, Volume};
use crate::clone::pass::first_pass_with;
use crate::clone::*;

#[derive(Debug, Clone)]
enum Edit {
    Write(u8, u32, u8),
    Patch(u8, u32),
    Remove(u8),
    Rename(u8, u8),
    Exchange(u8, u8),
    Link(u8, u8),
    Symlink(u8, u8),
    Directory(u8),
    Fifo(u8),
    Mode(u8, u16),
    Attribute(u8, u8),
    Bare(u8),
    Back(u8),
}

/// Few names, so that edits meet.
fn path(root: &Path, n: u8) -> PathBuf {
    let directory = ["", "a", "a/b", "c"][usize::from(n) % 4];
    root.join(directory).join(format!("f{}", n / 4 % 6))
}

fn apply(root: &Path, edit: &Edit) {
    let at = |n: &u8| path(root, *n);
    let regular = |n: &u8| fs::symlink_metadata(at(n)).is_ok_and(|found| found.is_file());
    // Edits of what is not there, or is another thing by now, do nothing.
    let _ = match edit {
        Edit::Write(n, len, byte) if regular(n) || !at(n).exists() => {
            fs::write(at(n), vec![*byte; *len as usize])
        }
        Edit::Patch(n, offset) if regular(n) => fs::OpenOptions::new()
            .write(true)
            .open(at(n))
            .and_then(|file| file.write_all_at(b"patched", u64::from(*offset))),
        Edit::Remove(n) => fs::remove_file(at(n)).or_else(|_| fs::remove_dir_all(at(n))),
        Edit::Rename(from, to) => fs::rename(at(from), at(to)),
        Edit::Exchange(a, b) => {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE).map_err(Into::into)
        }
        Edit::Link(from, to) => fs::hard_link(at(from), at(to)),
        Edit::Symlink(n, to) => symlink(format!("../f{to}"), at(n)),
        Edit::Directory(n) => fs::create_dir(at(n)),
        Edit::Fifo(n) => {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, at(n), FileType::Fifo, Mode::RUSR, 0).map_err(Into::into)
        }
        Edit::Mode(n, mode) if !at(n).is_symlink() => {
            fs::set_permissions(at(n), fs::Permissions::from_mode(u32::from(*mode) | 0o700))
        }
        Edit::Attribute(n, value) => {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::lsetxattr(at(n), c"user.note", &[*value], flags).map_err(Into::into)
        }
        Edit::Bare(n) => rustix::fs::lremovexattr(at(n), c"user.note").map_err(Into::into),
        // Writes as much as there was and takes the time of modification back.
        Edit::Back(n) if regular(n) => fs::metadata(at(n)).and_then(|found| {
            fs::write(at(n), vec![b'!'; found.len() as usize])?;
            fs::File::open(at(n))?.set_modified(found.modified()?)
        }),
        _ => Ok(()),
    };
}

fn edit() -> impl Strategy<Value = Edit> {
    let n = any::<u8>;
    let len = prop_oneof![4 => 0..2000u32, 1 => 0..700_000u32];
    prop_oneof![
        5 => (n(), len.clone(), n()).prop_map(|(n, len, byte)| Edit::Write(n, len, byte)),
        2 => (n(), len).prop_map(|(n, at)| Edit::Patch(n, at)),
        2 => n().prop_map(Edit::Remove),
        2 => (n(), n()).prop_map(|(a, b)| Edit::Rename(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| Edit::Exchange(a, b)),
        3 => (n(), n()).prop_map(|(a, b)| Edit::Link(a, b)),
        1 => (n(), n()).prop_map(|(n, to)| Edit::Symlink(n, to)),
        1 => n().prop_map(Edit::Directory),
        1 => n().prop_map(Edit::Fifo),
        1 => (n(), 0..0o7777u16).prop_map(|(n, mode)| Edit::Mode(n, mode)),
        1 => (n(), n()).prop_map(|(n, value)| Edit::Attribute(n, value)),
        1 => n().prop_map(Edit::Bare),
        1 => n().prop_map(Edit::Back),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Notes are trusted as soon as the clock of timestamps has moved on, so
    /// that it is they that are tested and not what is too young for them.
    #[test]
    fn the_clone_equals_whatever_became_of_the_tree(
        before in prop::collection::vec(edit(), 0..40),
        between in prop::collection::vec(edit(), 0..20),
        grace_ns in prop_oneof![Just(10_000_000), Just(2_000_000_000)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::in_dir(dir.path());
        fs::create_dir_all(volume.root.join("a/b")).unwrap();
        fs::create_dir(volume.root.join("c")).unwrap();
        before.iter().for_each(|edit| apply(&volume.root, edit));
        std::thread::sleep(std::time::Duration::from_millis(25));
        let first = first_pass_with(&volume.root, &volume.clone, grace_ns, &GO_ON).unwrap();
        between.iter().for_each(|edit| apply(&volume.root, edit));
        second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
        assert_equal(&volume.root, &volume.clone);
        let (original, cloned) = (identity(&volume.root).unwrap(), identity(&volume.clone).unwrap());
        put_back(&volume.root, &volume.clone, original, cloned).unwrap();
        assert_equal(&volume.root, &volume.clone);
        remove(&volume.clone).unwrap();
    }
}
