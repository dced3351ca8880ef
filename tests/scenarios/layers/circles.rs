//! No folders of a crate import each other in a circle, at any depth.
//!
//! What the table of `docs/ARCHITECTURE.md` orders are the parts at the top;
//! here the folders below them are read, too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use e2e::failpoints::root;

use super::names::named;
use super::source::{Source, sources};

/// Where the sources of a crate begin.
const CRATES: [&str; 10] = [
    "proto/src",
    "archive/src",
    "agent/src",
    "controller/src",
    "cli/src",
    "tests/src",
    "tests/scenarios",
    "tests/bench",
    "tests/soak",
    "tests/support/src",
];

/// A folder, by the module that is its face; a file at the top that has no
/// folder stands for itself.
type Folder = Vec<String>;

/// What one folder names of another: `file:line: path`.
type Arrows = BTreeMap<(Folder, Folder), Vec<String>>;

/// The modules of one crate.
struct Modules(BTreeSet<Vec<String>>);

impl Modules {
    /// The folder of a module: its own where it has one, or the one it lies in.
    fn folder(&self, module: &[String]) -> Folder {
        let has_own = self.0.iter().any(|other| other.len() > module.len() && other.starts_with(module));
        let own = if has_own || module.len() <= 1 { module } else { &module[..module.len() - 1] };
        own.to_vec()
    }

    /// The module that a path named in `from` leads to.
    fn target(&self, from: &[String], path: &[String]) -> Vec<String> {
        let mut at = from.to_vec();
        let mut words = path.iter().peekable();
        if words.next_if(|word| *word == "crate").is_some() {
            at.clear();
        }
        for word in words {
            match &**word {
                "self" => {}
                "super" => drop(at.pop()),
                _ => {
                    at.push(word.clone());
                    // A thing of that module, and no module itself.
                    if !self.0.contains(&at) {
                        at.pop();
                        break;
                    }
                }
            }
        }
        at
    }
}

/// All arrows between folders of which neither lies in the other: a folder and
/// its face may name each other.
fn arrows(crate_sources: &[Source]) -> Arrows {
    let modules = Modules(crate_sources.iter().map(|source| source.module.clone()).collect());
    let mut arrows = Arrows::new();
    for source in crate_sources {
        let from = modules.folder(&source.module);
        for named in named(&source.text) {
            let to = modules.folder(&modules.target(&source.module, &named.path));
            if from.starts_with(&to) || to.starts_with(&from) {
                continue;
            }
            let place = source.path.strip_prefix(root()).unwrap_or(&source.path).display();
            let line = format!("{place}:{}: {}", named.line, named.path.join("::"));
            arrows.entry((from.clone(), to)).or_default().push(line);
        }
    }
    arrows
}

/// Folders that reach one another, each group with more than one of them.
fn circles(arrows: &Arrows) -> Vec<BTreeSet<Folder>> {
    let mut reach: BTreeMap<&Folder, BTreeSet<&Folder>> = BTreeMap::new();
    for from in arrows.keys().map(|(from, _)| from) {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            let next = arrows.keys().filter(|(begin, _)| begin == at).map(|(_, end)| end);
            open.extend(next.filter(|&end| seen.insert(end)));
        }
        reach.insert(from, seen);
    }
    let meet = |one: &Folder, other: &Folder| reach[one].contains(other) && reach[other].contains(one);
    let mut circles = BTreeSet::new();
    for from in reach.keys() {
        let circle: BTreeSet<_> = reach.keys().filter(|other| meet(from, other)).collect();
        if circle.len() > 1 {
            circles.insert(circle.into_iter().map(|&folder| folder.clone()).collect());
        }
    }
    circles.into_iter().collect()
}

/// A circle by its folders' paths.
fn names(src: &str, circle: &BTreeSet<Folder>) -> Vec<String> {
    circle.iter().map(|folder| Path::new(src).join(folder.join("/")).display().to_string()).collect()
}

/// The circle with every line that is part of it.
fn shown(src: &str, circle: &BTreeSet<Folder>, arrows: &Arrows) -> String {
    let mut text = format!("{}:", names(src, circle).join(", "));
    for ((from, to), lines) in
        arrows.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to))
    {
        text.push_str(&format!("\n  {} -> {}", from.join("::"), to.join("::")));
        lines.iter().for_each(|line| text.push_str(&format!("\n    {line}")));
    }
    text
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    let mut found = Vec::new();
    for src in CRATES {
        let arrows = arrows(&sources(&root().join(src)));
        found.extend(circles(&arrows).iter().map(|circle| shown(src, circle, &arrows)));
    }
    assert!(found.is_empty(), "folders that import each other:\n{}", found.join("\n"));
}

#[test]
fn a_circle_is_found_at_any_depth_and_a_face_closes_none() {
    let source = |path: &str, text: &str| {
        let module = path.split('/').filter(|name| *name != "mod").map(str::to_owned).collect();
        Source { path: path.into(), module, text: text.to_owned() }
    };
    let sources = [
        source("a/mod", "use self::b::X;\nuse super::d;"),
        source("a/b/mod", "use super::Y;\nuse super::c::Z;"),
        source("a/b/one", "use super::super::c;"),
        source("a/c", "use crate::a::e::V;"),
        source("a/c/two", "fn f() { crate::a::b::one::W }"),
        source("a/e", "use super::c::two;"),
        source("d", "use crate::e;"),
        source("e", "use crate::a::Y;"),
    ];
    let arrows = arrows(&sources);
    let circles = circles(&arrows);
    let names: Vec<_> = circles.iter().map(|circle| names("x", circle)).collect();
    assert_eq!(names, [vec!["x/a", "x/d", "x/e"], vec!["x/a/b", "x/a/c"]]);
    let shown = shown("x", &circles[1], &arrows);
    let lines = ["a/b/mod:2: super::c::Z", "a/b/one:1: super::super::c", "a/c/two:1: crate::a::b::one::W"];
    assert!(lines.iter().all(|line| shown.contains(line)), "{shown}");
    assert!(!shown.contains("a/c:1"), "a face that names its folder's neighbour file: {shown}");
}
