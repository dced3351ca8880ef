//! What goes in comes out.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Mode;
use support::disk::is_root;
use support::tree::{assert_equal, every_kind, noise, run_on};

use super::memory::Memory;
use super::{entries, find, put_back, restore_request, take};
use crate::entry::EntryKind;
use crate::fs::{NestedMounts, RestoreError, open, restore};

#[test]
fn a17_a19_a28_a30_every_kind_of_entry_round_trips() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    every_kind(from.path());
    run_on("touch", &["-d", "@10413792000.123456789"], &from.path().join("dir/f05"));
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert!(!captured.partial, "{:?}", captured.problems);
    let report = put_back(captured.root, to.path(), &repository);
    assert_eq!((report.left_out, report.warnings), (vec![], vec![]));
    assert_eq!(report.entries, captured.stats.entries);
    assert_equal(from.path(), to.path());
}

#[test]
fn a08_three_names_are_one_inode_stored_once() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("d")).unwrap();
    fs::write(from.path().join("a"), noise(800 << 10, 1)).unwrap();
    fs::hard_link(from.path().join("a"), from.path().join("b")).unwrap();
    fs::hard_link(from.path().join("a"), from.path().join("d/c")).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!(repository.data().1, 800 << 10);
    assert_eq!(captured.stats.read_bytes, 800 << 10);
    put_back(captured.root, to.path(), &repository);
    let metadata = fs::metadata(to.path().join("d/c")).unwrap();
    assert_eq!((metadata.nlink(), metadata.ino()), (3, fs::metadata(to.path().join("a")).unwrap().ino()));
}

#[test]
fn a09_a_name_outside_is_counted_and_the_file_is_whole() {
    let above = tempfile::tempdir().unwrap();
    let from = above.path().join("in");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("f"), "content").unwrap();
    fs::hard_link(from.join("f"), above.path().join("outside")).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(&from, &repository, None);
    assert_eq!((captured.outside_links, captured.partial), (1, false));
    assert_eq!(captured.warnings.len(), 1);
    let entries = entries(captured.root, &repository);
    assert!(matches!(find(&entries, "f").kind, EntryKind::File(_)));
}

#[test]
fn a10_devices_are_left_out_unless_asked_for() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let null = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, from.path().join("null"), kind, Mode::RUSR, null).unwrap();
    fs::hard_link(from.path().join("null"), from.path().join("null-too")).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    let mut request = restore_request(captured.root, to.path(), &repository);
    request.options.devices = false;
    let report = restore(request).unwrap();
    assert_eq!(report.left_out_total, 2, "{:?}", report.left_out);
    assert!(fs::read_dir(to.path()).unwrap().next().is_none());
    put_back(captured.root, to.path(), &repository);
    assert_eq!(fs::metadata(to.path().join("null")).unwrap().rdev(), null);
}

#[test]
fn a11_a12_fifos_and_sockets_do_not_block() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mode = Mode::RUSR | Mode::WUSR;
    for (name, kind) in [("fifo", rustix::fs::FileType::Fifo), ("sock", rustix::fs::FileType::Socket)] {
        rustix::fs::mknodat(rustix::fs::CWD, from.path().join(name), kind, mode, 0).unwrap();
    }
    let bound = std::os::unix::net::UnixListener::bind(from.path().join("bound")).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    drop(bound);
    put_back(captured.root, to.path(), &repository);
    use std::os::unix::fs::FileTypeExt as _;
    let kind = |name| fs::symlink_metadata(to.path().join(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo() && kind("sock").is_socket() && kind("bound").is_socket());
}

#[test]
fn a13_a_sparse_terabyte_costs_its_data() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = File::create(from.path().join("sparse")).unwrap();
    file.write_all_at(&noise(1 << 20, 1), 512 << 30).unwrap();
    file.set_len(1 << 40).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!((captured.stats.size_bytes, captured.stats.read_bytes), (1 << 40, 1 << 20));
    let report = put_back(captured.root, to.path(), &repository);
    assert_eq!(report.bytes, 1 << 20);
    let restored = fs::metadata(to.path().join("sparse")).unwrap();
    assert_eq!(restored.len(), 1 << 40);
    assert!(restored.blocks() * 512 <= (1 << 20) + (1 << 17), "{} blocks", restored.blocks());
    let mut bytes = vec![0; 1 << 20];
    File::open(to.path().join("sparse")).unwrap().read_exact_at(&mut bytes, 512 << 30).unwrap();
    assert!(bytes == noise(1 << 20, 1));
}

#[test]
fn a15_a32_paths_beyond_what_the_kernel_takes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut at: OwnedFd = File::open(from.path()).unwrap().into();
    for n in 0..3000 {
        let name = if n % 100 == 7 { "x".repeat(255) } else { format!("d{n}") };
        rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
        let next = open::descend(at.as_fd(), name.as_bytes()).unwrap();
        if n % 500 == 499 {
            let file = open::create_file(next.as_fd(), c"file").unwrap();
            rustix::io::write(&file, name.as_bytes()).unwrap();
        }
        at = next;
    }
    drop(at);
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!((captured.stats.entries, captured.stats.files), (3007, 6), "{:?}", captured.problems);
    let report = put_back(captured.root, to.path(), &repository);
    assert_eq!((report.entries, report.left_out_total), (3007, 0), "{:?}", report.left_out);
    let again = take(to.path(), &repository, None);
    let paths =
        |root| entries(root, &repository).into_iter().map(|e| (e.path, e.mtime_ns)).collect::<Vec<_>>();
    assert!(paths(again.root) == paths(captured.root));
    for dir in [from.path(), to.path()] {
        run_on("rm", &["-rf"], &dir.join("d0"));
    }
}

