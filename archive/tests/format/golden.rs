//! Repositories of released versions. Every later build opens them; what is
//! in this folder is never written again, only added to.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_archive::fetch::FrameFetcher;
use holdfast_archive::repository::{CryptoMode, InitOptions, Repository};
use holdfast_archive::store::Store;
use holdfast_archive::verify::{Level, Share, VerifyProgress, verify};

use crate::support::{self, Fixture, Tree, expected, read_tree, sample_tree};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1")
}

/// The sample tree without its bulk.
fn golden_tree() -> Tree {
    let keep = |path: &[u8]| !path.starts_with(b"many/") || path.ends_with(b"7");
    let mut tree: Tree = sample_tree(42).into_iter().filter(|(entry, _)| keep(&entry.path)).collect();
    for (entry, content) in &mut tree {
        if entry.path == b"db/table" {
            *content = support::file(b"", b"a row of a table\n".repeat(20_000)).1;
        }
    }
    tree
}

/// Opens, verifies and reads the repository in `folder`.
fn assert_reads(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Store::directory(folder).unwrap();
    let repository = runtime.block_on(Repository::open(store)).unwrap();
    let snapshots = runtime.block_on(repository.snapshots()).unwrap();
    assert_eq!((snapshots.good.len(), snapshots.broken.len()), (1, 0));
    let source = runtime.block_on(repository.source()).unwrap();
    let fetcher = FrameFetcher::new(source, 1 << 20);
    assert_eq!(read_tree(&fetcher, snapshots.good[0].body.root), (expected(&golden_tree()), 0));
    let progress = Arc::new(VerifyProgress::default());
    let report = runtime.block_on(verify(&repository, Level::Packs(Share::ALL), progress)).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[test]
fn every_golden_repository_is_opened_verified_and_read() {
    assert_reads(&folder());
}

/// `HOLDFAST_GOLDEN` names a new folder to keep it in, for a new format; one
/// that is there is never written to.
#[test]
fn a_repository_made_today_reads_like_the_golden_one() {
    let scratch = tempfile::tempdir().unwrap();
    let folder =
        std::env::var_os("HOLDFAST_GOLDEN").map_or_else(|| scratch.path().join("made"), PathBuf::from);
    assert!(!folder.exists(), "a golden repository is never written again");
    let mut fixture = Fixture::new();
    fixture.path.clone_from(&folder);
    let store = Store::create_directory(&folder).unwrap();
    let options = InitOptions { owner: "golden".into(), created_unix_ms: 1, crypto: CryptoMode::None };
    fixture.repository = fixture.runtime.block_on(Repository::init(store, options)).unwrap();
    fixture.back_up(&golden_tree());
    assert_reads(&folder);
}
