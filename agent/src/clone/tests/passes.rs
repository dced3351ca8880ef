//! Both passes on the filesystem of temporary files.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use support::command::shell;
use support::disk::{Mounted, is_root};
use support::tree::{Thawed, assert_equal, assert_rsync_finds_nothing, every_kind};

use super::{GO_ON, Volume};
use crate::clone::pass::first_pass_with;
use crate::clone::*;

#[test]
fn a_tree_with_one_of_every_kind_is_cloned_exactly() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    every_kind(&volume.root);
    // What the directory above hands on must not get into the clone.
    shell(&volume.root, "setfacl -d -m u:4321:rwx ..; chmod g+s ..");
    let alone = second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    assert_equal(&volume.root, &volume.clone);
    assert!(fs::metadata(volume.clone.join("only-hole")).unwrap().blocks() < 100);
    remove(&volume.clone).unwrap();
    assert!(!volume.clone.exists());

    let first = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap();
    assert_eq!((first.stats.entries, first.stats.missed), (alone.entries, 0));
    second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    assert_equal(&volume.root, &volume.clone);
    remove(&volume.clone).unwrap();
    remove(&volume.clone).expect("nothing there is fine");
    assert_eq!(shell(&volume.root, "ls -A .."), "_data");
}

#[test]
fn only_what_changed_is_copied_again_and_what_is_too_young_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    shell(&volume.root, "mkdir a b; for i in $(seq 50); do echo $i > a/$i; done; ln a/1 b/one; ln a/2 b/two");
    let hour = 3_600_000_000_000;
    let first = first_pass_with(&volume.root, &volume.clone, hour, &GO_ON).unwrap();
    let young = second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    assert_eq!((young.copied_files + young.shared_files, young.unchanged), (50, 0), "written just now");
    assert_equal(&volume.root, &volume.clone);
    remove(&volume.clone).unwrap();

    age(&volume);
    let first = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap();
    // Same size and time, so that nothing but the time of change tells.
    let time = fs::metadata(volume.root.join("a/7")).unwrap().modified().unwrap();
    fs::write(volume.root.join("a/7"), "x\n").unwrap();
    fs::File::open(volume.root.join("a/7")).unwrap().set_modified(time).unwrap();
    shell(
        &volume.root,
        "mv a/8 b/8; rm -r a/9 b/two; mkdir a/9; echo new > a/9/new; ln -f a/10 a/11; rm a/12; ln -s x a/12",
    );
    let second = second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    assert_equal(&volume.root, &volume.clone);
    let made = second.copied_files + second.shared_files;
    assert_eq!(made, 6, "7, 8, 9/new, 10, 12 and what was two: {second:?}");
    assert!(second.unchanged >= 44, "{second:?}");
}