#[test]
fn a29_an_empty_tree_keeps_its_root() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    rustix::fs::setxattr(from.path(), c"user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
    run_on("setfacl", &["-m", "d:u:1234:rwx"], from.path());
    std::os::unix::fs::chown(from.path(), Some(7), Some(8)).unwrap();
    fs::set_permissions(from.path(), fs::Permissions::from_mode(0o2711)).unwrap();
    run_on("touch", &["-d", "@1000000000.000000001"], from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!(captured.stats.entries, 1);
    put_back(captured.root, to.path(), &repository);
    assert_equal(from.path(), to.path());
}

#[test]
fn a33_h14_other_filesystems_are_left_out_and_make_a_snapshot_partial() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("mnt")).unwrap();
    fs::create_dir(from.path().join("bind")).unwrap();
    fs::create_dir(from.path().join("bound")).unwrap();
    fs::write(from.path().join("bound/f"), "x").unwrap();
    let mounted = Mounted::new(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!((captured.mounts_left_out, captured.warnings.len(), captured.partial), (2, 0, true));
    assert_eq!((captured.problems.len(), captured.stats.unreadable_entries), (2, 2), "{captured:?}");
    let none = std::collections::HashSet::new();
    let with = |nested_mounts| {
        let mut request = super::request(from.path(), &repository, None, &none);
        request.options.nested_mounts = nested_mounts;
        crate::fs::capture(request).unwrap()
    };
    let told = with(NestedMounts::LeaveOut);
    assert_eq!((told.mounts_left_out, told.warnings.len(), told.partial), (2, 2, false));
    assert_eq!(told.stats.unreadable_entries, 0);
    let crossed = with(NestedMounts::Include);
    assert_eq!((crossed.mounts_left_out, crossed.stats.files, crossed.partial), (0, 3, false));
    // A mark of the base is looked at again: nothing is mounted there any more.
    drop(mounted);
    let later = take(from.path(), &repository, Some(&captured));
    assert_eq!((later.mounts_left_out, later.partial, later.stats.unreadable_entries), (0, false, 0));
    let left_out = put_back(captured.root, to.path(), &repository);
    assert_eq!(left_out.left_out_total, 2, "{:?}", left_out.left_out);
    assert!(to.path().join("mnt").is_dir());
    assert_eq!(fs::read_dir(to.path().join("mnt")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(to.path().join("bind")).unwrap().count(), 0);
}

/// Unmounts whatever the test comes to.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(root: &Path) -> Self {
        let mounted = Self(root.to_owned());
        run_on("mount", &["-t", "tmpfs", "none"], &root.join("mnt"));
        run_on("mount", &["--bind", &root.join("bound").to_string_lossy()], &root.join("bind"));
        fs::write(root.join("mnt/inside"), "x").unwrap();
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for name in ["mnt", "bind"] {
            std::process::Command::new("umount").arg(self.0.join(name)).status().ok();
        }
    }
}

#[test]
fn setuid_bits_and_capabilities_are_left_out_unless_asked_for() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    every_kind(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    let mut request = restore_request(captured.root, to.path(), &repository);
    request.options.setuid = false;
    let report = restore(request).unwrap();
    assert_eq!(report.left_out_total, 2, "{:?}", report.left_out);
    assert_eq!(fs::metadata(to.path().join("dir/f01")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(to.path().join("dir")).unwrap().mode() & 0o7777, 0o2750);
}

#[test]
fn one_path_is_restored_with_the_directories_above_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir_all(from.path().join("a/b/c")).unwrap();
    fs::create_dir_all(from.path().join("a/other")).unwrap();
    for path in ["a/b/c/f", "a/b/g", "a/x", "z"] {
        fs::write(from.path().join(path), path).unwrap();
    }
    fs::hard_link(from.path().join("a/b/g"), from.path().join("z-link")).unwrap();
    fs::hard_link(from.path().join("a/b/g"), from.path().join("z-link-too")).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    let mut request = restore_request(captured.root, to.path(), &repository);
    request.options.paths =
        [&b"z-link"[..], b"a/b/c", b"a/b/c/f", b"z-link-too"].map(<[u8]>::to_vec).to_vec();
    let report = restore(request).unwrap();
    assert_eq!((report.files, report.left_out_total), (2, 0));
    assert_eq!(fs::read_to_string(to.path().join("a/b/c/f")).unwrap(), "a/b/c/f");
    assert_eq!(fs::read_to_string(to.path().join("z-link")).unwrap(), "a/b/g");
    assert_eq!(fs::metadata(to.path().join("z-link")).unwrap().nlink(), 2);
    assert!(!to.path().join("a/x").exists() && !to.path().join("z").exists());
    let mut request = restore_request(captured.root, to.path(), &repository);
    (request.options.paths, request.options.into_nonempty) = (vec![b"a/b/nothing".to_vec()], true);
    assert!(matches!(restore(request), Err(RestoreError::NotFound { path }) if path == "a/b/nothing"));
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("f"), "x").unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    fs::write(to.path().join("f"), "mine").unwrap();
    assert!(matches!(
        restore(restore_request(captured.root, to.path(), &repository)),
        Err(RestoreError::NotEmpty)
    ));
    let mut request = restore_request(captured.root, to.path(), &repository);
    request.options.into_nonempty = true;
    assert!(matches!(restore(request), Err(RestoreError::Io { action: "created", .. })));
    assert_eq!(fs::read_to_string(to.path().join("f")).unwrap(), "mine");
}
