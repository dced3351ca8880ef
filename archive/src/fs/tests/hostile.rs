//! Manifests somebody forged, and trees that change while they are read.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message as _;
use rustix::thread::{CapabilitySet, CapabilitySets};
use support::disk::is_root;
use support::tree::{noise, run_on};

use super::memory::Memory;
use super::{entries, find, put_back, request, restore_request, take};
use crate::entry::{Entry, EntryFlags, EntryKind};
use crate::frame::{self, DEFAULT_LEVEL, encode};
use crate::fs::{CaptureError, RestoreError, RestoreReport, TornPolicy, capture, restore};
use crate::ids::FrameId;
use crate::manifest::ManifestWriter;
use crate::manifest::messages::{EntryMessage, LEAF, PageMessage};
use crate::pack::PackBuilder;
use crate::pack_io::{FrameKind, PackSink as _};

/// A row as another program would write it, whatever ours would.
fn row(path: &str, kind: u32) -> EntryMessage {
    EntryMessage { suffix: path.as_bytes().to_vec(), kind, mode: 0o755, ..EntryMessage::default() }
}

/// Four bytes of content, from the first byte of its frame.
fn file(path: &str) -> EntryMessage {
    EntryMessage { size: 4, extents: vec![0, 0, 0, 4], ..row(path, 1) }
}

fn directory(path: &str) -> EntryMessage {
    row(path, 2)
}

fn link(path: &str, target: &str) -> EntryMessage {
    EntryMessage { target: target.as_bytes().to_vec(), ..row(path, 3) }
}

fn hard(path: &str, target: &str) -> EntryMessage {
    EntryMessage { target: target.as_bytes().to_vec(), ..row(path, 4) }
}

/// Stores one frame of four bytes and a manifest page of these rows below a root.
fn forge(repository: &Memory, rows: Vec<EntryMessage>) -> FrameId {
    let data = frame::encode(FrameKind::Data, b"evil", 3);
    let entries = std::iter::once(directory("")).chain(rows).collect();
    let page =
        PageMessage { kind: LEAF, frames: data.id.as_bytes().to_vec(), entries, ..PageMessage::default() };
    let page = frame::encode(FrameKind::Page, &page.encode_to_vec(), 3);
    let root = page.id;
    let mut pack = PackBuilder::new();
    pack.push(data);
    pack.push(page);
    repository.put_pack(pack.finish()).unwrap();
    root
}

/// Restores a forged manifest beside a victim nothing may touch.
fn attack(rows: impl FnOnce(&Path) -> Vec<EntryMessage>) -> Result<RestoreReport, RestoreError> {
    let above = tempfile::tempdir().unwrap();
    let (victim, target) = (above.path().join("victim"), above.path().join("target"));
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("passwd"), "good").unwrap();
    fs::create_dir(&target).unwrap();
    let repository = Arc::new(Memory::default());
    let root = forge(&repository, rows(&victim));
    let outcome = restore(restore_request(root, &target, &repository));
    assert_eq!(fs::read_to_string(victim.join("passwd")).unwrap(), "good");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    assert_eq!(fs::read_dir(above.path()).unwrap().count(), 2);
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(fs::metadata(victim.join("passwd")).unwrap().nlink(), 1);
    outcome
}

#[test]
fn a_forged_manifest_that_is_sound_is_restored() {
    let rows = vec![directory("a"), file("a/b"), link("c", "/victim"), hard("d", "a/b")];
    assert_eq!(attack(|_| rows).unwrap().entries, 5);
}

#[test]
fn a01_a_path_that_leaves_the_root_is_refused() {
    for path in ["../x", "a/../../x", "a/..", "..", "/x", "a/./b"] {
        attack(|_| vec![directory("a"), file(path)]).expect_err(path);
    }
}

#[test]
fn a03_symlinked_parent_is_refused() {
    attack(|victim| vec![link("evil", &victim.to_string_lossy()), file("evil/passwd")]).unwrap_err();
    attack(|_| vec![link("evil", "../victim"), file("evil/new")]).unwrap_err();
}

