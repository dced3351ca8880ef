//! A comparison finds every difference, and none where there is none.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use support::disk::is_root;
use support::tree::{append, every_kind, run_on};

use super::memory::Memory;
use super::{put_back, restore_request, take};
use crate::fs::{RestoreOptions, compare, restore};

type Damage = fn(&Path);

/// What a comparison says of it, and what was done to a tree that was like its
/// snapshot.
const DAMAGES: [(&str, Damage); 14] = [
    ("empty: it has 1 bytes", |to| append(&to.join("empty"), b"x")),
    ("dangling: it is of another kind", |to| {
        fs::remove_file(to.join("dangling")).unwrap();
        fs::write(to.join("dangling"), "").unwrap();
    }),
    ("absolute: it leads elsewhere", |to| {
        fs::remove_file(to.join("absolute")).unwrap();
        symlink("/etc/shadow", to.join("absolute")).unwrap();
    }),
    ("fifo: it is missing", |to| fs::remove_file(to.join("fifo")).unwrap()),
    ("dir/empty/more: it should not be there", |to| fs::write(to.join("dir/empty/more"), "").unwrap()),
    ("zz: it should not be there", |to| fs::create_dir_all(to.join("zz/deep")).unwrap()),
    ("small: its mode", |to| {
        fs::set_permissions(to.join("small"), fs::Permissions::from_mode(0o600)).unwrap()
    }),
    ("dir/f03: its owner", |to| std::os::unix::fs::chown(to.join("dir/f03"), Some(9), None).unwrap()),
    ("locked: its modification time", |to| run_on("touch", &["-d", "@5"], &to.join("locked"))),
    ("small: its attribute user.colour differs", |to| {
        rustix::fs::setxattr(to.join("small"), c"user.colour", b"red", XattrFlags::empty()).unwrap();
    }),
    ("dir: its attribute user.on-a-directory is missing", |to| {
        rustix::fs::removexattr(to.join("dir"), c"user.on-a-directory").unwrap();
    }),
    ("empty: its attribute user.new should not", |to| {
        rustix::fs::setxattr(to.join("empty"), c"user.new", b"", XattrFlags::empty()).unwrap();
    }),
    ("third-name: it is not another name of dir/second-name", |to| {
        fs::remove_file(to.join("third-name")).unwrap();
        fs::write(to.join("third-name"), "one inode").unwrap();
    }),
    (".: its mode", |to| fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap()),
];

#[test]
fn a_restored_tree_has_no_difference() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    every_kind(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    put_back(captured.root, to.path(), &repository);
    let report = compare(restore_request(captured.root, to.path(), &repository)).unwrap();
    assert_eq!(report.differences, Vec::<String>::new());
    assert_eq!((report.entries, report.differences_total), (captured.stats.entries, 0));
    assert_eq!(report.files, captured.stats.files);
}

#[test]
fn what_was_left_out_by_options_is_no_difference() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    every_kind(from.path());
    fs::hard_link(from.path().join("char"), from.path().join("char-too")).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    for paths in [vec![], vec![b"dir".to_vec(), b"z-large-name".to_vec(), b"third-name".to_vec()]] {
        let to = to.path().join(paths.len().to_string());
        fs::create_dir(&to).unwrap();
        let asked = || {
            let mut request = restore_request(captured.root, &to, &repository);
            request.options = RestoreOptions { paths: paths.clone(), ..RestoreOptions::default() };
            request
        };
        restore(asked()).unwrap();
        assert_eq!(compare(asked()).unwrap().differences, Vec::<String>::new());
        // The strictest options know better.
        let mut request = asked();
        (request.options.devices, request.options.setuid) = (true, true);
        assert!(compare(request).unwrap().differences_total > 0);
    }
}

#[test]
fn content_that_differs_is_found_though_nothing_else_does() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    every_kind(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    put_back(captured.root, to.path(), &repository);
    for (name, at) in [("small", 3), ("dir/large", 5 << 20), ("sparse", 10 << 20), ("only-hole", 9 << 20)] {
        overwrite(&to.path().join(name), at);
    }
    let report = compare(restore_request(captured.root, to.path(), &repository)).unwrap();
    let content: Vec<_> = ["dir/large", "only-hole", "small", "sparse"]
        .map(|name| format!("{name}: its content differs"))
        .into();
    assert_eq!(report.differences, content);
}

#[test]
fn every_difference_is_found() {
    if !is_root() {
        return;
    }
    let from = tempfile::tempdir().unwrap();
    every_kind(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    for (expected, damage) in DAMAGES {
        let to = tempfile::tempdir().unwrap();
        put_back(captured.root, to.path(), &repository);
        damage(to.path());
        let report = compare(restore_request(captured.root, to.path(), &repository)).unwrap();
        assert!(report.differences.iter().any(|line| line.starts_with(expected)), "{:?}", report.differences);
    }
}

/// Changes one byte of a file, and leaves its length and its time.
fn overwrite(path: &Path, at: u64) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"!", at).unwrap();
    file.set_modified(time).unwrap();
}
