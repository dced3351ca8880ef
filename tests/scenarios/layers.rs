//! Lower parts of a crate do not name higher ones. The order is the table of
//! `docs/ARCHITECTURE.md`; what is imported is read from the sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use e2e::failpoints::root;

/// Files that stand above all others and are imported by nobody.
const ABOVE: [&str; 2] = ["lib", "main"];

/// The order of one crate: each part with the number of its layer, the lowest first.
fn order(page: &str, name: &str) -> BTreeMap<String, usize> {
    let head = format!("| {name} |");
    let row = page.lines().find_map(|line| line.strip_prefix(&head));
    let row = row.unwrap_or_else(|| panic!("docs/ARCHITECTURE.md has no order for {name}"));
    let mut order = BTreeMap::new();
    for (layer, parts) in row.split('·').enumerate() {
        for part in parts.split('`').skip(1).step_by(2) {
            let twice = order.insert(part.to_owned(), layer);
            assert!(twice.is_none(), "{name}: `{part}` stands in two layers");
        }
    }
    order
}

/// Every source below a folder.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What ships of a source: no comment, and no tests.
fn shipped(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let tests = text.match_indices("#[cfg(test)]\n").find(|(at, head)| {
        let line = text[at + head.len()..].lines().next().unwrap_or_default();
        line.contains("mod tests")
    });
    let text = tests.map_or(&*text, |(at, _)| &text[..at]);
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Parts of its own crate that a source names: `crate::part` and `crate::{part, part::thing}`.
fn named(text: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
    };
    let mut names = Vec::new();
    for after in text.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            names.push(word(after));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                letter if begins && !letter.is_whitespace() => {
                    names.push(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    // A type or a macro of the crate's root belongs to no part.
    names.retain(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase()));
    names
}

/// Arrows of a crate that run up or across, and parts that stand nowhere.
fn broken(page: &str, name: &str) -> Vec<String> {
    let (order, src) = (order(page, name), root().join(name).join("src"));
    let mut broken = Vec::new();
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap();
        let part = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let is_test = inside.iter().any(|name| name.to_str().unwrap().starts_with("test"));
        if ABOVE.contains(&part) || is_test {
            continue;
        }
        let Some(layer) = order.get(part) else {
            broken.push(format!("{name}: `{part}` stands in no layer"));
            continue;
        };
        for other in named(&shipped(&path)).iter().filter(|other| *other != part) {
            match order.get(other) {
                // A macro or a constant of the root.
                None => {}
                Some(below) if below < layer => {}
                Some(_) => broken.push(format!("{}: `{part}` names `{other}`", path.display())),
            }
        }
    }
    broken.dedup();
    broken
}

#[test]
fn no_part_names_one_that_stands_above_it() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let crates = ["proto", "archive", "agent", "controller", "cli"];
    let broken: Vec<_> = crates.iter().flat_map(|name| broken(&page, name)).collect();
    assert!(broken.is_empty(), "against the order of docs/ARCHITECTURE.md:\n{}", broken.join("\n"));
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text =
        "use crate::jobs::Jobs;\nuse crate::{\n    catalog::{Catalog, hosts},\n    fleet,\n};\ncrate::Thing";
    assert_eq!(named(text), ["jobs", "catalog", "fleet"]);
    let page = "| proto | `ids` · `ids`, `v1` |";
    let twice = std::panic::catch_unwind(|| order(page, "proto"));
    assert!(twice.is_err(), "a part that stands in two layers is no order");
}
