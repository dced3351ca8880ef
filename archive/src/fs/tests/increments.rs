//! What a second backup reads and sends.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use support::disk::is_root;
use support::tree::{append, assert_equal, every_kind, noise, run_on};

use super::memory::Memory;
use super::{aged, entries, find, put_back, request, take};
use crate::entry::EntryKind;
use crate::fs::{CaptureError, Captured, capture};

fn make_files(root: &Path) {
    for dir in 0..10 {
        fs::create_dir(root.join(format!("d{dir}"))).unwrap();
        for n in 0..30 {
            let bytes = noise(1000 + n * 700, (dir * 100 + n) as u64);
            fs::write(root.join(format!("d{dir}/f{n:02}")), bytes).unwrap();
        }
    }
    fs::write(root.join("large"), noise(6 << 20, 999)).unwrap();
}

#[test]
fn nothing_changed_means_nothing_sent_and_no_question() {
    let from = tempfile::tempdir().unwrap();
    make_files(from.path());
    if is_root() {
        fs::create_dir(from.path().join("everything")).unwrap();
        every_kind(&from.path().join("everything"));
        // A file of 2200 is newer than any base, so it is read each time.
        run_on("touch", &["-d", "@1000000000"], &from.path().join("everything/dir/f06"));
    }
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    let (puts, asked) = (repository.puts(), repository.asked.load(std::sync::atomic::Ordering::Relaxed));
    let second = take(from.path(), &repository, Some(&aged(&first)));
    assert_eq!(second.root, first.root);
    assert_eq!((second.stats.read_bytes, second.stats.changed_files, second.stats.new_bytes), (0, 0, 0));
    assert_eq!(repository.puts(), puts);
    assert_eq!(repository.asked.load(std::sync::atomic::Ordering::Relaxed), asked);
}

#[test]
fn equal_trees_are_cut_alike_without_a_base() {
    let from = tempfile::tempdir().unwrap();
    make_files(from.path());
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    let data = repository.data();
    let second = take(from.path(), &repository, None);
    assert_eq!((second.root, repository.data()), (first.root, data));
    assert_eq!(second.stats.new_bytes, 0);
}

#[test]
fn touching_everything_sends_no_data() {
    let from = tempfile::tempdir().unwrap();
    make_files(from.path());
    let repository = Arc::new(Memory::default());
    let mut last = take(from.path(), &repository, None);
    let data = repository.data();
    for round in 0..5 {
        // One real change a round: groups of increments must not pull others with them.
        fs::write(from.path().join("d3/f07"), noise(500, 10_000 + round)).unwrap();
        for path in walk_files(from.path()) {
            fs::File::open(path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
        }
        last = take(from.path(), &repository, Some(&aged(&last)));
        assert_eq!(last.stats.changed_files, 301);
    }
    assert_eq!(repository.data().1 - data.1, 5 * 500);
}

fn walk_files(root: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk_files(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn a_change_sends_what_changed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(from.path());
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    append(&from.path().join("d4/f11"), b"more");
    fs::write(from.path().join("d4/new"), "new").unwrap();
    fs::remove_file(from.path().join("d5/f00")).unwrap();
    fs::rename(from.path().join("d6"), from.path().join("e6")).unwrap();
    fs::set_permissions(from.path().join("d7/f01"), fs::Permissions::from_mode(0o600)).unwrap();
    let second = take(from.path(), &repository, Some(&aged(&first)));
    assert_eq!(second.stats.changed_files, 33);
    put_back(second.root, to.path(), &repository);
    assert_equal(from.path(), to.path());
}

#[test]
fn what_is_as_new_as_the_base_is_read_again() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("f"), "content").unwrap();
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    // However long the first one took, the file is as new as that.
    let written = fs::metadata(from.path().join("f")).unwrap();
    let started_unix_ns = written.ctime() * 1_000_000_000 + written.ctime_nsec();
    let second = take(from.path(), &repository, Some(&Captured { started_unix_ns, ..first }));
    assert_eq!((second.stats.changed_files, second.stats.new_bytes), (1, 0));
}