/// Waits until every time of change is clearly in the past.
fn age(volume: &Volume) {
    let newest = shell(&volume.root, "find . -printf '%C@\\n' | sort -n | tail -1");
    let newest: f64 = newest.trim().parse().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    while now() - newest <= 2.1 {
        assert!(std::time::Instant::now() < deadline, "the clock stands still");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn stores_into_mapped_pages_that_the_first_pass_could_not_see_are_copied() {
    // Of its own, so that nobody else writes its pages back.
    let Some(mounted) = Mounted::new("ext4", "") else { return };
    let volume = Volume::in_dir(mounted.path());
    // A store dirties the page, and a later one to the same page changes no time any more.
    let script = r#"
import mmap, os, sys
f = open(sys.argv[1], 'w+b'); f.write(b'a' * 8192); f.flush(); os.fsync(f.fileno())
m = mmap.mmap(f.fileno(), 8192)
for line in sys.stdin:
    m[0:1] = line[0:1].encode(); print('done', flush=True)
"#;
    let mut writer = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(volume.root.join("mapped"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(writer.stdout.take().unwrap()));
    let mut to = writer.stdin.take().unwrap();
    let mut store = |letter: &str| {
        std::io::Write::write_all(&mut to, letter.as_bytes()).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "done");
    };
    store("b\n");
    age(&volume);
    let first = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap();
    store("c\n");
    drop(to);
    writer.wait().unwrap();
    second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    assert_eq!(&fs::read(volume.clone.join("mapped")).unwrap()[..2], b"ca");
}

#[test]
fn a_first_pass_goes_on_while_the_tree_is_torn_down_and_built_up() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    shell(
        &volume.root,
        "for i in $(seq 40); do mkdir -p d$i/e/f; echo $i | tee d$i/{a,b,c} d$i/e/{a,b} d$i/e/f/z; done >&2",
    );
    let stop = AtomicBool::new(false);
    let churn = &|from: usize| {
        let mut n = from;
        while !stop.load(Ordering::Relaxed) {
            n = n % 40 + 1;
            let (old, new) = (volume.root.join(format!("d{n}")), volume.root.join(format!("m{n}")));
            let _ = fs::rename(&old, &new).and_then(|()| fs::rename(&new, &old));
            let _ = fs::remove_dir_all(old.join("e"));
            let _ = fs::write(old.join("e"), "a file");
            let _ = fs::remove_file(old.join("e")).and_then(|()| fs::create_dir_all(old.join("e/f")));
            let _ = fs::write(old.join("e/f/z"), vec![b'x'; n * 1000]);
            let _ = std::os::unix::fs::symlink("..", old.join("e/a"));
            let _ = fs::hard_link(old.join("a"), old.join("e/b"));
        }
    };
    let first = std::thread::scope(|scope| {
        for from in [0, 20] {
            scope.spawn(move || churn(from));
        }
        let passes = (0..8).map(|_| {
            remove(&volume.clone)?;
            first_pass(&volume.root, &volume.clone, &GO_ON)
        });
        let last = passes.reduce(|before, next| before.and(next));
        stop.store(true, Ordering::Relaxed);
        last
    });
    second_pass(&volume.root, &volume.clone, Some(first.unwrap().unwrap()), &GO_ON).unwrap();
    assert_equal(&volume.root, &volume.clone);
}

#[test]
fn immutable_entries_are_so_in_the_clone_too_and_can_be_removed() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _thawed = Thawed(dir.path().to_owned());
    let volume = Volume::in_dir(dir.path());
    let tried = shell(
        &volume.root,
        "mkdir -p d/sub; echo x > d/file; echo y > d/log; ln d/file d/again; chattr +d d/sub
         { chattr +i d/file && chattr +a d/log && chattr +i d; } 2>&1 || echo no",
    );
    if tried.contains("no") {
        support::record::skipped(tried.trim());
        return;
    }
    // Whether a file has extents or is too small for any is the filesystem's own affair.
    let list = |path| shell(path, "lsattr -R . | awk 'NF == 2 { gsub(/e/, \"-\", $1); print }' | sort");
    for first in [false, true] {
        let first = first.then(|| first_pass(&volume.root, &volume.clone, &GO_ON).unwrap());
        second_pass(&volume.root, &volume.clone, first, &GO_ON).unwrap();
        assert_equal(&volume.root, &volume.clone);
        assert_eq!(list(&volume.root), list(&volume.clone));
        fs::write(volume.clone.join("d/file"), "z").expect_err("it is immutable");
        remove(&volume.clone).unwrap();
        assert!(!volume.clone.exists());
    }
}

#[test]
fn twenty_thousand_files_need_no_more_memory_than_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    // Paths of a kilobyte: held all at once they would be 20 MB and more.
    let deep: std::path::PathBuf = (0..4).map(|_| "d".repeat(200)).collect();
    for n in 0..20 {
        let at = volume.root.join(&deep).join(n.to_string());
        fs::create_dir_all(&at).unwrap();
        (0..1000).for_each(|n| fs::write(at.join(format!("{n:0200}")), n.to_string()).unwrap());
    }
    let big = fs::File::create(volume.root.join("big")).unwrap();
    big.write_all_at(&[1; 4096], (1 << 30) - 4096).unwrap();
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = high_water_kib();
    let begun = std::time::Instant::now();
    let first = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap();
    let one = begun.elapsed();
    let stats = second_pass(&volume.root, &volume.clone, Some(first), &GO_ON).unwrap();
    let both = begun.elapsed();
    let grown = high_water_kib() - before;
    eprintln!("20,000 small files and 1 GiB sparse: {one:?}, then {:?}, {grown} KiB, {stats:?}", both - one);
    assert!(grown < 10 << 10, "{grown} KiB");
    assert!(fs::metadata(volume.clone.join("big")).unwrap().blocks() < 100);
    // Too much for a checksum.
    shell(&volume.root, "rm big ../holdfast-clone-*/big; touch . ../holdfast-clone-*");
    shell(&volume.clone, "touch -r ../_data .");
    assert_rsync_finds_nothing(&volume.root, &volume.clone);
}

fn high_water_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn deep_trees_are_cloned_and_removed_with_few_handles() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    let script =
        "import os\nfor i in range(1500):\n os.mkdir('d'); open('f', 'w').write(str(i)); os.chdir('d')";
    let made = std::process::Command::new("python3").args(["-c", script]).current_dir(&volume.root).status();
    assert!(made.unwrap().success());
    let stats = second_pass(&volume.root, &volume.clone, None, &GO_ON).unwrap();
    assert_eq!(stats.entries, 3000);
    assert_eq!(shell(&volume.clone, "find . | sort | md5sum"), shell(&volume.root, "find . | sort | md5sum"));
    remove(&volume.clone).unwrap();
    shell(&volume.root, "rm -r d");
}
