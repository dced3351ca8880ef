//! What is large, many, odd or broken in a filesystem.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::XattrFlags;
use support::disk::{Mounted, is_root};
use support::tree::{assert_equal, noise, run_on};

use super::memory::Memory;
use super::{entries, find, put_back, restore_request, take};
use crate::entry::EntryKind;
use crate::fs::{RestoreError, compare, restore};

const BLOCK: usize = 4096;

/// A filesystem in a directory of its own, unmounted whatever the test comes to.
struct Mount(tempfile::TempDir);

impl Mount {
    /// `None`, and said so, where it cannot be mounted.
    fn new(arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new("mount").args(arguments).arg(dir.path()).status().unwrap();
        if !status.success() {
            support::record::skipped(&format!("needs `mount {}`, which fails here", arguments.join(" ")));
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().ok();
    }
}

#[test]
fn a07_links_keep_their_target_and_are_never_followed() {
    let above = tempfile::tempdir().unwrap();
    let (from, to) = (above.path().join("from"), above.path().join("to"));
    for dir in [&from, &to, &above.path().join("outside")] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(above.path().join("outside/secret"), "secret").unwrap();
    let outside = above.path().join("outside").into_os_string().into_vec();
    let long = b"x/".repeat(2000);
    let targets: [(&str, &[u8]); 6] = [
        ("absolute", &outside),
        ("dangling", b"nowhere/at/all"),
        ("itself", b"itself"),
        ("long", &long),
        ("odd", b"..\xff//./\n"),
        ("up", b"../outside"),
    ];
    for (name, target) in targets {
        symlink(OsStr::from_bytes(target), from.join(name)).unwrap();
    }
    let repository = Arc::new(Memory::default());
    let captured = take(&from, &repository, None);
    assert_eq!((captured.stats.entries, captured.stats.read_bytes), (7, 0), "{:?}", captured.problems);
    put_back(captured.root, &to, &repository);
    let entries = entries(captured.root, &repository);
    for (name, target) in targets {
        assert_eq!(find(&entries, name).kind, EntryKind::Symlink { target: target.to_vec() });
        assert_eq!(fs::read_link(to.join(name)).unwrap().as_os_str().as_bytes(), target, "{name}");
    }
    assert_eq!(fs::read_dir(above.path().join("outside")).unwrap().count(), 1);
}

#[test]
fn a14_files_over_4_and_8_gib_keep_their_size() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Data at both ends and across every place a narrower number would wrap.
    let files = [("five", (4 << 30) + 5_000_001), ("nine", (9u64 << 30) + 12_345)];
    let places = |size: u64| {
        let inside = [0, (2 << 30) - 2000, (4 << 30) - 150_000, (8 << 30) - 2000, size - 300_000];
        inside.into_iter().filter(move |at| at + 300_000 <= size)
    };
    for (name, size) in files {
        let file = File::create(from.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        places(size).for_each(|at| file.write_all_at(&noise(300_000, at), at).unwrap());
    }
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!(captured.stats.size_bytes, files.iter().map(|(_, size)| size).sum::<u64>());
    put_back(captured.root, to.path(), &repository);
    for (name, size) in files {
        let file = File::open(to.path().join(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), size, "{name}");
        for at in places(size) {
            let mut bytes = vec![0; 300_000];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert!(bytes == noise(300_000, at), "{name} at {at}");
        }
    }
    let report = compare(restore_request(captured.root, to.path(), &repository)).unwrap();
    assert_eq!(report.differences, Vec::<String>::new());
}

#[test]
fn a15_a16_names_of_any_bytes_come_back() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (middle, longest) = ([b'n'; 101], [0xc3; 255]);
    let names: [&[u8]; 9] = [
        &middle,
        &longest,
        b"bad\xff\xfeutf8",
        b"new\nline",
        b"esc\x1b[31m",
        b"-rf",
        b"back\\x0aslash",
        b" ",
        b"...",
    ];
    for name in names {
        let dir = from.path().join(OsStr::from_bytes(name));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    put_back(captured.root, to.path(), &repository);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), names.len());
    for name in names {
        let name = OsStr::from_bytes(name);
        assert_eq!(fs::read(to.path().join(name).join(name)).unwrap(), name.as_bytes());
    }
}

