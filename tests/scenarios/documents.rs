//! What the documents name is there.

use std::path::{Path, PathBuf};

use e2e::failpoints::root;

/// Folders a page may speak from: the workspace, and the sources of each crate.
fn bases() -> Vec<PathBuf> {
    let crates = ["archive", "agent", "controller", "cli"];
    let sources = crates.iter().map(|name| root().join(name).join("src"));
    sources.chain([root()]).collect()
}

/// Paths in back ticks with a folder in them, or the ending of a source.
fn paths(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| !word.contains([' ', '<', '*']) && (word.contains('/') || word.ends_with(".rs")))
        .collect()
}

#[test]
fn every_file_that_the_architecture_page_names_is_there() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let named = paths(&page);
    assert!(named.len() > 30, "{named:?}");
    let bases = bases();
    // A file named for itself stands in the folder that the sentence named before.
    let folders = named.iter().filter_map(|path| Path::new(path).parent()).collect::<Vec<_>>();
    let is_there = |path: &&&str| {
        bases.iter().any(|base| {
            base.join(path).exists() || folders.iter().any(|folder| base.join(folder).join(path).exists())
        })
    };
    let missing: Vec<_> = named.iter().filter(|path| !is_there(path)).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md names what is not there: {missing:?}");
}
