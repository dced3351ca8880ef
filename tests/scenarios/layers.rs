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

/// Parts of a crate that may name messages of the wire.
fn on_the_wire(page: &str, name: &str) -> Vec<String> {
    let head = format!("Of the {name}, these parts alone name messages of the wire: ");
    let sentence = page.split(&head).nth(1).and_then(|after| after.split('.').next());
    let sentence = sentence.expect("docs/ARCHITECTURE.md says which parts name messages of the wire");
    sentence.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether what ships of a source names the package of generated messages.
fn names_messages(text: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.match_indices("v1").any(|(at, word)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let is_package = after.starts_with("::") || before.ends_with("holdfast_proto::");
        // In a group: `use holdfast_proto::{ErrorCode, v1};`
        let group = before.rsplit("holdfast_proto::{").next().filter(|group| group.len() < before.len());
        let is_grouped = group.is_some_and(|group| !group.contains('}'));
        !before.ends_with(is_word) && !after.starts_with(is_word) && (is_package || is_grouped)
    })
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

/// Sources of a crate that name messages and may not, and parts that may and do
/// not.
fn of_the_wire(page: &str, name: &str) -> (Vec<String>, Vec<String>) {
    let (allowed, src) = (on_the_wire(page, name), root().join(name).join("src"));
    let (mut broken, mut named) = (Vec::new(), Vec::new());
    for source in sources(&src).into_iter().filter(|source| names_messages(&source.text)) {
        let part = source.module.into_iter().next().unwrap_or_default();
        if !allowed.contains(&part) {
            broken.push(source.path.display().to_string());
        }
        named.push(part);
    }
    let idle = allowed.into_iter().filter(|part| !named.contains(part));
    (broken, idle.collect())
}

/// What jobs, policies, records and the catalogue go by outlasts a version of the
/// wire.
#[test]
fn the_domain_names_no_message_of_the_wire() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    for name in ["agent", "controller"] {
        let (broken, idle) = of_the_wire(&page, name);
        assert!(broken.is_empty(), "messages of the wire are no business of:\n{}", broken.join("\n"));
        // A part that is allowed and needs it no more goes from the page.
        assert!(idle.is_empty(), "docs/ARCHITECTURE.md lets these name messages, and they do not: {idle:?}");
    }
}

#[test]
fn messages_of_the_wire_are_found_however_they_are_written() {
    for text in [
        "use holdfast_proto::v1;",
        "use holdfast_proto::v1::{self, Job};",
        "use holdfast_proto::{ErrorCode, v1};",
        "fn job() -> v1::Job",
    ] {
        assert!(names_messages(text), "{text}");
    }
    for text in
        ["let v1 = 1;", "build_v1()", "mv1::x", "use holdfast_proto::ErrorCode;\n/holdfast.v1.JobService/"]
    {
        assert!(!names_messages(text), "{text}");
    }
    let page = "Of the agent, these parts alone name messages of the wire: `a`, `b`. `c`";
    assert_eq!(on_the_wire(page, "agent"), ["a", "b"]);
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