#[test]
fn a18_attributes_that_are_large_or_many_come_back_or_are_counted() {
    if !is_root() {
        return;
    }
    let mounted = ["tmpfs", "tmpfs", "ramfs"].map(|kind| Mount::new(&["-t", kind, "none"]));
    let [Some(from), Some(to), Some(bare)] = mounted else { return };
    let file = from.path().join("file");
    fs::write(&file, "content").unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).unwrap();
    };
    set("trusted.large", &noise(64 << 10, 1));
    (0..200).for_each(|n| set(&format!("trusted.number-{n}"), format!("value {n}").as_bytes()));
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert!(!captured.partial, "{:?}", captured.problems);
    assert_eq!(put_back(captured.root, to.path(), &repository).left_out_total, 0);
    assert_equal(from.path(), to.path());
    // A filesystem without attributes gets the content; what it cannot hold is counted.
    let strict = |strict: bool| {
        let mut request = restore_request(captured.root, bare.path(), &repository);
        request.options.strict = strict;
        restore(request)
    };
    let report = strict(false).unwrap();
    assert_eq!((report.files, report.left_out_total), (1, 201), "{:?}", report.left_out);
    assert!(report.left_out[0].contains("file") && report.left_out[0].contains("trusted."), "{report:?}");
    assert_eq!(fs::read_to_string(bare.path().join("file")).unwrap(), "content");
    fs::remove_file(bare.path().join("file")).unwrap();
    let refused = strict(true);
    assert!(matches!(&refused, Err(RestoreError::Strict { path, .. }) if path == "file"), "{refused:?}");
}

/// A filesystem in an image whose device ends before the filesystem does:
/// what lies behind the end reads as EIO.
struct CutShort {
    mount: Mount,
    /// Files with a block behind the end.
    broken: HashSet<&'static str>,
    _image: tempfile::NamedTempFile,
}

impl CutShort {
    /// Ends at the block that holds byte `offset` of `name`.
    fn new(files: &[(&'static str, Vec<u8>)], name: &'static str, offset: usize) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        run_on("mkfs.ext4", &["-q", "-b", "4096", "-O", "^has_journal"], image.path());
        let device = image.path().to_string_lossy();
        let mount = Mount::new(&["-o", "loop", &device])?;
        for (name, content) in files {
            let path = mount.path().join(name);
            fs::write(&path, content).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
        }
        drop(mount);
        let bytes = fs::read(image.path()).unwrap();
        let places: HashMap<&[u8], usize> = bytes.chunks(BLOCK).zip(0..).collect();
        let content = |name: &str| &files.iter().find(|(n, _)| *n == name).unwrap().1;
        let end = places[&content(name)[offset..offset + BLOCK]];
        let behind = |content: &[u8]| content.chunks_exact(BLOCK).any(|block| places[block] >= end);
        let broken = files.iter().filter(|(_, content)| behind(content)).map(|(name, _)| *name).collect();
        // Mounted afresh, so that nothing is cached.
        let mount = Mount::new(&["-o", "loop", &device])?;
        image.as_file().set_len((end * BLOCK) as u64).unwrap();
        Some(Self { mount, broken, _image: image })
    }
}

#[test]
fn a24_a_file_that_cannot_be_read_is_named_and_costs_no_other() {
    if !is_root() {
        return;
    }
    let to = tempfile::tempdir().unwrap();
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("a-small", noise(40 << 10, 1)),
        ("b-large", noise(8 << 20, 2)),
        ("c-small", noise(40 << 10, 3)),
    ];
    let Some(source) = CutShort::new(&files, "b-large", 3 * BLOCK) else { return };
    assert!(source.broken.contains("b-large") && !source.broken.contains("a-small"), "{:?}", source.broken);
    let repository = Arc::new(Memory::default());
    let captured = take(source.mount.path(), &repository, None);
    let broken = source.broken.len();
    assert!(captured.partial);
    assert_eq!((captured.stats.unreadable_entries, captured.problems.len()), (broken as u64, broken));
    let report = put_back(captured.root, to.path(), &repository);
    assert_eq!(report.left_out_total, broken as u64, "{:?}", report.left_out);
    for (name, content) in &files {
        let restored = to.path().join(name);
        if source.broken.contains(name) {
            assert!(
                captured.problems.iter().any(|problem| problem.contains(name)),
                "{:?}",
                captured.problems
            );
            assert!(!restored.exists(), "{name} was restored with content nobody read");
        } else {
            assert!(fs::read(restored).unwrap() == *content, "{name}");
        }
    }
}

