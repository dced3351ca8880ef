//! Every bit of every kind of object, flipped alone: each has to be found.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::docker::IMAGE;
use e2e::fleet::Fleet;
use holdfast_archive::repository::Repository;
use holdfast_archive::store::{Location, Store, StoreConfig};
use holdfast_archive::verify::{Level, Share, VerifyProgress, verify};

use crate::book::{Book, What};

/// An object of each kind that no earlier run has done, until no time is left.
///
/// # Errors
/// The repository cannot be made or read, or the book not be written.
pub(crate) fn run(book: &mut Book, end: Instant) -> Result<()> {
    let done: HashSet<String> = book
        .lines()
        .filter_map(|what| match what {
            What::Bits { object, .. } => Some(kind(object).to_owned()),
            _ => None,
        })
        .collect();
    if Instant::now() >= end {
        return Ok(());
    }
    // Lives until the end: the repository lies in its folder.
    let fleet = small_repository();
    let root = fleet.repository_dir();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    ensure!(runtime.block_on(is_clean(&root)), "the repository that was just made is damaged");
    for (kind, object) in one_of_each(&root)? {
        if done.contains(&kind) || Instant::now() >= end {
            continue;
        }
        let begun = Instant::now();
        let (bits, missed) = runtime.block_on(flip_each(&root, &root.join(&object)))?;
        println!("{object}: {bits} bits, {} missed ({:.0} s)", missed.len(), begun.elapsed().as_secs_f64());
        let violation =
            (!missed.is_empty()).then(|| format!("{object}: bits that nobody misses: {missed:?}"));
        book.add(What::Bits { object, bits }, violation)?;
    }
    ensure!(runtime.block_on(is_clean(&root)), "a bit was not flipped back");
    Ok(())
}

/// One with an object of every kind, each as small as it can be.
fn small_repository() -> Fleet {
    let mut fleet = Fleet::start(&["host-a"]);
    let script = "echo one > /data/one; head -c 300 /dev/urandom > /data/two; ln -s one /data/three";
    fleet.engine("host-a").docker(["run", "--rm", "-v", "vol:/data", IMAGE, "sh", "-c", script]);
    fleet.backup("host-a", "vol", "none");
    // An orderly end writes the state; a running one would write it again in the middle.
    fleet.controller().stop(30);
    fleet
}

/// Which kind of object it is: its folder, and in `state` and `RECOVERY` each by itself.
fn kind(object: &str) -> &str {
    match object.split_once('/') {
        Some(("state" | "RECOVERY", _)) | None => object,
        Some((folder, _)) => folder,
    }
}

/// The smallest object of each kind.
fn one_of_each(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut smallest: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path: PathBuf = entry?.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let object = path.strip_prefix(root)?.display().to_string();
            let found = (path.metadata()?.len(), object.clone());
            let best = smallest.entry(kind(&object).to_owned()).or_insert_with(|| found.clone());
            if found < *best {
                *best = found;
            }
        }
    }
    Ok(smallest.into_iter().map(|(kind, (_, object))| (kind, object)).collect())
}

/// Flips each bit of a file alone, and back: how many there are, and those
/// that no verification finds.
async fn flip_each(root: &Path, path: &Path) -> Result<(u64, Vec<u64>)> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut missed = Vec::new();
    for bit in 0..length * 8 {
        let mut byte = [0];
        file.read_exact_at(&mut byte, bit / 8)?;
        file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8)?;
        if is_clean(root).await {
            missed.push(bit);
        }
        file.write_all_at(&byte, bit / 8)?;
    }
    Ok((length * 8, missed))
}

/// Whether a repository opens, everything in it is as it was, and it is the
/// one that it was: `repo.json` says which.
async fn is_clean(root: &Path) -> bool {
    let config = StoreConfig::new(Location::Directory(root.to_owned()));
    let Ok(store) = Store::open(&config) else { return false };
    let Ok(repository) = Repository::open(store).await else { return false };
    let progress = Arc::new(VerifyProgress::default());
    let report = verify(&repository, Level::Packs(Share::ALL), progress).await;
    report.is_ok_and(|report| report.is_clean())
}
