//! What a repository that has lost something still gives, and what it says of
//! the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use support::tree::{assert_equal, noise};

use super::memory::Memory;
use super::{entries, find, restore_request, take};
use crate::entry::{EntryKind, FileData};
use crate::fetch::FrameFetcher;
use crate::fs::{CompareReport, RestoreError, RestoreReport, compare, restore};
use crate::ids::FrameId;
use crate::manifest::{ManifestReader, page_refs};

fn data<'e>(entries: &'e [crate::entry::Entry], path: &str) -> &'e FileData {
    match &find(entries, path).kind {
        EntryKind::File(data) => data,
        other => panic!("{path} is {other:?}"),
    }
}

/// Salvages into a new directory and holds what is there against the manifest.
fn salvage(
    root: FrameId,
    to: &Path,
    repository: &Arc<Memory>,
    paths: &[&str],
) -> (RestoreReport, CompareReport) {
    let asked = || {
        let mut request = restore_request(root, to, repository);
        request.options.salvage = true;
        request.options.paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        request
    };
    let written = restore(asked()).unwrap();
    let compared = compare(asked()).unwrap().after(&written);
    (written, compared)
}

/// Removes the same from both, keeping the times of the directories.
fn without(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        let above = path.parent().unwrap().to_owned();
        let time = fs::metadata(&above).unwrap().modified().unwrap();
        fs::remove_file(&path).unwrap();
        fs::File::open(above).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn h05_everything_but_what_is_lost_comes_back_and_the_rest_is_named() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = from.path();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/ledger"), noise(5 << 20, 1)).unwrap();
    fs::hard_link(root.join("dir/ledger"), root.join("ledger-too")).unwrap();
    fs::write(root.join("dir/other"), noise(3 << 20, 2)).unwrap();
    fs::hard_link(root.join("dir/other"), root.join("other-too")).unwrap();
    fs::write(root.join("small"), "content").unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(root, &repository, None);
    let all = entries(captured.root, &repository);
    let extents = &data(&all, "dir/ledger").extents;
    assert!(extents.len() > 1, "one frame of several is lost");
    repository.forget(extents[1].frame);

    let failed = restore(restore_request(captured.root, to.path(), &repository)).unwrap_err();
    assert!(failed.is_loss() && failed.to_string().contains("dir/ledger"), "{failed:?}");

    let to = tempfile::tempdir().unwrap();
    let (written, compared) = salvage(captured.root, to.path(), &repository, &[]);
    assert_eq!(
        (written.lost, written.lost_total),
        (vec!["dir/ledger".to_owned(), "ledger-too".to_owned()], 2)
    );
    assert_eq!((written.left_out_total, compared.differences), (0, vec![]));
    without(root, &["dir/ledger", "ledger-too"]);
    assert_equal(root, to.path());
}

#[test]
fn h05_a_file_that_is_missing_though_nothing_of_it_is_lost_differs() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["a", "b", "c"] {
        fs::write(from.path().join(name), noise(2 << 20, name.len() as u64)).unwrap();
    }
    fs::write(from.path().join("lost"), noise(2 << 20, 9)).unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    repository.forget(data(&entries(captured.root, &repository), "lost").extents[0].frame);
    let (written, compared) = salvage(captured.root, to.path(), &repository, &[]);
    assert_eq!((written.lost_total, compared.differences_total), (1, 0));
    without(to.path(), &["b"]);
    let mut asked = restore_request(captured.root, to.path(), &repository);
    asked.options.salvage = true;
    let compared = compare(asked).unwrap().after(&written);
    assert_eq!(compared.differences_total, 1, "{:?}", compared.differences);
}

/// Pages right below the manifest's root, in order.
fn pages(root: FrameId, repository: &Arc<Memory>) -> Vec<FrameId> {
    let fetcher = FrameFetcher::new(Arc::clone(repository) as _, 1 << 20);
    page_refs(&fetcher.get(root).unwrap()).unwrap().pages
}

const FILES: usize = 900;

/// A tree whose manifest has several pages.
fn wide(root: &Path) {
    for dir in ["a", "b", "c"] {
        for n in 0..FILES / 3 {
            let dir = root.join(dir).join(format!("{:02}", n % 10));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("a-name-that-is-not-short-{n:05}")), format!("{n}")).unwrap();
        }
    }
}

fn names(root: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names(&path, found);
        } else {
            found.insert(path.display().to_string());
        }
    }
}

#[test]
fn h05_a_lost_page_of_the_manifest_costs_what_it_lists_and_no_more() {
    let from = tempfile::tempdir().unwrap();
    wide(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    let pages = pages(captured.root, &repository);
    assert!(pages.len() > 3, "{} pages", pages.len());
    let last = *pages.last().unwrap();
    repository.forget(last);

    let to = tempfile::tempdir().unwrap();
    let failed = restore(restore_request(captured.root, to.path(), &repository)).unwrap_err();
    assert!(failed.is_loss(), "{failed:?}");
    let to = tempfile::tempdir().unwrap();
    let (written, compared) = salvage(captured.root, to.path(), &repository, &[]);
    assert_eq!((written.lost_total, compared.differences), (1, vec![]));
    assert!(written.lost[0].contains("page of the manifest"), "{:?}", written.lost);
    let mut there = BTreeSet::new();
    names(to.path(), &mut there);
    let fetcher = FrameFetcher::new(Arc::clone(&repository) as _, 1 << 20);
    let listed = ManifestReader::open(&fetcher, captured.root).entries().filter_map(Result::ok);
    let listed = listed.filter(|entry| matches!(entry.kind, EntryKind::File(_))).count();
    assert!(listed > 0 && listed < FILES, "{listed}");
    assert_eq!(there.len(), listed, "whatever other pages list is there");

    // A path of which nothing is lost comes as ever; one that is lost is named.
    let to = tempfile::tempdir().unwrap();
    let (written, compared) = salvage(captured.root, to.path(), &repository, &["a/03", "c/09"]);
    assert!(!written.lost.is_empty() && compared.differences_total == 0, "{written:?} {compared:?}");
    assert_eq!(fs::read_dir(to.path().join("a/03")).unwrap().count(), FILES / 30);
}

#[test]
fn h05_what_hangs_below_a_directory_whose_page_is_lost_is_named() {
    let from = tempfile::tempdir().unwrap();
    wide(from.path());
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    let pages = pages(captured.root, &repository);
    // In the middle: it lists directories of which more lies on the next page.
    repository.forget(pages[pages.len() / 2]);
    for paths in [&[][..], &["b"][..], &["a", "c"][..]] {
        let to = tempfile::tempdir().unwrap();
        let (written, compared) = salvage(captured.root, to.path(), &repository, paths);
        assert_eq!(compared.differences, Vec::<String>::new(), "{paths:?}");
        assert!(written.files > 0, "{paths:?}: {written:?}");
    }
}

#[test]
fn h05_nothing_is_salvaged_from_a_manifest_without_its_root() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("small"), "content").unwrap();
    let repository = Arc::new(Memory::default());
    let captured = take(from.path(), &repository, None);
    repository.forget(captured.root);
    for paths in [vec![], vec![b"small".to_vec()]] {
        let to = tempfile::tempdir().unwrap();
        let mut asked = restore_request(captured.root, to.path(), &repository);
        asked.options.salvage = true;
        asked.options.paths = paths;
        let failed = restore(asked);
        assert!(matches!(&failed, Err(RestoreError::Manifest { .. })), "{failed:?}");
    }
}