#[test]
fn equal_small_files_share_their_content() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for n in 0..50 {
        fs::write(from.path().join(format!("f{n:02}")), noise(100_000, n % 2)).unwrap();
    }
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    assert_eq!(repository.data().1, 200_000);
    put_back(captured.root, to.path(), &repository);
    assert_equal(from.path(), to.path());
}

#[test]
fn files_with_damaged_frames_are_read_and_sent_again() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(from.path());
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    let entries = entries(first.root, &repository);
    let mut damaged = HashSet::new();
    for path in ["large", "d2/f03"] {
        let EntryKind::File(file) = &find(&entries, path).kind else { panic!("{path}") };
        damaged.insert(file.extents[0].frame);
    }
    damaged.iter().for_each(|&id| repository.forget(id));
    let base = aged(&first);
    let second = capture(request(from.path(), &repository, Some(&base), &damaged)).unwrap();
    assert!(second.stats.changed_files > 2);
    put_back(second.root, to.path(), &repository);
    assert_equal(from.path(), to.path());
}

#[test]
fn a_damaged_base_is_left_and_everything_read() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(from.path());
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    repository.forget(first.root);
    let second = take(from.path(), &repository, Some(&aged(&first)));
    assert_eq!((second.stats.changed_files, second.warnings.len(), second.partial), (301, 1, false));
    assert!(repository.holds(second.root));
    put_back(second.root, to.path(), &repository);
    assert_equal(from.path(), to.path());
}

#[test]
fn a_store_that_fails_ends_the_capture_with_its_reason() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("f"), noise(60 << 20, 1)).unwrap();
    let repository = Arc::new(Memory::default());
    *repository.fail_from.lock().unwrap() = Some(1);
    let outcome = capture(request(from.path(), &repository, None, &HashSet::new()));
    assert!(matches!(outcome, Err(CaptureError::Sink { source }) if source.code == "unreachable"));
}

#[test]
fn a_cancelled_capture_ends() {
    let from = tempfile::tempdir().unwrap();
    make_files(from.path());
    let repository = Arc::new(Memory::default());
    let none = HashSet::new();
    let request = request(from.path(), &repository, None, &none);
    request.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(capture(request), Err(CaptureError::Cancelled)));
}

#[test]
fn the_least_memory_is_enough() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(from.path());
    fs::write(from.path().join("huge"), noise(100 << 20, 5)).unwrap();
    let repository = Arc::new(Memory::default());
    let none = HashSet::new();
    let mut request = request(from.path(), &repository, None, &none);
    (request.options.memory_bytes, request.options.upload_concurrency) = (0, 4);
    let captured = capture(request).unwrap();
    put_back(captured.root, to.path(), &repository);
    assert_equal(from.path(), to.path());
}

/// Stores one byte into a mapped file for every line it is sent, and answers.
const MAPPER: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    for line in sys.stdin:
        m[0] = int(line)
        print('done', flush=True)
";

#[test]
fn r10_a_store_through_a_mapping_after_the_file_was_read_is_found() {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("mapped");
    fs::write(&path, noise(8192, 1)).unwrap();
    let mut mapper = Command::new("python3")
        .args(["-c", MAPPER])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = BufReader::new(mapper.stdout.take().unwrap());
    let mut store = |byte: u8| {
        writeln!(mapper.stdin.as_mut().unwrap(), "{byte}").unwrap();
        answers.read_line(&mut String::new()).unwrap();
    };
    store(1);
    // Times of the dirty page must be clearly older than the backup, or it would be read again anyway.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let repository = Arc::new(Memory::default());
    let first = take(from.path(), &repository, None);
    store(2);
    let second = take(from.path(), &repository, Some(&first));
    drop(mapper.stdin.take());
    mapper.wait().unwrap();
    put_back(second.root, to.path(), &repository);
    assert_eq!(fs::read(to.path().join("mapped")).unwrap()[0], 2);
}