#[test]
fn a27_times_far_from_today_are_exact_on_every_filesystem() {
    if !is_root() {
        return;
    }
    // The seconds before and after 1970, 1901, 2038 and 2300, with nanoseconds.
    let times = ["@-1", "@-0.000000001", "@-2145916799.5", "@2147483648.000000007", "@10413792000.123456789"];
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(mount) = Mounted::new(kind, "") else { continue };
        let (from, to) = (mount.path().join("from"), mount.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        for (name, time) in ["a", "b", "c", "d", "e"].into_iter().zip(times) {
            fs::write(from.join(name), name).unwrap();
            run_on("touch", &["-d", time], &from.join(name));
        }
        run_on("touch", &["-d", times[2]], &from);
        let repository = Arc::new(Memory::default());
        let captured = take(&from, &repository, None);
        let report = put_back(captured.root, &to, &repository);
        assert_eq!((report.left_out_total, report.warnings), (0, vec![]), "{kind}");
        let stamp = |path: &Path| {
            let facts = fs::metadata(path).unwrap();
            (facts.mtime(), facts.mtime_nsec())
        };
        let stamps = ["a", "b", "c", "d", "e"].map(|name| stamp(&to.join(name)));
        let expected = [
            (-1, 0),
            (-1, 999_999_999),
            (-2_145_916_800, 500_000_000),
            (2_147_483_648, 7),
            (10_413_792_000, 123_456_789),
        ];
        assert_eq!(stamps, expected, "{kind}");
        assert_eq!(stamp(&to), expected[2], "{kind}");
    }
}

/// Takes the flag off again whatever the test comes to.
struct Immutable(PathBuf);

impl Drop for Immutable {
    fn drop(&mut self) {
        Command::new("chattr").arg("-i").arg(&self.0).status().ok();
    }
}

#[test]
fn a25_an_immutable_file_in_the_way_is_refused_by_name_and_stays() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("dir")).unwrap();
    fs::write(from.path().join("dir/file"), "new").unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    fs::create_dir(to.path().join("dir")).unwrap();
    fs::write(to.path().join("dir/file"), "old").unwrap();
    let refused = |flagged: &str| {
        let path = to.path().join(flagged);
        let set = Command::new("chattr").arg("+i").arg(&path).status().is_ok_and(|status| status.success());
        if !set {
            support::record::skipped("needs a filesystem with inode flags");
            return;
        }
        let _flag = Immutable(path);
        let mut request = restore_request(captured.root, to.path(), &repository);
        request.options.into_nonempty = true;
        let outcome = restore(request);
        assert!(matches!(&outcome, Err(RestoreError::Io { path, .. }) if path == "dir/file"), "{outcome:?}");
    };
    refused("dir/file");
    assert_eq!(fs::read_to_string(to.path().join("dir/file")).unwrap(), "old");
    fs::remove_file(to.path().join("dir/file")).unwrap();
    refused("dir");
    assert_eq!(fs::read_dir(to.path().join("dir")).unwrap().count(), 0);
}