#[test]
fn a04_links_stay_inside_and_go_through_no_symlink() {
    attack(|victim| vec![link("d", &victim.to_string_lossy()), hard("stolen", "d/passwd")]).unwrap_err();
    attack(|_| vec![hard("stolen", "../victim/passwd")]).unwrap_err();
    attack(|victim| vec![hard("stolen", &victim.join("passwd").to_string_lossy())]).unwrap_err();
}

#[test]
fn a06_a_name_that_comes_twice_is_refused() {
    attack(|_| vec![file("a"), file("a")]).unwrap_err();
    attack(|_| vec![directory("a"), file("a/b"), directory("a")]).unwrap_err();
}

#[test]
fn an_extent_outside_of_its_frame_is_refused() {
    let outcome = attack(|_| vec![EntryMessage { extents: vec![0, 0, 2, 4], ..file("a") }]);
    assert!(matches!(outcome, Err(RestoreError::Refused { .. })), "{outcome:?}");
}

#[test]
fn a_lost_frame_fails_the_restore_or_is_left_out_when_salvaging() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("large"), noise(3 << 20, 1)).unwrap();
    fs::write(from.path().join("small"), "content").unwrap();
    fs::write(from.path().join("whole"), noise(2 << 20, 2)).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    for entry in entries(captured.root, &repository) {
        if let EntryKind::File(file) = &entry.kind
            && entry.path != b"whole"
        {
            repository.forget(file.extents[0].frame);
        }
    }
    let failed = restore(restore_request(captured.root, to.path(), &repository));
    assert!(matches!(failed, Err(RestoreError::Content { .. })), "{failed:?}");
    let to = tempfile::tempdir().unwrap();
    let mut request = restore_request(captured.root, to.path(), &repository);
    request.options.salvage = true;
    let report = restore(request).unwrap();
    assert_eq!((report.files, report.left_out_total, report.lost_total), (1, 0, 2));
    assert_eq!(report.lost, ["large", "small"]);
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1);
}

/// Does something to a tree again and again while `body` runs.
fn meanwhile<T>(mut disturb: impl FnMut() + Send, body: impl FnOnce() -> T) -> T {
    /// Also when `body` panics: else the thread would never be joined.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                disturb();
            }
        });
        body()
    })
}

#[test]
fn a05_a_directory_swapped_for_a_link_never_leads_outside() {
    let above = tempfile::tempdir().unwrap();
    let from = above.path().join("from");
    fs::create_dir_all(from.join("d")).unwrap();
    fs::write(from.join("d/f"), "inside").unwrap();
    fs::create_dir(above.path().join("outside")).unwrap();
    fs::write(above.path().join("outside/secret"), "secret").unwrap();
    symlink(above.path().join("outside"), above.path().join("link")).unwrap();
    let repository = Arc::new(Memory::default());
    let exchange = || {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let (a, b) = (from.join("d"), above.path().join("link"));
        rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).unwrap();
    };
    meanwhile(exchange, || {
        for _ in 0..50 {
            let captured = take(&from, &repository, None);
            for entry in entries(captured.root, &repository) {
                assert!(entry.path != b"d/secret");
            }
        }
    });
}

#[test]
fn a05_a_restore_goes_on_in_the_directory_it_made_and_never_through_a_link() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("d/e")).unwrap();
    for n in 0..150 {
        fs::write(from.path().join(format!("d/f{n}")), "x").unwrap();
        fs::write(from.path().join(format!("d/e/f{n}")), "x").unwrap();
    }
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    let mut swapped = 0;
    for round in 0..50 {
        if round >= 6 && swapped > 0 {
            break;
        }
        let above = tempfile::tempdir().unwrap();
        let (to, outside, link) =
            (above.path().join("to"), above.path().join("outside"), above.path().join("link"));
        fs::create_dir(&to).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, &link).unwrap();
        let place = to.join(if round % 2 == 0 { "d" } else { "d/e" });
        let exchange = || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            // There is nothing to swap before the restore has made it.
            let done = rustix::fs::renameat_with(rustix::fs::CWD, &place, rustix::fs::CWD, &link, flags);
            swapped += u32::from(done.is_ok());
        };
        // Whether it comes to its end depends on when it is disturbed.
        let _ = meanwhile(exchange, || restore(restore_request(captured.root, &to, &repository)));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "written through a link");
    }
    assert!(swapped > 0, "nothing was swapped");
}

