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

/// Parts of the controller that may name messages of the wire.
fn on_the_wire(page: &str) -> Vec<String> {
    const HEAD: &str = "Messages of the wire are named by these parts alone: ";
    let sentence = page.split(HEAD).nth(1).and_then(|after| after.split('.').next());
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

/// What jobs, policies and the catalogue go by outlasts a version of the wire.
#[test]
fn the_controllers_domain_names_no_message_of_the_wire() {
    let page = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let (allowed, src) = (on_the_wire(&page), root().join("controller/src"));
    let (mut broken, mut named) = (Vec::new(), Vec::new());
    for path in sources(&src) {
        let inside = path.strip_prefix(&src).unwrap();
        let part = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let is_test = inside.iter().any(|name| name.to_str().unwrap().starts_with("test"));
        if is_test || !names_messages(&shipped(&path)) {
            continue;
        }
        named.push(part.to_owned());
        if !allowed.iter().any(|one| one == part) {
            broken.push(path.display().to_string());
        }
    }
    assert!(broken.is_empty(), "messages of the wire are no business of:\n{}", broken.join("\n"));
    // A part that is allowed and needs it no more goes from the page.
    let idle: Vec<_> = allowed.iter().filter(|part| !named.contains(part)).collect();
    assert!(idle.is_empty(), "docs/ARCHITECTURE.md lets these name messages, and they do not: {idle:?}");
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
    assert_eq!(on_the_wire("Messages of the wire are named by these parts alone: `a`, `b`. `c`"), ["a", "b"]);
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
