//! Whatever is done to a tree, a chain of increments restores it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use support::tree::{append, assert_equal, noise};

use super::memory::Memory;
use super::{aged_a_little, put_back, restore_request, settle, take};
use crate::fs::compare;

#[derive(Debug, Clone)]
enum Edit {
    Write(u8, u32, u64),
    Append(u8, u32, u64),
    Patch(u8, u32, u64),
    Remove(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Touch(u8),
    Directory(u8),
    Capture,
}

/// Few names, so that edits meet.
fn path(root: &Path, n: u8) -> PathBuf {
    let directory = ["", "a", "a/b", "c"][usize::from(n) % 4];
    root.join(directory).join(format!("f{}", n / 4 % 6))
}

fn apply(root: &Path, edit: &Edit) {
    // Edits of what is not there, or is a directory by now, do nothing.
    let _ = match edit {
        Edit::Write(n, len, seed) => fs::write(path(root, *n), noise(*len as usize, *seed)),
        Edit::Append(n, len, seed) => {
            if path(root, *n).is_file() {
                append(&path(root, *n), &noise(*len as usize / 4, *seed));
            }
            Ok(())
        }
        Edit::Patch(n, at, seed) => patch(&path(root, *n), *at, *seed),
        Edit::Remove(n) => fs::remove_file(path(root, *n)).or_else(|_| fs::remove_dir_all(path(root, *n))),
        Edit::Rename(from, to) => fs::rename(path(root, *from), path(root, *to)),
        Edit::Link(from, to) => fs::hard_link(path(root, *from), path(root, *to)),
        Edit::Touch(n) => fs::File::open(path(root, *n)).and_then(|file| {
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs((*n).into()))
        }),
        Edit::Directory(n) => fs::create_dir(path(root, *n)),
        Edit::Capture => Ok(()),
    };
}

fn patch(path: &Path, at: u32, seed: u64) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let file = fs::OpenOptions::new().write(true).open(path)?;
    // Beyond the end too: that leaves a hole.
    file.write_all_at(&noise(100, seed), u64::from(at))
}

fn edit() -> impl Strategy<Value = Edit> {
    let len = prop_oneof![4 => 0..2000u32, 2 => 0..700_000u32, 1 => 700_000..3_000_000u32];
    prop_oneof![
        4 => (any::<u8>(), len.clone(), 0..8u64).prop_map(|(n, len, seed)| Edit::Write(n, len, seed)),
        2 => (any::<u8>(), len.clone(), any::<u64>()).prop_map(|(n, len, seed)| Edit::Append(n, len, seed)),
        2 => (any::<u8>(), len, any::<u64>()).prop_map(|(n, at, seed)| Edit::Patch(n, at, seed)),
        1 => any::<u8>().prop_map(Edit::Remove),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Rename(a, b)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Edit::Link(a, b)),
        1 => any::<u8>().prop_map(Edit::Touch),
        1 => any::<u8>().prop_map(Edit::Directory),
        2 => Just(Edit::Capture),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn increments_restore_to_what_was_there(edits in prop::collection::vec(edit(), 1..40)) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/b")).unwrap();
        fs::create_dir(from.path().join("c")).unwrap();
        let repository = Arc::new(Memory::default());
        let mut last = None;
        for edit in edits.iter().chain(&[Edit::Capture]) {
            apply(from.path(), edit);
            if matches!(edit, Edit::Capture) {
                settle();
                last = Some(take(from.path(), &repository, last.as_ref().map(aged_a_little).as_ref()));
            }
        }
        let last = last.unwrap();
        prop_assert!(!last.partial);
        // What was not edited since is trusted: nothing of it is read.
        let again = take(from.path(), &repository, Some(&aged_a_little(&last)));
        prop_assert_eq!((again.root, again.stats.changed_files, again.stats.read_bytes), (last.root, 0, 0));
        put_back(last.root, to.path(), &repository);
        assert_equal(from.path(), to.path());
        let compared = compare(restore_request(last.root, to.path(), &repository)).unwrap();
        prop_assert_eq!(compared.differences, Vec::<String>::new());
    }
}