#[test]
fn a20_a21_a_file_that_changes_is_torn_and_ends() {
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("log");
    fs::write(&path, noise(1 << 20, 1)).unwrap();
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let repository = Arc::new(Memory::default());
    let grow = || {
        use std::io::Write as _;
        (&file).write_all(&[1; 4096]).unwrap();
        if file.metadata().unwrap().len() > 4 << 20 {
            file.set_len(1 << 20).unwrap();
        }
    };
    let none = HashSet::new();
    let torn = meanwhile(grow, || {
        // It may happen to be read between two writes.
        (0..1000).map(|_| take(from.path(), &repository, None)).find(|captured| captured.stats.torn_files > 0)
    })
    .unwrap();
    assert!(torn.partial && torn.problems[0].contains("log"));
    let entry = entries(torn.root, &repository).pop().unwrap();
    assert!(entry.flags.torn);
    let to = tempfile::tempdir().unwrap();
    put_back(torn.root, to.path(), &repository);
    let EntryKind::File(data) = entry.kind else { panic!() };
    assert_eq!(fs::metadata(to.path().join("log")).unwrap().len(), data.size);
    let failed = meanwhile(grow, || {
        (0..1000).find_map(|_| {
            let mut request = request(from.path(), &repository, None, &none);
            request.options.torn = TornPolicy::Fail;
            capture(request).err()
        })
    });
    assert!(matches!(failed, Some(CaptureError::Torn { path }) if path == "log"));
    // What was torn is read again, however old it looks.
    let again = take(from.path(), &repository, Some(&super::aged(&torn)));
    assert_eq!((again.stats.changed_files, again.partial), (1, false));
}

#[test]
fn a20_a_file_cut_short_has_the_length_that_was_read() {
    let from = tempfile::tempdir().unwrap();
    let path = from.path().join("log");
    let bytes = noise(400 << 10, 1);
    fs::write(&path, &bytes).unwrap();
    let repository = Arc::new(Memory::default());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut round = 0u64;
    let cut = || {
        round += 1;
        file.set_len(if round.is_multiple_of(2) { 400 << 10 } else { 10 }).unwrap();
    };
    let mut torn = 0;
    meanwhile(cut, || {
        for round in 0..5000 {
            if round >= 200 && torn > 0 {
                break;
            }
            torn += u32::from(torn_is_marked(from.path(), &repository, &bytes));
        }
    });
    assert!(torn > 0, "it was never cut while it was read");
}

/// Captures `log`, whose bytes are these or have become zeros; tells whether
/// it is torn, and fails unless that is marked everywhere or nowhere.
fn torn_is_marked(from: &Path, repository: &Arc<Memory>, bytes: &[u8]) -> bool {
    let captured = take(from, repository, None);
    let entry = entries(captured.root, repository).pop().unwrap();
    let torn = entry.flags.torn;
    assert_eq!((captured.partial, captured.stats.torn_files), (torn, u64::from(torn)));
    assert_eq!(
        captured.problems.iter().filter(|problem| problem.starts_with("log changed")).count(),
        usize::from(torn)
    );
    let EntryKind::File(data) = entry.kind else { panic!() };
    assert!(torn || [10, bytes.len() as u64].contains(&data.size), "{} bytes and not torn", data.size);
    let to = tempfile::tempdir().unwrap();
    put_back(captured.root, to.path(), repository);
    let restored = fs::read(to.path().join("log")).unwrap();
    assert_eq!(restored.len() as u64, data.size);
    let same = |(restored, original): (&u8, &u8)| restored == original || *restored == 0;
    assert!(restored.iter().zip(bytes).all(same), "bytes that were never there");
    torn
}

#[test]
fn a22_a23_entries_that_come_go_and_change_kind_end_well() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = from.path().to_owned();
    for n in 0..20 {
        fs::write(base.join(format!("f{n}")), "x").unwrap();
    }
    let repository = Arc::new(Memory::default());
    let mut round = 0;
    let disturb = || {
        round += 1;
        let path = base.join(format!("f{}", round % 20));
        let _ = match round % 4 {
            0 => fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)),
            1 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
            2 => fs::remove_dir(&path).and_then(|()| symlink("x", &path)),
            _ => fs::write(&path, "y"),
        };
    };
    let mut last = None;
    meanwhile(disturb, || {
        for _ in 0..100 {
            last = Some(take(from.path(), &repository, last.as_ref()));
        }
    });
    put_back(last.unwrap().root, to.path(), &repository);
}

