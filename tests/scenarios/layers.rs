//! Lower parts of a crate do not name higher ones. The order is the table of
//! `docs/ARCHITECTURE.md`; what is imported is read from the sources.

mod circles;
mod names;
mod source;

use std::collections::BTreeMap;

use e2e::failpoints::root;

use names::named;
use source::sources;

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

/// Parts of its own crate that a text names.
fn parts(text: &str) -> Vec<String> {
    let paths = named(text).into_iter().filter(|named| named.path[0] == "crate");
    let mut parts: Vec<String> = paths.filter_map(|named| named.path.into_iter().nth(1)).collect();
    // A type or a macro of the crate's root belongs to no part.
    parts.retain(|part| part.starts_with(|letter: char| letter.is_ascii_lowercase()));
    parts.dedup();
    parts
}

/// Arrows of a crate that run up or across, and parts that stand nowhere.
fn broken(page: &str, name: &str) -> Vec<String> {
    let (order, src) = (order(page, name), root().join(name).join("src"));
    let mut broken = Vec::new();
    for source in sources(&src) {
        // The root stands above all others and is imported by nobody.
        let Some(part) = source.module.first() else { continue };
        let Some(layer) = order.get(part) else {
            broken.push(format!("{name}: `{part}` stands in no layer"));
            continue;
        };
        for other in parts(&source.text).iter().filter(|other| *other != part) {
            match order.get(other) {
                // A macro or a constant of the root.
                None => {}
                Some(below) if below < layer => {}
                Some(_) => broken.push(format!("{}: `{part}` names `{other}`", source.path.display())),
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
    assert_eq!(parts(text), ["jobs", "catalog", "fleet"]);
    let page = "| proto | `ids` · `ids`, `v1` |";
    let twice = std::panic::catch_unwind(|| order(page, "proto"));
    assert!(twice.is_err(), "a part that stands in two layers is no order");
}
