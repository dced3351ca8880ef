//! What cannot be cloned or put back is said before anything depends on it.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use support::command::shell;
use support::disk::{Mounted, is_root};
use support::tree::Thawed;

use super::{GO_ON, Volume};
use crate::clone::*;

#[test]
fn room_is_measured_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    shell(&volume.root, "mkdir a; head -c 3000000 /dev/urandom > a/f; ln a/f b; truncate -s 1T hole");
    let room = room(&volume.root, volume.job, &GO_ON).unwrap();
    assert_eq!(room.needed_inodes, 5, "a, a/f, b, hole and the root");
    if room.means == Means::Copy {
        assert!((3_000_000..4_000_000).contains(&room.needed_bytes), "{room:?}");
    }
    assert_eq!(room.refusal(), None);
    assert_eq!(shell(&volume.root, "ls -A .."), "_data");
}

#[test]
fn too_little_room_is_refused_in_words() {
    let (mib, fits) = (1 << 20, None);
    let room = |needed_bytes, free_bytes, needed_inodes, free_inodes| {
        Room {
            means: Means::Copy,
            size_bytes: needed_bytes,
            needed_bytes,
            free_bytes,
            needed_inodes,
            free_inodes,
        }
        .refusal()
    };
    assert_eq!(room(100 * mib, 164 * mib, 10, None), fits);
    let words = room(100 * mib, 164 * mib - 1, 10, None).unwrap();
    assert_eq!(words, "a copy beside the data takes 164 MiB with some to spare, and 163 MiB are free");
    assert_eq!(room(4000 * mib, 4200 * mib, 1000, Some(1050)), fits);
    assert!(room(4000 * mib, 4199 * mib, 10, None).is_some());
    assert!(room(0, 65 * mib, 1000, Some(1049)).unwrap().contains("1050 inodes"));
    assert!(room(u64::MAX, u64::MAX - 1, 1, None).is_some());
}

#[test]
fn mounts_at_the_tree_and_inside_are_named() {
    let Some(mounted) = Mounted::new("ext4", "") else { return };
    let error = room(mounted.path(), holdfast_proto::ids::JobId::generate(), &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::MountPoint { .. }), "{error}");
    let volume = Volume::in_dir(mounted.path());
    fs::create_dir_all(volume.root.join("in/side")).unwrap();
    fs::write(volume.root.join("in/file"), "x").unwrap();
    struct Bound<'a>(&'a Path);
    impl Drop for Bound<'_> {
        fn drop(&mut self) {
            shell(Path::new("/"), &format!("umount {}", self.0.display()));
        }
    }
    for (from, to) in
        [("/proc", "in/side"), (mounted.path().to_str().unwrap(), "in/side"), ("/etc/hostname", "in/file")]
    {
        let to = volume.root.join(to);
        shell(Path::new("/"), &format!("mount --bind {from} {}", to.display()));
        let _bound = Bound(&to);
        let errors = [
            room(&volume.root, volume.job, &GO_ON).map(drop),
            first_pass(&volume.root, &volume.clone, &GO_ON).map(drop),
            second_pass(&volume.root, &volume.clone, None, &GO_ON).map(drop),
        ];
        for error in errors.map(Result::unwrap_err) {
            let CloneError::MountInside { path } = &error else { panic!("{error}") };
            assert_eq!(Path::new(path), to);
        }
        remove(&volume.clone).unwrap();
    }
    // Neither does removing go into one.
    fs::create_dir_all(volume.clone.join("in")).unwrap();
    shell(
        Path::new("/"),
        &format!("mount --bind {} {}", volume.root.display(), volume.clone.join("in").display()),
    );
    let inside = volume.clone.join("in");
    let bound = Bound(&inside);
    let error = remove(&volume.clone).unwrap_err();
    assert!(matches!(error, CloneError::MountInside { .. }), "{error}");
    assert!(volume.root.join("in/file").exists());
    drop(bound);
    remove(&volume.clone).unwrap();
}