#[test]
fn a26_what_cannot_be_read_is_kept_by_name_and_makes_it_partial() {
    if !is_root() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in ["d/inside", "e/f"] {
        fs::create_dir_all(from.path().join(path).parent().unwrap()).unwrap();
        fs::write(from.path().join(path), "content").unwrap();
    }
    fs::write(from.path().join("readable"), "content").unwrap();
    fs::set_permissions(from.path().join("d"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::set_permissions(from.path().join("e/f"), fs::Permissions::from_mode(0o0)).unwrap();
    let repository = Arc::new(Memory::default());
    let all = rustix::thread::capabilities(None).unwrap();
    let read_any = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    // Only this thread, which is the one that reads.
    let fewer = CapabilitySets { effective: all.effective.difference(read_any), ..all };
    rustix::thread::set_capabilities(None, fewer).unwrap();
    let captured = take(from.path(), &repository, None);
    rustix::thread::set_capabilities(None, all).unwrap();
    assert!(captured.partial);
    assert_eq!((captured.stats.unreadable_entries, captured.problems.len()), (2, 2));
    assert!(captured.problems[0].starts_with("d cannot be read: "), "{:?}", captured.problems);
    let entries = entries(captured.root, &repository);
    assert!(find(&entries, "d").flags.unreadable && find(&entries, "e/f").flags.unreadable);
    let report = put_back(captured.root, to.path(), &repository);
    assert_eq!(report.left_out_total, 2, "{:?}", report.left_out);
    assert!(to.path().join("readable").exists() && to.path().join("d").is_dir());
    assert!(!to.path().join("e/f").exists());
    let second = take(from.path(), &repository, Some(&super::aged(&captured)));
    assert_eq!((second.partial, second.stats.files), (false, 3));
}

/// Most memory this process ever had, bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// A chain of directories, each in the one before.
fn chain(repository: &Memory, levels: usize) -> FrameId {
    let mut pack = PackBuilder::new();
    let mut emit = |raw: Vec<u8>| -> Result<FrameId, std::convert::Infallible> {
        let page = encode(FrameKind::Page, &raw, DEFAULT_LEVEL);
        let id = page.id;
        pack.push(page);
        Ok(id)
    };
    let mut writer = ManifestWriter::new(&mut emit);
    let mut path = Vec::new();
    for level in 0..=levels {
        writer
            .push(Entry {
                path: path.clone(),
                kind: EntryKind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime_ns: 1,
                ctime_ns: 1,
                inode: level as u64 + 1,
                xattrs: Vec::new(),
                flags: EntryFlags::default(),
            })
            .unwrap();
        path.extend_from_slice(if level == 0 { b"a" } else { b"/a" });
    }
    let root = writer.finish().unwrap();
    repository.put_pack(pack.finish()).unwrap();
    root
}

/// The paths of all levels together are 256 MiB, once.
#[test]
fn h13_a_chain_of_directories_takes_no_memory_for_each_path_above() {
    const LEVELS: usize = 16_384;
    let repository = Arc::new(Memory::default());
    let root = chain(&repository, LEVELS);
    let to = tempfile::tempdir().unwrap();
    let before = peak();
    for salvage in [false, true] {
        let request = || {
            let mut request = restore_request(root, to.path(), &repository);
            request.options.salvage = salvage;
            request
        };
        let restored = restore(request()).unwrap();
        assert_eq!(restored.entries, LEVELS as u64 + 1);
        let compared = crate::fs::compare(request()).unwrap();
        assert_eq!((compared.entries, compared.differences_total), (LEVELS as u64 + 1, 0));
        run_on("rm", &["-rf"], &to.path().join("a"));
    }
    let taken = peak() - before;
    assert!(taken < 128 << 20, "{} MiB", taken >> 20);
}
