//! The oracle: a program that shares nothing with this one reads what it wrote.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use holdfast_archive::entry::{Entry, EntryKind};
use holdfast_archive::keys::ObjectKey;

use crate::support::{Content, Fixture, Tree, flip, sample_tree};

fn have_tools() -> bool {
    for tool in ["python3", "zstd", "tar"] {
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            ::support::record::skipped(&format!("there is no program `{tool}`"));
            return false;
        }
    }
    true
}

fn recover(repository: &Path, arguments: &[&str], stdout: Stdio) -> Output {
    Command::new("python3")
        .arg(repository.join("RECOVERY/recover.py"))
        .arg(repository)
        .args(arguments)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .unwrap()
}

fn extract(repository: &Path, snapshot: &str, target: &Path) -> Output {
    let tar = tempfile::NamedTempFile::new().unwrap();
    let output = recover(repository, &["tar", snapshot], File::create(tar.path()).unwrap().into());
    check_attributes(tar.path());
    fs::create_dir(target).unwrap();
    let extracted = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--warning=none", "-xpf"])
        .arg(tar.path())
        .arg("-C")
        .arg(target)
        .output()
        .unwrap();
    assert!(extracted.status.success(), "{}", String::from_utf8_lossy(&extracted.stderr));
    output
}

/// The attributes of `void`, which have a page of their own.
fn check_attributes(tar: &Path) {
    let mut archive = tar::Archive::new(File::open(tar).unwrap());
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes().starts_with(b"./void") {
            let extensions = entry.pax_extensions().unwrap().unwrap().map(Result::unwrap);
            let pairs = extensions.map(|pair| (pair.key_bytes().to_vec(), pair.value_bytes().to_vec()));
            found.extend(pairs.filter(|(key, _)| key.starts_with(b"SCHILY.xattr.")));
        }
    }
    found.sort();
    let expected = sample_tree(1).into_iter().find(|(entry, _)| entry.path == b"void").unwrap().0.xattrs;
    let expected = expected.into_iter().map(|(name, value)| ([b"SCHILY.xattr.", &name[..]].concat(), value));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

fn check(target: &Path, entry: &Entry, content: &Content, inodes: &mut BTreeMap<Vec<u8>, u64>) {
    let shown = entry.path.escape_ascii().to_string();
    let path = target.join(std::ffi::OsStr::from_bytes(&entry.path));
    let facts = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{shown}: {error}"));
    inodes.insert(entry.path.clone(), facts.ino());
    match &entry.kind {
        EntryKind::File(_) => assert!(fs::read(&path).unwrap() == content.bytes(), "{shown}"),
        EntryKind::Directory => assert!(facts.is_dir()),
        EntryKind::Symlink { target } => {
            assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), target);
            return;
        }
        EntryKind::Hardlink { target } => {
            assert_eq!(inodes[target], facts.ino());
            return;
        }
        EntryKind::Fifo => assert!(facts.file_type().is_fifo()),
        _ => unreachable!(),
    }
    assert_eq!(facts.mode() & 0o7777, entry.mode, "{shown}");
    let mtime = i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec());
    assert_eq!(mtime, entry.mtime_ns, "{shown}");
    // ext4 cannot keep more than 4 KiB of them: they are looked for in the tar.
    for (name, value) in entry.xattrs.iter().filter(|_| entry.xattrs.len() < 5) {
        let mut buffer = vec![0; 4096];
        let name = std::str::from_utf8(name).unwrap();
        let len = rustix::fs::getxattr(&path, name, &mut buffer)
            .unwrap_or_else(|error| panic!("{shown}: {name}: {error}"));
        assert_eq!(&buffer[..len], value, "{shown}: {name}");
    }
}

fn check_tree(target: &Path, tree: &Tree) {
    let mut inodes = BTreeMap::new();
    for (entry, content) in tree {
        check(target, entry, content, &mut inodes);
    }
}

#[test]
fn recover_py_gives_back_every_entry() {
    if !have_tools() {
        return;
    }
    let fixture = Fixture::new();
    let trees = [sample_tree(1), sample_tree(2)];
    let ids = trees.each_ref().map(|tree| fixture.back_up(tree).to_string());

    let list = recover(&fixture.path, &["list"], Stdio::piped());
    let lines = String::from_utf8(list.stdout).unwrap();
    assert!(list.status.success() && lines.lines().count() == 2, "{lines}");
    assert!(ids.iter().all(|id| lines.contains(id)) && lines.contains("db_data"), "{lines}");

    let listing = recover(&fixture.path, &["ls", &ids[0]], Stdio::piped());
    assert_eq!(String::from_utf8(listing.stdout).unwrap().lines().count(), trees[0].len());

    for (id, tree) in ids.iter().zip(&trees) {
        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("out");
        let output = extract(&fixture.path, id, &target);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        check_tree(&target, tree);
    }
}

#[test]
fn recover_py_reads_around_damage_and_says_so() {
    if !have_tools() {
        return;
    }
    let fixture = Fixture::new();
    let tree = sample_tree(1);
    let id = fixture.back_up(&tree);
    // The frame of `sparse`'s first piece alone.
    let index = fixture.runtime.block_on(fixture.repository.load_index()).unwrap();
    let frame = holdfast_archive::frame::frame_id(&crate::support::noise(2, 5000));
    let location = index.locate(&frame).unwrap();
    let pack = fixture.path.join(ObjectKey::Pack(location.pack).to_string());
    flip(&pack, (location.entry.offset as usize + 2000) * 8);

    let target = tempfile::tempdir().unwrap();
    let target = target.path().join("out");
    let output = extract(&fixture.path, &id.to_string(), &target);
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{warnings}");
    assert!(warnings.contains("does not match its hash") && warnings.contains("sparse"), "{warnings}");
    let others: Tree = tree.into_iter().filter(|(entry, _)| entry.path != b"sparse").collect();
    check_tree(&target, &others);
    assert_eq!(fs::metadata(target.join("sparse")).unwrap().len(), 3_000_000);

    flip(&fixture.path.join(ObjectKey::Snapshot(id).to_string()), 800);
    let refused = recover(&fixture.path, &["tar", &id.to_string()], Stdio::null());
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("checksum"), "{text}");
}