#[test]
fn a_full_filesystem_stops_the_copy_and_what_was_made_goes_away() {
    let Some(mounted) = Mounted::new("ext4", "") else { return };
    let volume = Volume::in_dir(mounted.path());
    shell(&volume.root, "for i in $(seq 30); do head -c 10M /dev/urandom > $i; done");
    let taken = room(&volume.root, volume.job, &GO_ON).unwrap();
    assert_eq!(taken.means, Means::Copy);
    assert!(taken.refusal().unwrap().contains("MiB are free"), "{taken:?}");
    let error = first_pass(&volume.root, &volume.clone, &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::NoSpace { .. }), "{error}");
    remove(&volume.clone).unwrap();
    let again = room(&volume.root, volume.job, &GO_ON).unwrap();
    assert!(again.free_bytes + (1 << 20) >= taken.free_bytes, "{again:?} {taken:?}");
}

#[test]
fn what_is_no_directory_and_what_is_immutable_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _thawed = Thawed(dir.path().to_owned());
    let volume = Volume::in_dir(dir.path());
    shell(dir.path(), "echo x > file; ln -s volumes/data/_data link; mkdir -p bind/data");
    for name in ["file", "link"] {
        let error = room(&dir.path().join(name), volume.job, &GO_ON).unwrap_err();
        assert!(matches!(error, CloneError::NotADirectory { .. }), "{error}");
    }
    let missing = room(&dir.path().join("missing"), volume.job, &GO_ON).unwrap_err();
    assert!(missing.to_string().ends_with("missing could not be opened"), "{missing}");
    let error = room(Path::new("/"), volume.job, &GO_ON).unwrap_err();
    assert!(matches!(error, CloneError::MountPoint { .. }), "{error}");
    if is_root() && shell(dir.path(), "chattr +i bind 2>&1 || echo no").is_empty() {
        let error = room(&dir.path().join("bind/data"), volume.job, &GO_ON).unwrap_err();
        assert!(matches!(error, CloneError::Immutable { .. }), "{error}");
        shell(dir.path(), "chattr -i bind; chattr +a bind/data");
        let error = room(&dir.path().join("bind/data"), volume.job, &GO_ON).unwrap_err();
        assert!(matches!(error, CloneError::Immutable { .. }), "{error}");
    }
}

#[test]
fn only_clones_are_removed_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    fs::write(volume.root.join("precious"), "x").unwrap();
    let error = remove(&volume.root).unwrap_err();
    assert!(matches!(error, CloneError::NotAClone { .. }), "{error}");
    std::os::unix::fs::symlink("_data", &volume.clone).unwrap();
    let error = remove(&volume.clone).unwrap_err();
    assert!(matches!(error, CloneError::NotADirectory { .. }), "{error}");
    fs::remove_file(&volume.clone).unwrap();
    fs::create_dir(&volume.clone).unwrap();
    std::os::unix::fs::symlink(&volume.root, volume.clone.join("link")).unwrap();
    remove(&volume.clone).unwrap();
    assert!(volume.root.join("precious").exists());
    remove(&dir.path().join("nowhere").join(volume.clone.file_name().unwrap())).unwrap();
}

#[test]
fn an_order_to_stop_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    fs::write(volume.root.join("file"), "x").unwrap();
    let stop = AtomicBool::new(true);
    let errors = [
        room(&volume.root, volume.job, &stop).map(drop),
        second_pass(&volume.root, &volume.clone, None, &stop).map(drop),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert!(matches!(error, CloneError::Cancelled), "{error}");
    }
    remove(&volume.clone).unwrap();
}

#[test]
fn a_file_written_to_while_it_should_be_quiesced_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::in_dir(dir.path());
    let file = fs::File::create(volume.root.join("busy")).unwrap();
    let stop = AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::os::unix::fs::FileExt;
            let mut n = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                file.write_all_at(&[n as u8; 4096], (n % 4096) * 4096).unwrap();
            }
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let error = loop {
            match second_pass(&volume.root, &volume.clone, None, &GO_ON) {
                Err(error) => break Some(error),
                Ok(_) if std::time::Instant::now() > deadline => break None,
                Ok(_) => {}
            }
        };
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        error
    });
    let error = error.expect("it is noticed");
    let CloneError::Changing { path } = &error else { panic!("{error}") };
    assert!(path.ends_with("_data/busy"), "{path}");
}
